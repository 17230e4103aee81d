"""Exact intensity statistics of a field, from its histogram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PERCENTILES = (1.0, 50.0, 99.0)


def histogram(field: NDArray[Any]) -> NDArray[np.int64]:
    """Return how often each value occurs.

    Parameters
    ----------
    field
        (H, W), uint8 or uint16.

    Returns
    -------
    numpy.ndarray
        (maximum + 1,) int64, by value from 0.
    """
    from wsdino.screen.passes import count_values

    counts = np.zeros(int(field.max()) + 1, np.uint32)
    count_values(np.ascontiguousarray(field), counts)
    return counts.astype(np.int64)


def site_statistics(
    pixels: NDArray[Any], histograms: Sequence[NDArray[np.int64]] | None = None
) -> NDArray[np.float32]:
    """Return mean, standard deviation and percentiles 1, 50, 99 of each channel.

    Parameters
    ----------
    pixels
        (C, H, W), uint8 or uint16.
    histograms
        The C histograms, by :func:`histogram`; None: they are made.

    Returns
    -------
    numpy.ndarray
        (C, 5) float32. Percentiles are interpolated linearly, as :func:`numpy.percentile` does.
    """
    counted = [histogram(field) for field in pixels] if histograms is None else histograms
    return np.stack([_channel_statistics(counts) for counts in counted]).astype(np.float32)


def _channel_statistics(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    values = np.arange(len(counts), dtype=np.float64)
    num_pixels = counts.sum()
    mean = counts @ values / num_pixels
    std = np.sqrt(counts @ (values - mean) ** 2 / num_pixels)
    below = np.cumsum(counts)
    position = np.asarray(PERCENTILES) / 100 * (num_pixels - 1)
    low = np.searchsorted(below, np.floor(position), side="right")
    high = np.searchsorted(below, np.ceil(position), side="right")
    percentiles = low + (high - low) * (position - np.floor(position))
    return np.array([mean, std, *percentiles])
