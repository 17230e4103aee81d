"""What a file holds decides, whatever its times say; and little is read twice."""

from __future__ import annotations

import hashlib
import json
import os
import time
from typing import TYPE_CHECKING

import pytest

from wsdino import contents
from wsdino.contents import Digests

if TYPE_CHECKING:
    from pathlib import Path

YEAR_2031 = 1_930_000_000_000_000_000


def set_mtime(path: Path, ns: int) -> None:
    os.utime(path, ns=(ns, ns))


def test_it_is_the_digest_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc" * 10**6)
    digests = Digests(tmp_path, {})
    assert digests.of(tmp_path / "f") == hashlib.sha256(b"abc" * 10**6).hexdigest()
    assert digests.of(tmp_path / "absent") is None
    assert digests.of(tmp_path / "f" / "absent") is None
    assert digests.num_bytes_read == 3 * 10**6


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, object]]:
    """A file that was known long enough to be remembered, and what is known of it."""
    monkeypatch.setattr(contents, "SETTLED_NS", 0)
    (tmp_path / "f").write_text("content", encoding="utf-8")
    time.sleep(0.02)
    digests = Digests(tmp_path, {})
    digests.of(tmp_path / "f")
    return tmp_path / "f", json.loads(json.dumps(digests.known))


def test_an_untouched_file_is_not_read_again(settled: tuple[Path, dict[str, object]]) -> None:
    path, known = settled
    digests = Digests(path.parent, known)
    assert digests.of(path) == hashlib.sha256(b"content").hexdigest()
    assert digests.num_bytes_read == 0


@pytest.mark.parametrize("ns", [0, YEAR_2031])
def test_a_touched_file_is_the_same(settled: tuple[Path, dict[str, object]], ns: int) -> None:
    path, known = settled
    set_mtime(path, ns)
    digests = Digests(path.parent, known)
    assert digests.of(path) == hashlib.sha256(b"content").hexdigest()
    assert digests.num_bytes_read == 7


def test_a_change_that_hides_behind_the_old_time_is_seen(
    settled: tuple[Path, dict[str, object]],
) -> None:
    """In place, with as many bytes, and with its old modification time."""
    path, known = settled
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"CONTENT")
    set_mtime(path, before.st_mtime_ns)
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (
        before.st_size,
        before.st_mtime_ns,
        before.st_ino,
    )
    assert Digests(path.parent, known).of(path) == hashlib.sha256(b"CONTENT").hexdigest()


def test_a_file_that_was_just_written_is_read_again(tmp_path: Path) -> None:
    """It may change once more before its file system's clock ticks."""
    path = tmp_path / "f"
    path.write_text("one", encoding="utf-8")
    digests = Digests(tmp_path, {})
    first = digests.of(path)
    path.write_text("two", encoding="utf-8")
    assert Digests(tmp_path, digests.known).of(path) != first
    path.write_text("one", encoding="utf-8")
    assert Digests(tmp_path, digests.known).of(path) == first
