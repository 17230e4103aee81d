"""Finding the plates below a folder, at whatever depth people and instruments put them.

All readers of plates look here, so that none finds one plate and leaves out its neighbour because
that lies in a batch's folder, or in one of the instrument's.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from wsdino.errors import TableError
from wsdino.remote import NUM_READERS, is_remote, listed, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

DEPTH = 3
"""How deep the folder that describes a plate may lie: in a batch's, the plate's, and `Images`."""


_shared: ContextVar[dict[Path, Folder] | None] = ContextVar("_shared", default=None)


@contextmanager
def shared_listings() -> Iterator[None]:
    """List each folder once within the block, however many readers look: network disks are slow."""
    token = _shared.set({} if _shared.get() is None else _shared.get())
    try:
        yield
    finally:
        _shared.reset(token)


class Folder(NamedTuple):
    """A folder, and the names in it, each in order."""

    path: Path
    files: list[str]
    folders: list[str]


def folders_below(path: Path, *, depth: int = DEPTH) -> Iterator[Folder]:
    """Walk a folder and those below it.

    Parameters
    ----------
    path
        The folder, which may be at an address; nothing is listed if it isn't one, or if its server
        doesn't list its folders. Links are followed, hidden names left out.
    depth
        How many folders deep to go. Those of Zarr, which hold chunks, are not entered.

    Raises
    ------
    TableError
        A folder can't be listed.
    """
    if is_remote(path):
        # The command's help names the readers, and needn't wait for pandas.
        from wsdino.tables.files import is_table

        yield from () if is_table(path) else _folders_at(path, depth)
        return
    known = _shared.get()
    if known is not None and path in known:
        folder = known[path]
    elif path.is_dir():
        folder = _on_disk(path)
        if known is not None:
            known[path] = folder
    else:
        return
    yield folder
    for below in _entered(folder) if depth else ():
        yield from folders_below(below, depth=depth - 1)


def _entered(folder: Folder) -> list[Path]:
    return [folder.path / name for name in folder.folders if not name.lower().endswith(".zarr")]


def _folders_at(path: Path, depth: int) -> list[Folder]:
    """List a folder at an address and those below it, many at once, in the order of a walk."""
    shared = _shared.get()
    known = {} if shared is None else shared
    found: list[Folder] = []
    level = [path]
    with ThreadPoolExecutor(NUM_READERS) as pool:
        while level and depth >= 0:
            new = [folder for folder in level if folder not in known]
            known.update(zip(new, pool.map(_at_address, new), strict=True))
            here = [known[folder] for folder in level]
            found += [folder for folder in here if folder.files or folder.folders]
            level = [below for folder in here for below in _entered(folder)]
            depth -= 1
    return sorted(found, key=lambda folder: folder.path.parts)


def _at_address(path: Path) -> Folder:
    return _folder(path, listed(path).items())


def _folder(path: Path, entries: Iterable[tuple[str, bool]]) -> Folder:
    """Sort what a folder holds, of which each entry says whether it is a folder."""
    found = sorted(entry for entry in entries if not entry[0].startswith("."))
    return Folder(path, [n for n, is_in in found if not is_in], [n for n, is_in in found if is_in])


def _on_disk(path: Path) -> Folder:
    try:
        with os.scandir(path) as entries:
            return _folder(path, ((entry.name, entry.is_dir()) for entry in entries))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise TableError(f"{path}: the folder can't be listed: {reason}") from error


def files_below(path: Path, is_wanted: Callable[[str], bool]) -> list[Path]:
    """Return the files at or below a path whose name is wanted.

    An address that ends in such a name is taken to be that of the file, which need not be listed.
    """
    if path.is_file() or (is_remote(path) and is_wanted(path.name)):
        return [path] if is_wanted(path.name) else []
    return [
        folder.path / name
        for folder in folders_below(path)
        for name in folder.files
        if is_wanted(name)
    ]


def names_in(folder: Path) -> list[str]:
    """Return the names of the files in a folder, in order; none if it isn't there or not listed."""
    return [name for found in folders_below(folder, depth=0) for name in found.files]


def require_listed(folder: Path) -> None:
    """Raise TableError if a folder is at an address where nothing is listed."""
    if is_remote(folder) and not any(folders_below(folder, depth=0)):
        raise TableError(
            f"{shown(folder)}: nothing is listed there: there is no such folder, or its server "
            "doesn't list folders (s3:// does, https:// seldom); give the address of the file that "
            "lists a screen's images (Index.idx.xml, MeasurementData.mlf, .jdce, .companion.ome or "
            "a table) or of an OME-Zarr plate, or copy the screen to a disk first"
        )


def all_below(folder: Path) -> list[Path]:
    """Return the files below a folder at whatever depth, in order; see :func:`folders_below`.

    Links to folders are followed, but not those that lead back to where they were found.
    """
    if is_remote(folder):
        below = folders_below(folder, depth=sys.maxsize)
        return [found.path / name for found in below for name in found.files]
    files: list[Path] = []
    left: list[tuple[Path, frozenset[Path]]] = [(folder, frozenset())]
    while left:
        path, above = left.pop()
        real = path.resolve()
        if real not in above:
            here = _on_disk(path)
            files += [path / name for name in here.files]
            left += [(one, above | {real}) for one in _entered(here)]
    return sorted(files)
