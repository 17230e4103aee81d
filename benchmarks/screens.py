"""What a screen costs without training: time, memory and disk of ingest, embed and evaluate.

Run `python benchmarks/screens.py SOURCE [SOURCE ...] --normalise whiten_all`. Each command is a
process of its own with one thread for arithmetic, so that its CPU time says something on a machine
that does other work, too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple


class Cost(NamedTuple):
    """CPU seconds, and memory at the peak in MB."""

    seconds: float
    memory: float


def cost_of(*arguments: object) -> Cost:
    """Run a command of wsdino, and measure its process."""
    command = [sys.executable, "-m", "wsdino", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(command)}: failed")
    # Linux counts KiB, macOS bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6)


def size_of(path: Path) -> float:
    """Size of a file, or of all in a folder, in MB."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(each.stat().st_size for each in files if each.is_file()) / 1e6


def main() -> None:
    """Measure each screen, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+", type=Path)
    parser.add_argument("--normalise", default="whiten_all")
    options = parser.parse_args()
    print("| screen | sites | store, MB | ingest, s | embed, s | evaluate, s | peak, MB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for source in options.sources:
        with tempfile.TemporaryDirectory() as folder:
            store, table = Path(folder) / "store", Path(folder) / "sites.parquet"
            costs = [
                cost_of("ingest", source, "--out", store),
                cost_of("embed", "starter", store, "--out", table),
                cost_of("evaluate", table, "--from-sites", "--normalise", options.normalise),
            ]
            from wsdino.screen.store import open_store

            seconds = " | ".join(f"{each.seconds:.0f}" for each in costs)
            peak = max(each.memory for each in costs)
            print(
                f"| {source.name} | {len(open_store(store)):,} | {size_of(store):.0f} | {seconds} "
                f"| {peak:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
