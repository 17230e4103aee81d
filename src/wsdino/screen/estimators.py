"""Estimating illumination functions: how unevenly a plate's channel was lit, from many sites.

A function is float32 (H, W), positive, and divides an image. The camera's dark offset, as a method
estimates it, is subtracted before and added again after, because no lamp made it.
"""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.polynomial import legendre

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Pixels = NDArray[Any]

# CellProfiler's CorrectIlluminationCalculate: the filter's size is taken for a full width at half
# maximum, and a fiftieth of the pixels may be darker than what becomes 1.
PAPER_FILTER_SIZE, WIDTH_TO_SIGMA, ROBUST_SHARE = 320, 2.35, 0.02
NUM_BLOCKS, MIN_BLOCK, PARTS = 20, 8, 8
DIM_PERCENTILE, TRIMMED = 20, 0.1
MAX_DEGREE, NUM_ROUNDS = 6, 8
# A lamp this even, or dim parts that follow the means this closely, don't show the offset.
EVEN, MOST_SLOPE = 0.005, 0.95
# Dim parts this much darker than the means are no measure of light.
LEAST_LIT = 0.1
# A higher degree must predict better by more than a tenth.
NO_WORSE = 1.1
LAMP_DEGREE, MANY_SITES = 2, 16
SMALLEST, TINY = 0.05, 1e-9


class Estimate(NamedTuple):
    """What a plate is corrected by."""

    functions: NDArray[np.float32]
    """(C, H, W), positive."""
    offsets: tuple[float, ...]
    """Dark counts of each channel: those that are there without light."""


class Estimator(Protocol):
    """Sees the sites of a plate, from several threads and in any order, and then estimates."""

    def add(self, site: int, pixels: Pixels) -> None:
        """Take in a site (C, H, W), which has a number of its own."""

    def estimate(self) -> Estimate:
        """Say what the sites together show; the same in whatever order they came."""


class PaperMedian:
    """As the WS-DINO paper's CellProfiler pipeline does: median of the mean of all images.

    Reproduces CorrectIlluminationCalculate with "Regular", "All: Across cycles", "Median Filter" of
    a given size and "Rescale: Yes", offsets included in the function.
    """

    def __init__(self, *, filter_size: int = PAPER_FILTER_SIZE) -> None:
        self.radius_px = max(1, int(filter_size / WIDTH_TO_SIGMA + 0.5))
        self._sum: NDArray[np.uint64] | None = None
        self._num, self._top = 0, 0
        self._lock = threading.Lock()

    def add(self, site: int, pixels: Pixels) -> None:  # noqa: ARG002 a mean needs no numbers
        """Add a site to the sum, which is one of integers and so has no order."""
        with self._lock:
            if self._sum is None:
                self._sum = np.zeros(pixels.shape, np.uint64)
                self._top = int(np.iinfo(pixels.dtype).max)
            self._sum += pixels
            self._num += 1

    def estimate(self) -> Estimate:
        """Smooth the mean of each channel and divide it by its robust minimum."""
        assert self._sum is not None, "no site was added"
        means = self._sum / self._num * (65535 / self._top)
        functions = [_rescaled(_median_filtered(mean, self.radius_px)) for mean in means]
        return Estimate(np.stack(functions).astype(np.float32), (0.0,) * len(functions))


def _median_filtered(mean: Floats, radius: int) -> Floats:
    """Median over a disk, of what of it lies in the image; whole counts, as CellProfiler has it."""
    from skimage.filters import rank
    from skimage.morphology import disk

    untyped: Any = rank.median
    shape: Any = disk
    counts = mean.astype(np.uint16)
    # Its time grows with the number of grey levels, so none is left below the darkest.
    darkest = int(counts.min())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Bad rank filter performance")
        median: Floats = untyped(counts - np.uint16(darkest), shape(radius)).astype(np.float64)
    return median + darkest


def _rescaled(smooth: Floats) -> Floats:
    positive = np.sort(smooth[smooth > 0])
    if not len(positive):
        return np.ones_like(smooth)
    minimum = float(positive[int(len(positive) * ROBUST_SHARE)])
    rescaled: Floats = np.maximum(smooth, minimum) / minimum
    return rescaled


class SmoothFit:
    """Our own way: a smooth surface through robust means, separated from the dark offset.

    Each site is reduced to two levels for each of some hundred blocks: how bright its dim parts
    are, and its mean. Averaged over sites, both are offset + shading * constant, as cells may lie
    anywhere, with another constant for each. The dim parts vary little between sites, so they show
    the shading's shape; but how much of them is offset shows only in how the mean follows them.
    Surfaces are exponentials of polynomials, of the least degree at which each half of the sites
    predicts the other well; the two are averaged by how well their halves agree.
    """

    def __init__(self) -> None:
        self._levels: dict[int, NDArray[np.float32]] = {}
        self._shape: tuple[int, int] | None = None

    def add(self, site: int, pixels: Pixels) -> None:
        """Keep a site's levels."""
        self._shape = (pixels.shape[-2], pixels.shape[-1])
        self._levels[site] = _block_levels(pixels)

    def estimate(self) -> Estimate:
        """Fit offset and surface of each channel."""
        assert self._shape is not None, "no site was added"
        levels = np.stack([self._levels[site] for site in sorted(self._levels)]).astype(float)
        fits = [_fit(levels[:, channel]) for channel in range(levels.shape[1])]
        functions = [_surface(fit.coefficients, self._shape) for fit in fits]
        return Estimate(np.stack(functions), tuple(fit.offset for fit in fits))


class _Fit(NamedTuple):
    coefficients: Floats  # (degree + 1, degree + 1), Legendre
    offset: float


def _block_side(height: int, width: int) -> int:
    return min(max(MIN_BLOCK, -(-max(height, width) // NUM_BLOCKS)), height, width)


def _block_levels(pixels: Pixels) -> NDArray[np.float32]:
    """Reduce (C, H, W) to (C, 2, rows, columns): level of the dim parts, and mean, of each block.

    Whole blocks only. The dim level is a percentile of small averages: of single pixels it would be
    one of their noise.
    """
    channels, height, width = pixels.shape
    side = _block_side(height, width)
    part = max(1, side // PARTS)
    num = side // part
    rows, columns = height // side, width // side
    inner = pixels[:, : rows * side, : columns * side].reshape(channels, rows, side, columns, side)
    inner = inner[:, :, : num * part, :, : num * part]
    parts = inner.reshape(channels, rows, num, part, columns, num, part).mean(axis=(3, 6))
    parts = parts.swapaxes(2, 3).reshape(channels, rows, columns, num * num)
    dim = np.percentile(parts, DIM_PERCENTILE, axis=-1)
    return np.stack([dim, parts.mean(axis=-1)], axis=1).astype(np.float32)


def _typical(relative: Floats) -> Floats:
    """Average (N, 2, rows, columns) over N: median of dim levels, trimmed mean of means."""
    cut = int(TRIMMED * len(relative))
    means = np.sort(relative[:, 1], axis=0)[cut : len(relative) - cut]
    return np.stack([np.median(relative[:, 0], axis=0), means.mean(axis=0)])


def _fit(levels: Floats) -> _Fit:
    """Fit one channel's (N, 2, rows, columns)."""
    levels = levels[levels[:, 1].mean(axis=(1, 2)) > 0]
    if not len(levels):
        return _Fit(np.zeros((1, 1)), 0.0)
    offset, dimmest = 0.0, float(np.median(levels[:, 0], axis=0).min())
    for _ in range(NUM_ROUNDS):
        relative, brightness = _relative(levels, offset)
        # Both are (true - assumed offset) / brightness where nothing is lit.
        unlit = _unlit(relative)
        offset = float(np.clip(offset + unlit / (1 / brightness).mean(), 0, dimmest))
    evened = _evened(levels, offset)
    lit = np.median(levels[:, 0] - offset) / max(np.median(levels[:, 1] - offset), TINY)
    # Pixels hardly brighter than the dark level say nothing about the lamp.
    used = (0, 1) if lit > LEAST_LIT else (1,)
    degree = max(_best_degree(evened, level) for level in used)
    surfaces = [_shading(evened, level, degree) for level in used]
    weights = np.array([1 / max(variance, TINY) for _, variance in surfaces])
    parts = zip(surfaces, weights / weights.sum(), strict=True)
    coefficients: Floats = np.sum([weight * found for (found, _), weight in parts], axis=0)
    return _Fit(coefficients, offset)


def _unlit(relative: Floats) -> float:
    """Find the level that dim parts and means have in common where no light falls.

    Deming's line through the smooth surfaces of both, which have errors of known variance.
    """
    degree = max(_best_degree(relative, level) for level in (0, 1))
    typical = _typical(relative)
    surfaces, noise = [], []
    for level in (0, 1):
        found, variance = _shading(relative, level, degree)
        size = float(typical[level].mean())
        surfaces.append(size * _relief(found, typical.shape[1:]))
        noise.append(max(size**2 * variance, TINY))
    dim, mean = surfaces
    if mean.std() < EVEN * mean.mean():
        return 0.0
    (var_dim, covariance), (_, var_mean) = np.cov(dim.ravel(), mean.ravel())
    ratio = noise[1] / noise[0]
    excess = var_mean - ratio * var_dim
    # Of dim on mean: 0 where dim parts are as bright everywhere, so all of them unlit.
    root = excess + np.sqrt(excess**2 + 4 * ratio * covariance**2)
    slope = float(np.clip(2 * covariance / max(root, TINY), 0, MOST_SLOPE))
    return float(dim.mean() - slope * mean.mean()) / (1 - slope)


def _relative(levels: Floats, offset: float) -> tuple[Floats, Floats]:
    """Levels above the offset, relative to the site's mean, and that mean (N,)."""
    brightness = np.maximum(levels[:, 1].mean(axis=(1, 2)) - offset, TINY)
    return (levels - offset) / brightness[:, None, None, None], brightness


def _evened(levels: Floats, offset: float) -> Floats:
    """Levels above the offset, each relative to the site's own typical one: as alike as can be."""
    above = levels - offset
    typical = np.median(above, axis=(2, 3), keepdims=True)
    return above / np.maximum(typical, TINY)


def _shading(relative: Floats, level: int, degree: int) -> tuple[Floats, float]:
    """Fit a level's surface; return it with the variance that two halves of the sites show."""

    def fitted(sites: Floats) -> Floats:
        return _coefficients(_typical(sites)[level], degree)

    if len(relative) == 1:
        return fitted(relative), 1.0
    shape = relative.shape[2:]
    first, second = (_relief(fitted(relative[half::2]), shape) for half in (0, 1))
    return fitted(relative), float(np.square(first - second).mean()) / 4


def _best_degree(relative: Floats, level: int) -> int:
    """Choose the least degree at which each half of the sites predicts the other well.

    That a lamp tilts and falls off is known before: of many sites the degree is two at least.
    """
    if len(relative) == 1:
        return 0
    first, second = (_typical(relative[half::2])[level] for half in (0, 1))

    def error(degree: int) -> float:
        pairs = ((first, second), (second, first))
        gaps = [_relief(_coefficients(a, degree), a.shape) - b / b.mean() for a, b in pairs]
        return float(np.square(gaps).mean())

    highest = min(MAX_DEGREE, *(side - 1 for side in first.shape))
    lowest = min(LAMP_DEGREE, highest) if len(relative) >= MANY_SITES else 0
    errors = {degree: error(degree) for degree in range(lowest, highest + 1)}
    enough = NO_WORSE * min(errors.values())
    return next(degree for degree, found in errors.items() if found <= enough)


def _places(num: int) -> Floats:
    """Middles of `num` pixels or blocks between -1 and 1."""
    return (2 * np.arange(num) + 1) / num - 1


def _coefficients(surface: Floats, degree: int) -> Floats:
    """Fit the logarithm of (rows, columns) by Legendre polynomials of at most `degree` in all.

    A lamp's fall is nearer a polynomial there, and the scatter of blocks is the same everywhere.
    """
    rows, columns = surface.shape
    terms = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    along_y = legendre.legvander(_places(rows), degree)
    along_x = legendre.legvander(_places(columns), degree)
    design = np.stack([np.outer(along_y[:, i], along_x[:, j]).ravel() for i, j in terms], axis=1)
    floor = max(SMALLEST * float(surface.mean()), TINY)
    found = np.linalg.lstsq(design, np.log(np.maximum(surface, floor)).ravel(), rcond=None)[0]
    coefficients = np.zeros((degree + 1, degree + 1))
    for (i, j), value in zip(terms, found, strict=True):
        coefficients[i, j] = value
    return coefficients


def _relief(coefficients: Floats, shape: tuple[int, ...]) -> Floats:
    """Evaluate a fit at the middles of blocks: (rows, columns) with a mean of 1."""
    values = np.exp(legendre.leggrid2d(_places(shape[0]), _places(shape[1]), coefficients))
    relief: Floats = values / values.mean()
    return relief


def _surface(coefficients: Floats, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Evaluate a fit at every pixel: float32 (H, W) with a mean of 1."""
    # The outermost pixels may belong to no whole block: blocks reach a little less far.
    side = _block_side(*shape)
    y, x = ((2 * np.arange(length) + 1) / (length // side * side) - 1 for length in shape)
    surface = np.exp(legendre.leggrid2d(y, x, coefficients))
    function: NDArray[np.float32] = (surface / surface.mean()).astype(np.float32)
    return function
