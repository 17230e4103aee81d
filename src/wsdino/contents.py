"""The contents of files, identified by remembered digests."""

from __future__ import annotations

import hashlib
import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

# A file may change twice within one tick of its file system's clock (FAT: 2 s). A file that was
# younger than that when it was read is read again.
SETTLED_NS = 2_000_000_000


def digest_of(value: object) -> str:
    """Return the digest of a JSON-serialisable value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Digests:
    """Digests of the files in a folder; a file is read again only if its inode has changed.

    Times are never compared as earlier or later: after any change the file is read again, and its
    contents decide.

    Parameters
    ----------
    folder
        Files are identified by their path relative to it, so that it may be moved.
    known
        The attribute :attr:`known` of an earlier instance.

    Attributes
    ----------
    known : dict
        The size, times, inode and digest of each file asked for; JSON-serialisable.
    num_bytes_read : int
        How many bytes had to be read.
    """

    def __init__(self, folder: Path, known: dict[str, Any]) -> None:
        self.folder, self.known, self.num_bytes_read = folder, dict(known), 0

    def name(self, path: Path) -> str:
        """Return the name that identifies a file."""
        return path.relative_to(self.folder).as_posix()

    def of(self, path: Path) -> str | None:
        """Return the digest of a file's bytes; None if there is no file."""
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
