"""A folder of CellProfiler's LoadData tables, one for each plate, as in the Cell Painting Gallery.

There a screen's tables are `load_data_csv/<batch>/<plate>/load_data.csv`, and perhaps
`load_data_with_illum.csv` beside each, which names the illumination functions too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pandas as pd

from wsdino.errors import TableError
from wsdino.progress import say
from wsdino.tables.columns import BATCH, our_column
from wsdino.tables.files import is_table, read_file

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

_NAME = "load_data"
_WITH_ILLUMINATION = "load_data_with_illum"
# A batch's folder, then a plate's.
_MAX_DEPTH = 2
_IMAGE_COLUMN = re.compile(r"((?:Image_)?)(FileName|PathName|URL)_(.+)")


def find_tables(folder: Path) -> list[Path]:
    """Find the LoadData tables in a folder: one for each folder at most two deep, in order.

    Parameters
    ----------
    folder
        Any folder.

    Returns
    -------
    list of Path
        Of `load_data` and `load_data_with_illum` in the same folder, the latter; empty if there is
        no table of such a name.

    Raises
    ------
    TableError
        If a folder has several others.
    """
    found = {
        path
        for depth in range(_MAX_DEPTH + 1)
        for path in folder.glob("/".join(["*"] * (depth + 1)))
        if path.name.casefold().startswith(_NAME) and path.is_file() and is_table(path)
    }
    tables = []
    for place in sorted({path.parent for path in found}):
        here = sorted(path for path in found if path.parent == place)
        stems = {path.name.casefold().partition(".")[0]: path for path in here}
        if len(here) > 1 and not (set(stems) == {_NAME, _WITH_ILLUMINATION} and len(here) == 2):
            raise TableError(
                f"{place}: has several LoadData tables ({', '.join(path.name for path in here)}); "
                "remove all but one, or give that table instead of the folder"
            )
        tables.append(stems.get(_WITH_ILLUMINATION, here[0]))
    return tables


def read_tables(folder: Path, *, text: Collection[str] = ()) -> pd.DataFrame:
    """Read the LoadData tables of a folder as those of one screen.

    Parameters
    ----------
    folder
        With tables, see :func:`find_tables`.
    text
        Columns that must be read as text.

    Returns
    -------
    DataFrame
        Their rows, table by table, with absolute `PathName_<Channel>`. Where no table names the
        batch and they lie two folders deep, the first of these is `Metadata_Batch`.

    Raises
    ------
    TableError
        If a table can't be read, or its channels differ from those of the first.
    """
    paths = find_tables(folder)
    tables = [_with_absolute_paths(read_file(path, text=text), path.parent) for path in paths]
    first = _channels(tables[0])
    for path, table in zip(paths, tables, strict=True):
        if _channels(table) != first:
            raise TableError(
                f"{path}: has images of {', '.join(sorted(_channels(table)))}, but {paths[0]} of "
                f"{', '.join(sorted(first))}; the tables of one screen have the same channels, so "
                "give the folder of those that belong together"
            )
    say(f"{folder}: read {len(paths)} LoadData tables, such as {paths[0].relative_to(folder)}")
    places = [path.parent.relative_to(folder).parts for path in paths]
    has_batch = any(our_column(name) == BATCH for table in tables for name in table)
    if not has_batch and all(len(place) == _MAX_DEPTH for place in places):
        say(
            f"{folder}: no column {BATCH}, so the batch is the name of the folder, such as "
            f"{places[0][0]}"
        )
        tables = [
            table.assign(**{BATCH: place[0]}) for table, place in zip(tables, places, strict=True)
        ]
    return pd.concat(tables, ignore_index=True)


def _channels(table: pd.DataFrame) -> set[str]:
    matches = [_IMAGE_COLUMN.fullmatch(str(name)) for name in table]
    return {match[3] for match in matches if match and match[2] != "PathName"}


def _with_absolute_paths(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Make image folders absolute: the tables of a screen lie in folders of their own."""
    folder = folder.absolute()
    columns = dict[str, object]()
    for name in map(str, table.columns):
        match = _IMAGE_COLUMN.fullmatch(name)
        if match is None:
            continue
        prefix, kind, channel = match.groups()
        if kind == "FileName" and f"{prefix}PathName_{channel}" not in table:
            columns[f"{prefix}PathName_{channel}"] = str(folder)
        elif kind != "FileName":
            columns[name] = [_absolute(value, folder) for value in table[name]]
    return table.assign(**columns)


def _absolute(value: object, folder: Path) -> object:
    if not isinstance(value, str) or not value.strip() or "://" in value:
        return value
    return str(folder / value.strip().removeprefix("file:").replace("\\", "/"))
