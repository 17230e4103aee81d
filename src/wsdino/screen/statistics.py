"""Exact intensity statistics of a field, from its histogram."""

from __future__ import annotations

from typing import Any

import numpy as np

PERCENTILES = (1.0, 50.0, 99.0)
_BLOCK = 1 << 22


def site_statistics(
    pixels: np.ndarray[Any, np.dtype[Any]],
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return mean, standard deviation and percentiles 1, 50, 99 of each channel.

    Parameters
    ----------
    pixels
        (C, H, W), uint8 or uint16.

    Returns
    -------
    numpy.ndarray
        (C, 5) float32. Percentiles are interpolated linearly, as :func:`numpy.percentile` does.
    """
    return np.stack([_channel_statistics(channel) for channel in pixels]).astype(np.float32)


def _histogram(
    pixels: np.ndarray[Any, np.dtype[Any]],
) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Count each value up to the largest; a block at a time, as NumPy copies pixels to int64."""
    counts = np.zeros(0, dtype=np.intp)
    for start in range(0, len(pixels), _BLOCK):
        found = np.bincount(pixels[start : start + _BLOCK], minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    return counts


def _channel_statistics(
    channel: np.ndarray[Any, np.dtype[Any]],
) -> np.ndarray[Any, np.dtype[np.float64]]:
    # A histogram of 16-bit values takes a tenth of the time of partial sorting.
    counts = _histogram(channel.ravel())
    values = np.arange(len(counts), dtype=np.float64)
    num_pixels = channel.size
    mean = counts @ values / num_pixels
    std = np.sqrt(counts @ (values - mean) ** 2 / num_pixels)
    below = np.cumsum(counts)
    position = np.asarray(PERCENTILES) / 100 * (num_pixels - 1)
    low = np.searchsorted(below, np.floor(position), side="right")
    high = np.searchsorted(below, np.ceil(position), side="right")
    percentiles = low + (high - low) * (position - np.floor(position))
    return np.array([mean, std, *percentiles])
