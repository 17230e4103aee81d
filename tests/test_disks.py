"""Disks that are full or can't be written to, as they are mounted: Linux, with user namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from helpers_run import write_tiny_config
from helpers_screen import write_bbbc021_folder
from wsdino.config import load_config
from wsdino.pipeline import run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_SPACE = ["unshare", "--map-root-user", "--mount"]


def _can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    command = [*_SPACE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not _can_mount(), reason="needs unshare and mounts"),
]

# Commands one after another in one process: each start costs seconds.
_SEVERAL = """
import sys
from wsdino.cli.main import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["wsdino", *line.split("|")]
    try:
        main()
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    print("status", status, file=sys.stderr, flush=True)
"""


def commands(mount: str, lines: Sequence[Sequence[object]]) -> list[tuple[int, str]]:
    """Run commands where something is mounted; return the status and error output of each."""
    script = f"{mount} && exec {sys.executable} -c '{_SEVERAL}'"
    done = subprocess.run(
        [*_SPACE, "sh", "-c", script],
        input="\n".join("|".join(map(str, line)) for line in lines),
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    parts = done.stderr.split("status ")
    words = [parts[0], *(part.partition("\n")[2] for part in parts[1:])]
    return [
        (int(part.partition("\n")[0]), said) for part, said in zip(parts[1:], words, strict=False)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a screen, a config, and a finished run in `run`."""
    folder = tmp_path_factory.mktemp("disks")
    write_bbbc021_folder(folder / "screen", num_sites=1)
    write_tiny_config(folder / "tiny.yaml", baselines={"names": []})
    config = load_config(folder / "tiny.yaml", [f"screen.source={folder / 'screen'}"])
    run(config, folder / "run")
    return folder


def test_a_finished_run_on_a_read_only_disk(place: Path, tmp_path: Path) -> None:
    finished, source = place / "run", f"screen.source={place / 'screen'}"
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    found = commands(
        f"mount --bind {finished} {finished} && mount -o remount,bind,ro {finished}",
        [
            ("run", place / "tiny.yaml", "--set", source, "--out", finished),
            ("report", finished, "--out", tmp_path / "report.html"),
            ("report", finished, "--out", finished / "again.html"),
            ("embed", finished, finished / "store", "--out", tmp_path / "e.parquet"),
            ("evaluate", finished / "profiles.parquet"),
            ("export", finished, "--out", tmp_path / "model"),
        ],
    )
    assert [status for status, _ in found] == [0, 0, 2, 0, 0, 0], found
    assert "already done" in found[0][1]
    assert f"{finished / 'again.html'}: can't be written: Read-only file system" in found[2][1]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == (
        finished / "report.html"
    ).read_text(encoding="utf-8")
    assert (tmp_path / "e.parquet").read_bytes() == (finished / "embeddings.parquet").read_bytes()
    assert (tmp_path / "model" / "normalisation.npz").is_file()
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_a_full_disk_is_one_line_with_what_is_free(place: Path, tmp_path: Path) -> None:
    disk, finished = tmp_path / "disk", place / "run"
    disk.mkdir()
    lines = [
        ("embed", finished, finished / "store", "--out", disk / "e.parquet"),
        ("profile", finished / "embeddings.parquet", "--out", disk / "p.parquet"),
        ("evaluate", finished / "profiles.parquet", "--json", disk / "r.json"),
        ("activity", finished / "embeddings.parquet", "--json", disk / "a.json"),
        ("report", finished, "--out", disk / "report.html"),
        ("export", finished, "--out", disk / "model"),
        ("ingest", place / "screen", "--out", disk / "store", "--workers", 1),
        ("train", finished / "config.yaml", "--out", disk / "run"),
        ("simulate", "--out", disk / "screen", "--size", 32, "--sites", 1, "--workers", 1),
    ]
    # 12 kB: a folder and a lock fit, no product does. What a command leaves is listed after it.
    found = commands(f"mount -t tmpfs -o size=12k none {disk}", lines)
    for line, (status, said) in zip(lines, found, strict=True):
        last = said.rstrip().splitlines()[-1]
        assert status == 2, (line, said)
        assert last.startswith(f"wsdino: {disk}"), (line, last)
        assert "can't be written: No space left on device (0.0 MiB free)" in last, (line, last)
