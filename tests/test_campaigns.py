"""The short forms of the campaigns in `benchmarks/`: damaged bytes, and stopped commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def campaign(name: str, *options: object) -> str:
    """Run one; what it counts, if nothing failed."""
    done = subprocess.run(
        [sys.executable, BENCHMARKS / name, *map(str, options)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_damaged_bytes_are_refused_in_a_line() -> None:
    out = campaign("fuzz.py", "--inputs", 60, "--seconds", 1200, "--seed", 1)
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| ")][1:]
    counts = {row[0].strip("| "): int(row[1].replace(",", "")) for row in rows}
    assert len(counts) > 30
    assert min(counts.values()) > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_commands_end_as_if_nothing_had_happened() -> None:
    out = campaign("crash.py", "--trials", 2, "--seed", 1)
    lines = [line for line in out.splitlines() if line.startswith("| ")]
    names, *rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert len(rows) == 25
    faults = slice(names.index("kill"), names.index("SIGKILL"))
    assert sum(int(cell) for cell in rows[-1][faults]) == 24 + 21
    assert rows[-1][names.index("failures")] == "0"
