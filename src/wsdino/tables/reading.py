"""Tables of embeddings and profiles: `Metadata_*` columns, then features.

Every numeric column whose name does not start with `Metadata_` is a feature, whatever tool wrote
it. Labels never enter the feature matrix, and neither do row numbers: on reading, CellProfiler's
`Image_Metadata_*` and its `ImageNumber`, `ObjectNumber` and `TableNumber` become `Metadata_*`, and
an unnamed index column is dropped.

The plates and batches of a treatment are lists (see :mod:`wsdino.tables.lists`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.tables.lists import LIST_COLUMNS, read_labels

if TYPE_CHECKING:
    from collections.abc import Sequence


PREFIX = "Metadata_"
PLATE, WELL, SITE = "Metadata_Plate", "Metadata_Well", "Metadata_Site"
BATCH, COMPOUND, CONCENTRATION = "Metadata_Batch", "Metadata_Compound", "Metadata_Concentration"
MOA, CONTROL = "Metadata_MoA", "Metadata_Control"
TREATMENT = (COMPOUND, CONCENTRATION)

SUFFIXES = (".parquet", ".csv", ".csv.gz")
_TEXT_COLUMNS = (PLATE, WELL, BATCH, COMPOUND, MOA)
_ROW_NUMBERS = ("ImageNumber", "ObjectNumber", "TableNumber")
_CELLPROFILER_PREFIX = "Image_Metadata_"
_EMBEDDING_NAME = re.compile(r"^(?:emb|classical)_(?P<channel>.+)_[^_]+$")
_WELL_NAME = re.compile(r"^([A-Za-z]{1,2})0*(\d{1,2})$")


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a table of embeddings or profiles that wsdino or another tool wrote.

    Parameters
    ----------
    path
        `.parquet`, `.csv` or `.csv.gz`.

    Returns
    -------
    DataFrame
        Metadata with the types of the manifest (plate, well, batch, compound and MoA are text,
        well names as `B04`, `Metadata_Control` is bool), features as they are stored.

    Raises
    ------
    TableError
        If the file is missing, damaged, empty, of another format, or holds a concentration that is
        no number.
    """
    path = Path(path)
    suffix = suffix_of(path)
    if not path.is_file():
        msg = f"{path}: no such file; expected a table ({', '.join(SUFFIXES)})"
        raise TableError(msg)
    try:
        if suffix == ".parquet":
            table = pd.read_parquet(path)
        else:
            text = dict.fromkeys((*_TEXT_COLUMNS, *_cellprofiler(_TEXT_COLUMNS)), str)
            table = pd.read_csv(path, dtype=text, low_memory=False)
    except (ValueError, OSError, EOFError, UnicodeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        msg = f"{path}: can't be read as {suffix}: {reason}"
        raise TableError(msg) from error
    if table.empty:
        msg = f"{path}: the table has {len(table)} rows and {table.shape[1]} columns; expected both"
        raise TableError(msg)
    return tidy(table, origin=str(path))


def tidy(table: pd.DataFrame, *, origin: str) -> pd.DataFrame:
    """Bring the metadata of a table to the manifest's names and types.

    Parameters
    ----------
    table
        As another tool wrote it.
    origin
        What to call the table in an error.

    Returns
    -------
    DataFrame
        A copy with a fresh index; features untouched.

    Raises
    ------
    TableError
        If two columns end up with the same name, or a concentration is no number.
    """
    attributes = table.attrs
    unnamed = [name for name in table.columns if str(name).startswith("Unnamed: ")]
    table = table.drop(columns=unnamed).rename(columns=_our_name).reset_index(drop=True)
    table.attrs = attributes
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        msg = f"{origin}: two columns are named {twice}; each name may occur once"
        raise TableError(msg)
    for name in _TEXT_COLUMNS:
        if name in table and name in LIST_COLUMNS:
            table[name] = read_labels(table[name], origin=origin)
        elif name in table:
            table[name] = [None if pd.isna(value) else str(value) for value in table[name]]
    if WELL in table:
        table[WELL] = [None if well is None else _well_name(well) for well in table[WELL]]
    if CONCENTRATION in table:
        numbers = pd.to_numeric(table[CONCENTRATION], errors="coerce").astype(np.float64)
        wrong = numbers.isna() & table[CONCENTRATION].notna()
        if wrong.any():
            found = table.loc[wrong, CONCENTRATION].iloc[0]
            msg = f"{origin}: {CONCENTRATION} holds {found!r}; expected micromolar as a number"
            raise TableError(msg)
        table[CONCENTRATION] = numbers
    if CONTROL in table:
        truth = table[CONTROL].astype(str).str.strip().str.lower()
        table[CONTROL] = truth.isin(["true", "1", "1.0", "yes"])
    return table


def _our_name(name: str) -> str:
    """Map a column's name to wsdino's."""
    if str(name).startswith(_CELLPROFILER_PREFIX):
        return str(name).removeprefix("Image_")
    return PREFIX + name if name in _ROW_NUMBERS else name


def _cellprofiler(names: Sequence[str]) -> list[str]:
    return [f"Image_{name}" for name in names]


def _well_name(well: str) -> str:
    match = _WELL_NAME.match(well.strip())
    return f"{match[1].upper()}{int(match[2]):02d}" if match else well


def suffix_of(path: Path) -> str:
    """Return which of the table formats a file's name asks for; TableError where none."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    msg = f"{path}: unknown table format; expected a name that ends in {', '.join(SUFFIXES)}"
    raise TableError(msg)
