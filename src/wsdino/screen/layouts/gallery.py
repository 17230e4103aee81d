"""The tree of the Cell Painting Gallery, in which JUMP, LINCS and others are published.

Source: https://broadinstitute.github.io/cellpainting-gallery/data_structure.html. Images lie in
`<source>/images/<batch>/images/<plate>__<date>.../`, illumination functions in
`<source>/images/<batch>/illum/<plate>/`, their names in
`<source>/workspace/load_data_csv/<batch>/<plate>/load_data.csv`, and what wells received in
`<source>/workspace/metadata/`. Of a tree at an address the tables are copied and read, and the
images, named by their addresses, stay there (:mod:`wsdino.screen.layouts.gallery_copy`).
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pandas as pd

from wsdino.counting import counted
from wsdino.errors import TableError
from wsdino.progress import say
from wsdino.remote import is_remote, shown
from wsdino.screen.layouts.gallery_copy import LOAD_DATA, TABLES, Copy, folders_at, tables_copied
from wsdino.screen.readers import RawTable
from wsdino.tables.columns import BATCH, FILE_PREFIXES, PLATE
from wsdino.tables.files import is_table, read_file
from wsdino.tables.identity import texts
from wsdino.tables.manifest import channels_of
from wsdino.tables.welltables import (
    SOURCE,
    WellTable,
    batches_of,
    find_table,
    read_batches,
    read_jump,
)

if TYPE_CHECKING:
    from collections.abc import Collection

_FOLDER = "batch_folder"
# Folders that published paths share with a tree on disk, wherever that is.
ANCHORS = ("images", "illum")


def recognises(path: Path) -> bool:
    """Whether a path is a project, a source, a workspace, or a part of its `load_data_csv`."""
    if is_remote(path):
        return not is_table(path) and bool(folders_at(path))
    return path.is_dir() and any(_plates(folder) for folder in _folders(path))


def read(path: Path, text: Collection[str]) -> RawTable:
    """Read the images of all plates, and what their wells received.

    Channels are named without `Orig`. Folders are looked for where the tree is, whatever absolute
    path or address its tables give.

    Raises
    ------
    TableError
        A table can't be read.
    ImageError
        A tree at an address can't be listed, or a table of it can't be fetched.
    """
    if not is_remote(path):
        return _read(path, text, None)
    with tables_copied(path) as copy:
        raw = _read(copy.of(path), text, copy)
        wells = raw.wells
        if wells is not None:
            wells = WellTable(wells.table, copy.in_words(wells.origin), wells.by_batch)
        return RawTable(raw.table, path, wells)


def _read(path: Path, text: Collection[str], copy: Copy | None) -> RawTable:
    folders = {
        folder.absolute(): plates for folder in _folders(path) if (plates := _plates(folder))
    }
    several = len({_source_of(folder) for folder in folders}) > 1
    tables, wells = [], []
    for folder, plates in folders.items():
        source = _source_of(folder)
        found = [_read_plate(source, *plate, text, copy) for plate in plates]
        table = pd.concat(found, ignore_index=True)
        if SOURCE not in table and several:
            table[SOURCE] = source.name
        batches = sorted({batch for _, batch in plates})
        where = folder if copy is None else shown(copy.original(folder))
        say(f"{where}: read {len(found)} LoadData tables of {', '.join(batches)}")
        _say_without_table(folder, where)
        known = _wells_of(source, batches)
        own = _own_batches(table)
        table[BATCH] = table.pop(_FOLDER).map(own)
        tables.append(table)
        if known is not None:
            name = {SOURCE: source.name} if several and SOURCE not in known.table else {}
            rows = known.table.assign(**name)
            if known.by_batch:
                rows[BATCH] = rows[BATCH].map(own)
            wells.append(WellTable(rows, known.origin, known.by_batch))
    return RawTable(pd.concat(tables, ignore_index=True), path, _together(wells))


def _own_batches(table: pd.DataFrame) -> dict[str, str]:
    """Return what the tables in each batch's folder call it; the folder's name if they don't say.

    Plate maps are told apart by folders, whatever the tables call these.
    """
    folders = dict.fromkeys(table[_FOLDER])
    if BATCH not in table:
        return {folder: folder for folder in folders}
    given = {folder: set(texts(table[BATCH][table[_FOLDER] == folder])) for folder in folders}
    names = [next(iter(one)) if len(one) == 1 else None for one in given.values()]
    if None in names or len(set(names)) < len(names):
        return {folder: folder for folder in folders}
    return dict(zip(folders, map(str, names), strict=True))


def _folders(path: Path) -> list[Path]:
    """Return the folders of LoadData tables at or below a path."""
    if LOAD_DATA in path.absolute().parts:
        return [path]
    places = (LOAD_DATA, f"workspace/{LOAD_DATA}", f"*/workspace/{LOAD_DATA}")
    return next((found for place in places if (found := sorted(path.glob(place)))), [])


def _source_of(folder: Path) -> Path:
    """Return the folder that holds `workspace/` (or, without one, `load_data_csv/`)."""
    parts = folder.absolute().parts
    top = Path(*parts[: parts.index(LOAD_DATA)])
    return top.parent if top.name == "workspace" else top


def _plates(folder: Path) -> list[tuple[Path, str]]:
    """Return the table of each plate of a folder, and the name of its batch."""
    found = []
    for plate in _plate_folders(folder):
        path = _table_of(plate)
        if path is not None:
            found.append((path, plate.absolute().parent.name))
    return found


def _plate_folders(folder: Path) -> list[Path]:
    depth = len(folder.absolute().parts) - folder.absolute().parts.index(LOAD_DATA) - 1
    below = "/".join(["*"] * max(0, 2 - depth))
    return sorted(path for path in (folder.glob(below) if below else [folder]) if path.is_dir())


def _table_of(plate: Path) -> Path | None:
    return next((table for name in TABLES if (table := find_table(plate, name))), None)


def _say_without_table(folder: Path, where: Path | str) -> None:
    """Say which plates have a folder, but no table under a known name."""
    bare = [plate for plate in _plate_folders(folder) if _table_of(plate) is None]
    if bare:
        say(
            f"{where}: {counted(len(bare), 'folder')} of plates left out (no table named "
            f"{' or '.join(TABLES)}), such as {bare[0].relative_to(folder)}"
        )


def _read_plate(
    source: Path, path: Path, batch: str, text: Collection[str], copy: Copy | None
) -> pd.DataFrame:
    table = read_file(path, text=text)
    if table.empty:
        raise TableError(f"{path}: the table has no rows")
    table = table.rename(columns=lambda name: str(name).strip().removeprefix("Image_"))
    plain = {
        f"{prefix}_Orig{name}": f"{prefix}_{name}"
        for prefix in FILE_PREFIXES
        for name in (str(c).removeprefix(f"{prefix}_Orig") for c in table)
    }
    table = table.rename(columns={n: to for n, to in plain.items() if to not in table})
    if PLATE not in table:
        table[PLATE] = path.parent.name
    for name in table.columns:
        if name.startswith(("PathName_", "URL_")):
            known = {
                given: _on_disk(given, source, batch, path.parent)
                if copy is None
                else _at_address(given, copy.original(source), batch, copy.original(path.parent))
                for given in set(table[name])
            }
            table[name] = table[name].map(known)
    for channel in channels_of(table):
        if not {f"PathName_{channel}", f"URL_{channel}"} & set(table):
            folder = path.parent if copy is None else copy.original(path.parent)
            table[f"PathName_{channel}"] = shown(folder)
    return table.assign(**{_FOLDER: batch})


def _on_disk(given: str | None, source: Path, batch: str, folder: Path) -> str | None:
    """Return where a folder or file of the Gallery is in the tree on disk; itself if it isn't.

    Parameters
    ----------
    given
        Path or address in a table: `/home/.../images/<plate>/Images`, `s3://.../illum/<plate>`.
    source, batch
        The tree's source, and the batch of the table.
    folder
        Of the table, to which relative paths may be.
    """
    if not isinstance(given, str) or not given.strip():
        return given
    parts = PurePosixPath(given.strip().replace("\\", "/")).parts
    for anchor in ANCHORS:
        if anchor in parts[:-1]:
            last = len(parts) - 1 - parts[::-1].index(anchor)
            found = source.joinpath("images", batch, *parts[last:])
            if found.exists():
                return str(found)
    if "://" in given or Path(given).is_absolute():
        return given
    return str(
        next((up / given for up in (folder, source) if (up / given).exists()), folder / given)
    )


def _at_address(given: str | None, source: Path, batch: str, folder: Path) -> str | None:
    """Return where a folder or file of the Gallery is in a tree at an address; as `_on_disk`."""
    if not isinstance(given, str) or not given.strip():
        return given
    inside = below_anchor(given)
    if inside is not None:
        return shown(source.joinpath("images", batch, *inside))
    if "://" in given or Path(given).is_absolute():
        return given
    return shown(folder / given)


def below_anchor(given: str) -> tuple[str, ...] | None:
    """Return the end of a published path that it shares with every tree; None if it has none."""
    parts = PurePosixPath(given.strip().replace("\\", "/")).parts
    last = max((place for place, part in enumerate(parts) if part in ANCHORS), default=None)
    return None if last is None or ".." in parts else parts[last:]


def _wells_of(source: Path, batches: list[str]) -> WellTable | None:
    """Return what the wells of some batches received; None if the tree doesn't say."""
    metadata = [source / "workspace" / "metadata", source / "metadata", source.parent / "metadata"]
    for folder in metadata:
        maps = folder / "platemaps"
        known = batches_of(maps) if maps.is_dir() else []
        if any(batch in known for batch in batches):
            for batch in batches:
                if batch not in known:
                    say(f"{maps}: no plate maps of batch {batch}")
            return read_batches(maps, [batch for batch in batches if batch in known])
    for folder in metadata:
        if find_table(folder, "well") is not None:
            wells = read_jump(folder)
            sources = set(texts(wells.table[SOURCE])) if SOURCE in wells.table else set()
            return read_jump(folder, source=source.name) if source.name in sources else wells
    return None


def _together(wells: list[WellTable]) -> WellTable | None:
    if not wells:
        return None
    table = pd.concat([one.table for one in wells], ignore_index=True)
    return WellTable(table, wells[0].origin, all(one.by_batch for one in wells))
