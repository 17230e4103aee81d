"""Classical statistics of whole fields: the baseline that a learned embedding should beat.

Nothing here is learned and nothing is segmented. Every statistic of a channel is invariant to the
channel's intensity scale within the field (intensities are divided by the field's mean, band
energies by the field's variance), because exposure and file conversion scale whole plates.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import ndimage

from wsdino.errors import TableError
from wsdino.progress import Meter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from wsdino.screen.store import Store

PERCENTILES = (1, 10, 25, 50, 75, 90, 99)
NUM_BANDS = 6
PERCENTILE_FLOOR = 0.01  # of the mean: keeps the logarithm finite where the background is 0
ENERGY_FLOOR = 1e-8  # of the variance, likewise
FIELDS_PER_CHUNK = 8
SMALLEST_FIELD_PX = 2**NUM_BANDS
STATISTICS = (
    "cv",
    "skewness",
    "kurtosis",
    *(f"p{percentile:02d}" for percentile in PERCENTILES),
    *(f"granularity{2**band}px" for band in range(NUM_BANDS)),
    "gradient",
)


def classical_names(channels: Sequence[str]) -> list[str]:
    """Names of the columns of :func:`classical_features`, in order.

    Parameters
    ----------
    channels
        Names of the C channels.

    Returns
    -------
    list of str
        `classical_<channel>_<statistic>`, channel by channel, then
        `classical_<channel>.<channel>_correlation` for each pair of channels.
    """
    single = [f"classical_{channel}_{name}" for channel in channels for name in STATISTICS]
    pairs = [f"classical_{a}.{b}_correlation" for a, b in combinations(channels, 2)]
    return single + pairs


def classical_features(
    images: NDArray[np.integer], *, channels: Sequence[str] | None = None
) -> tuple[NDArray[np.float64], list[str]]:
    """Intensity, granularity, gradient and correlation statistics of each field.

    Per channel: coefficient of variation, skewness and excess kurtosis; logarithms of percentiles
    over the mean; for each band of a Laplacian pyramid (details of 1, 2, 4, ... px) the logarithm
    of the band's energy over the field's variance (a granularity spectrum by differences of
    Gaussians); and the mean gradient over the standard deviation. Per pair of channels: Pearson's
    correlation of the pixels. Three channels give 54 features.

    Parameters
    ----------
    images
        (n, C, H, W) integers; H and W at least 64 px.
    channels
        Names of the channels; default `0`, `1`, ...

    Returns
    -------
    features : ndarray
        (n, F) float64, finite also for blank fields.
    names : list of str
        The F names, see :func:`classical_names`.

    Raises
    ------
    TableError
        If the fields are too small for the coarsest band, or the names don't fit.
    """
    num, num_channels, height, width = images.shape
    names = [str(i) for i in range(num_channels)] if channels is None else list(channels)
    if len(names) != num_channels:
        msg = f"channels: found {len(names)} names for {num_channels} channels in the images"
        raise TableError(msg)
    if min(height, width) < SMALLEST_FIELD_PX:
        msg = (
            f"fields of {height}x{width} px are too small for classical statistics; "
            f"at least {SMALLEST_FIELD_PX}x{SMALLEST_FIELD_PX} px are needed"
        )
        raise TableError(msg)
    pixels = images.astype(np.float32)
    centred = pixels - pixels.mean(axis=(2, 3), keepdims=True, dtype=np.float64).astype(np.float32)
    per_channel = np.concatenate(
        [_moments(pixels), _percentiles(images, pixels), _granularity(centred), _gradient(centred)],
        axis=2,
    ).reshape(num, num_channels * len(STATISTICS))
    return np.concatenate([per_channel, _correlations(centred)], axis=1), classical_names(names)


def classical_table(store: Store, *, workers: int = 1) -> pd.DataFrame:
    """Classical statistics of every site of a store.

    Parameters
    ----------
    store
        A store, see :func:`wsdino.screen.store.open_store`.
    workers
        Number of threads.

    Returns
    -------
    DataFrame
        The manifest's `Metadata_*` columns and the features (float32), row i for site i.
    """
    num_sites = len(store)
    chunks = [
        list(range(start, min(start + FIELDS_PER_CHUNK, num_sites)))
        for start in range(0, num_sites, FIELDS_PER_CHUNK)
    ]

    def chunk_features(indices: list[int]) -> NDArray[np.float64]:
        return classical_features(store.read(indices), channels=store.channels)[0]

    blocks = []
    with (
        Meter("classical statistics", num_sites) as meter,
        ThreadPoolExecutor(max_workers=workers) as pool,
    ):
        for block in pool.map(chunk_features, chunks):
            blocks.append(block)
            meter.advance(len(block))
    features = pd.DataFrame(
        np.concatenate(blocks).astype(np.float32), columns=classical_names(store.channels)
    )
    metadata = store.manifest.filter(regex="^Metadata_").reset_index(drop=True)
    return pd.concat([metadata, features], axis=1)


def _safe_ratio(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    """Return the quotient, or 0 where the denominator is 0 (blank fields)."""
    over, under = np.broadcast_arrays(
        np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    )
    ratio: NDArray[np.float64] = np.divide(over, under, out=np.zeros(over.shape), where=under != 0)
    return ratio


def _moments(pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (n, C, 3): coefficient of variation, skewness, excess kurtosis."""
    mean = pixels.mean(axis=(2, 3), dtype=np.float64)
    centred = pixels - mean[:, :, None, None].astype(np.float32)
    second, third, fourth = (
        np.mean(power, axis=(2, 3), dtype=np.float64)
        for power in (centred**2, centred**2 * centred, (centred**2) ** 2)
    )
    kurtosis = _safe_ratio(fourth - 3 * second**2, second**2)
    return np.stack(
        [_safe_ratio(np.sqrt(second), mean), _safe_ratio(third, second**1.5), kurtosis], axis=2
    )


def _percentiles(images: NDArray[np.integer], pixels: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (n, C, percentiles): logarithms of the percentiles over the mean."""
    num, num_channels = images.shape[:2]
    flat = np.sort(images.reshape(num, num_channels, -1), axis=2)
    at = np.rint(np.asarray(PERCENTILES) / 100 * (flat.shape[2] - 1)).astype(int)
    values = flat[:, :, at].astype(np.float64)
    mean = pixels.mean(axis=(2, 3), dtype=np.float64)[:, :, None]
    return np.log(_safe_ratio(values, mean) + PERCENTILE_FLOOR)


def _granularity(centred: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (n, C, bands): log energy of each band of a Laplacian pyramid over the variance."""
    variance = np.mean(centred**2, axis=(2, 3), dtype=np.float64)
    level, bands = centred, []
    for _ in range(NUM_BANDS):
        blurred = ndimage.gaussian_filter(level, sigma=(0, 0, 1, 1), truncate=3, mode="reflect")
        energy = np.mean((level - blurred) ** 2, axis=(2, 3), dtype=np.float64)
        bands.append(np.log(_safe_ratio(energy, variance) + ENERGY_FLOOR))
        level = blurred[:, :, ::2, ::2]
    return np.stack(bands, axis=2)


def _gradient(centred: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (n, C, 1): mean absolute difference of neighbours over the standard deviation."""
    steps = np.abs(np.diff(centred, axis=2)).mean(axis=(2, 3), dtype=np.float64)
    steps += np.abs(np.diff(centred, axis=3)).mean(axis=(2, 3), dtype=np.float64)
    deviation = np.sqrt(np.mean(centred**2, axis=(2, 3), dtype=np.float64))
    return _safe_ratio(steps, deviation)[:, :, None]


def _correlations(centred: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return (n, pairs): Pearson's correlation of the pixels of each pair of channels."""
    num, num_channels = centred.shape[:2]
    flat = centred.reshape(num, num_channels, -1).astype(np.float64)
    covariance = flat @ flat.transpose(0, 2, 1)
    norms = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    columns = [
        _safe_ratio(covariance[:, a, b], norms[:, a] * norms[:, b])
        for a, b in combinations(range(num_channels), 2)
    ]
    return np.stack(columns, axis=1) if columns else np.empty((num, 0))
