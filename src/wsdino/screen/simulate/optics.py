"""From stained cells to a camera's counts: focus, stray light, lamp, background, noise."""

from __future__ import annotations

import math
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
    rows, columns = blocks.shape
    out = np.empty((height, width), np.uint16)
    for y in range(height):
        yn = 2 * y / height - 1
        at_y = min(max((y + np.float32(0.5)) / HAZE_BLOCK - np.float32(0.5), 0), rows - 1)
        top = min(int(at_y), max(rows - 2, 0))
        below = min(top + 1, rows - 1)
        part_y = np.float32(at_y - top)
        for x in range(width):
            at_x = min(max((x + np.float32(0.5)) / HAZE_BLOCK - np.float32(0.5), 0), columns - 1)
            left = min(int(at_x), max(columns - 2, 0))
            right = min(left + 1, columns - 1)
            part_x = np.float32(at_x - left)
            stray = (1 - part_y) * (
                (1 - part_x) * blocks[top, left] + part_x * blocks[top, right]
            ) + part_y * ((1 - part_x) * blocks[below, left] + part_x * blocks[below, right])
            light = (1 - haze) * image[y, x] + haze * stray
            light *= (1 + saturation) / (1 + saturation * light)
            xn = 2 * x / width - 1
            lamp = 1 + shade[0] * yn + shade[1] * xn - shade[2] * (yn * yn + xn * xn) / 2
            mean = (light * gain * COUNTS + background) * lamp
            spread = math.sqrt(max(mean, 0) * COUNTS_PER_ELECTRON + READ_NOISE * READ_NOISE)
            out[y, x] = min(max(mean + spread * noise[y, x] + np.float32(0.5), 0), MAX_COUNT)
    return out


def _block_means(image: Floats) -> Floats:
    rows, columns = (-(-edge // HAZE_BLOCK) for edge in image.shape)
    lack = (rows * HAZE_BLOCK - image.shape[0], columns * HAZE_BLOCK - image.shape[1])
    padded = np.pad(image, ((0, lack[0]), (0, lack[1])), mode="edge")
    return np.ascontiguousarray(
        padded.reshape(rows, HAZE_BLOCK, columns, HAZE_BLOCK).mean(axis=(1, 3))
    )


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
