"""What whitening by weak label adds to existing tables: `python benchmarks/weak_label.py`.

Prints NSC, NSCB and mAP of CellProfiler's table of BBBC021 (632 wells, Ljosa et al. 2013) and, with
`--fields`, of embeddings of the real fields (`wsdino embed starter`), under each normalisation: as
it is used (fitted on all rows), and with the query's compound left out of the fit. Needs the real
data, in the folder that WSDINO_DATA names. Other tables that include their plate map can be given
as well.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsdino.evaluate.held_out import held_out_of
from wsdino.evaluate.results import evaluate
from wsdino.profile.aggregate import ATTRIBUTE, make_profiles
from wsdino.screen.bbbc021 import read_bbbc021_tables
from wsdino.tables.columns import CONTROL
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    import pandas as pd

PROFILES = "bbbc021_profiles"
HEADINGS = "| table | normalisation | NSC | NSCB | mAP | left out: NSC | NSCB | mAP |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--tables",
        type=Path,
        nargs="*",
        default=[],
        help="other tables, which include their plate map",
    )
    parser.add_argument("--fields", type=Path, help="embeddings of the real fields")
    parser.add_argument(
        "--seeds", type=int, default=20, help="how often compounds are dealt out to folds"
    )
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--ridge", default="auto", help="auto, or a number")
    given = parser.parse_args()
    ridge = given.ridge if given.ridge == "auto" else float(given.ridge)
    tables = {}
    data = Path(os.environ.get("WSDINO_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if (data / PROFILES).is_dir():
        tables["CellProfiler"] = cellprofiler(data / PROFILES)
    else:
        print(f"no CellProfiler table: {data / PROFILES} is missing (set WSDINO_DATA)")
    if given.fields:
        tables["real fields"] = read_table(given.fields)
    tables |= {path.stem: read_table(path) for path in given.tables}
    print(HEADINGS + "\n|" + "---|" * (HEADINGS.count("|") - 1))
    for name, table in tables.items():
        for line in lines_of(table, ridge, folds=given.folds, seeds=given.seeds):
            print(f"| {name} | {line}", flush=True)


def cellprofiler(folder: Path) -> pd.DataFrame:
    """Read CellProfiler's means per well and join them with the design."""
    design = read_bbbc021_tables(
        folder / "BBBC021_v1_image.csv.gz", folder / "BBBC021_v1_moa.csv"
    ).filter(regex="^Metadata_")
    return read_table(folder / "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz", platemap=design)


def lines_of(table: pd.DataFrame, ridge: float | str, *, folds: int, seeds: int) -> list[str]:
    """Rows of one table: the normalisations on controls (or on all), then by weak label."""
    has_controls = CONTROL in table and bool(table[CONTROL].any())
    lines = [
        f"`{method}` | {numbers(make_profiles(table, normalisation=method))} | | | |"
        for method in (("tvn", "plate_controls") if has_controls else ("whiten_all", "plate"))
    ]
    given: dict[str, Any] = {"normalisation": "weak_label", "regularisation": ridge}
    profiles = make_profiles(table, **given)
    parts = profiles.attrs[ATTRIBUTE]["normalisation"]["note"].split("; ")
    (chosen,) = (part for part in parts if part.startswith("ridge "))
    held = held_out_of(table, num_folds=folds, num_seeds=seeds, **given)
    cells = [percentages(held, "nsc"), percentages(held, "nscb"), f"{held['map']:.3f}"]
    return [*lines, f"`weak_label`, {chosen} | {numbers(profiles)} | {' | '.join(cells)} |"]


def numbers(profiles: pd.DataFrame) -> str:
    """Return NSC, NSCB and mAP of profiles."""
    found = evaluate(profiles, num_permutations=0)
    counts = (f"{found[f'{name}_correct']}/{found[f'{name}_total']}" for name in ("nsc", "nscb"))
    return " | ".join([*counts, f"{found['map']:.3f}"])


def percentages(held: dict[str, Any], name: str) -> str:
    """Return the mean over deals, with the standard deviation over them."""
    if held[name] is None:
        return ""
    return f"{100 * held[name]:.1f} % (sd {100 * held[f'{name}_sd']:.1f})"


if __name__ == "__main__":
    main()
