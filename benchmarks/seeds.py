"""Repeat a run over seeds and say what holds: `python benchmarks/seeds.py CONFIG --out DIR ...`.

Everything after `--` goes to `wsdino run`. A run that is there is not repeated. The epoch is the
last one of the config, so that nothing is chosen by MoA labels. Writes `DIR/seeds.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Run every seed and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("options", nargs="*", help="further options of wsdino run, after --")
    given = parser.parse_args()
    runs = []
    for seed in given.seeds:
        run = given.out / f"seed_{seed}"
        command = ["wsdino", "run", given.config, "--out", str(run), "--set", f"seed={seed}"]
        subprocess.run([sys.executable, "-m", *command, *given.options], check=True)
        runs.append(json.loads((run / "results.json").read_text()))
    table = markdown(runs, given.seeds)
    (given.out / "seeds.md").write_text(table)
    print(table)


def markdown(runs: list[dict[str, object]], seeds: list[int]) -> str:
    """Set the numbers of every seed, and their median, side by side."""
    lines = [
        f"Seeds {', '.join(map(str, seeds))}; last epoch; percent, median (each seed).",
        "",
        "| | NSC | NSCB | mAP |",
        "|---|---|---|---|",
    ]
    everyone = [{"this run": run} | run["baselines"] for run in runs]  # type: ignore[operator]
    for name in everyone[0]:
        cells = []
        for measure, factor in (("nsc", 100), ("nscb", 100), ("map", 100)):
            values = [factor * one[name][measure] for one in everyone]
            each = ", ".join(f"{value:.0f}" for value in values)
            cells.append(f"{statistics.median(values):.0f} ({each})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
