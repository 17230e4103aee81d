"""Reading tables of embeddings or profiles: features, with metadata in our names."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from wsdino.errors import TableError
from wsdino.progress import say
from wsdino.tables.columns import CONTROL, PREFIX
from wsdino.tables.files import read_file, release_memory
from wsdino.tables.identity import DEFAULT_CONTROLS, has_flags
from wsdino.tables.platemap import PlateMap, read_platemap, tidy_and_join
from wsdino.tables.suspects import without_labels
from wsdino.tables.tidy import identify
from wsdino.tables.workspace_dl import is_workspace_dl, read_workspace_dl

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence


def read_table(
    path: str | Path | pd.DataFrame,
    *,
    platemap: str | Path | pd.DataFrame | PlateMap | None = None,
    columns: Mapping[str, str] | None = None,
    controls: Sequence[str] | None = None,
    features: Collection[str] = (),
) -> pd.DataFrame:
    """Read a table of embeddings or profiles that wsdino or another tool wrote.

    Parameters
    ----------
    path
        A file that :func:`read_file` reads, a folder of the Cell Painting Gallery's `workspace_dl`
        (:mod:`wsdino.tables.workspace_dl`), or such a table as a data frame.
    platemap
        What each well received; see :func:`~wsdino.tables.platemap.join_platemap`.
    columns
        Our name -> the table's or plate map's, if it differs.
    controls
        Compounds that are negative controls, in any case. None: `Metadata_Control` if it has any
        value, else DMSO.
    features
        Columns to keep as features although they look like labels.

    Returns
    -------
    DataFrame
        Metadata in our names and types (:func:`~wsdino.tables.tidy.tidy`), features as stored. Row
        numbers, a tool's book-keeping and numbers that may be labels become `Metadata_*` columns,
        which is reported (:func:`~wsdino.tables.suspects.without_labels`).

    Raises
    ------
    TableError
        If the file is missing, damaged, empty, or of another format, a value can't be read, or no
        row is in the plate map.

    Examples
    --------
    >>> import wsdino
    >>> table = wsdino.read_table("sites.csv", controls=["DMSO"])
    >>> int(table["Metadata_Control"].sum()), len(table)
    (108, 276)
    """
    columns = columns or {}
    if isinstance(path, pd.DataFrame):
        raw, origin = path, "the table"
    else:
        raw, origin = _read(Path(path), columns.values()), str(path)
    if raw.empty:
        what = "rows" if raw.shape[1] else "columns"
        raise TableError(f"{origin}: the table has no {what}")
    wells = None if platemap is None else read_platemap(platemap, columns=columns)
    table = tidy_and_join(raw, wells, origin=origin, columns=columns)
    del raw
    release_memory()
    is_flagged = controls is not None or has_flags(table)
    table = identify(table, origin=origin, controls=controls)
    if not is_flagged and CONTROL in table and table[CONTROL].any():
        say(
            f"{origin}: no column {CONTROL}, so {', '.join(DEFAULT_CONTROLS)} is taken as the "
            f"negative control ({int(table[CONTROL].sum())} of {len(table)} rows)"
        )
    metadata = [name for name in table.columns if str(name).startswith(PREFIX)]
    table = table[metadata + [name for name in table.columns if name not in metadata]]
    return without_labels(table, origin=origin, keep=features)


def _read(path: Path, text: Collection[str]) -> pd.DataFrame:
    if is_workspace_dl(path):
        return read_workspace_dl(path, partial(read_file, text=text))
    return read_file(path, text=text)
