"""A screen converted by a real Dask cluster: the same store as that of threads."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from helpers_run import call
from helpers_screen import write_bbbc021_folder
from wsdino.errors import ImageError, InputError
from wsdino.screen.ingest import ingest
from wsdino.screen.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wsdino.screen.store import Store


pytest.importorskip("distributed", reason="needs the extra dask")


@dataclass
class Cluster:
    """Scheduler and workers as people start them, each a process of its own."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def _start(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "dask", *arguments, "--scheduler-file", "where.json"]
        with (self.folder / f"{len(self.started)}.log").open("wb") as log:
            self.started.append(
                subprocess.Popen(
                    [*command, "--no-dashboard", "--host", "127.0.0.1"],
                    cwd=self.folder,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def start(self, num_workers: int) -> str:
        """Start a scheduler and workers of one thread; return the address once all are there."""
        self._start("scheduler", "--port", "0")
        where = self.folder / "where.json"
        self._wait(where.is_file)
        address: str = json.loads(where.read_text(encoding="utf-8"))["address"]
        for _ in range(num_workers):
            self._start("worker", "--nthreads", "1")
        logs = [self.folder / f"{number}.log" for number in range(1, num_workers + 1)]
        self._wait(lambda: all(b"Registered to" in log.read_bytes() for log in logs))
        return address

    def _wait(self, is_there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 100
        while not is_there():
            assert time.monotonic() < deadline, [
                p.read_text(encoding="utf-8") for p in self.folder.glob("*.log")
            ]
            time.sleep(0.05)

    def stop(self) -> None:
        """End all, whatever they do."""
        for process in reversed(self.started):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a cluster with two workers."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield cluster.start(2)
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A screen and the store that threads make of it, not to be changed."""
    folder = tmp_path_factory.mktemp("dask")
    ingest(write_bbbc021_folder(folder / "screen"), folder / "store")
    return folder


def assert_same(ours: Store, theirs: Store) -> None:
    np.testing.assert_array_equal(ours.read(range(len(ours))), theirs.read(range(len(theirs))))
    pd.testing.assert_frame_equal(ours.manifest, theirs.manifest)
    for name, values in theirs.statistics.items():
        np.testing.assert_array_equal(ours.statistics[name], values)


def test_a_cluster_makes_the_same_store(scheduler: str, original: Path, tmp_path: Path) -> None:
    made = ingest(original / "screen", tmp_path / "store", dask=scheduler)
    assert_same(made, open_store(original / "store"))


def test_a_relative_folder_is_found_by_workers_elsewhere(
    scheduler: str, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status = call(monkeypatch, "ingest", original / "screen", "--out", "store", "--dask", scheduler)
    assert status == 0
    assert_same(open_store("store"), open_store(original / "store"))


def test_it_goes_on_after_a_damaged_image(scheduler: str, original: Path, tmp_path: Path) -> None:
    screen = shutil.copytree(original / "screen", tmp_path / "screen")
    broken = sorted(screen.rglob("*.tif"))[100]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    with pytest.raises(ImageError, match=r"damaged or incomplete .* stays unfinished") as caught:
        ingest(screen, tmp_path / "store", dask=scheduler)
    assert str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)
    broken.write_bytes(whole)
    made = ingest(screen, tmp_path / "store", dask=scheduler)
    np.testing.assert_array_equal(
        made.read(range(len(made))), open_store(original / "store").read(range(len(made)))
    )


def test_what_is_wrong_is_one_line_and_the_store_can_go_on(original: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        for address in (nobody, "nonsense:x:y"):
            with pytest.raises(InputError, match="no Dask scheduler answers there"):
                ingest(original / "screen", tmp_path / "store", dask=address)
    cluster = Cluster(tmp_path)
    try:
        idle = cluster.start(0)
        with pytest.raises(InputError, match="has no workers yet"):
            ingest(original / "screen", tmp_path / "store", dask=idle)
    finally:
        cluster.stop()
    with pytest.raises(InputError, match="workers and dask: give one"):
        ingest(original / "screen", tmp_path / "store", dask=nobody, workers=2)
    assert_same(ingest(original / "screen", tmp_path / "store"), open_store(original / "store"))
