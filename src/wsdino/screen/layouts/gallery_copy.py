"""Tables of a Cell Painting Gallery's tree that lies at an address, copied to where they are read.

Only tables are copied, of plates, plate maps and metadata, into a temporary folder of the tree's
own shape. Images stay where they are.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsdino.errors import InputError
from wsdino.progress import Meter
from wsdino.remote import NUM_READERS, fetched, listed, shown
from wsdino.tables.files import is_table

if TYPE_CHECKING:
    from collections.abc import Iterator

LOAD_DATA = "load_data_csv"
# The first of a plate's tables that is there; those that name illumination functions say more.
TABLES = ("load_data_with_illum", "load_data")
# Of the folders of metadata, those with tables of wells and of compounds.
_WELLS = ("platemaps", "external_metadata")


@dataclass(frozen=True)
class Copy:
    """A folder in which a tree's tables lie, under the names that they have at their address.

    Parameters
    ----------
    folder
        Stands for the protocol: `folder/bucket/project` is a copy of `s3://bucket/project`.
    protocol
        Such as ``s3:``.
    """

    folder: Path
    protocol: str

    def original(self, path: Path) -> Path:
        """Return what a path in the copy is a copy of."""
        return Path(self.protocol, *path.relative_to(self.folder).parts)

    def of(self, place: Path) -> Path:
        """Return where the copy of something in the tree lies, or would lie."""
        return self.folder.joinpath(*place.parts[1:])

    def in_words(self, text: str) -> str:
        """Return a text that names addresses instead of copies."""
        return text.replace(f"{self.folder}/", f"{self.protocol}//")


def folders_at(place: Path) -> list[Path]:
    """Return the folders of LoadData tables at or below an address; empty if there are none."""
    if LOAD_DATA in place.parts:
        return [place] if listed(place) else []
    inside = listed(place)
    if inside.get(LOAD_DATA):
        return [place / LOAD_DATA]
    if inside.get("workspace"):
        found = [place / "workspace"]
    else:
        names = [name for name, is_folder in sorted(inside.items()) if is_folder]
        with ThreadPoolExecutor(NUM_READERS) as pool:
            below = pool.map(lambda name: listed(place / name), names)
            found = [
                place / name / "workspace"
                for name, names_in_it in zip(names, below, strict=True)
                if names_in_it.get("workspace")
            ]
    return [folder / LOAD_DATA for folder in found if listed(folder).get(LOAD_DATA)]


@contextmanager
def tables_copied(place: Path) -> Iterator[Copy]:
    """Yield a copy of the tables of a tree at an address, which is deleted afterwards.

    Raises
    ------
    InputError
        A folder can't be listed, or a table can't be fetched. An error of this kind that names the
        copy names the address instead.
    """
    with tempfile.TemporaryDirectory(prefix="wsdino-") as folder:
        copy = Copy(Path(folder).resolve(), place.parts[0])
        places = folders_at(place)
        with ThreadPoolExecutor(NUM_READERS) as pool:
            plates = [plate for one in places for plate in _plates_at(one, pool)]
            with Meter(f"tables of {shown(place)}", len(plates), last_line=False) as meter:
                for _ in pool.map(lambda plate: _copy_plate(plate, copy), plates):
                    meter.advance()
            batches = {plate.parent.name for plate in plates}
            wanted = [
                table
                for metadata in dict.fromkeys(way for one in places for way in _metadata_of(one))
                for table in _tables_of_wells(metadata, batches)
            ]
            list(pool.map(lambda table: fetched(table, copy.of(table)), wanted))
        try:
            yield copy
        except InputError as error:
            raise type(error)(copy.in_words(str(error))) from error


def _plates_at(folder: Path, pool: ThreadPoolExecutor) -> list[Path]:
    """Return the folders of plates, at or below one of LoadData tables."""
    level = [folder]
    depth = len(folder.parts) - folder.parts.index(LOAD_DATA) - 1
    for _ in range(max(0, 2 - depth)):
        inside = pool.map(listed, level)
        level = [
            parent / name
            for parent, names in zip(level, inside, strict=True)
            for name, is_folder in sorted(names.items())
            if is_folder
        ]
    return level


def _copy_plate(plate: Path, copy: Copy) -> None:
    """Copy the table of a plate that is read; without one its folder is there, and empty."""
    copy.of(plate).mkdir(parents=True, exist_ok=True)
    tables = [name for name, is_folder in listed(plate).items() if not is_folder]
    for stem in TABLES:
        named = [name for name in tables if name.partition(".")[0] == stem and is_table(Path(name))]
        for name in named:
            fetched(plate / name, copy.of(plate / name))
        if named:
            return


def _metadata_of(folder: Path) -> list[Path]:
    """Return where the metadata of a folder of LoadData tables may lie."""
    top = Path(*folder.parts[: folder.parts.index(LOAD_DATA)])
    source = top.parent if top.name == "workspace" else top
    places = (source / "workspace", source, source.parent)
    # A bucket itself is the least that can be listed.
    return [place / "metadata" for place in places if len(place.parts) > 1]


def _tables_of_wells(metadata: Path, batches: set[str]) -> list[Path]:
    """List the tables of a folder of metadata, of the plate maps those of some batches."""
    found = [metadata / name for name, is_folder in listed(metadata).items() if not is_folder]
    for part in _WELLS:
        within = [metadata / part]
        while within:
            folder = within.pop()
            for name, is_folder in listed(folder).items():
                if not is_folder:
                    found.append(folder / name)
                elif folder.name != "platemaps" or name in batches:
                    within.append(folder / name)
    return [path for path in found if is_table(path)]
