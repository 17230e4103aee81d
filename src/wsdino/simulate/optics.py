"""From stained cells to a camera's counts: focus, stray light, lamp, background, noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtri

from wsdino.compiled import kernel

from .raster import noise_tile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

COUNTS = 3000.0  # of an intensity of one, at gain one
COUNTS_PER_ELECTRON = 2.0
READ_NOISE = 6.0  # counts
HAZE_BLOCK = 8  # stray light is so smooth that it is computed on blocks of this many pixels
STRAY_BLOCKS = 2.0  # standard deviation of the stray light, blocks
MOTTLE_SCALES = (1.0, 3.0)  # pixels
TEXTURE_SCALES = (0.7, 2.0, 6.0)  # pixels
MAX_COUNT = 65535


@dataclass(frozen=True)
class Optics:
    """How one field is imaged, channel by channel (DNA, tubulin, actin).

    Parameters
    ----------
    blur
        Standard deviation of the point spread, pixels.
    gain
        Counts relative to :data:`COUNTS`.
    background
        Counts of an empty field.
    haze
        Share of the light that is spread over the neighbourhood; lowers contrast.
    saturation
        How far bright stains saturate: ``x (1 + s) / (1 + s x)``; 0: not at all.
    shade
        For each channel the illumination's slope along y and x and its fall towards the
        corners, as fractions.
    mottle
        For each channel how unevenly the stain took, as a relative deviation at each of
        :data:`MOTTLE_SCALES`.
    texture
        For each channel the deviation of structure that no cell made, in units of the stains, at
        each of :data:`TEXTURE_SCALES`.
    bleed
        For each channel the shares of the next channel's stain, and of the one's after it, that
        are seen in it.
    """

    blur: tuple[float, float, float]
    gain: tuple[float, float, float]
    background: tuple[float, float, float]
    haze: tuple[float, float, float]
    saturation: tuple[float, float, float]
    shade: tuple[tuple[float, float, float], ...]
    mottle: tuple[tuple[float, float], ...] = ((0.0, 0.0),) * 3
    texture: tuple[tuple[float, float, float], ...] = ((0.0, 0.0, 0.0),) * 3
    bleed: tuple[tuple[float, float], ...] = ((0.0, 0.0),) * 3


def _gauss(sigma: float) -> Floats:
    reach = int(3 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2)
    normalised: Floats = (weights / weights.sum()).astype(np.float32)
    return normalised


@kernel
def _convolve(image: Floats, weights: Floats) -> Floats:
    """Convolve rows, then columns, by a symmetric kernel; the border is repeated."""
    height, width = image.shape
    reach = weights.shape[0] // 2
    across = np.empty_like(image)
    padded = np.empty(width + 2 * reach, np.float32)
    for y in range(height):
        padded[:reach] = image[y, 0]
        padded[reach : reach + width] = image[y]
        padded[reach + width :] = image[y, width - 1]
        for x in range(width):
            total = np.float32(0)
            for tap in range(2 * reach + 1):
                total += weights[tap] * padded[x + tap]
            across[y, x] = total
    out = np.zeros_like(image)
    for y in range(height):
        for tap in range(2 * reach + 1):
            source = min(max(y + tap - reach, 0), height - 1)
            weight = weights[tap]
            for x in range(width):
                out[y, x] += weight * across[source, x]
    return out


def blur(image: Floats, sigma: float) -> Floats:
    """Blur a float32 image (H, W) by a Gaussian of standard deviation `sigma` pixels."""
    return image if sigma < 0.2 else _convolve(image, _gauss(sigma))


@cache
def _normal_quantiles() -> Floats:
    """Quantiles of the standard normal distribution at 65,536 even steps, float32."""
    quantiles: Floats = ndtri((np.arange(65536) + 0.5) / 65536).astype(np.float32)
    return quantiles


@kernel
def _normal_noise(key: np.uint64, height: int, width: int, quantiles: Floats) -> Floats:
    """Draw standard normal noise by counting through SplitMix64, four pixels to a number.

    Steele, Lea & Flood (2014), "Fast splittable pseudorandom number generators",
    doi:10.1145/2714064.2660195.
    """
    number = (height * width + 3) // 4
    out = np.empty(4 * number, np.float32)
    state = key
    for block in range(number):
        state += np.uint64(0x9E3779B97F4A7C15)
        word = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        word = word ^ (word >> np.uint64(31))
        for part in range(4):
            out[4 * block + part] = quantiles[word & np.uint64(0xFFFF)]
            word = word >> np.uint64(16)
    return out[: height * width].reshape((height, width))


@kernel
def _add_tile(image: Floats, tile: Floats, amount: float, top: int, left: int) -> None:
    """Add a tile that wraps, times `amount`, to an image, in place."""
    height, width = image.shape
    wrap, weight = tile.shape[0] - 1, np.float32(amount)
    for y in range(height):
        row = tile[(y + top) & wrap]
        for x in range(width):
            image[y, x] += weight * row[(x + left) & wrap]


@kernel
def _modulate(image: Floats, relative: Floats) -> None:
    """Multiply an image by one plus `relative`, at least 0, in place."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            image[y, x] *= max(np.float32(1) + relative[y, x], np.float32(0))


def _seen(stains: Floats, channel: int, optics: Optics, rng: np.random.Generator) -> Floats:
    """Return the light in a channel, float32 (H, W): its unevenly taken stain, and stray light.

    The number of random draws doesn't depend on the optics.
    """
    image: Floats = stains[channel].copy()
    places = rng.integers(0, 65536, (len(MOTTLE_SCALES) + len(TEXTURE_SCALES), 2))
    if any(optics.mottle[channel]):
        relative = np.zeros_like(image)
        for scale, amount, (top, left) in zip(
            MOTTLE_SCALES, optics.mottle[channel], places, strict=False
        ):
            _add_tile(relative, noise_tile(scale), amount, top, left)
        _modulate(image, relative)
    for step, amount in enumerate(optics.bleed[channel], start=1):
        if amount:
            image += np.float32(amount) * stains[(channel + step) % len(stains)]
    for scale, amount, (top, left) in zip(
        TEXTURE_SCALES, optics.texture[channel], places[len(MOTTLE_SCALES) :], strict=True
    ):
        if amount:
            _add_tile(image, noise_tile(scale), amount, top, left)
    return image


@kernel
def _between(pixel: int, num_blocks: int) -> tuple[int, int, float]:
    """Find the two blocks that a pixel lies between, and how far it is towards the second."""
    at = min(max((pixel + 0.5) / HAZE_BLOCK - 0.5, 0.0), num_blocks - 1.0)
    before = int(at)
    return before, min(before + 1, num_blocks - 1), at - before


@kernel
def _expose(
    image: Floats,
    blocks: Floats,
    noise: Floats,
    gain: float,
    background: float,
    haze: float,
    saturation: float,
    shade: tuple[float, float, float],
) -> NDArray[np.uint16]:
    """Turn one stain into counts; `noise` is standard normal, `blocks` the stray light."""
    height, width = image.shape
    across = np.empty((blocks.shape[0], width), np.float32)
    for x in range(width):
        left, right, part = _between(x, blocks.shape[1])
        for row in range(blocks.shape[0]):
            across[row, x] = (1 - part) * blocks[row, left] + part * blocks[row, right]
    # single precision throughout, so that the inner loop is vectorised
    one, zero, half = np.float32(1), np.float32(0), np.float32(0.5)
    keep, spread, bend = np.float32(1 - haze), np.float32(haze), np.float32(saturation)
    scale, floor = np.float32(gain * COUNTS * (1 + saturation)), np.float32(background)
    photon, read = np.float32(COUNTS_PER_ELECTRON), np.float32(READ_NOISE * READ_NOISE)
    at_most = np.float32(MAX_COUNT)
    column = (2 * np.arange(width) / width - 1).astype(np.float32)
    falls = np.float32(shade[1]) * column - np.float32(0.5 * shade[2]) * column * column
    out = np.empty((height, width), np.uint16)
    for y in range(height):
        top, below, part = _between(y, blocks.shape[0])
        part_below, part_top = np.float32(part), np.float32(1 - part)
        yn = 2 * y / height - 1
        lamp = np.float32(1 + shade[0] * yn - 0.5 * shade[2] * yn * yn)
        for x in range(width):
            stray = part_top * across[top, x] + part_below * across[below, x]
            light = keep * image[y, x] + spread * stray
            light = scale * light / (one + bend * light)
            mean = max((light + floor) * (lamp + falls[x]), zero)
            count = mean + np.sqrt(mean * photon + read) * noise[y, x] + half
            out[y, x] = np.uint16(min(max(count, zero), at_most))
    return out


@kernel
def _block_means(image: Floats) -> Floats:
    """Average blocks of HAZE_BLOCK pixels square, fewer at the far edges."""
    height, width = image.shape
    shape = (-(-height // HAZE_BLOCK), -(-width // HAZE_BLOCK))
    sums, counts = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for y in range(height):
        for x in range(width):
            sums[y // HAZE_BLOCK, x // HAZE_BLOCK] += image[y, x]
            counts[y // HAZE_BLOCK, x // HAZE_BLOCK] += 1
    return (sums / counts).astype(np.float32)


def expose(stains: Floats, optics: Optics, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Image a field.

    Photon noise is drawn from the normal distribution with the variance of Poisson's, which it
    equals closely from some ten electrons on; the background alone holds more than that.

    Parameters
    ----------
    stains
        float32 (3, H, W), as drawn by :func:`wsdino.simulate.cells.draw`.
    optics
        Optical parameters.
    rng
        Source of the noise.

    Returns
    -------
    numpy.ndarray
        uint16 (3, H, W): camera counts.
    """
    out = np.empty(stains.shape, np.uint16)
    height, width = stains.shape[1:]
    for channel in range(len(stains)):
        sharp = blur(_seen(stains, channel, optics, rng), optics.blur[channel])
        out[channel] = _expose(
            sharp,
            blur(_block_means(sharp), STRAY_BLOCKS),
            _normal_noise(rng.integers(2**64, dtype=np.uint64), height, width, _normal_quantiles()),
            optics.gain[channel],
            optics.background[channel],
            optics.haze[channel],
            optics.saturation[channel],
            optics.shade[channel],
        )
    return out
