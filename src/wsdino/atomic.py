"""Atomic files: each appears complete or not at all.

A killed process leaves partial files behind; the next process that writes to the same place, and
holds its lock (:mod:`wsdino.lock`), removes them.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from wsdino.errors import OutputError, WsdinoError
from wsdino.outside import reason_of
from wsdino.stopping import signal_received

if TYPE_CHECKING:
    from collections.abc import Iterator

PARTIAL, LOCK = ".partial-", ".lock"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_CANT_FLUSH = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_MIB = 2**20


@contextmanager
def writing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield the path of a partial file that replaces `path` when the block ends.

    If the block raises, the partial file is removed and `path` stays as it was. Libraries hide a
    full disk behind errors of any type, so whatever is raised is the file's; errors of wsdino, and
    signals, pass unchanged.

    Parameters
    ----------
    path
        The final path; its folder is created if missing. The partial file lies beside it and keeps
        its suffix, for writers that depend on it.
    durable
        Whether the file must also survive a crash of the machine.

    Raises
    ------
    OutputError
        If the path can't be written; on a full disk it says how much is free.
    """
    partial = _partial_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        if durable:
            _flush(partial)
        os.replace(partial, path)  # noqa: PTH105
        if durable:
            _flush_folder(path.parent)
    except Exception as error:
        if isinstance(error, WsdinoError) or signal_received():
            raise
        raise write_error(path, error) from error
    finally:
        with suppress(OSError, UnicodeError):
            partial.unlink(missing_ok=True)


@contextmanager
def writing_buffered(path: Path) -> Iterator[io.BytesIO]:
    """Yield a buffer whose content replaces `path` when the block ends.

    For writers that hand arrays to NumPy (`numpy.save`, tifffile): into a file NumPy writes through
    buffers of C's, and where the last of them doesn't fit on the disk it says nothing, so that the
    file would be cut off and pass for a whole one.

    Parameters
    ----------
    path
        As for :func:`writing`.

    Raises
    ------
    OutputError
        As for :func:`writing`.
    """
    with writing(path) as partial:
        buffer = io.BytesIO()
        yield buffer
        partial.write_bytes(buffer.getbuffer())


@contextmanager
def library_writes(path: Path) -> Iterator[None]:
    """Name the path where a library that writes atomically by itself, such as Zarr, can't.

    Raises
    ------
    OutputError
        As for :func:`writing`.
    """
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from error


def write_text(path: Path, text: str, *, durable: bool = False) -> bool:
    """Write a text file atomically.

    A file that already holds the same text is left alone.

    Parameters
    ----------
    path
        The file; its folder is created if missing.
    text
        The new content.
    durable
        As for :func:`writing`.

    Returns
    -------
    bool
        Whether the file was written.

    Raises
    ------
    OutputError
        If the path can't be written.
    """
    content = text.encode()
    try:
        if path.is_file() and path.read_bytes() == content:
            return False
    except OSError as error:
        raise write_error(path, error) from error
    with writing(path, durable=durable) as partial:
        partial.write_bytes(content)
    return True


def write_error(path: Path, error: Exception) -> OutputError:
    """Make a one-line error for a path that can't be written, with the free space if it is full."""
    number = getattr(error, "errno", None)
    reason = reason_of(error)
    free = _free_bytes(path)
    # Some writers, such as PyTorch's, hide a full disk behind an error of their own.
    if number in _FULL or (number is None and free is not None and free < _MIB):
        reason = f"{os.strerror(number or errno.ENOSPC)} ({(free or 0) / _MIB:.1f} MiB free)"
    return OutputError(f"{path}: can't be written: {reason}")


def _free_bytes(path: Path) -> int | None:
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), None)
    with suppress(OSError):
        return shutil.disk_usage(folder).free if folder else None
    return None


def sweep(folder: Path, *, name: str | None = None) -> None:
    """Remove partial files left by killed processes; call this while holding the lock.

    Parameters
    ----------
    folder
        Searched recursively, except for Zarr arrays and folders that have their own lock.
    name
        Remove only partial files of this name, directly in `folder`.
    """
    if name is not None:
        for path in folder.glob(f"{PARTIAL}*"):
            if path.name == _partial_name(name, path.name[len(PARTIAL) :][:_TOKEN]):
                _remove(path)
        return
    for root, folders, files in os.walk(folder):
        if LOCK in files and Path(root) != folder:
            folders.clear()
            continue
        for partial in (n for n in [*folders, *files] if n.startswith(PARTIAL)):
            _remove(Path(root, partial))
        folders[:] = [n for n in folders if not n.startswith(PARTIAL) and not n.endswith(".zarr")]


def visible(folder: Path) -> set[str]:
    """Return the names in a folder except locks and partial files; empty if it is missing."""
    if not folder.is_dir():
        return set()
    names = {path.name for path in folder.iterdir()}
    return {name for name in names if name != LOCK and not name.startswith(PARTIAL)}


_TOKEN, _LONGEST = 12, 180
_CONTINUED = bytes(range(0x80, 0xC0))


def _partial_beside(path: Path) -> Path:
    return path.with_name(_partial_name(path.name, uuid4().hex[:_TOKEN]))


def _partial_name(name: str, token: str) -> str:
    # The end keeps the suffix; file systems end names at 255 bytes. Cut between letters, and with
    # letters that the locale lacks as it writes them: a name may have come from there.
    end = name.encode(errors="surrogateescape")[-_LONGEST:].lstrip(_CONTINUED)
    return f"{PARTIAL}{token}-{os.fsdecode(end)}"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _flush_folder(path: Path) -> None:
    """Flush a folder's entries, where its file system can (network shares often can't)."""
    try:
        _flush(path)
    except OSError as error:
        if error.errno not in _CANT_FLUSH:
            raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
