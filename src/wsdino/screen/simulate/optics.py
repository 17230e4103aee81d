"""From stained cells to a camera's counts: focus, stray light, lamp, background, noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .raster import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

COUNTS = 3000.0  # of an intensity of one, at gain one
COUNTS_PER_ELECTRON = 2.0
READ_NOISE = 6.0  # counts
HAZE_BLOCK = 8  # stray light is so smooth that it is computed on blocks of this many pixels
STRAY_BLOCKS = 2.0  # standard deviation of the stray light, blocks
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
        Counts where nothing is.
    haze
        Share of the light that is spread over the neighbourhood; lowers contrast.
    saturation
        How far bright stains saturate: ``x (1 + s) / (1 + s x)``; 0: not at all.
    shade
        For each channel the illumination's slope along y and x and its fall towards the
        corners, as fractions.
    """

    blur: tuple[float, float, float]
    gain: tuple[float, float, float]
    background: tuple[float, float, float]
    haze: tuple[float, float, float]
    saturation: tuple[float, float, float]
    shade: tuple[tuple[float, float, float], ...]


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
    """Photograph a field.

    Photon noise is drawn from the normal distribution with the variance of Poisson's, which it
    equals closely from some ten electrons on; the background alone holds more than that.

    Parameters
    ----------
    stains
        float32 (3, H, W), as drawn by :func:`wsdino.screen.simulate.cells.draw`.
    optics
        How it is imaged.
    rng
        Source of the noise.

    Returns
    -------
    numpy.ndarray
        uint16 (3, H, W): camera counts.
    """
    out = np.empty(stains.shape, np.uint16)
    for channel, stain in enumerate(stains):
        sharp = blur(stain, optics.blur[channel])
        out[channel] = _expose(
            sharp,
            blur(_block_means(sharp), STRAY_BLOCKS),
            rng.standard_normal(stain.shape, dtype=np.float32),
            optics.gain[channel],
            optics.background[channel],
            optics.haze[channel],
            optics.saturation[channel],
            optics.shade[channel],
        )
    return out
