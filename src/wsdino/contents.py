"""What files hold, known by digests that are remembered."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

# A file may change twice within one tick of its file system's clock (FAT: 2 s). What was that young
# when it was read is read again.
SETTLED_NS = 2_000_000_000


def digest_of(value: object) -> str:
    """Return the digest of what JSON holds."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Digests:
    """Digests of the files in a folder; a file is read again only where its inode says so.

    Times are never compared as earlier or later: any difference makes a file to be read again, and
    what it holds decides.

    Parameters
    ----------
    folder
        Files are known by their path relative to it, so that it may be moved.
    known
        What :attr:`known` was before.

    Attributes
    ----------
    known : dict
        For each file that was asked for its size, times, inode and digest; JSON can hold it.
    num_bytes_read : int
        How much was read instead of being known.
    """

    def __init__(self, folder: Path, known: dict[str, Any]) -> None:
        self.folder, self.known, self.num_bytes_read = folder, dict(known), 0

    def name(self, path: Path) -> str:
        """Return the name by which a file is known."""
        return path.relative_to(self.folder).as_posix()

    def of(self, path: Path) -> str | None:
        """Return the digest of a file's bytes; None where there is no file."""
        name = self.name(path)
        try:
            now, found = time.time_ns(), path.stat()
            state = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
            before = self.known.get(name)
            if isinstance(before, dict) and before.get("state") == state:
                return str(before.get("digest"))
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            self.num_bytes_read += found.st_size
        except (FileNotFoundError, NotADirectoryError):
            self.known.pop(name, None)
            return None
        is_settled = abs(now - found.st_ctime_ns) > SETTLED_NS
        self.known[name] = {"state": state if is_settled else None, "digest": digest}
        return digest
