"""Which rows of a table a normalisation is fitted on, and their moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from wsdino.tables.columns import CONTROL
from wsdino.tables.features import ROWS_AT_ONCE, feature_blocks, plate_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import pandas as pd
    from numpy.typing import NDArray

CONSTANT = 1e-9
Float = TypeVar("Float", np.float32, np.float64)


def moments(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each feature.

    Parameters
    ----------
    rows
        (n, F) features.

    Returns
    -------
    centre, deviation : ndarray
        (F,) each; the deviation is 0 for a feature that only rounding moves.
    """
    return moments_of_blocks(lambda: [rows])


def moments_of_blocks(
    blocks: Callable[[], Iterable[NDArray[np.float64]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each feature of a table that is read some rows at a time.

    Parameters
    ----------
    blocks
        Starts to go through the rows, (n, F) features at a time; called twice.

    Returns
    -------
    centre, deviation : ndarray
        As :func:`moments`.
    """
    centre, num = mean_of_blocks(blocks)
    squares: NDArray[np.float64] = np.zeros_like(centre)
    for block in blocks():
        squares += ((block - centre) ** 2).sum(axis=0)
    deviation = np.sqrt(squares / num)
    deviation[deviation <= CONSTANT * np.abs(centre)] = 0
    return centre, deviation


def mean_of_blocks(
    blocks: Callable[[], Iterable[NDArray[np.float64]]],
) -> tuple[NDArray[np.float64], int]:
    """Mean (F,) of each feature, and the number of rows; see :func:`moments_of_blocks`."""
    total, num = np.zeros(1), 0
    for block in blocks():
        total, num = total + block.sum(axis=0), num + len(block)
    return total / num, num


def lengths(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """L2 norm of each row; 0 where only rounding keeps it from that.

    Centred on the controls of each plate, a profile of these controls is zero, and its direction
    that of rounding errors. They are told by the median, not by the longest row, so that no wild
    row makes all others zero.

    Parameters
    ----------
    features
        (n, F).

    Returns
    -------
    ndarray
        (n,); 0 for a row of at most a billionth of the median of those that aren't zero (of two
        middle ones the longer).
    """
    squares: NDArray[np.float64] = np.einsum("ij,ij->i", features, features, dtype=np.float64)
    norms: NDArray[np.float64] = np.sqrt(squares)
    known = norms[norms > 0]
    if len(known) == 0:
        return norms
    middle = np.partition(known, len(known) // 2)[len(known) // 2]
    result: NDArray[np.float64] = np.where(norms > CONSTANT * middle, norms, 0)
    return result


def directions(
    features: NDArray[Float], norms: NDArray[np.float64] | None = None
) -> NDArray[Float]:
    """Divide each row by its length.

    Parameters
    ----------
    features
        (n, F).
    norms
        (n,) their :func:`lengths`, where these are known, as of rows of a larger table.

    Returns
    -------
    ndarray
        (n, F) of the same type, of norm 1; zeros where the length is 0.
    """
    norms = lengths(features) if norms is None else norms
    there = norms[:, None] > 0
    return np.divide(features, norms[:, None], out=np.zeros_like(features), where=there)


def control_rows(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Tell which rows are controls; none where the table doesn't say.

    Parameters
    ----------
    table
        n rows.

    Returns
    -------
    ndarray
        (n,) bool.
    """
    if CONTROL not in table:
        return np.zeros(len(table), dtype=bool)
    controls: NDArray[np.bool_] = table[CONTROL].to_numpy(dtype=bool)
    return controls


def plate_rows(table: pd.DataFrame) -> list[NDArray[np.intp]]:
    """Positions of each plate's rows, in order of first appearance.

    Parameters
    ----------
    table
        With a plate in every row.

    Returns
    -------
    list of ndarray
        (n_plate,) each.
    """
    plates = table.groupby(plate_keys(table), sort=False, dropna=False).ngroup().to_numpy()
    return np.split(np.argsort(plates, kind="stable"), np.cumsum(np.bincount(plates))[:-1])


def chosen_blocks(table: pd.DataFrame, chosen: NDArray[np.bool_]) -> Iterator[NDArray[np.float64]]:
    """Go through the features of some rows of a table.

    Parameters
    ----------
    table
        n rows, F features.
    chosen
        (n,) which rows.

    Yields
    ------
    ndarray
        (rows, F), :data:`~wsdino.tables.features.ROWS_AT_ONCE` rows or some more, in order.
    """
    parts: list[NDArray[np.float64]] = []
    for rows, block in feature_blocks(table):
        parts.append(block[chosen[rows]])
        if sum(map(len, parts)) >= ROWS_AT_ONCE:
            yield np.concatenate(parts)
            parts = []
    if any(map(len, parts)):
        yield np.concatenate(parts)
