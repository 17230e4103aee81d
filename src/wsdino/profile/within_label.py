"""What whitening by weak label computes, as functions of rows and the codes of their labels.

Codes are integers from 0 without gaps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAD_TO_DEVIATION = 1.4826
_ROUNDING = 1e-9  # of the largest value: a median deviation below it is none
_EIGENVALUE_FLOOR = 1e-10


def robust_moments(
    rows: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre and deviation of each feature, whatever its outliers.

    Parameters
    ----------
    rows
        (n, f).

    Returns
    -------
    location : ndarray
        (f,) medians.
    scale : ndarray
        (f,) 1.4826 times the median absolute deviation, which is the standard deviation of normal
        values; the standard deviation itself where more than half of the values are alike.
    """
    location = np.median(rows, axis=0)
    scale = _MAD_TO_DEVIATION * np.median(np.abs(rows - location), axis=0)
    narrow = scale <= _ROUNDING * np.abs(rows).max(axis=0)
    return location, np.where(narrow, rows.std(axis=0), scale)


def soften(values: NDArray[np.float64], softening: float | None) -> NDArray[np.float64]:
    """Return `softening * arcsinh(values / softening)`; the values themselves where it is None."""
    if softening is None:
        return values
    result: NDArray[np.float64] = softening * np.arcsinh(values / softening)
    return result


def label_means(rows: NDArray[np.float64], codes: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return the mean (labels, f) of each label's rows."""
    sums = np.zeros((int(codes.max()) + 1, rows.shape[1]))
    np.add.at(sums, codes, rows)
    result: NDArray[np.float64] = sums / np.bincount(codes)[:, None]
    return result


def within_covariance(rows: NDArray[np.float64], codes: NDArray[np.intp]) -> NDArray[np.float64]:
    """Pooled covariance around the labels' means.

    Parameters
    ----------
    rows
        (n, f).
    codes
        (n,).

    Returns
    -------
    ndarray
        (f, f) with n minus the number of labels in the denominator, so that a label with one row
        counts in neither.
    """
    residuals = rows - label_means(rows, codes)[codes]
    freedom = max(len(rows) - int(codes.max()) - 1, 1)
    result: NDArray[np.float64] = residuals.T @ residuals / freedom
    return result


def mean_of_labels(
    rows: NDArray[np.float64], codes: NDArray[np.intp], control: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Mean of the labels' means, each label counting alike.

    Parameters
    ----------
    rows, codes
        (n, f) and (n,).
    control
        (n,) which rows are controls; their label counts only where there is but one other.

    Returns
    -------
    ndarray
        (f,).
    """
    means = label_means(rows, codes)
    is_control = np.zeros(len(means), dtype=bool)
    is_control[codes[control]] = True
    chosen = means[~is_control] if (~is_control).sum() > 1 else means
    result: NDArray[np.float64] = chosen.mean(axis=0)
    return result


def symmetric_whitening(covariance: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    """Inverse square root of a covariance with a ridge.

    Parameters
    ----------
    covariance
        (f, f).
    ridge
        Added to each eigenvalue, in units of their mean.

    Returns
    -------
    ndarray
        (f, f), symmetric. Without a ridge it is zero along axes without variance (eigenvalue below
        1e-10 of the largest).
    """
    variances, axes = np.linalg.eigh(covariance)
    if ridge > 0:
        variances = np.maximum(variances, 0) + ridge * variances.mean()
    else:
        along = variances > _EIGENVALUE_FLOOR * variances[-1]
        variances, axes = variances[along], axes[:, along]
    result: NDArray[np.float64] = (axes / np.sqrt(variances)) @ axes.T
    return result
