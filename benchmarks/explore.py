"""How soon `wsdino explore` answers: `python benchmarks/explore.py [--sites N] [--write]`.

The sites of a screen as in `benchmarks/report.py`, repeated on further plates until there are
enough, with noise of their own: CPU seconds until requests would be answered (imports apart), until
each map is laid out, and until a field's neighbours are found; megabytes of the page and the maps.
`--write` writes `benchmarks/results/explore.md`.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from report import NUM_FEATURES, SIZES, Screen, make_run, simulated_fields

if TYPE_CHECKING:
    from collections.abc import Callable

RESULT = Path(__file__).parent / "results" / "explore.md"
NUM_TREATMENTS, NUM_SITES = 500, 100_000


def sites_of(run: Path, num: int) -> pd.DataFrame:
    """Repeat a run's sites on further plates until there are `num`."""
    once = pd.read_parquet(run / "sites.parquet")
    parts = [
        once.assign(Metadata_Plate=once["Metadata_Plate"] + f"-{number}")
        for number in range(-(-num // len(once)))
    ]
    sites = pd.concat(parts, ignore_index=True).head(num)
    names = [name for name in sites if not name.startswith("Metadata_")]
    noise = np.random.default_rng(0).normal(scale=0.3, size=(num, len(names)))
    sites[names] += noise.astype(np.float32)
    return sites


def measured(run: Path, num: int) -> list[tuple[str, float, float | None]]:
    """Explore a run: what, CPU seconds, and megabytes."""
    from wsdino.report.explore import explore_page

    sites = sites_of(run, num)
    metadata = sites[[name for name in sites if name.startswith("Metadata_")]]
    store = Screen(simulated_fields(), metadata)
    (screen, page), start = _timed(lambda: explore_page(run, store, sites))
    rows: list[tuple[str, float, float | None]] = [("start", start, len(page) / 1e6)]
    for name in ("treatments", "wells", "sites"):
        found, seconds = _timed(lambda name=name: json.dumps(screen.map_of(name)))
        rows.append((f"map of {name}", seconds, len(found) / 1e6))
    _, seconds = _timed(lambda: screen.neighbours(77, apart="compound"))
    rows.append(("neighbours of a field", seconds, None))
    return rows


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def markdown(rows: list[tuple[str, float, float | None]], num: int) -> str:
    """Write the table."""
    how = (
        f"`python benchmarks/explore.py --sites {num}`: {NUM_TREATMENTS} treatments, {num:,} "
        f"sites, {NUM_FEATURES} features. CPU seconds of the process, after the imports of wsdino; "
        "the first map has those of UMAP, whose compiled code was on disk."
    )
    lines = ["# How soon `wsdino explore` answers", "", how, ""]
    lines += [f"Python {platform.python_version()}, 2 CPUs shared with other work.", ""]
    lines += ["| what | CPU, s | sent, MB |", "|---|---|---|"]
    lines += [
        f"| {what} | {cpu:.2f} | {'-' if size is None else f'{size:.1f}'} |"
        for what, cpu, size in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=NUM_SITES)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = (given.folder or Path(temporary)) / f"run-{NUM_TREATMENTS}"
        if not (run / "results.json").exists():
            make_run(run, NUM_TREATMENTS, SIZES[NUM_TREATMENTS][0])
        found = markdown(measured(run, given.sites), given.sites)
    print(found)
    if given.write:
        RESULT.write_text(found)


if __name__ == "__main__":
    main()
