"""Tables of embeddings and profiles: `Metadata_*` columns, then features.

Every numeric column whose name does not start with `Metadata_` is a feature, whatever tool wrote
it. Labels never enter the feature matrix, and neither do row numbers: on reading, CellProfiler's
`Image_Metadata_*` and its `ImageNumber`, `ObjectNumber` and `TableNumber` become `Metadata_*`, and
an unnamed index column is dropped.

A group of several plates or batches (see :mod:`wsdino.profile.aggregate`) keeps them in one string,
joined by `;`, which survives CSV and Parquet alike.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import numpy as np
import pandas as pd

from wsdino.errors import OutputError, TableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

PREFIX = "Metadata_"
PLATE, WELL, SITE = "Metadata_Plate", "Metadata_Well", "Metadata_Site"
BATCH, COMPOUND, CONCENTRATION = "Metadata_Batch", "Metadata_Compound", "Metadata_Concentration"
MOA, CONTROL = "Metadata_MoA", "Metadata_Control"
TREATMENT = (COMPOUND, CONCENTRATION)
SEPARATOR = ";"

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
        if name in table:
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


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table atomically: metadata first, then the features as float32.

    Parameters
    ----------
    table
        Metadata and features. `table.attrs` (how profiles were made) is kept by Parquet alone.
    path
        `.parquet`, `.csv` or `.csv.gz`; its folder is made where it is missing.

    Raises
    ------
    TableError
        If the format is another.
    OutputError
        If the path can't be written.
    """
    path = Path(path)
    suffix = suffix_of(path)
    features = feature_columns(table)
    ordered = pd.concat([metadata_of(table), table[features].astype(np.float32)], axis=1)
    ordered.attrs = table.attrs
    if suffix == ".parquet":
        replace_file(path, suffix, lambda partial: ordered.to_parquet(partial, index=False))
    else:
        replace_file(path, suffix, lambda partial: ordered.to_csv(partial, index=False))


def write_anndata(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as AnnData: X = features, obs = metadata, var = features with their channel.

    Parameters
    ----------
    table
        Metadata and features.
    path
        `.h5ad`. The names of obs keep the whole `Metadata_` prefix; `var["channel"]` is the
        channel in `emb_<channel>_<index>`, empty for features with other names.

    Raises
    ------
    TableError
        If the format is another, or a feature is not finite.
    OutputError
        If the path can't be written.
    """
    import anndata

    path = Path(path)
    if path.suffix != ".h5ad":
        msg = f"{path}: unknown format for AnnData; expected a name that ends in .h5ad"
        raise TableError(msg)
    names = feature_columns(table)
    metadata = metadata_of(table)
    text = metadata.select_dtypes(include="object").columns
    # HDF5 holds no mixture of text and missing values; a categorical does.
    metadata = metadata.astype(dict.fromkeys(text, "category"))
    metadata.index = pd.RangeIndex(len(metadata)).astype(str)
    channels = [channel_of(name) for name in names]
    data = anndata.AnnData(
        X=features_of(table).astype(np.float32),
        obs=metadata,
        var=pd.DataFrame({"channel": channels}, index=pd.Index(names, dtype=object)),
    )
    replace_file(path, ".h5ad", data.write_h5ad)


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


def attach_metadata(table: pd.DataFrame, design: pd.DataFrame) -> pd.DataFrame:
    """Join a table with the design of its screen by plate and well (and site, where both have it).

    Parameters
    ----------
    table
        Features with at least `Metadata_Plate` and `Metadata_Well`.
    design
        A manifest, or any table of wells with `Metadata_*` columns. What varies within a well
        (such as the site, where the table has none) is left out.

    Returns
    -------
    DataFrame
        `table`, row for row, with the columns of the design that it didn't have.

    Raises
    ------
    TableError
        If plate or well are missing, the design has two compounds in one well, or rows of the
        table are not in the design.
    """
    keys = [PLATE, WELL, *([SITE] if SITE in table and SITE in design else [])]
    for name, frame in (("table", table), ("design", design)):
        require_columns(frame, keys, purpose=f"joining a table with a design (here: the {name})")
    wells = metadata_of(tidy(design, origin="design"))
    num_values = wells.groupby(keys, sort=False).nunique(dropna=False)
    for name in (column for column in (*TREATMENT, MOA, CONTROL) if column in num_values):
        if (num_values[name] > 1).any():
            where = num_values.index[num_values[name] > 1][0]
            msg = f"design: {name} has several values in {'/'.join(map(str, where))}; expected one"
            raise TableError(msg)
    constant = num_values.columns[(num_values == 1).all()]
    wells = wells[[*keys, *constant]].drop_duplicates(keys)
    ours = tidy(table, origin="table")
    new = [name for name in wells.columns if name not in ours or name in keys]
    joined = ours.merge(wells[new], on=keys, how="left", indicator="_found", sort=False)
    absent = joined.pop("_found").astype(str) == "left_only"
    if absent.any():
        first = "/".join(str(joined.loc[absent, key].iloc[0]) for key in keys)
        msg = (
            f"{int(absent.sum())} of {len(joined)} rows are not in the design, the first is "
            f"{first}; plate and well have to be named alike in both"
        )
        raise TableError(msg)
    return pd.concat([metadata_of(joined), joined[feature_columns(ours)]], axis=1)


def split_labels(value: object) -> list[str]:
    """Labels in a cell that may hold several, joined by `;`; none in a missing one."""
    return [] if pd.isna(value) else str(value).split(SEPARATOR)  # type: ignore[call-overload]


def replace_file(path: Path, suffix: str, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then move it there in one step.

    Parameters
    ----------
    path
        Where the file goes; its folder is made where it is missing.
    suffix
        Of the partial file, for writers that go by it.
    write
        Called with the partial file's path.

    Raises
    ------
    OutputError
        If the path can't be written.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        os.replace(partial, path)  # noqa: PTH105
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        msg = f"{path}: can't be written: {error.strerror or error}"
        raise OutputError(msg) from error


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
