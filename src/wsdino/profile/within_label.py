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


def spanned(
    rows: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Turn rows of more features than there are rows into as many coordinates as rows.

    Nothing is lost: the rows lie in a space of that many dimensions, and what is computed from
    their inner products costs the cube of the fewer.

    Parameters
    ----------
    rows
        (n, f).

    Returns
    -------
    coordinates : ndarray
        (n, k) with k = min(n, f) and the inner products of the rows.
    basis : ndarray or None
        (f, k) orthonormal columns: `coordinates @ basis.T` are the rows. None where the
        coordinates are the rows themselves.
    """
    if rows.shape[1] <= rows.shape[0]:
        return rows, None
    basis, triangle = np.linalg.qr(rows.T)
    return triangle.T, basis


def symmetric_whitening(
    covariance: NDArray[np.float64], ridge: float, *, basis: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Inverse square root of a covariance with a ridge.

    Parameters
    ----------
    covariance
        (k, k), of coordinates as :func:`spanned` gives them.
    ridge
        Added to each eigenvalue, in units of their mean over all f features.
    basis
        (f, k) of the coordinates; along axes outside of it there is no variance. None: k is f.

    Returns
    -------
    ndarray
        (f, f), symmetric. Without a ridge it is zero along axes without variance (eigenvalue below
        1e-10 of the largest).
    """
    variances, axes = np.linalg.eigh(covariance)
    width = len(covariance if basis is None else basis)
    floor = ridge * variances.sum() / width
    if ridge > 0:
        variances = np.maximum(variances, 0) + floor
    else:
        along = variances > _EIGENVALUE_FLOOR * variances[-1]
        variances, axes = variances[along], axes[:, along]
    result: NDArray[np.float64] = (axes / np.sqrt(variances)) @ axes.T
    if basis is None:
        return result
    outside = 1 / np.sqrt(floor) if ridge > 0 else 0.0
    result = basis @ (result - outside * np.eye(len(result))) @ basis.T
    result[np.diag_indices(width)] += outside
    return result
