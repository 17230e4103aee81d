"""NSC, NSCB and mAP with the query's compound left out of the fit.

A normalisation that was fitted with labels has seen which rows of a compound belong together, and
that compound is a query later: the number may flatter it. Here compounds are dealt out to folds;
for each fold the normalisation is fitted without its compounds, *all* rows are transformed by it,
treatments are profiled anew, and only the treatments of the compounds left out are asked. Every
treatment is asked once a deal, and deals are repeated with other seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.evaluate.intervals import average_precisions
from wsdino.evaluate.matching import match_moa
from wsdino.profile.aggregate import ATTRIBUTE, aggregate_treatments
from wsdino.profile.normalise import fit_normalisation
from wsdino.profile.rows import control_rows
from wsdino.tables.columns import BATCH, COMPOUND
from wsdino.tables.features import features_of, metadata_of, require_columns

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

NUM_FOLDS = 4
NUM_SEEDS = 5


@dataclass(frozen=True)
class HeldOut:
    """What :func:`held_out` found.

    Attributes
    ----------
    num_folds
        Folds of compounds in a deal.
    nsc, nscb
        Share of right queries in each deal; `nscb` is empty where there are no batches or no query.
    nsc_total, nscb_total
        Queries in each deal.
    map
        Mean average precision in each deal; empty where it is not defined.
    """

    num_folds: int
    nsc: tuple[float, ...]
    nscb: tuple[float, ...]
    map: tuple[float, ...]
    nsc_total: int
    nscb_total: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers for JSON.

        `num_folds`, `num_seeds`; for `nsc`, `nscb` and `map` the mean over deals (None without
        any), its standard deviation over deals as `_sd`, and each deal as `_each`; `_total` for
        the first two.
        """
        plain: dict[str, Any] = {"num_folds": self.num_folds, "num_seeds": len(self.nsc)}
        for name in ("nsc", "nscb", "map"):
            each = getattr(self, name)
            plain[name] = float(np.mean(each)) if each else None
            plain[f"{name}_sd"] = float(np.std(each)) if each else None
            plain[f"{name}_each"] = list(each)
        return plain | {"nsc_total": self.nsc_total, "nscb_total": self.nscb_total}


def held_out(
    table: pd.DataFrame,
    fit_transform: Callable[[NDArray[np.bool_]], NDArray[np.float64]],
    *,
    aggregation: str = "published",
    multi_batch: str = "strict",
    num_folds: int = NUM_FOLDS,
    num_seeds: int = NUM_SEEDS,
    first_seed: int = 0,
) -> HeldOut:
    """Score a supervised normalisation by compounds that it was not fitted on.

    Parameters
    ----------
    table
        Sites or wells: the metadata of n rows; features are not looked at.
    fit_transform
        Called with a mask (n,) of the rows that it may be fitted on: all but the fold's compounds
        (controls always stay). Returns (n, k) features of all rows.
    aggregation
        See :func:`wsdino.profile.aggregate.make_profiles`.
    multi_batch
        See :mod:`wsdino.evaluate.matching`.
    num_folds
        Folds of compounds, at least 2; fewer where there are fewer compounds.
    num_seeds, first_seed
        Deals of the compounds, with seeds from `first_seed` on.

    Returns
    -------
    HeldOut

    Raises
    ------
    TableError
        If a column is missing, there are fewer than two compounds, or an option is out of range.
    """
    require_columns(table, [COMPOUND], purpose="leaving compounds out")
    if num_folds < 2 or num_seeds < 1:
        msg = f"{num_folds} folds and {num_seeds} seeds; expected at least 2 folds and 1 seed"
        raise TableError(msg)
    # As text, so that the deal does not depend on how another tool stored the names.
    compound = table[COMPOUND].astype(str).where(~control_rows(table) & table[COMPOUND].notna())
    names = sorted(compound.dropna().unique())
    if len(names) < 2:
        msg = f"the table has {len(names)} compounds; leaving compounds out needs at least 2"
        raise TableError(msg)
    num_folds = min(num_folds, len(names))
    has_batch = BATCH in table and bool(table[BATCH].notna().any())
    found: dict[str, list[float]] = {"nsc": [], "nscb": [], "map": []}
    totals = {"nsc": 0, "nscb": 0}
    for seed in range(first_seed, first_seed + num_seeds):
        fold_of = deal(names, num_folds, seed)
        answers: dict[str, list[NDArray[np.float64]]] = {name: [] for name in found}
        for fold in range(num_folds):
            left_out = compound.map(fold_of).to_numpy() == fold
            profiles = _profiles(table, fit_transform(~left_out), aggregation)
            asked = {name for name in names if fold_of[name] == fold}
            for name, values in _answers(profiles, has_batch, multi_batch).items():
                mine = values.index.astype(str).isin(asked)
                answers[name].append(values[mine].to_numpy(dtype=np.float64))
        for name, parts in answers.items():
            every = np.concatenate(parts) if parts else np.empty(0)
            if len(every):
                found[name].append(float(every.mean()))
                totals[name] = len(every)
    return HeldOut(
        num_folds=num_folds,
        nsc=tuple(found["nsc"]),
        nscb=tuple(found["nscb"]),
        map=tuple(found["map"]),
        nsc_total=totals["nsc"],
        nscb_total=totals["nscb"],
    )


def held_out_of(
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
    """Score a named normalisation by compounds that it was not fitted on.

    All that a fit chooses, such as its regularisation, is chosen anew without the compounds.

    Parameters
    ----------
    table
        Metadata and features of sites or wells.
    normalisation, aggregation, multi_batch, **options
        See :func:`wsdino.evaluate.results.evaluate_sites`.
    num_folds, num_seeds, seed
        See :func:`held_out`; `seed` is its `first_seed`.

    Returns
    -------
    dict
        See :meth:`HeldOut.as_dict`; with `note` alone, which says why, where nothing can be fitted
        without some of the compounds, as where there are two in all.
    """

    def fit_transform(used: NDArray[np.bool_]) -> NDArray[np.float64]:
        fitted = fit_normalisation(table[used], method=normalisation, **options)
        return features_of(fitted.transform(table))

    try:
        found = held_out(
            table,
            fit_transform,
            aggregation=aggregation,
            multi_batch=multi_batch,
            num_folds=num_folds,
            num_seeds=num_seeds,
            first_seed=seed,
        )
    except TableError as error:
        return {"note": str(error)}
    return found.as_dict()


def deal(names: list[str], num_folds: int, seed: int) -> dict[str, int]:
    """Deal names out to folds at random, so that the folds differ by one in size at most."""
    dealt = np.random.default_rng(seed).permutation(len(names))
    return {names[position]: number % num_folds for number, position in enumerate(dealt)}


def _profiles(table: pd.DataFrame, features: NDArray[np.float64], aggregation: str) -> pd.DataFrame:
    columns = [f"emb_held_{position}" for position in range(features.shape[1])]
    matrix = pd.DataFrame(features, columns=columns, index=table.index)
    normalised = pd.concat([metadata_of(table), matrix], axis=1)
    profiles = aggregate_treatments(normalised, aggregation=aggregation)
    # They are profiles, whatever columns they have; what these average over has been said.
    profiles.attrs[ATTRIBUTE] = {}
    return profiles


def _answers(profiles: pd.DataFrame, has_batch: bool, multi_batch: str) -> dict[str, pd.Series]:
    """Return for each measure a value per query, indexed by its compound."""
    answers = {}
    for name, batches in (("nsc", False), ("nscb", True)):
        if has_batch or not batches:
            match = match_moa(profiles, exclude_shared_batch=batches, multi_batch=multi_batch)
            answers[name] = match.neighbours.set_index("compound")["correct"]
    precisions = average_precisions(profiles)
    answers["map"] = precisions.set_index(COMPOUND)["average_precision"]
    return answers
