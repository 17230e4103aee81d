"""What a feature is, and what is metadata.

Every numeric column whose name does not start with `Metadata_` is a feature, whatever tool wrote
it. Labels never enter the feature matrix.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from wsdino.errors import TableError
from wsdino.tables.columns import BATCH, PLATE, PREFIX

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

_EMBEDDING_NAME = re.compile(r"^(?:emb|classical)_(?P<channel>.+)_[^_]+$")


def feature_columns(table: pd.DataFrame) -> list[str]:
    """Names of the features: numeric columns that don't start with `Metadata_`, in order.

    Booleans and text are no features.
    """
    numeric = table.select_dtypes(include="number", exclude="timedelta").columns
    return [name for name in numeric if not str(name).startswith(PREFIX)]


def metadata_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the `Metadata_*` columns alone."""
    return table[[name for name in table.columns if str(name).startswith(PREFIX)]]


def features_of(table: pd.DataFrame) -> NDArray[np.float64]:
    """Feature matrix of a table.

    Parameters
    ----------
    table
        n rows, F features.

    Returns
    -------
    ndarray
        (n, F) float64, all finite.

    Raises
    ------
    TableError
        If there is no row, no feature, or a feature is missing or infinite somewhere.
    """
    names = feature_columns(table)
    if not names or table.empty:
        msg = (
            f"the table has {len(table)} rows and {len(names)} feature columns (numeric, not "
            f"starting with {PREFIX}); expected at least one of both"
        )
        raise TableError(msg)
    matrix = table[names].to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~np.isfinite(matrix)
    if bad.any():
        columns = np.flatnonzero(bad.any(axis=0))
        first = columns[0]
        msg = (
            f"feature {names[first]} is missing or infinite in {int(bad[:, first].sum())} of "
            f"{len(table)} rows ({len(columns)} of {len(names)} features are affected); drop or "
            "fill these before"
        )
        raise TableError(msg)
    return matrix


def require_columns(table: pd.DataFrame, names: Sequence[str], *, purpose: str) -> None:
    """Raise TableError naming the columns of `names` that `table` lacks."""
    missing = [name for name in names if name not in table]
    if missing:
        has = ", ".join(metadata_of(table).columns) or "no metadata"
        msg = (
            f"{purpose} needs the column{'s' * (len(missing) > 1)} {', '.join(missing)}; the table "
            f"has {has}; a design can be joined by plate and well (--design)"
        )
        raise TableError(msg)


def channel_of(feature: str) -> str:
    """Channel in a name such as `emb_<channel>_<index>`, or `""` in names of other tools."""
    match = _EMBEDDING_NAME.match(feature)
    return match["channel"] if match else ""


def plate_keys(table: pd.DataFrame) -> list[str]:
    """Columns that tell plates apart: a plate is a plate within its batch, where that is known."""
    return [*([BATCH] if BATCH in table else []), PLATE]
