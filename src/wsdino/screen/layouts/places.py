"""Finding the plates below a folder, at whatever depth people and instruments put them.

All readers of plates look here, so that none finds one plate and leaves out its neighbour because
that lies in a batch's folder, or in one of the instrument's.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

from wsdino.errors import TableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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
        The folder; nothing is listed if it isn't one. Links are followed, hidden names left out.
    depth
        How many folders deep to go. Those of Zarr, which hold chunks, are not entered.

    Raises
    ------
    TableError
        A folder can't be listed.
    """
    known = _shared.get()
    if known is not None and path in known:
        listed = known[path]
    elif path.is_dir():
        listed = _listed(path)
        if known is not None:
            known[path] = listed
    else:
        return
    yield listed
    for name in listed.folders if depth else ():
        if not name.lower().endswith(".zarr"):
            yield from folders_below(path / name, depth=depth - 1)


def _listed(path: Path) -> Folder:
    try:
        with os.scandir(path) as entries:
            found = sorted(
                (entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")
            )
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise TableError(f"{path}: the folder can't be listed: {reason}") from error
    files = [name for name, is_folder in found if not is_folder]
    return Folder(path, files, [name for name, is_folder in found if is_folder])


def files_below(path: Path, is_wanted: Callable[[str], bool]) -> list[Path]:
    """Return the files at or below a path whose name is wanted."""
    if path.is_file():
        return [path] if is_wanted(path.name) else []
    return [
        folder.path / name
        for folder in folders_below(path)
        for name in folder.files
        if is_wanted(name)
    ]
