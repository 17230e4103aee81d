"""Where plate maps come from: tables of wells as the Broad, JUMP and users keep them.

Maps of one batch never serve another: in a folder of batches each has a `barcode_platemap.csv` and
maps of its own, even where they have the same names. Every column of a well is metadata, whatever
its name, so that all are read as text: a donor 007 is none called 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from os.path import commonprefix
from typing import TYPE_CHECKING

import pandas as pd

from wsdino.errors import TableError
from wsdino.outside import reading
from wsdino.progress import say
from wsdino.tables.columns import BATCH, PLATE, PLATE_MAP, PREFIX, plain_name
from wsdino.tables.files import READABLE, read_file
from wsdino.tables.identity import known_texts, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

BARCODES = "barcode_platemap.csv"
SOURCE = "Metadata_Source"
_BARCODE, _MAP_NAME = "assay_plate_barcode", "plate_map_name"
_EXTERNAL = "external_metadata"
_SAMPLE = "sample"
# JUMP's tables; the first must be there.
_JUMP_WELLS, _JUMP_PLATES, _JUMP_CONTROLS = "well", "plate", "perturbation_control"
_JCP = "Metadata_JCP2022"
_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


@dataclass(frozen=True)
class WellTable:
    """A table of wells, in any names that :func:`~wsdino.tables.tidy.tidy` knows.

    Attributes
    ----------
    table
        A row per well.
    origin
        Where it came from, for messages.
    by_batch
        Whether each row is about its own batch alone.
    """

    table: pd.DataFrame
    origin: str
    by_batch: bool = False


@dataclass(frozen=True)
class WellReader:
    """A way to keep what each well received.

    Attributes
    ----------
    name
        In messages.
    recognises
        Whether an existing path is kept in this way.
    read
        Reads it; what is in a CSV stays text.
    """

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path], WellTable]


def read_wells(path: Path) -> WellTable:
    """Read what each well received, in any of the ways in `WELL_READERS`.

    Raises
    ------
    TableError
        There is no such file, a folder is none of these, or a table can't be read.
    """
    for reader in WELL_READERS:
        with reading(path, TableError, f"can't be read as {reader.name}"):
            if reader.recognises(path):
                return reader.read(path)
    if path.is_dir():
        names = "; ".join(reader.name for reader in WELL_READERS)
        raise TableError(
            f"{path}: no {BARCODES}, which a folder of plate maps must have; a plate map is {names}"
        )
    return WellTable(read_file(path, text=None), str(path))


def _is_jump(path: Path) -> bool:
    return path.is_dir() and find_table(path, _JUMP_WELLS) is not None


def _is_batches(path: Path) -> bool:
    return path.is_dir() and not (path / BARCODES).is_file() and bool(batches_of(path))


def _is_barcodes(path: Path) -> bool:
    return (path / BARCODES).is_file() if path.is_dir() else path.name.startswith(BARCODES)


def _is_table(path: Path) -> bool:
    return path.is_file()


def _read_barcodes(path: Path) -> WellTable:
    file = path / BARCODES if path.is_dir() else path
    return WellTable(_mapped(file), str(path))


def _read_batches(path: Path) -> WellTable:
    return read_batches(path, batches_of(path))


def _read_table(path: Path) -> WellTable:
    return WellTable(_mapped(path), str(path))


def batches_of(folder: Path) -> list[str]:
    """Return the batches of a folder of plate maps: its folders with a `barcode_platemap.csv`."""
    return sorted(path.parent.name for path in folder.glob(f"*/{BARCODES}"))


def read_batches(folder: Path, batches: Iterable[str]) -> WellTable:
    """Read the plate maps of some batches, each with its own; see :func:`read_wells`.

    Parameters
    ----------
    folder
        Holds a folder for each batch, with `barcode_platemap.csv` and `platemap/`.
    batches
        Names of these folders.
    """
    tables = [_mapped(folder / batch / BARCODES).assign(**{BATCH: batch}) for batch in batches]
    return WellTable(pd.concat(tables, ignore_index=True), str(folder), by_batch=True)


def _mapped(path: Path) -> pd.DataFrame:
    """Read a table of wells, or the maps that a list of barcodes names."""
    table = read_file(path, text=None)
    plain = {plain_name(name): name for name in table.columns}
    is_list = _BARCODE in plain and _MAP_NAME in plain
    if not is_list or any(name in ("well_position", "well") for name in plain):
        return table
    maps = []
    barcodes, names = texts(table[plain[_BARCODE]]), texts(table[plain[_MAP_NAME]])
    read: dict[str, pd.DataFrame] = {}
    external = _external(path)
    for barcode, name in zip(barcodes, names, strict=True):
        if barcode is None or name is None:
            continue
        if name not in read:
            one = read_file(_map_file(path, name), text=None)
            read[name] = _with_external(one, name, external)
        theirs = [n for n in read[name].columns if plain_name(n) in (_BARCODE, "plate", _MAP_NAME)]
        one = read[name].drop(columns=theirs)
        maps.append(one.assign(**{PLATE: barcode, PLATE_MAP: name}))
    if not maps:
        raise TableError(f"{path}: lists no plate with a plate map")
    return pd.concat(maps, ignore_index=True)


def _map_file(path: Path, name: str) -> Path:
    stems = [name, *(name.removesuffix(suffix) for suffix in READABLE if name.endswith(suffix))]
    for folder in (path.parent / "platemap", path.parent / "platemaps", path.parent):
        for stem in stems:
            for suffix in (".txt", ".tsv", ".csv", ".txt.gz", ".tsv.gz", ".csv.gz", ".parquet"):
                if (found := folder / f"{stem}{suffix}").is_file():
                    return found
    raise TableError(
        f"{path}: lists the plate map {name}, but there is no {path.parent / 'platemap' / name}.txt"
    )


def _external(barcodes: Path) -> dict[str, pd.DataFrame]:
    """Read the tables of samples in `external_metadata/`, by file, with a column of samples.

    It lies beside `platemaps/`: `metadata/platemaps/<batch>/barcode_platemap.csv`.
    """
    places = (up / _EXTERNAL for up in barcodes.absolute().parents[1:3])
    folder = next((place for place in places if place.is_dir()), None)
    tables: dict[str, pd.DataFrame] = {}
    for path in sorted(folder.iterdir()) if folder else ():
        if path.name.lower().endswith(READABLE):
            table = read_file(path, text=None)
            if (key := _named(table, "broad_sample")) is not None:
                table = table.rename(columns={name: _metadata(name) for name in table.columns})
                samples = known_texts(table.pop(_metadata(key)))
                tables[path.name] = table.assign(**{_SAMPLE: samples}).dropna(subset=[_SAMPLE])
    return tables


def _metadata(name: object) -> str:
    text = str(name).strip()
    return text if text.startswith(PREFIX) else PREFIX + text


def _with_external(
    wells: pd.DataFrame, map_name: str, tables: dict[str, pd.DataFrame]
) -> pd.DataFrame:
    """Add what tables of samples say of those in a plate map.

    Where several do, the one whose name has most in common with the plate map's counts first:
    `JUMP-Target-1_compound_metadata.tsv` for `JUMP-Target-1_compound_platemap`.
    """
    sample = _named(wells, "broad_sample")
    if sample is None or not tables:
        return wells
    samples = known_texts(wells[sample])
    order = sorted(tables, key=lambda name: -len(commonprefix([name, map_name])))  # noqa: RUF071
    own = [table[table[_SAMPLE].isin(samples)] for name in order for table in [tables[name]]]
    known = pd.concat(own, ignore_index=True)
    if known.empty:
        return wells
    groups = known.groupby(_SAMPLE, sort=False)
    first = groups.first()
    new = [name for name in first.columns if name not in wells]
    num_values = groups[new].nunique()
    for name in [name for name in new if (num_values[name] > 1).any()]:
        one = num_values.index[num_values[name] > 1][0]
        say(
            f"plate map {map_name}: {name} of {int((num_values[name] > 1).sum())} samples has "
            f"several values in {_EXTERNAL}; the first is taken, such as "
            f"{first.loc[one, name]} for {one}"
        )
    joined = wells.assign(**{sample: samples}).join(first[new], on=sample)
    return _completed(joined, sample)


def _completed(wells: pd.DataFrame, sample: str) -> pd.DataFrame:
    """Fill what external metadata says of every sample but not of wells without any.

    These hold the solvent alone: they are negative controls. A sample without a name of its own
    (a guide RNA, an overexpressed gene) is called by its identifier.
    """
    name, solvent = _named(wells, "pert_iname"), _named(wells, "solvent")
    bare = wells[sample].isna()
    if solvent is not None:
        bare &= known_texts(wells[solvent]).notna()
    for column, value in (("pert_type", "control"), ("control_type", "negcon")):
        if solvent is not None and (known := _named(wells, column)) is not None:
            wells[known] = known_texts(wells[known]).where(~bare, value)
    if name is not None:
        wells[name] = wells[name].where(wells[name].notna() | wells[sample].isna(), wells[sample])
        if solvent is not None:
            wells[name] = wells[name].where(~bare, wells[solvent])
    return wells


def _named(table: pd.DataFrame, plain: str) -> str | None:
    return next((str(name) for name in table.columns if plain_name(name) == plain), None)


def find_table(folder: Path, stem: str) -> Path | None:
    """Return a folder's table of a name, whatever its format; None if there is none."""
    paths = (folder / f"{stem}{suffix}" for suffix in _SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def _read_jump(path: Path) -> WellTable:
    return read_jump(path)


def read_jump(folder: Path, *, source: str | None = None) -> WellTable:
    """Read JUMP's tables of wells, with those of plates and of controls beside it.

    Parameters
    ----------
    folder
        With `well.csv.gz` (`Metadata_Source`, `Metadata_Plate`, `Metadata_Well`,
        `Metadata_JCP2022`), and where known `plate.csv.gz` (`Metadata_Batch`, `Metadata_PlateType`)
        and `perturbation_control.csv` (`Metadata_pert_type`, `Metadata_Name`).
    source
        The only `Metadata_Source` to read; None: all.

    Raises
    ------
    TableError
        A table lacks a column.
    """
    path = find_table(folder, _JUMP_WELLS)
    assert path is not None, "the folder was recognised before"
    wells = _with_columns(path, PLATE, "Metadata_Well", _JCP)
    plates, controls = (find_table(folder, name) for name in (_JUMP_PLATES, _JUMP_CONTROLS))
    keys = [SOURCE, PLATE] if SOURCE in wells else [PLATE]
    if source is not None and SOURCE in wells:
        wells = wells[texts(wells[SOURCE]) == source]
    if plates is not None:
        table = _with_columns(plates, *keys)
        new = [name for name in table.columns if name not in wells]
        wells = wells.merge(table[[*keys, *new]].drop_duplicates(), on=keys, how="left", sort=False)
    kind = "Metadata_pert_type"
    if controls is not None:
        table = _with_columns(controls, _JCP, kind)
        new = [name for name in table.columns if name not in wells]
        wells = wells.merge(table[[_JCP, *new]], on=_JCP, how="left", sort=False)
        # A well that is marked empty got nothing.
        empty = texts(wells[kind]).str.casefold() == "empty"
        wells[_JCP] = wells[_JCP].where(~empty, None)
        wells[kind] = wells[kind].where(wells[kind].notna() & ~empty, "trt")
    return WellTable(wells.reset_index(drop=True), str(folder))


def _with_columns(path: Path, *names: str) -> pd.DataFrame:
    table = read_file(path, text=None)
    for name in names:
        if name not in table:
            has = ", ".join(map(str, table.columns))
            raise TableError(f"{path}: no column {name}, which JUMP's table has; it has {has}")
    return table


# The first that recognises a path reads it.
WELL_READERS = (
    WellReader(
        "JUMP's tables (well.csv.gz, plate.csv.gz, perturbation_control.csv)", _is_jump, _read_jump
    ),
    WellReader(
        f"a folder of batches, each with its {BARCODES} and platemap/", _is_batches, _read_batches
    ),
    WellReader(
        f"a {BARCODES} with platemap/ beside it, or its folder", _is_barcodes, _read_barcodes
    ),
    WellReader("a table of wells", _is_table, _read_table),
)
