"""What more wells and treatments cost: `python benchmarks/evaluate.py [--wells N ...]`.

Tables of 10^4 to 10^6 wells x 384 features are written as Parquet (float32; 384 wells a plate, 32
of them controls; 4 wells a treatment, 4 doses a compound), and read, profiled by four of the
normalisations, and asked for activity after tvn, as the commands do; 10^3 and 10^4 treatments of
150 mechanisms are matched (NSC, NSCB, not same plate, votes, mAP, consistency, chance). Each is
done in a process of its own: CPU time, time, and the highest resident memory. `--write` writes
`benchmarks/results/evaluate.md`; rows of other sizes and cases that are there stay.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable

FEATURES, WELLS, CONTROLS, REPLICATES, DOSES, MOAS = 384, 384, 32, 4, 4, 150
MATCHING, NUM_CELLS = "matching", 5
RESULT = Path(__file__).parent / "results" / "evaluate.md"


def main() -> None:
    """Measure every size and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wells", type=int, nargs="*", default=[10**4, 10**5])
    parser.add_argument("--treatments", type=int, nargs="*", default=[10**3, 10**4])
    parser.add_argument("--cases", nargs="+", choices=OF_WELLS, default=list(OF_WELLS))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        what, on = given.measure
        work = matching_of(int(on)) if what == MATCHING else OF_WELLS[what](Path(on))
        print(json.dumps(_cost(work)))
        return
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for num in given.wells:
            path = Path(folder) / "wells.parquet"
            write_wells(num, path)
            rows |= {(what, num): _measured(what, path) for what in given.cases}
        for num in given.treatments:
            rows[MATCHING, num] = _measured(MATCHING, num)
    print("\n".join(map(_line, rows, rows.values())))
    if given.write:
        RESULT.write_text(markdown(rows))


def _measured(what: str, on: object) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, str(on)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(what, on, found, file=sys.stderr, flush=True)
    return found


def write_wells(num: int, path: Path) -> None:
    """Write a table of wells, whole plates at a time."""
    step = 128 * WELLS
    writer = None
    for start in range(0, num, step):
        part = pa.Table.from_pandas(wells_table(range(start, min(start + step, num)), num))
        writer = writer or pq.ParquetWriter(path, part.schema)
        writer.write_table(part)
    assert writer is not None
    writer.close()


def wells_table(rows: range, num: int) -> pd.DataFrame:
    """Make some rows of a table of `num` wells."""
    row = np.arange(rows.start, rows.stop)
    plate, well = row // WELLS, row % WELLS
    is_control = well < CONTROLS
    number = plate * (WELLS - CONTROLS) + well - CONTROLS
    num_treatments = max(1, num * (WELLS - CONTROLS) // WELLS // REPLICATES)
    treatment = number % num_treatments
    generator = np.random.default_rng(rows.start)
    features = generator.standard_normal((len(row), FEATURES), dtype=np.float32)
    # A third of the treatments has an effect, in one of many directions.
    effects = np.random.default_rng(0).standard_normal((997, FEATURES), dtype=np.float32)
    has_effect = ~is_control & (treatment % 3 == 0)
    features[has_effect] += effects[treatment[has_effect] % len(effects)]
    names = pd.Series(treatment // DOSES).astype(str).radd("c").where(~is_control, "DMSO")
    columns = {
        "Metadata_Plate": pd.Series(plate).astype(str).radd("P"),
        "Metadata_Well": [f"{chr(65 + each // 24)}{1 + each % 24:02d}" for each in well],
        "Metadata_Compound": names,
        "Metadata_Concentration": np.where(is_control, 0.0, 10.0 ** (treatment % DOSES)),
        "Metadata_Control": is_control,
    }
    table = pd.DataFrame(features, columns=[f"emb_a_{i}" for i in range(FEATURES)], copy=False)
    return pd.concat([pd.DataFrame(columns), table], axis=1)


def profile_of(path: Path, normalisation: str) -> Callable[[], object]:
    """Make profiles of a table, as `wsdino profile` does."""
    from wsdino.profile.aggregate import make_profiles
    from wsdino.tables.reading import read_table
    from wsdino.tables.writing import write_table

    def work() -> None:
        made = make_profiles(read_table(path), normalisation=normalisation)
        write_table(made, path.with_name("profiles.parquet"))

    return work


def activity_of(path: Path) -> Callable[[], object]:
    """Measure activity, as `wsdino activity` does."""
    from wsdino.evaluate import evidence
    from wsdino.tables.reading import read_table

    return lambda: evidence.activity_of(read_table(path))


OF_WELLS: dict[str, Callable[[Path], Callable[[], object]]] = {
    "profile, tvn": partial(profile_of, normalisation="tvn"),
    "profile, whiten_all": partial(profile_of, normalisation="whiten_all"),
    "profile, plate": partial(profile_of, normalisation="plate"),
    "profile, weak_label": partial(profile_of, normalisation="weak_label"),
    "activity": activity_of,
}


def matching_of(num: int) -> Callable[[], object]:
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
    whole = pd.concat([table, pd.DataFrame(features, columns=names)], axis=1)
    return lambda: evaluate(whole)


def _cost(work: Callable[[], object]) -> dict[str, float]:
    cpu, begin = time.process_time(), time.monotonic()
    work()
    scale = 2**30 if sys.platform == "darwin" else 2**20
    return {
        "cpu": time.process_time() - cpu,
        "seconds": time.monotonic() - begin,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale,
    }


def _line(what: tuple[str, int], row: dict[str, float]) -> str:
    figures = f"{row['cpu']:.0f} | {row['seconds']:.0f} | {row['peak_gib']:.2f}"
    return f"| {what[0]} | {what[1]:,} | {figures} |"


def markdown(rows: dict[tuple[str, int], dict[str, float]]) -> str:
    """Write the results as a table, with those rows that it had of other cases and sizes."""
    found = {}
    for line in RESULT.read_text().splitlines() if RESULT.exists() else []:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == NUM_CELLS and cells[1].replace(",", "").isdigit():
            found[cells[0], int(cells[1].replace(",", ""))] = line
    found |= {what: _line(what, row) for what, row in rows.items()}
    order = [*OF_WELLS, MATCHING]
    how = (
        f"`python benchmarks/evaluate.py`: {FEATURES} features, float32 in Parquet. Each row is a "
        "process of its own; peak: its highest resident memory, with table and imports."
    )
    where = (
        f"Python {platform.python_version()}, NumPy {np.__version__}, pandas {pd.__version__}, "
        f"2 CPUs shared with other work ({platform.machine()}): compare CPU times."
    )
    lines = ["# What more wells and treatments cost", "", how, "", where, ""]
    lines += ["| what | rows | CPU, s | time, s | peak, GiB |", "|---|---|---|---|---|"]
    known = [what for what in found if what[0] in order]
    lines += [found[what] for what in sorted(known, key=lambda w: (order.index(w[0]), w[1]))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
