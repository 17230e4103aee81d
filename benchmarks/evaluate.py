"""What more wells and treatments cost: `python benchmarks/evaluate.py [--wells N ...]`.

Activity of tables of 10^4 and 10^5 wells x 384 features (normalised, float32; 384 wells a plate, 32
of them controls; 4 wells a treatment, 4 doses a compound), and matching of 10^3 and 10^4 treatments
of 150 mechanisms (NSC, NSCB, not same plate, votes, mAP, consistency, chance), each in a process of
its own: CPU time, and the memory beyond the table. Writes a table.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable

FEATURES, WELLS, CONTROLS, REPLICATES, DOSES, MOAS = 384, 384, 32, 4, 4, 150
RESULT = Path(__file__).parent / "results" / "evaluate.md"


def main() -> None:
    """Measure every size and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wells", type=int, nargs="+", default=[10**4, 10**5])
    parser.add_argument("--treatments", type=int, nargs="+", default=[10**3, 10**4])
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        what, num = given.measure
        print(json.dumps({"activity": activity_of, "matching": matching_of}[what](int(num))))
        return
    rows = []
    for what, sizes in (("activity", given.wells), ("matching", given.treatments)):
        for num in sizes:
            command = [sys.executable, __file__, "--measure", what, str(num)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append({"what": what, "num": num, **json.loads(done.stdout)})
            print(rows[-1])
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(markdown(rows))


def wells_table(num: int) -> pd.DataFrame:
    """Make a normalised table of wells."""
    row = np.arange(num)
    plate, well = row // WELLS, row % WELLS
    is_control = well < CONTROLS
    number = np.cumsum(~is_control) - 1
    num_treatments = max(1, int((~is_control).sum()) // REPLICATES)
    treatment = number % num_treatments
    generator = np.random.default_rng(0)
    features = generator.standard_normal((num, FEATURES), dtype=np.float32)
    # A third of the treatments has an effect.
    effect = generator.standard_normal((num_treatments, FEATURES), dtype=np.float32)
    strength = (np.arange(num_treatments) % 3 == 0).astype(np.float32)
    for start in range(0, num, 4096):
        own = slice(start, start + 4096)
        weight = np.where(is_control[own], 0, strength[treatment[own]])
        features[own] += weight[:, None].astype(np.float32) * effect[treatment[own]]
    table = pd.DataFrame(features, columns=[f"x{i}" for i in range(FEATURES)], copy=False)
    names = pd.Series(treatment // DOSES).astype(str).radd("c").where(~is_control, "DMSO")
    columns = {
        "Metadata_Plate": pd.Series(plate).astype(str).radd("P"),
        "Metadata_Well": [f"{chr(65 + each // 24)}{1 + each % 24:02d}" for each in well],
        "Metadata_Compound": names,
        "Metadata_Concentration": np.where(is_control, 0.0, 10.0 ** (treatment % DOSES)),
        "Metadata_Control": is_control,
    }
    return pd.concat([pd.DataFrame(columns), table], axis=1)


def activity_of(num: int) -> dict[str, float]:
    """Measure activity."""
    from wsdino.evaluate.evidence import activity

    table = wells_table(num)
    return _cost(lambda: activity(table))


def matching_of(num: int) -> dict[str, float]:
    """Evaluate treatments."""
    from wsdino.evaluate.results import evaluate

    generator = np.random.default_rng(0)
    compound = np.arange(num) // DOSES
    moa = compound % MOAS
    features = generator.standard_normal((num, FEATURES))
    features += generator.standard_normal((MOAS, FEATURES))[moa]
    plates = compound // 80
    table = pd.DataFrame(
        {
            "Metadata_Compound": pd.Series(compound).astype(str).radd("c"),
            "Metadata_Concentration": 10.0 ** (np.arange(num) % DOSES),
            "Metadata_MoA": pd.Series(moa).astype(str).radd("m"),
            "Metadata_Plate": [[f"P{each}_{i}" for i in range(REPLICATES)] for each in plates],
            "Metadata_Batch": [[f"B{each // 4}"] for each in plates],
        }
    )
    names = [f"x{i}" for i in range(FEATURES)]
    return _cost(
        lambda: evaluate(pd.concat([table, pd.DataFrame(features, columns=names)], axis=1))
    )


def _cost(work: Callable[[], object]) -> dict[str, float]:
    before, start = _peak_mib(), time.process_time()
    work()
    return {"seconds": time.process_time() - start, "table_mib": before, "peak_mib": _peak_mib()}


def _peak_mib() -> float:
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def markdown(rows: list[dict]) -> str:
    """Write the results as a table."""
    lines = [
        "# What more wells and treatments cost",
        "",
        (
            f"`python benchmarks/evaluate.py`: {FEATURES} features, CPU time of one process. Peak: "
            "of the whole process, with the table; before: after the table was made."
        ),
        "",
        (
            f"Python {platform.python_version()}, NumPy {np.__version__}, pandas {pd.__version__}, "
            f"2 CPUs shared with other work ({platform.machine()})."
        ),
        "",
        "| what | rows | CPU, s | before, MiB | peak, MiB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['what']} | {row['num']:,} | {row['seconds']:.1f} | {row['table_mib']:.0f} "
        f"| {row['peak_mib']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
