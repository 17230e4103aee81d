"""Telling features from metadata.

In a table that has been read, every numeric column whose name does not start with `Metadata_` is a
feature, whichever tool wrote it. Columns that may be labels instead are detected on reading
(:mod:`wsdino.tables.suspects`), so that labels never enter the feature matrix.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError, option
from wsdino.tables.columns import (
    BATCH,
    PLATE,
    PREFIX,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

# Pandas warns of tables whose columns were put in one by one.
_MANY_COLUMNS = 90
ROWS_AT_ONCE = 16_384
"""Rows of a large table that are worked on at a time."""
_EMBEDDING_NAME = re.compile(r"^(?:emb|classical)_(?P<channel>.+)_[^_]+$")
_JOINED_EMBEDDING = re.compile(r"^table(?P<table>[1-9][0-9]*)_emb_")
_NUMBERED = re.compile(r"^(?P<stem>.*?)(?P<number>0*[0-9]{1,6})$")
LARGEST, SMALLEST = 1e150, 1e-150
"""Magnitudes of features, beyond which squares overflow, or vanish."""
LEAST_NUMBERED = 32
"""Features that are numbered through and at least so many are taken for an embedding."""


def require_table(table: object, *, name: str = "table") -> None:
    """Refuse what is no data frame.

    Raises
    ------
    TableError
        Says what it is instead, and how to read a file.
    """
    if not isinstance(table, pd.DataFrame):
        hint = "; read a file with wsdino.read_table first" if isinstance(table, str | Path) else ""
        msg = f"{name}: expected a pandas DataFrame, found {type(table).__name__}{hint}"
        raise TableError(msg)


def feature_columns(table: pd.DataFrame) -> list[str]:
    """Names of the features: numeric columns that don't start with `Metadata_`, in order.

    Booleans and text are not features.
    """
    # Of no row, because what is selected is copied.
    numeric = table.iloc[:0].select_dtypes(include="number", exclude="timedelta").columns
    return [name for name in numeric if not str(name).startswith(PREFIX)]


def metadata_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the `Metadata_*` columns alone."""
    return table[[name for name in table.columns if str(name).startswith(PREFIX)]]


def with_metadata(metadata: pd.DataFrame, features: pd.DataFrame) -> pd.DataFrame:
    """Put metadata before features of the same rows, which `pd.concat` would copy.

    Parameters
    ----------
    metadata, features
        n rows each, with one index.
    """
    if metadata.shape[1] > _MANY_COLUMNS:
        return pd.concat([metadata, features], axis=1)
    table = features.copy(deep=False)
    for position, name in enumerate(metadata):
        table.insert(position, name, metadata[name])
    return table


def features_of(table: pd.DataFrame, *, dtype: type | None = np.float64) -> NDArray[Any]:
    """Feature matrix of a table.

    Parameters
    ----------
    table
        n rows, F features.
    dtype
        `np.float64`; or None: float32 where all features are, which takes half the memory.

    Returns
    -------
    ndarray
        (n, F) of that type, all finite. Read-only where the table holds it as it is: then nothing
        is copied.

    Raises
    ------
    TableError
        As :func:`feature_blocks`.
    """
    names = feature_columns(table)
    if dtype is None:
        is_single = bool((table.dtypes[names] == np.float32).all())
        dtype = np.float32 if is_single else np.float64
    held = _held(table, names, dtype)
    matrix = np.empty((len(table), len(names)), dtype=dtype) if held is None else held
    for rows, block in feature_blocks(table, dtype=dtype):
        if held is None:
            matrix[rows] = block
    return matrix


def _held(table: pd.DataFrame, names: list[str], dtype: type) -> NDArray[Any] | None:
    """Return the matrix of a table that holds its features row by row, read-only; else None."""
    if len(table) < 2 or not names or not (table.dtypes[names] == dtype).all():
        return None
    first, step = table[names[0]].to_numpy(), np.dtype(dtype).itemsize
    if first.strides != (len(names) * step,):
        return None
    # Each column that is taken of a table gets a deep copy of its attributes.
    bare = table.copy(deep=False)
    bare.attrs = {}
    columns = [bare[name].to_numpy() for name in names]
    places = [column.__array_interface__["data"][0] for column in columns]
    if any(column.strides != first.strides for column in columns):
        return None
    if np.any(np.diff(places) != step):
        return None
    # Pandas has no way to ask for this view, if other columns are there.
    return np.lib.stride_tricks.as_strided(
        first, (len(first), len(names)), (len(names) * step, step), writeable=False
    )


def feature_blocks(
    table: pd.DataFrame, *, dtype: type = np.float64
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Go through the features of a table, some rows at a time.

    Parameters
    ----------
    table
        n rows, F features.
    dtype
        `np.float64` or `np.float32`.

    Yields
    ------
    rows : slice
        At most :data:`ROWS_AT_ONCE` rows, in order.
    features : ndarray
        (rows, F) of that type.

    Raises
    ------
    TableError
        If there are no rows or no features, or a value is beyond :data:`LARGEST`; or at the end, if
        a feature has a missing or infinite value, or is below :data:`SMALLEST` in all rows that
        aren't zero.
    """
    names = feature_columns(table)
    if not names or table.empty:
        msg = (
            f"the table has {len(table)} rows and {len(names)} feature columns (numeric, not "
            f"starting with {PREFIX}); expected at least one of each"
        )
        raise TableError(msg)
    bad, peak = np.zeros(len(names), dtype=np.intp), np.zeros(len(names))
    for start in range(0, len(table), ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, len(table)))
        block = table.iloc[rows][names].to_numpy(dtype=dtype, na_value=np.nan)
        own = np.maximum(block.max(axis=0), -block.min(axis=0))
        odd = np.flatnonzero(~np.isfinite(own))
        bad[odd] += (~np.isfinite(block[:, odd])).sum(axis=0)
        # Of what isn't finite the message is another.
        own[odd] = 0
        peak = np.maximum(peak, own)
        _require_squares(names, np.where(peak > LARGEST, peak, 1))
        yield rows, block
    if bad.any():
        columns = np.flatnonzero(bad)
        first = columns[0]
        msg = (
            f"feature {names[first]} is missing or infinite in {bad[first]} of {len(table)} rows "
            f"({len(columns)} of {len(names)} features are affected); drop or fill these first"
        )
        raise TableError(msg)
    _require_squares(names, peak)


def has_squares(features: NDArray[np.floating]) -> bool:
    """Whether all values (n, F), of which there are some, are finite and at most LARGEST."""
    return max(float(features.max()), -float(features.min())) <= LARGEST


def _require_squares(names: list[str], peak: NDArray[np.float64]) -> None:
    """Raise TableError if the square of a feature's largest magnitude overflows or vanishes."""
    odd = np.flatnonzero((peak > LARGEST) | ((peak > 0) & (peak < SMALLEST)))
    if len(odd):
        largest = peak[odd[0]]
        msg = (
            f"feature {names[odd[0]]} has magnitudes of up to {largest:.3g}, too "
            f"{'large' if largest > LARGEST else 'small'} to be squared ({len(odd)} of "
            f"{len(names)} features are affected); drop these, or give them in another unit"
        )
        raise TableError(msg)


def require_features(table: pd.DataFrame) -> None:
    """Raise TableError as :func:`feature_blocks` does."""
    for _ in feature_blocks(table):
        pass


def require_columns(table: pd.DataFrame, names: Sequence[str], *, purpose: str) -> None:
    """Raise TableError naming the columns of `names` that `table` lacks."""
    missing = [name for name in names if name not in table]
    if missing:
        has = ", ".join(metadata_of(table).columns) or "no metadata"
        msg = (
            f"{purpose} needs the column{'s' * (len(missing) > 1)} {', '.join(missing)}; the table "
            f"has {has}; a plate map can be joined by plate and well: "
            f"{option('--platemap FILE')}"
        )
        raise TableError(msg)


def channel_of(feature: str) -> str:
    """Channel in a name of the form `emb_<channel>_<index>`; `""` for names of other tools."""
    match = _EMBEDDING_NAME.match(feature)
    return match["channel"] if match else ""


def embeddings_among(names: Sequence[str]) -> list[int]:
    """Tell which features are of one embedding, and so share a unit, by their names.

    Parameters
    ----------
    names
        Of features.

    Returns
    -------
    list of int
        For each feature, the number of its embedding from 1 on; 0: it has a unit of its own.
        Features of an embedding are those of one table among several that were joined
        (`table2_emb_DAPI_0`), and at least :data:`LEAST_NUMBERED` that are numbered through from 0
        or 1 on, as other tools call theirs (`feature_0`, `feature_1`, ...) and we those of a
        channel.
    """
    kinds: list[tuple[str, str] | None] = []
    numbers: dict[tuple[str, str], set[int]] = {}
    for name in names:
        if joined := _JOINED_EMBEDDING.match(name):
            kinds.append(("joined", joined["table"]))
        elif numbered := _NUMBERED.match(name):
            kind = ("numbered", numbered["stem"])
            kinds.append(kind)
            numbers.setdefault(kind, set()).add(int(numbered["number"]))
        else:
            kinds.append(None)
    alone = {
        kind
        for kind, own in numbers.items()
        if len(own) < LEAST_NUMBERED or min(own) > 1 or max(own) - min(own) + 1 > len(own)
    }
    shared = [kind for kind in dict.fromkeys(kinds) if kind and kind not in alone]
    number = {kind: index for index, kind in enumerate(shared, start=1)}
    return [number.get(kind, 0) if kind else 0 for kind in kinds]


def plate_keys(table: pd.DataFrame) -> list[str]:
    """Columns that identify a plate: plate and, if known, batch."""
    return [*([BATCH] if BATCH in table else []), PLATE]
