"""Phenotypic activity: which treatments differ from the controls on their plates.

Each treated well ranks the other wells of its treatment and the controls on its own plate by cosine
similarity; where replicates come first the treatment has a phenotype. A treatment's activity is the
mean of its wells' average precisions, its p value that of random rankings, and its q value that of
Benjamini and Hochberg over all treatments. In copairs' words the positive pairs are those with the
same treatment, the negative ones a treated well and a control with the same plate.

With few wells and controls all rankings of a treatment are perfect by chance more often than such a
p value says, which takes random means *above* the treatment's alone: none is above a perfect one.
`p_perfect` has about how often that happens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import special

from wsdino.errors import option
from wsdino.evaluate.precision import (
    average_precisions,
    false_discovery_rates,
    normalised_precisions,
    p_values,
)
from wsdino.evaluate.wells import Part, Wells, batches_of, groups_of
from wsdino.tables.columns import COMPOUND, MOA, TREATMENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

# What a treatment's row has, beside its name and what other modules add.
COLUMNS = (
    "num_wells",
    "num_plates",
    "num_queries",
    "mean_average_precision",
    "mean_normalized_average_precision",
    "p_value",
    "corrected_p_value",
    "is_active",
    "p_perfect",
)
NULL_SIZE = 10_000
FDR = 0.05
_QUERIES_AT_ONCE = 1024


@dataclass(frozen=True)
class Queries:
    """What :func:`rank_against_controls` found for each well that was a query.

    Attributes
    ----------
    rows
        (q,) the wells.
    precision
        (q,) average precision.
    num_right, num_all
        (q,) other wells of the treatment; these and the controls on the plate.
    """

    rows: NDArray[np.intp]
    precision: NDArray[np.float64]
    num_right: NDArray[np.intp]
    num_all: NDArray[np.intp]

    def __add__(self, other: Queries) -> Queries:
        mine, theirs = vars(self), vars(other)
        return Queries(**{name: np.concatenate([mine[name], theirs[name]]) for name in mine})

    @property
    def perfect(self) -> NDArray[np.float64]:
        """(q,) probability that a random ranking of as many candidates is perfect."""
        chance: NDArray[np.float64] = 1 / special.binom(self.num_all, self.num_right)
        return chance


def rank_against_controls(part: Part) -> Queries:
    """Rank the replicates of each well asked among the controls on its plate.

    Parameters
    ----------
    part
        Wells, and which of them are asked.

    Returns
    -------
    Queries
        Without wells whose treatment has no other well, whose plate has no controls, or whose
        features are zero everywhere.
    """
    wells, usable = part.wells, part.wells.norms > 0
    controls = {
        int(wells.plate[rows[0]]): wells.unit(rows).T
        for rows in groups_of(wells.plate, np.flatnonzero(wells.is_control & usable))
    }
    groups = groups_of(wells.treatment, np.flatnonzero(part.asked & usable))
    found = [Queries(*np.empty((4, 0), dtype=np.intp))]
    for rows in batches_of(groups, rows_at_once=_QUERIES_AT_ONCE):
        num = rows.shape[1]
        if num < 2:
            continue
        replicates = wells.unit(rows.ravel()).reshape(*rows.shape, -1)
        for start in range(0, num, _QUERIES_AT_ONCE):
            block = np.arange(start, min(start + _QUERIES_AT_ONCE, num))
            own = replicates[:, block]
            others = block[:, None] != np.arange(num)
            right = (own @ replicates.transpose(0, 2, 1))[:, others].reshape(-1, num - 1)
            asked, own = rows[:, block].ravel(), own.reshape(-1, own.shape[-1])
            for here in groups_of(wells.plate[asked], np.arange(len(asked))):
                plate = int(wells.plate[asked[here[0]]])
                if plate in controls:
                    wrong = own[here] @ controls[plate]
                    precision = average_precisions(right[here], wrong)
                    counts = np.tile([num - 1, num - 1 + wrong.shape[1]], (len(here), 1)).T
                    found.append(Queries(asked[here], precision, *counts))
    queries = {
        name: np.concatenate([vars(each)[name] for each in found]) for name in vars(found[0])
    }
    order = np.argsort(queries["rows"])
    return Queries(**{name: values[order] for name, values in queries.items()})


def activity_table(
    wells: Wells, queries: Queries, *, null_size: int = NULL_SIZE, seed: int = 0, fdr: float = FDR
) -> pd.DataFrame:
    """Activity of each treatment.

    Parameters
    ----------
    wells
        n wells.
    queries
        What :func:`rank_against_controls` found in them.
    null_size, seed
        Random rankings behind the p values, and their seed.
    fdr
        A treatment is active if its q value is below.

    Returns
    -------
    DataFrame
        A row for each treatment that is no control, by compound and concentration:
        `Metadata_Compound`, `Metadata_Concentration` and, where the wells have it, `Metadata_MoA`;
        `num_wells`, `num_plates`, `num_queries`; `mean_average_precision`,
        `mean_normalized_average_precision`, `p_value`, `corrected_p_value` (named as in copairs;
        NaN without a query), `is_active`; `p_perfect`, the probability that all queries of the
        treatment are perfect by chance, with two of them (which ask for each other) taken for one
        random ranking.
    """
    treated = np.flatnonzero(~wells.is_control)
    groups = groups_of(wells.treatment, treated)
    first = np.array([rows[0] for rows in groups], dtype=np.intp)
    kept = [*TREATMENT, *([MOA] if MOA in wells.metadata else [])]
    table = wells.metadata[kept].take(first).reset_index(drop=True)
    if MOA in table:
        # As in profiles, what is known in one well is known in all.
        known = wells.metadata[MOA].iloc[treated].groupby(wells.treatment[treated], sort=True)
        table[MOA] = known.first().to_numpy()
    table["num_wells"] = [len(rows) for rows in groups]
    plates = pd.Series(wells.plate[treated]).groupby(wells.treatment[treated], sort=True)
    table["num_plates"] = plates.nunique().to_numpy()
    own = pd.DataFrame(
        {
            "treatment": wells.treatment[queries.rows],
            "mean_average_precision": queries.precision,
            "mean_normalized_average_precision": normalised_precisions(
                queries.precision, queries.num_right, queries.num_all
            ),
            "p_perfect": queries.perfect,
        }
    )
    grouped = own.groupby("treatment", sort=True)
    numbers = wells.treatment[first]
    table["num_queries"] = grouped.size().reindex(numbers, fill_value=0).to_numpy()
    for name in ("mean_average_precision", "mean_normalized_average_precision", "p_perfect"):
        table[name] = grouped[name].mean().reindex(numbers).to_numpy()
    of_treatment = groups_of(wells.treatment[queries.rows], np.arange(len(queries.rows)))
    p = p_values(
        queries.precision,
        queries.num_right,
        queries.num_all,
        of_treatment,
        null_size=null_size,
        seed=seed,
    )
    at = [int(wells.treatment[queries.rows[each[0]]]) for each in of_treatment]
    table["p_value"] = pd.Series(p, index=at, dtype=np.float64).reindex(numbers).to_numpy()
    # Two wells find each other first, or neither does: half of the queries are independent at best.
    table["p_perfect"] **= np.maximum(1, table["num_queries"] / 2)
    table["corrected_p_value"] = false_discovery_rates(table["p_value"].to_numpy())
    table["is_active"] = table["corrected_p_value"] < fdr
    ordered: pd.DataFrame = table[[*kept, *COLUMNS]].sort_values(list(TREATMENT), kind="stable")
    return ordered.reset_index(drop=True)


def why_not(table: pd.DataFrame, wells: Wells, *, fdr: float = FDR) -> list[str]:
    """Say for which treatments activity is not defined, and for which it means little.

    Parameters
    ----------
    table
        What :func:`activity_table` returned.
    wells
        The wells behind it.
    fdr
        As :func:`activity_table` was given it.

    Returns
    -------
    list of str
        One line for each reason.
    """
    notes = []
    if wells.num_without_compound:
        notes.append(f"left out: {wells.num_without_compound} rows without a compound")
    zero = int((wells.norms == 0).sum())
    if zero:
        notes.append(f"left out: {zero} wells whose features are zero everywhere")
    if not wells.is_control.any():
        notes.append(
            "activity is not defined: no well is a negative control (Metadata_Control); name one "
            f"by {option('--control NAME')}"
        )
        return notes
    single = table["num_wells"] < 2
    if single.any():
        notes.append(
            f"activity is not defined for {_some(table[single])}: a single well, so no replicate"
        )
    without = ~single & (table["num_queries"] == 0)
    if without.any():
        notes.append(
            f"activity is not defined for {_some(table[without])}: no control on their plates"
        )
    by_chance, num_active = float(table["p_perfect"].sum()), int(table["is_active"].sum())
    if num_active and by_chance > fdr * num_active:
        notes.append(
            f"so few wells and controls that up to {by_chance:.1f} of the {num_active} active "
            "treatments are to be expected by chance, which is more than their q values say"
        )
    return notes


def _some(rows: pd.DataFrame, most: int = 3) -> str:
    names = list(dict.fromkeys(rows[COMPOUND].astype(str)))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    count = f"{len(rows)} treatment{'s' * (len(rows) != 1)}"
    return f"{count} ({', '.join(names[:most])}{more})"
