"""Cells that hold several labels: the plates and the batches of a treatment.

Such a cell is a list of strings: in memory a Python list, in Parquet a list column, in CSV and
AnnData a JSON array (`["W1", "W2"]`). Text is one label, whatever it contains: batches named
`2019;A` and `2019;B` are two batches. None in a list stands for an unknown label.
"""

from __future__ import annotations

import ast
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.outside import reading
from wsdino.tables.columns import BATCH, PLATE

if TYPE_CHECKING:
    from collections.abc import Iterable

LIST_COLUMNS = (PLATE, BATCH)


def is_list(value: object) -> bool:
    """Whether a cell holds a list; plain pandas reads those of Parquet as arrays."""
    return isinstance(value, list | tuple | np.ndarray)


def holds_lists(values: Iterable[object]) -> bool:
    """Whether any of the cells holds a list."""
    return any(is_list(value) for value in values)


def require_single(table: pd.DataFrame, *, origin: str) -> None:
    """Refuse cells with several plates or batches, where each row is an image.

    Raises
    ------
    TableError
        Names the column and the first such row.
    """
    for name in LIST_COLUMNS:
        if name in table and holds_lists(table[name]):
            row = next(i for i, value in enumerate(table[name]) if is_list(value))
            raise TableError(
                f"{origin}: {name} is {table[name].iloc[row]} in data row {row + 1}; an image "
                "has one, written as plain text"
            )


def labels_of(value: Any) -> list[str | None]:
    """Labels of a cell: those of a list, a single one, or none if it is missing."""
    if is_list(value):
        return [None if pd.isna(label) else str(label) for label in value]
    return [] if pd.isna(value) else [str(value)]


def read_labels(column: pd.Series[Any], *, origin: str) -> pd.Series[Any]:
    """Read a column whose cells may be lists.

    Parameters
    ----------
    column
        As pandas reads it: text, numbers, lists or arrays, missing cells, or lists written as text
        (a JSON array, or Python's notation).
    origin
        What to call the table in an error.

    Returns
    -------
    Series
        Object; each cell is text, a list of labels, or None if it is missing.

    Raises
    ------
    TableError
        If a text begins like a list but is not one.
    """
    cells = [_read_cell(value, column=str(column.name), origin=origin) for value in column]
    return pd.Series(cells, index=column.index, name=column.name, dtype=object)


def _read_cell(value: Any, *, column: str, origin: str) -> str | list[str | None] | None:
    if is_list(value):
        return labels_of(value) or None
    if pd.isna(value):
        return None
    text = str(value)
    if not text.lstrip().startswith(('["', "['", "[null", "[None")):
        return text
    labels = _parsed(text.strip())
    if labels is None:
        msg = f'{origin}: {column} holds {text!r}; expected a name or a JSON array, ["A", "B"]'
        raise TableError(msg)
    return labels or None


def _parsed(text: str) -> list[str | None] | None:
    """Parse a list of labels written as JSON or by Python; None if it is neither."""
    found: Any = None
    with suppress(TableError), reading("", TableError):
        found = json.loads(text)
    if found is None:
        with suppress(TableError), reading("", TableError):
            found = ast.literal_eval(text)
        # NumPy prints ['A' 'B'], which Python would read as the one label AB.
        if repr(found) != text:
            return None
    is_labels = isinstance(found, list) and all(
        label is None or isinstance(label, str) for label in found
    )
    return found if is_labels else None


def with_json(metadata: pd.DataFrame) -> pd.DataFrame:
    """Return a table with its lists as JSON arrays, for formats without lists."""
    columns = [name for name in LIST_COLUMNS if name in metadata and holds_lists(metadata[name])]
    return metadata.assign(
        **{
            name: [
                json.dumps(labels_of(value), ensure_ascii=False) if is_list(value) else value
                for value in metadata[name]
            ]
            for name in columns
        }
    )


def require_one_label(table: pd.DataFrame, names: Iterable[str], *, purpose: str) -> None:
    """Raise TableError if one of the columns holds lists, as in treatment profiles."""
    for name in names:
        if name in table and holds_lists(table[name]):
            where = next(value for value in table[name] if is_list(value))
            msg = (
                f"{purpose} needs one {name} in each row, found {labels_of(where)}: the rows are "
                "profiles of treatments; give the table of sites or wells that they were made from"
            )
            raise TableError(msg)
