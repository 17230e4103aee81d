"""One writer at a time: an advisory lock on what a command writes.

The kernel releases the lock when the process ends, however it ends, so that a killed process
blocks nobody. In a job of several processes the first one holds it for all.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from wsdino.atomic import LOCK, write_error
from wsdino.errors import OutputError
from wsdino.progress import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NUM_TRIES = 100
_BUSY = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK}
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


class _State:
    # Lock files that this process holds, and in which thread: its holder may acquire it again.
    held: dict[Path, int] = {}  # noqa: RUF012
    has_said_no_locks = False


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Be the only process that writes into a folder, which is created if missing.

    Folders that are created here and are still empty at the end are removed again.

    Raises
    ------
    OutputError
        If another process holds the lock; the message names it.
    """
    with _held(folder / LOCK, folder):
        yield


@contextmanager
def one_writer_of_file(path: Path) -> Iterator[None]:
    """Be the only process that writes a file, as :func:`one_writer` is for a folder."""
    with _held(path.with_name(f".{path.name}{LOCK}"), path):
        yield


@contextmanager
def _held(lock: Path, what: Path) -> Iterator[None]:
    key, thread = lock.absolute(), threading.get_ident()
    is_job = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if (is_job and os.environ.get("RANK", "0") != "0") or _State.held.get(key) == thread:
        yield
        return
    made = [path for path in lock.parents if not path.exists()]
    file = _acquire(lock, what)
    _State.held[key] = thread
    try:
        yield
    finally:
        del _State.held[key]
        if file is not None:
            # Before the lock is released: a process waiting for it checks whether it still exists.
            with suppress(OSError):
                lock.unlink()
            file.close()
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


def _acquire(lock: Path, what: Path) -> TextIO | None:
    """Open and lock; None if the place can't be written to at all."""
    for _ in range(_NUM_TRIES):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("a+")
        except FileNotFoundError:
            # A command that ended removed the folder, still empty, between the two lines above.
            continue
        except OSError as error:
            # Or between Python's two looks at it: there it was, and isn't a folder.
            if isinstance(error, FileExistsError) and not lock.parent.is_file():
                continue
            if error.errno in _READ_ONLY:
                return None
            raise write_error(what, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                _say_no_locks(what)
                return file
            holder = _holder(file)
            file.close()
            if error.errno not in _BUSY:
                raise write_error(what, error) from error
            raise OutputError(
                f"{what}: {holder} is writing there; wait until it ends, or choose another path"
            ) from error
        if _is_still_there(file, lock):
            _sign(file)
            return file
        file.close()
    raise OutputError(f"{what}: can't be locked: {lock} keeps appearing and disappearing")


def _sign(file: TextIO) -> None:
    """Write the holder of the lock into its file."""
    file.seek(0)
    file.truncate()
    note = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).astimezone().isoformat(timespec="seconds"),
    }
    # A full disk must not prevent locking; what a buffer keeps would be written again at the close.
    with suppress(OSError):
        os.write(file.fileno(), f"{json.dumps(note)}\n".encode())


def _is_still_there(file: TextIO, lock: Path) -> bool:
    """Whether the path still refers to the open file: its last holder removes it."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    return False


def _holder(file: TextIO) -> str:
    with suppress(OSError, ValueError, KeyError, TypeError):
        file.seek(0)
        note = json.loads(file.read())
        return f"process {note['pid']} on {note['host']}, which started {note['since']},"
    return "another process"


def _say_no_locks(what: Path) -> None:
    if not _State.has_said_no_locks:
        _State.has_said_no_locks = True
        say(
            f"note: {what}: this file system has no locks; make sure that no other command writes "
            "there"
        )
