"""Scores of single treatments, and leads with intervals, for the tables of benchmarks."""

from __future__ import annotations

import numpy as np
import pandas as pd

from wsdino.evaluate.intervals import average_precisions, clustered_interval
from wsdino.evaluate.matching import match_moa

MEASURES = {"nsc": "NSC", "nscb": "NSCB", "ap": "mAP"}


def judged(
    profiles: pd.DataFrame, *, multi_batch: str = "strict", screen: object = ""
) -> pd.DataFrame:
    """Right (1) or wrong (0) by NSC and NSCB, and average precision, of each treatment.

    `screen` tells apart compounds of the same name in several screens. The index holds compound and
    concentration; NaN marks queries that were left out.
    """
    found = {
        "nsc": match_moa(profiles, multi_batch=multi_batch).neighbours.rename(
            columns={"correct": "value"}
        ),
        "nscb": match_moa(
            profiles, exclude_shared_batch=True, multi_batch=multi_batch
        ).neighbours.rename(columns={"correct": "value"}),
        "ap": average_precisions(profiles).rename(
            columns={
                "Metadata_Compound": "compound",
                "Metadata_Concentration": "concentration",
                "average_precision": "value",
            }
        ),
    }
    columns = [
        table.assign(compound=f"{screen} " + table["compound"].astype(str))
        .set_index(["compound", "concentration"])["value"]
        .astype(np.float64)
        .rename(measure)
        for measure, table in found.items()
    ]
    return pd.concat(columns, axis=1)


def lead_of(ours: pd.Series, theirs: pd.Series) -> str:
    """Mean difference in points, with a 95 % interval bootstrapped over compounds."""
    lead = ours - theirs
    clusters = lead.index.get_level_values("compound").to_numpy()
    low, high = clustered_interval(lead.to_numpy(), clusters)
    return f"{100 * lead.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def comparison(judgements: dict[str, list[pd.DataFrame]]) -> list[str]:
    """Lines of a table: each method, mean over its repetitions (each), and the first one's lead.

    `judgements` holds what :func:`judged` returns of each repetition, the method that leads first.
    """
    first = next(iter(judgements))

    def mean_of(name: str, measure: str) -> pd.Series:
        each = [table[measure].dropna() for table in judgements[name]]
        return pd.concat(each, axis=1).mean(axis=1)

    headings = (f"{measure} | lead of {first}" for measure in MEASURES.values())
    lines = [f"| | {' | '.join(headings)} |", "|---|" + "---|---|" * len(MEASURES)]
    for name, tables in judgements.items():
        cells = []
        for measure in MEASURES:
            mean = mean_of(name, measure)
            cells.append(f"{100 * mean.mean():.1f}")
            if len(tables) > 1:
                each = (f"{100 * table[measure].dropna().mean():.0f}" for table in tables)
                cells[-1] += f" ({', '.join(each)})"
            cells.append(lead_of(mean_of(first, measure), mean) if name != first else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
