"""Uncertainty: confidence intervals and permutation nulls; mean average precision."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

from wsdino.errors import TableError
from wsdino.evaluate.gallery import Gallery, make_gallery
from wsdino.evaluate.ranking import rank
from wsdino.tables.columns import COMPOUND, CONCENTRATION, MOA

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


_DRAWN_AT_ONCE = 2_000_000
# With more treatments, chance is that of a sample of compounds: time and memory grow with the
# square of the treatments.
MAX_SHUFFLED = 1000


@dataclass(frozen=True)
class PermutationNull:
    """A measure by chance: MoAs shuffled over compounds; see :func:`permutation_nulls`.

    Attributes
    ----------
    num_permutations, seed
        As asked for.
    mean, p95
        Mean and 95th percentile of the measure (fractions).
    p_value
        `(1 + permutations at least as good as the truth) / (1 + permutations)`.
    sample
        Which treatments it was taken on, in words, where not on all.
    """

    num_permutations: int
    seed: int
    mean: float
    p95: float
    p_value: float
    sample: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dict."""
        return asdict(self)


def wilson_interval(
    num_correct: int, num_total: int, *, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Wilson's score interval of a proportion.

    Parameters
    ----------
    num_correct, num_total
        Right queries and all queries.
    confidence
        Between 0 and 1.

    Returns
    -------
    tuple of float, or None
        Lower and upper bound as fractions; None without queries.

    Notes
    -----
    The queries of one compound are not independent, so the true interval is somewhat wider.
    """
    if num_total == 0:
        return None
    interval = stats.binomtest(num_correct, num_total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def permutation_nulls(
    gallery: Gallery, *, num_permutations: int = 1000, seed: int = 0
) -> dict[str, PermutationNull | None]:
    """Accuracy and mean average precision when the compounds' MoAs are shuffled.

    Whole compounds are shuffled, not treatments, so that the doses of a compound stay together as
    they do in truth. Of more than :data:`MAX_SHUFFLED` treatments those of randomly drawn compounds
    are taken, for the truth that p refers to as well. The rule that decides on queries and gallery
    is applied anew to each permutation. Both measures are taken on the same permutations.

    Parameters
    ----------
    gallery
        See :func:`wsdino.evaluate.matching.make_gallery`.
    num_permutations, seed
        Number of shuffles, and their seed.

    Returns
    -------
    dict
        `accuracy` (NSC or NSCB, as the gallery is) and `map`; None where the truth has no query.

    Raises
    ------
    TableError
        If `num_permutations` is below 1.
    """
    if num_permutations < 1:
        msg = f"number of permutations is {num_permutations}; expected at least 1"
        raise TableError(msg)
    gallery, sample = _sampled(gallery, seed)
    moa, every = gallery.moa_code, slice(None)
    ranking = rank(gallery.similarity(every), gallery.admissible(every))
    truth = ranking.scores(moa[None])
    if not truth.num_queries[0]:
        return {"accuracy": None, "map": None}
    compound = gallery.compound_code
    first = np.unique(compound, return_index=True)[1]
    generator = np.random.default_rng(seed)
    shuffled = np.stack(
        [generator.permutation(moa[first])[compound] for _ in range(num_permutations)]
    )
    chance = ranking.scores(shuffled)

    def null(values: NDArray[np.float64], true: float) -> PermutationNull:
        # A sum of the same numbers in another order may differ in the last bits.
        at_least = int((values >= true - 1e-12).sum())
        return PermutationNull(
            num_permutations=num_permutations,
            seed=seed,
            mean=float(values.mean()),
            p95=float(np.percentile(values, 95)),
            p_value=(1 + at_least) / (1 + num_permutations),
            sample=sample,
        )

    return {
        "accuracy": null(chance.accuracy, truth.accuracy[0]),
        "map": null(chance.mean_precision, truth.mean_precision[0]),
    }


def clustered_interval(
    values: NDArray[np.floating],
    clusters: NDArray[np.generic],
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Bootstrap interval of a mean whose values come in clusters that belong together.

    Whole clusters are drawn with replacement (Field and Welsh 2007, doi
    10.1111/j.1467-9868.2007.00593.x). For the difference of two methods on the same queries give
    each query's difference, and its compound as the cluster: doses of a compound are not
    independent.

    Parameters
    ----------
    values
        (n,), for example 1 or 0 for each query, or a difference.
    clusters
        (n,): which cluster each belongs to.
    confidence
        Coverage of the interval (percentiles).
    num_resamples, seed
        Of the bootstrap.

    Returns
    -------
    low, high
        Bounds of the mean.

    Raises
    ------
    TableError
        If there are fewer than two clusters.
    """
    _, of = np.unique(clusters, return_inverse=True)
    sizes = np.bincount(of)
    if len(sizes) < 2:
        raise TableError(f"a clustered interval needs at least two clusters; found {len(sizes)}")
    sums = np.bincount(of, weights=np.asarray(values, dtype=np.float64))
    generator, means = np.random.default_rng(seed), []
    rows_at_once = max(1, _DRAWN_AT_ONCE // len(sizes))
    for start in range(0, num_resamples, rows_at_once):
        num = min(rows_at_once, num_resamples - start)
        drawn = generator.integers(len(sizes), size=(num, len(sizes)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(np.concatenate(means), [tail, 100 - tail])
    return float(low), float(high)


def average_precisions(profiles: pd.DataFrame) -> pd.DataFrame:
    """Average precision of finding treatments of the same MoA and another compound.

    Queries and gallery are those of NSC (:mod:`wsdino.evaluate.matching`): each query ranks the
    gallery's treatments of other compounds by cosine similarity, equal ones by name; those of its
    MoA are the right ones. Where every MoA has two compounds this is what copairs computes (Kalinin
    et al. 2025, doi:10.1038/s41467-025-60306-2), apart from ties.

    Parameters
    ----------
    profiles
        One row per treatment, see :func:`wsdino.evaluate.matching.match_moa`.

    Returns
    -------
    DataFrame
        A row per query: the metadata that `profiles` has of `Metadata_Compound`,
        `Metadata_Concentration` and `Metadata_MoA`, and `average_precision`; empty where no MoA has
        two compounds.

    Raises
    ------
    TableError
        As :func:`wsdino.evaluate.matching.match_moa` does.
    """
    rows = precisions_of(make_gallery(profiles, purpose="mAP"))
    return rows if CONCENTRATION in profiles else rows.drop(columns=CONCENTRATION)


def precisions_of(gallery: Gallery) -> pd.DataFrame:
    """Average precision of each query of a gallery; see :func:`average_precisions`."""
    found = [np.zeros(0)]
    for block in gallery.blocks():
        asked = gallery.is_query[block]
        counted = gallery.admissible(block)[asked] & gallery.is_in_gallery
        right = gallery.moa_code[block][asked, None] == gallery.moa_code[None, :]
        order = np.where(counted, -gallery.similarity(block)[asked], np.inf)
        order = order.argsort(axis=1, kind="stable")
        counted, right = (np.take_along_axis(of, order, axis=1) for of in (counted, right))
        right &= counted
        shares = right.cumsum(axis=1) / np.maximum(counted.cumsum(axis=1), 1)
        found.append((shares * right).sum(axis=1) / right.sum(axis=1))
    rows: pd.DataFrame = gallery.metadata[[COMPOUND, CONCENTRATION, MOA]]
    rows = rows.take(np.flatnonzero(gallery.is_query))
    return rows.assign(average_precision=np.concatenate(found)).reset_index(drop=True)


def mean_average_precision(profiles: pd.DataFrame) -> tuple[float | None, dict[str, float]]:
    """Mean of :func:`average_precisions`.

    Returns
    -------
    map : float or None
        Mean over the treatments; None where no MoA has two compounds.
    per_moa : dict
        Mean over the treatments of each MoA.
    """
    return mean_of_precisions(average_precisions(profiles))


def mean_of_precisions(scores: pd.DataFrame) -> tuple[float | None, dict[str, float]]:
    """Mean of what :func:`average_precisions` returns; see :func:`mean_average_precision`."""
    if scores.empty:
        return None, {}
    per_moa = scores.groupby(MOA)["average_precision"].mean()
    return float(scores["average_precision"].mean()), {
        str(moa): float(value) for moa, value in per_moa.items()
    }


def _sampled(gallery: Gallery, seed: int) -> tuple[Gallery, str | None]:
    """Take whole compounds at random until there are enough treatments."""
    if len(gallery) <= MAX_SHUFFLED:
        return gallery, None
    sizes = np.bincount(gallery.compound_code)
    order = np.random.default_rng(seed).permutation(len(sizes))
    num = max(2, int(np.searchsorted(sizes[order].cumsum(), MAX_SHUFFLED, side="right")))
    taken = gallery.take(np.flatnonzero(np.isin(gallery.compound_code, order[:num])))
    words = (
        f"{len(taken):,} of {len(gallery):,} treatments ({num:,} of {len(sizes):,} compounds, "
        f"drawn with seed {seed})"
    )
    return taken, words
