"""What whitening by weak label adds to tables that exist: `python benchmarks/weak_label.py`.

Prints NSC, NSCB and mAP of CellProfiler's table of BBBC021 (632 wells, Ljosa et al. 2013) and, with
`--fields`, of embeddings of the real fields (`wsdino embed starter`), under each normalisation: as
it is used (fitted on all rows), and with the query's compound left out of the fit. Needs the real
data (WSDINO_DATA, or ../shared/data). Other tables with a design in them can be given as well.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.evaluate.held_out import held_out
from wsdino.evaluate.results import evaluate
from wsdino.profile.aggregate import make_profiles, profiles_of_normalised
from wsdino.profile.weak_label import AUTO, WeakLabelWhitening, fit_weak_label
from wsdino.screen.bbbc021 import read_bbbc021_tables
from wsdino.tables.columns import COMPOUND, CONTROL, PLATE
from wsdino.tables.features import features_of, metadata_of
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROFILES = "bbbc021_profiles"
HEADINGS = "| table | normalisation | NSC | NSCB | mAP | left out: NSC | NSCB | mAP |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=Path, nargs="*", default=[], help="others, with a design")
    parser.add_argument("--fields", type=Path, help="embeddings of the real fields")
    parser.add_argument("--seeds", type=int, default=20, help="deals of the compounds")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--ridge", default=AUTO, help="auto, or a number")
    given = parser.parse_args()
    ridge = given.ridge if given.ridge == AUTO else float(given.ridge)
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
    wells = folder / "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz"
    return read_table(wells, platemap=design)


def lines_of(table: pd.DataFrame, ridge: float | str, *, folds: int, seeds: int) -> list[str]:
    """Rows of one table: the normalisations on controls (or on all), then by weak label."""
    has_controls = CONTROL in table and bool(table[CONTROL].any())
    lines = []
    for method in ("tvn", "plate_controls") if has_controls else ("whiten_all", "plate"):
        profiles = make_profiles(table, normalisation=method)
        lines.append(f"`{method}` | {numbers(profiles)} | | | |")
    features = features_of(table)
    control = table[CONTROL].to_numpy(bool) if has_controls else np.zeros(len(table), bool)
    labels, plates = table[COMPOUND].to_numpy(object), table[PLATE].to_numpy(object)

    def fit(used: NDArray[np.bool_]) -> WeakLabelWhitening:
        known = np.where(used, labels, None)
        return fit_weak_label(features, known, controls=control, plates=plates, ridge=ridge)

    def transformed(used: NDArray[np.bool_]) -> NDArray[np.float64]:
        return fit(used).transform(features, plates=plates, controls=control)

    whitening = fit(np.ones(len(table), bool))
    white = pd.DataFrame(transformed(np.ones(len(table), bool)), index=table.index)
    normalised = pd.concat([metadata_of(table), white.add_prefix("emb_white_")], axis=1)
    profiles = profiles_of_normalised(normalised, {})
    held = held_out(table, transformed, num_folds=folds, num_seeds=seeds)
    cells = [percentages(held.nsc), percentages(held.nscb), f"{np.mean(held.map):.3f}"]
    chosen = f"`weak_label`, ridge {whitening.choice.value:g} ({whitening.choice.rule})"
    return [*lines, f"{chosen} | {numbers(profiles)} | {' | '.join(cells)} |"]


def numbers(profiles: pd.DataFrame) -> str:
    """Return NSC, NSCB and mAP of profiles."""
    found = evaluate(profiles, num_permutations=0)
    counts = (f"{found[f'{name}_correct']}/{found[f'{name}_total']}" for name in ("nsc", "nscb"))
    return " | ".join([*counts, f"{found['map']:.3f}"])


def percentages(each: tuple[float, ...]) -> str:
    """Return the mean over deals, with the standard deviation over them."""
    return f"{100 * np.mean(each):.1f} % (sd {100 * np.std(each):.1f})" if each else ""


if __name__ == "__main__":
    main()
