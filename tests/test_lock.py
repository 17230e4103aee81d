"""One writer at a time: real processes, some of them killed."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pytest

from helpers_run import call, ended, finish, start
from helpers_tables import profile_table
from wsdino.errors import OutputError
from wsdino.lock import one_writer, one_writer_of_file

if TYPE_CHECKING:
    from pathlib import Path

    from helpers_fork import Forked

HOLD = """
import sys, time
from pathlib import Path
from wsdino import lock
with getattr(lock, sys.argv[1])(Path(sys.argv[2])):
    print("held", flush=True)
    time.sleep(120)
"""


def hold(path: Path, kind: str = "one_writer", **variables: str) -> Forked:
    """Start a process that holds a lock until it is killed."""
    process = start(kind, path, code=HOLD, variables=variables)
    assert process.stdout.readline() == "held\n"
    return process


def kill(process: Forked) -> None:
    process.send_signal(signal.SIGKILL)
    finish(process)


@pytest.mark.parametrize("kind", ["one_writer", "one_writer_of_file"])
def test_the_second_is_told_who_holds_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    lock = {"one_writer": one_writer, "one_writer_of_file": one_writer_of_file}[kind]
    first = hold(path, kind)
    try:
        for _ in range(2):
            with pytest.raises(OutputError) as caught, lock(path):
                pass
            wanted = rf"^{re.escape(str(path))}: process {first.pid} on {socket.gethostname()}, "
            assert re.match(
                wanted + r"which started 20\d\d-.*, is writing there; wait", str(caught.value)
            )
    finally:
        kill(first)
    # A killed process is in nobody's way, and in the end there is nothing left.
    with lock(path):
        pass
    assert list(tmp_path.rglob(".*")) == []


def test_who_holds_it_may_ask_again_but_not_another_thread(tmp_path: Path) -> None:
    said: list[str] = []

    def ask() -> None:
        try:
            with one_writer(tmp_path / "x"):
                said.append("got it")
        except OutputError as error:
            said.append(str(error))

    with one_writer(tmp_path / "x"):
        with one_writer(tmp_path / "x"):
            pass
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} on" in said[0]
    ask()
    assert said[1:] == ["got it"]


def test_a_folder_that_stays_empty_is_not_left_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), one_writer(tmp_path / "a" / "b"):
        raise ValueError("refused")
    with pytest.raises(ValueError, match="refused"), one_writer_of_file(tmp_path / "a" / "b"):
        raise ValueError("refused")
    assert list(tmp_path.iterdir()) == []
    with one_writer(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "product").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["product"]


def test_many_at_once_get_it_one_after_another(tmp_path: Path) -> None:
    """Each adds one to a number, without care; the lock's file comes and goes between them."""
    code = f"""
from pathlib import Path
from wsdino.errors import OutputError
from wsdino.lock import one_writer
path, done = Path({str(tmp_path / "run")!r}), 0
number = Path({str(tmp_path / "number")!r})
while done < 50:
    try:
        with one_writer(path):
            number.write_text(str(int(number.read_text(encoding="utf-8")) + 1))
            done += 1
    except OutputError as error:
        assert "is writing there" in str(error), error
"""
    (tmp_path / "number").write_text("0", encoding="utf-8")
    processes = [start(code=code) for _ in range(3)]
    assert [finish(process)[::2] for process in processes] == [(0, "")] * 3
    assert (tmp_path / "number").read_text(encoding="utf-8") == "150"


def test_a_folder_that_comes_and_goes_is_no_obstacle(tmp_path: Path) -> None:
    """`mkdir` looks twice, and between its looks others may have removed the folder."""
    folder, end = tmp_path / "run", threading.Event()

    def come_and_go() -> None:
        while not end.is_set():
            with suppress(OSError):
                folder.mkdir()
                folder.rmdir()

    others = [threading.Thread(target=come_and_go) for _ in range(2)]
    for other in others:
        other.start()
    try:
        for _ in range(2000):
            with one_writer(folder):
                pass
    finally:
        end.set()
        for other in others:
            other.join()


def test_of_a_job_the_first_process_holds_it(tmp_path: Path) -> None:
    first = hold(tmp_path / "run", RANK="0", WORLD_SIZE="2")
    try:
        kill(hold(tmp_path / "run", RANK="1", WORLD_SIZE="2"))
    finally:
        kill(first)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_reported_once(tmp_path: Path, number: int) -> None:
    code = f"""
import fcntl
import os
from pathlib import Path
from wsdino.lock import one_writer
def flock(*_):
    raise OSError({number}, os.strerror({number}))
fcntl.flock = flock
folder = Path({str(tmp_path / "run")!r})
for _ in range(2):
    with one_writer(folder):
        (folder / "product").touch()
"""
    status, _, err = finish(start(code=code))
    assert status == 0
    (line,) = err.splitlines()
    assert f"note: {tmp_path / 'run'}: this file system has no locks" in line
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["product"]


def test_what_is_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OutputError, match="can't be written") as caught, one_writer(path):
            pass
        assert str(caught.value).startswith(f"{path}: ")


# --- commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "locked", "arguments"),
    [
        ("one_writer", "run", ("run", "demo", "--out", "run")),
        ("one_writer", "run", ("train", "demo", "--out", "run")),
        ("one_writer", "run", ("demo", "--out", "run")),
        ("one_writer", "screen", ("simulate", "--out", "screen")),
        ("one_writer", "bbbc021", ("download", "bbbc021", "--out", "bbbc021")),
        ("one_writer", "store", ("ingest", "table.csv", "--out", "store")),
        ("one_writer_of_file", "p.csv", ("profile", "table.csv", "--out", "p.csv")),
        ("one_writer_of_file", "r.json", ("evaluate", "table.csv", "--json", "r.json")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_second_command_stops_with_status_2_and_changes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    kind: str,
    locked: str,
    arguments: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    features = np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    profile_table(list("abcd"), ["x", "x", "y", "y"], features).to_csv("table.csv", index=False)
    first = hold(tmp_path / locked, kind)
    try:
        before = sorted(tmp_path.rglob("*"))
        assert call(monkeypatch, *arguments) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"wsdino: {locked}: process {first.pid} on ")
        assert sorted(tmp_path.rglob("*")) == before
    finally:
        kill(first)


def test_two_simulations_at_once_and_a_killed_one(tmp_path: Path) -> None:
    """The first is killed in mid-work; the third goes on where it was, with no workers left."""
    command = ("simulate", "--out", tmp_path / "s", "--size", 64, "--sites", 1, "--workers", 2)
    first = start(*command)
    deadline = time.monotonic() + 200
    while not list(tmp_path.rglob("*.tif")):
        assert first.poll() is None, finish(first)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    status, _, err = ended(*command)
    assert status == 2
    assert f"process {first.pid} on " in err
    first.send_signal(signal.SIGKILL)
    # Its output ends with the last process that has it.
    assert finish(first, timeout_s=30)[0] == -signal.SIGKILL
    status, _, err = ended(*command[:-1], 1)
    assert status == 0, err
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]


ORPHANED = """
import multiprocessing
import os
import time
from wsdino.stopping import end_with_parent

def work():
    parent = os.getppid()
    print("up", flush=True)
    while os.getppid() == parent:
        time.sleep(0.01)
    end_with_parent()
    time.sleep(120)

child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
"""


def test_a_worker_whose_parent_is_killed_while_it_starts_ends_too() -> None:
    parent = start(code=ORPHANED)
    assert parent.stdout.readline() == "up\n"
    parent.send_signal(signal.SIGKILL)
    # Its output ends with the last process that has it.
    assert finish(parent, timeout_s=60) == (-signal.SIGKILL, "", "")
