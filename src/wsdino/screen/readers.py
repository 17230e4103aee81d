"""The formats of a screen on disk: one table, from which help, errors and dispatch derive.

The readers themselves are imported only when needed, so that the command line starts fast.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from wsdino.errors import TableError, option
from wsdino.outside import reading
from wsdino.progress import say
from wsdino.remote import absolute, is_remote, named, shown
from wsdino.screen.layouts.places import folders_below, require_listed, shared_listings

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    import pandas as pd

    from wsdino.tables.welltables import WellTable


@dataclass(frozen=True)
class RawTable:
    """A screen's table before it is validated.

    Attributes
    ----------
    table
        A row per site, in any names that :func:`~wsdino.tables.tidy.tidy` knows, with
        `FileName_<Channel>` and so on; or several rows, which `Metadata_Z`, `Metadata_Time` and
        `Metadata_Acquisition` tell apart.
    folder
        Base of its relative image folders.
    wells
        What each well received, where the layout says so.
    """

    table: pd.DataFrame
    folder: Path
    wells: WellTable | None = None


@dataclass(frozen=True)
class Reader:
    """A format of screens.

    Attributes
    ----------
    name
        Description, in the list of supported formats.
    recognises
        Whether an existing path is such a screen.
    read
        Reads the table, given the path and the names of columns that must be read as text.
    lists_all
        Whether it knows of all images of the screen, in whatever format they are. Otherwise a
        folder may hold plates of other formats too.
    """

    name: str
    recognises: Callable[[Path], bool]
    read: Callable[[Path, Collection[str]], RawTable]
    lists_all: bool = False


def _is_bbbc021(path: Path) -> bool:
    from wsdino.screen.bbbc021 import recognises

    return recognises(path)


def _read_bbbc021(path: Path, text: Collection[str]) -> RawTable:
    from wsdino.screen.bbbc021 import find_tables, read_image_table

    images, moas = find_tables(path)
    return RawTable(read_image_table(images, moas, root=images.parent, text=text), images.parent)


def _is_plates(path: Path) -> bool:
    from wsdino.screen.omezarr import find_plates

    is_place = is_remote(path) and not _is_table(path)
    return (path.is_dir() or is_place) and bool(find_plates(path))


def _read_plates(path: Path, text: Collection[str]) -> RawTable:
    from wsdino.screen.omezarr import find_plates, read_plates

    del text
    return RawTable(read_plates(find_plates(absolute(path))), path)


def _is_table(path: Path) -> bool:
    from wsdino.tables.files import is_table

    return (path.is_file() or is_remote(path)) and is_table(path)


def _read_table(path: Path, text: Collection[str]) -> RawTable:
    from wsdino.tables.files import read_file

    return RawTable(read_file(path, text=text), path.parent)


def _layout(name: str, module: str, *, lists_all: bool = False) -> Reader:
    """Return the reader that a module of :mod:`wsdino.screen.layouts` is."""
    path = f"wsdino.screen.layouts.{module}"

    def recognises(source: Path) -> bool:
        return bool(import_module(path).recognises(source))

    def read(source: Path, text: Collection[str]) -> RawTable:
        raw: RawTable = import_module(path).read(source, text)
        return raw

    return Reader(name, recognises, read, lists_all)


# The first that recognises a path reads it.
READERS = (
    Reader(
        "a folder with BBBC021_v1_image.csv, or that table",
        _is_bbbc021,
        _read_bbbc021,
        lists_all=True,
    ),
    _layout(
        "a tree of the Cell Painting Gallery (workspace/load_data_csv, images, metadata)",
        "gallery",
        lists_all=True,
    ),
    Reader("an OME-Zarr plate, or a folder of plates", _is_plates, _read_plates),
    _layout("a Harmony measurement (Index.idx.xml), or a folder of measurements", "harmony"),
    _layout("an ImageXpress plate (.HTD or .jdce), or a folder of plates", "imagexpress"),
    _layout(
        "a CellVoyager measurement (MeasurementData.mlf), or a folder of measurements",
        "cellvoyager",
    ),
    _layout("OME-TIFF files that describe a plate, or their companion file", "ometiff"),
    _layout("a NumPy array of images (.npy, .npz) with a table of the same name", "arrays"),
    _layout("CZI, ND2 or LIF files, whose positions are named by wells", "microscopes"),
    Reader(
        "a CellProfiler LoadData table, or a manifest (.csv, .tsv, .txt, each also with .gz, or "
        ".parquet)",
        _is_table,
        _read_table,
    ),
)


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder; one of Zarr at an address holds nothing else."""
    if is_remote(path):
        return not path.name.lower().endswith(".zarr") and any(folders_below(path, depth=0))
    return path.is_dir()


ANY_FOLDER = "any folder of images, with a pattern of their names"


def _say_others(path: Path, reader: Reader, others: Sequence[Reader]) -> None:
    """Say what a folder holds beside what is read of it."""
    found = [other.name for other in others if other.recognises(path)]
    if found:
        say(
            f"{shown(path)}: read as {reader.name}; what it holds of {'; and of '.join(found)} is "
            "left out: name a folder that holds these alone to read them"
        )


def accepted() -> str:
    """List the supported formats."""
    return "; ".join([*(reader.name for reader in READERS), f"{ANY_FOLDER}, {option('--pattern')}"])


def read_raw(path: Path, *, text: Collection[str] = (), pattern: str | None = None) -> RawTable:
    """Read a screen's table in any supported format.

    Parameters
    ----------
    path
        Anything that one of :data:`READERS` recognises.
    text
        Columns of the table that must be read as text.
    pattern
        Reads a folder by the names of its images instead, see
        :mod:`wsdino.screen.layouts.pattern`.

    Raises
    ------
    TableError
        The path is missing or unrecognised, or its reader fails.
    """
    if not path.exists() and not is_remote(path):
        raise TableError(f"{path}: no such file or folder; a screen is {accepted()}")
    if pattern is not None:
        from wsdino.screen.layouts.pattern import read_names

        return read_names(path, pattern)
    with shared_listings():
        for position, reader in enumerate(READERS):
            # A reader names the file; what its parsing misses is caught here.
            with reading(named(path), TableError, f"can't be read as {reader.name}"):
                if not reader.recognises(path):
                    continue
                others = () if reader.lists_all else READERS[position + 1 :]
                if others and _is_folder(path):
                    _say_others(path, reader, others)
                return reader.read(path, text)
        require_listed(path)
        is_folder = path.is_dir() or is_remote(path)
    what = "this folder is not a screen" if is_folder else "not a table that can be read"
    raise TableError(f"{shown(path)}: {what}; a screen is {accepted()}")
