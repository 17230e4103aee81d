"""What a normalisation that uses weak labels is worth for compounds that it was not fitted on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.evaluate.matching import match_moa
from wsdino.profile.aggregate import aggregate_treatments
from wsdino.profile.normalise import fit_normalisation
from wsdino.profile.rows import control_rows
from wsdino.tables.columns import BATCH, COMPOUND

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

NUM_FOLDS = 4
NUM_SEEDS = 3


def held_out(
    table: pd.DataFrame,
    *,
    normalisation: str,
    aggregation: str = "published",
    multi_batch: str = "strict",
    num_folds: int = NUM_FOLDS,
    num_seeds: int = NUM_SEEDS,
    seed: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """NSC and NSCB with the query's compound left out of the fit of the normalisation.

    The compounds are dealt into folds. For each fold the normalisation is fitted on the rows of all
    other compounds and on the controls, all rows are transformed and profiled, and the treatments
    of the fold are the queries; their neighbours are looked for among all, as ever.

    Parameters
    ----------
    table
        Metadata and features of sites or wells.
    normalisation, aggregation, multi_batch, **options
        See :func:`wsdino.evaluate.results.evaluate_sites`.
    num_folds
        Number of folds; at most one for each compound.
    num_seeds
        Number of times that the compounds are dealt.
    seed
        Seed of the dealing.

    Returns
    -------
    dict
        `num_folds`, `num_seeds`, and for each of `nsc` and `nscb` the mean fraction over the seeds
        (None without queries), `_correct` (right queries for each seed) and `_total`.

    Raises
    ------
    TableError
        As :func:`wsdino.profile.normalise.fit_normalisation` does, such as where too few labels are
        left in a fit.
    """
    has_batch = BATCH in table and bool(table[BATCH].notna().any())
    measures = {"nsc": False} | ({"nscb": True} if has_batch else {})
    correct: dict[str, list[int]] = {"nsc": [], "nscb": []}
    total = {"nsc": 0, "nscb": 0}
    treated = ~control_rows(table) & table[COMPOUND].notna().to_numpy()
    compounds = np.unique(table[COMPOUND].to_numpy(dtype=object)[treated])
    num_folds = min(num_folds, len(compounds))
    for repeat in range(num_seeds):
        order = np.random.default_rng([seed, repeat]).permutation(len(compounds))
        right, asked = dict.fromkeys(measures, 0), dict.fromkeys(measures, 0)
        for fold in range(num_folds):
            out = compounds[order[fold::num_folds]]
            profiles = _profiles_without(
                table, treated & table[COMPOUND].isin(out).to_numpy(),
                normalisation=normalisation, aggregation=aggregation, **options,
            )  # fmt: skip
            for name, exclude in measures.items():
                found = match_moa(profiles, exclude_shared_batch=exclude, multi_batch=multi_batch)
                own = found.neighbours[found.neighbours["compound"].isin(out)]
                right[name] += int(own["correct"].sum())
                asked[name] += len(own)
        for name in measures:
            correct[name].append(right[name])
            total[name] = asked[name]
    result: dict[str, Any] = {"num_folds": num_folds, "num_seeds": num_seeds}
    for name, per_seed in correct.items():
        mean = float(np.mean(per_seed)) / total[name] if total[name] else None
        result |= {name: mean, f"{name}_correct": per_seed, f"{name}_total": total[name]}
    return result


def _profiles_without(
    table: pd.DataFrame,
    left_out: NDArray[np.bool_],
    *,
    normalisation: str,
    aggregation: str,
    **options: Any,
) -> pd.DataFrame:
    """Profile all treatments with a normalisation that some rows took no part in."""
    fitted = fit_normalisation(table[~left_out], method=normalisation, **options)
    return aggregate_treatments(fitted.transform(table), aggregation=aggregation)
