"""NumPy files that end with a checksum of themselves, so that one flipped bit is found.

`numpy.load` reads an array and ignores what follows it, so that any program can read them. A file
without a checksum, such as one of an earlier version or one that is being filled, is taken as it
is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

if TYPE_CHECKING:
    import io
    from pathlib import Path

    from numpy.typing import NDArray

_MARK, _CHECKSUM = b"\x93SEALED\x01", 4
_AT_ONCE = 2**20


def save_sealed(buffer: io.BytesIO, array: NDArray[Any]) -> None:
    """Write an array and its checksum to an empty buffer."""
    np.save(buffer, array)
    checksum = google_crc32c.value(buffer.getvalue())
    buffer.write(_MARK + checksum.to_bytes(_CHECKSUM, "little"))


def load_sealed(path: Path) -> NDArray[Any]:
    """Read an array.

    Raises
    ------
    ValueError, OSError
        The file is damaged, or missing.
    """
    require_intact(path)
    found: NDArray[Any] = np.load(path)
    return found


def require_intact(path: Path) -> None:
    """Compare a file with its checksum, if it has one.

    Raises
    ------
    ValueError
        They differ.
    """
    with path.open("rb") as file:
        seal = len(_MARK) + _CHECKSUM
        size = file.seek(0, os.SEEK_END) - seal
        if size < 0:
            return
        file.seek(size)
        mark, checksum = file.read(len(_MARK)), file.read(_CHECKSUM)
        if mark == _MARK and _checksum(file, size) != int.from_bytes(checksum, "little"):
            raise ValueError("it differs from what was written")


def seal(path: Path) -> None:
    """Add the checksum to a file that is finished; what it has after its array is replaced."""
    size = _size_of_array(path)
    with path.open("r+b") as file:
        checksum = _checksum(file, size)
        file.seek(size)
        file.write(_MARK + checksum.to_bytes(_CHECKSUM, "little"))
        file.truncate()


def unseal(path: Path) -> None:
    """Take the checksum off a file that is going to change."""
    os.truncate(path, _size_of_array(path))


def _size_of_array(path: Path) -> int:
    mapped = np.load(path, mmap_mode="r")
    return int(mapped.offset + mapped.nbytes)


def _checksum(file: io.BufferedReader | io.BufferedRandom, size: int) -> int:
    file.seek(0)
    checksum = 0
    while size > 0:
        part = file.read(min(size, _AT_ONCE))
        if not part:
            raise ValueError("it ends too early")
        checksum = google_crc32c.extend(checksum, part)
        size -= len(part)
    return checksum
