"""Files appear whole or not at all; what killed processes leave is swept, and nothing else."""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest

from wsdino.atomic import sweep, visible, write_text, writing
from wsdino.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

PARTIAL = re.compile(r"\.partial-[0-9a-f]{12}-")


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "table.csv.gz"
    with writing(path, durable=True) as partial:
        assert partial.parent == path.parent
        assert PARTIAL.match(partial.name)
        assert partial.name.endswith("table.csv.gz"), "for writers that go by the suffix"
        partial.write_text("new", encoding="utf-8")
        assert not path.exists()
    assert names(tmp_path) == {"deep", "deep/table.csv.gz"}
    assert path.read_text(encoding="utf-8") == "new"


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_file_alone(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "f"
    path.write_text("old", encoding="utf-8")

    def fail() -> None:
        with writing(path) as partial:
            partial.write_text("half", encoding="utf-8")
            raise error

    # Libraries raise errors of any type where they can't write; signals are none of them.
    with pytest.raises(OutputError if isinstance(error, Exception) else type(error)):
        fail()
    assert names(tmp_path) == {"f"}
    assert path.read_text(encoding="utf-8") == "old"


def test_a_name_as_long_as_file_systems_allow(tmp_path: Path) -> None:
    # One of them begins in the middle of a letter where it is cut.
    for start in ("", "x"):
        path = tmp_path / os.fsdecode(f"{start}{'ä' * 125}.csv".encode())
        with writing(path) as partial:
            partial.write_text("x", encoding="utf-8")
            assert partial.suffix == ".csv"
        assert path.read_text(encoding="utf-8") == "x"


def test_a_name_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xfcber.csv")
    with writing(path) as partial:
        partial.write_text("x", encoding="utf-8")
    path.with_name(partial.name).touch()
    sweep(tmp_path, name=path.name)
    assert names(tmp_path) == {path.name}


def test_text_that_is_there_already_is_not_written(tmp_path: Path) -> None:
    assert write_text(tmp_path / "f", "µ\n")
    before = (tmp_path / "f").stat()
    assert not write_text(tmp_path / "f", "µ\n")
    assert (tmp_path / "f").stat().st_ino == before.st_ino
    assert write_text(tmp_path / "f", "m\n")
    assert (tmp_path / "f").read_bytes() == b"m\n"


def test_a_full_disk_is_said_with_what_is_free(tmp_path: Path) -> None:
    """The kernel's own full device stands for the disk."""

    def fill() -> None:
        with writing(tmp_path / "f") as partial:
            partial.symlink_to("/dev/full")
            partial.write_text("x", encoding="utf-8")

    with pytest.raises(OutputError) as caught:
        fill()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'f'}: can't be written: No space left on device (")
    assert re.search(r"\(\d+\.\d MiB free\)$", message)
    assert names(tmp_path) == set()


def test_a_file_that_may_grow_no_more(tmp_path: Path) -> None:
    """A real limit, in a process of its own: the file before stays, no partial file does."""
    code = f"""
import resource
from pathlib import Path
from wsdino.atomic import write_text
write_text(Path({str(tmp_path / "f")!r}), "old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_text(Path({str(tmp_path / "f")!r}), "x" * 5000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"OutputError: {tmp_path / 'f'}: can't be written: File too large" in done.stderr
    assert names(tmp_path) == {"f"}
    assert (tmp_path / "f").read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize(
    "write", ["numpy.save(buffer, pixels)", "tifffile.imwrite(buffer, pixels, metadata=None)"]
)
def test_an_array_that_does_not_fit(tmp_path: Path, write: str) -> None:
    """Its last bytes would lie in a buffer of C's, and NumPy does not look what became of it."""
    code = f"""
import resource
from pathlib import Path
import numpy, tifffile
from wsdino.atomic import writing_buffered
pixels = numpy.ones((32, 32), numpy.uint16)
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
with writing_buffered(Path({str(tmp_path / "f")!r})) as buffer:
    {write}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"OutputError: {tmp_path / 'f'}: can't be written: File too large" in done.stderr
    assert names(tmp_path) == set()


@pytest.mark.parametrize("in_the_way", ["folder", "file"])
def test_what_is_in_the_way_is_one_line(tmp_path: Path, in_the_way: str) -> None:
    path = tmp_path / "f" if in_the_way == "folder" else tmp_path / "f" / "g"
    (tmp_path / "f").mkdir() if in_the_way == "folder" else (tmp_path / "f").touch()
    with pytest.raises(OutputError, match="can't be written") as caught, writing(path) as partial:
        partial.write_text("x", encoding="utf-8")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == {"f"}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_folder_that_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Network shares often can't flush folders; an error of the disk is one."""
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with nullcontext() if number != errno.EIO else pytest.raises(OutputError, match="can't be wr"):
        write_text(tmp_path / "f", "x", durable=True)
    assert (tmp_path / "f").read_text(encoding="utf-8") == "x"
    assert names(tmp_path) == {"f"}


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "f", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o666 & ~mask


def test_a_killed_process_leaves_what_is_swept(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from wsdino.atomic import writing
with writing(Path({str(tmp_path / "run" / "f.parquet")!r})) as partial:
    partial.write_text("half")
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not list((tmp_path / "run").glob(".partial-*-f.parquet")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(names(tmp_path / "run")) == 1
    assert visible(tmp_path / "run") == set()
    sweep(tmp_path)
    assert names(tmp_path) == {"run"}


def test_nothing_else_is_swept(tmp_path: Path) -> None:
    mine = {".hidden", "table.partial", "store/.lock", "a/images.zarr/.partial-0123456789ab-c"}
    others = {"store/.partial-0123456789ab-x"}  # of a process that holds that lock
    left = {".partial-0123456789ab-x", "a/b/.partial-0123456789ab-y.csv"}
    for name in mine | others | left:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    sweep(tmp_path)
    assert {name for name in names(tmp_path) if (tmp_path / name).is_file()} == mine | others
    sweep(tmp_path / "store")
    assert names(tmp_path / "store") == {".lock"}


def test_of_a_table_only_its_own_partial_files_are_swept(tmp_path: Path) -> None:
    for name in ("e.csv", "more-e.csv", "e.csv.gz"):
        (tmp_path / f".partial-0123456789ab-{name}").touch()
    sweep(tmp_path, name="e.csv")
    assert names(tmp_path) == {
        ".partial-0123456789ab-more-e.csv",
        ".partial-0123456789ab-e.csv.gz",
    }
