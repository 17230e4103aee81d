"""Tables that share their columns with another: of millions of rows a copy takes long, and memory.

pandas copies a whole table to rename or to replace a column of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping


def sharing(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of the same columns with a fresh index.

    Parameters
    ----------
    table
        Any table.

    Returns
    -------
    DataFrame
        Columns of it may be replaced, added and renamed, which leaves `table` as it is; nothing may
        be written into one.
    """
    shared = table.copy(deep=False)
    shared.index = pd.RangeIndex(len(table))
    return shared


def with_columns(table: pd.DataFrame, values: Mapping[str, Any]) -> pd.DataFrame:
    """Return a table that has other values in some columns, and shares all others.

    Parameters
    ----------
    table
        Any table. It is not changed.
    values
        By the column's name.

    Returns
    -------
    DataFrame
        See :func:`sharing`; the index is that of `table`.
    """
    shared = table.copy(deep=False)
    for name, column in values.items():
        shared[name] = column
    return shared
