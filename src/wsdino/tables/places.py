"""Where wells lie on their plate: rows and columns from names, usual plates, and the edge."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

# Rows and columns of the usual plates; smaller ones are rare, and a few wells are of one of these.
FORMATS = ((8, 12), (16, 24), (32, 48))
_WELL = re.compile(r"([A-Za-z]{1,2})(\d{1,2})")


def place_of(well: str) -> tuple[int, int] | None:
    """Row and column of a well such as `B04` from 0; None if its name is of another kind."""
    match = _WELL.fullmatch(well)
    if match is None or not int(match[2]):
        return None
    row = 0
    for letter in match[1].upper():
        row = 26 * row + ord(letter) - ord("A") + 1
    return row - 1, int(match[2]) - 1


def places_of(wells: pd.Series) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of wells, each (n,) from 0; -1 where a name is of another kind."""
    names, codes = np.unique(wells.astype(str).to_numpy(dtype=object), return_inverse=True)
    found = np.array([place_of(name) or (-1, -1) for name in names], dtype=np.intp)
    rows, columns = found.reshape(-1, 2)[codes].T
    return rows, columns


def plate_format(num_rows: int, num_columns: int) -> tuple[int, int]:
    """Rows and columns of the smallest usual plate that has so many."""
    for shape in FORMATS:
        if num_rows <= shape[0] and num_columns <= shape[1]:
            return shape
    return num_rows, num_columns


def at_edge(
    rows: NDArray[np.intp], columns: NDArray[np.intp], shape: tuple[int, int]
) -> tuple[NDArray[np.bool_], bool]:
    """Tell which wells lie in the outermost rows and columns of their plate.

    Outer wells are often left empty. Where no well lies there, the edge is that of the wells in
    use, on all plates the same one.

    Parameters
    ----------
    rows, columns
        (n,) from 0, all known.
    shape
        Rows and columns of the plate.

    Returns
    -------
    is_edge : ndarray
        (n,).
    of_plate : bool
        Whether the edge is the plate's own.
    """

    def outermost(of_rows: tuple[int, int], of_columns: tuple[int, int]) -> NDArray[np.bool_]:
        return np.isin(rows, of_rows) | np.isin(columns, of_columns)

    found = outermost((0, shape[0] - 1), (0, shape[1] - 1))
    if found.any() or not len(rows):
        return found, True
    low, high = (int(rows.min()), int(rows.max())), (int(columns.min()), int(columns.max()))
    return outermost(low, high), False
