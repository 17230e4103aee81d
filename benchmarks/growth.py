"""What more sites cost a training: `python benchmarks/growth.py [--rows N ...] [--out FILE]`.

For manifests of 10^3, 10^5 and 10^7 rows, each in a process of its own: CPU time and memory to set
up weak labels, pairing and sampler, and the CPU time of one plan (anchors, partners and crops of a
step). Linux only. Plates have 384 wells of 9 sites; each compound lies in 4 wells. Writes a table.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

WELLS, SITES, REPLICATES, PLATES_PER_BATCH = 384, 9, 4, 12
BATCH_SIZE, NUM_PLANS = 64, 200
RESULT = Path(__file__).parent / "results" / "growth.md"


def main() -> None:
    """Measure every size and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10**3, 10**5, 10**7])
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(int(given.measure[0]), given.measure[1])))
        return
    rows = []
    for balance in ("label", "image"):
        for num in given.rows:
            command = [sys.executable, __file__, "--measure", str(num), balance]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append({"rows": num, "balance": balance, **json.loads(done.stdout)})
            print(rows[-1])
    text = markdown(rows)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(text)
    print(text)


def manifest_of(num: int) -> pd.DataFrame:
    """Make a manifest of `num` sites, with text as Parquet gives it: one object for equal texts."""
    well = np.arange(num) // SITES
    plate = well // WELLS
    num_wells = int(well[-1]) + 1
    num_compounds = max(2, num_wells // REPLICATES)
    # Replicates of a compound are a quarter of the screen apart, so on other plates in all but the
    # smallest screen.
    compound = well % num_compounds

    def text(codes: np.ndarray, form: str) -> np.ndarray:
        names = np.array([form.format(i) for i in range(int(codes.max()) + 1)], dtype=object)
        return names[codes]

    return pd.DataFrame(
        {
            "Metadata_Plate": text(plate, "P{}"),
            "Metadata_Well": text(well % WELLS, "W{:03d}"),
            "Metadata_Site": np.arange(num) % SITES + 1,
            "Metadata_Batch": text(plate // PLATES_PER_BATCH, "B{}"),
            "Metadata_Compound": text(compound, "c{}"),
            "Metadata_Concentration": 1.0,
            "Metadata_Control": False,
        }
    )


def memory_mib(kind: str) -> float:
    """Memory of this process: now (`VmRSS`), or at most since the last reset (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024


def measure(num: int, balance: str) -> dict[str, float]:
    """Set up once, then draw plans of steps from all over a run."""
    from wsdino.train.options import WeakPositives
    from wsdino.train.plan import Planner
    from wsdino.train.sampler import Sampler
    from wsdino.train.train import positives
    from wsdino.train.views import ViewPlan

    options, manifest = WeakPositives(), manifest_of(num)
    small = manifest.iloc[:2000]
    # Imports and first calls are no part of it.
    positives(small.reset_index(drop=True), options)
    before = memory_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    start = time.process_time()
    found = positives(manifest, options)
    sampler = Sampler(found.labels, balance=balance, seed=0)  # type: ignore[arg-type]
    setup = time.process_time() - start
    kept, peak = memory_mib("VmRSS") - before, memory_mib("VmHWM") - before
    planner = Planner(
        sampler=sampler,
        pairing=found.pairing,
        weak_positives=options,
        views=[ViewPlan(num_views=2, size=224), ViewPlan(num_views=8, size=96)],
        batch_size=BATCH_SIZE,
        field_shape=(512, 640),
        num_channels=3,
        seed=0,
    )
    times: dict[str, list[float]] = {"anchors": [], "plan": []}
    for step in np.random.default_rng(0).integers(0, 10**6, NUM_PLANS).tolist():
        for name, work in (
            ("anchors", lambda s: sampler.batch(s, BATCH_SIZE)),
            ("plan", planner.plan),
        ):
            start = time.process_time()
            work(step)
            times[name].append(time.process_time() - start)
    return {
        "setup_s": setup,
        "kept_mib": kept,
        "peak_mib": peak,
        "anchors_ms": 1000 * statistics.median(times["anchors"]),
        "plan_ms": 1000 * statistics.median(times["plan"]),
    }


def markdown(rows: list[dict[str, float]]) -> str:
    """Write a table with a row for each size."""
    what = (
        "weak labels, pairing (partners from another plate) and sampler; "
        f"{BATCH_SIZE} images a step, 2 + 8 views, median of {NUM_PLANS} plans, CPU time"
    )
    where = (
        f"Python {platform.python_version()}, NumPy {np.__version__}, pandas {pd.__version__}, "
        f"{os.cpu_count()} CPUs shared with other work ({platform.machine()})"
    )
    lines = [
        f"`python benchmarks/growth.py`: {what}.",
        "",
        f"{where}.",
        "",
        "| sites | balance | set-up, s | kept, MiB | peak, MiB | anchors, ms | whole plan, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['rows']:,} | {row['balance']} | {row['setup_s']:.3f} | {row['kept_mib']:.0f} | "
        f"{row['peak_mib']:.0f} | {row['anchors_ms']:.2f} | {row['plan_ms']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
