"""Repeat a run over several seeds: `python benchmarks/seeds.py CONFIG --out DIR ...`.

Everything after `--` goes to `wsdino run`. Finished runs are not repeated. The last epoch is
evaluated, so that nothing is chosen by MoA labels. Writes `DIR/seeds.md`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from children import wsdino
from judging import comparison, judged
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    import pandas as pd


def main() -> None:
    """Run every seed and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("options", nargs="*", help="further options of wsdino run, after --")
    given = parser.parse_args()
    judgements: dict[str, list[pd.DataFrame]] = {}
    for seed in given.seeds:
        run = given.out / f"seed_{seed}"
        wsdino("run", given.config, "--out", run, "--set", f"seed={seed}", *given.options)
        results = json.loads((run / "results.json").read_text())
        folders = {"this run": run} | {
            name: run / "baselines" / name for name in results["baselines"]
        }
        for name, folder in folders.items():
            profiles = read_table(folder / "profiles.parquet")
            found = judged(profiles, multi_batch=results["multi_batch"])
            judgements.setdefault(name, []).append(found)
    lines = [
        f"Seeds {', '.join(map(str, given.seeds))}; last epoch. Percent, mean (each); the run's",
        "lead in points, of means over seeds, with a 95 % interval bootstrapped over compounds.",
        "",
        *comparison(judgements),
    ]
    table = "\n".join(lines) + "\n"
    (given.out / "seeds.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
