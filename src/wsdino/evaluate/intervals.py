"""How sure the numbers are: intervals, a permutation null, mean average precision."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from wsdino.errors import TableError
from wsdino.evaluate.matching import Gallery, annotated, make_gallery, nearest
from wsdino.tables.columns import COMPOUND, CONCENTRATION, MOA
from wsdino.tables.features import features_of, metadata_of, require_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class PermutationNull:
    """Accuracy by chance: MoAs shuffled over compounds; see :func:`permutation_null`.

    Attributes
    ----------
    num_permutations, seed
        As asked for.
    mean, p95
        Mean and 95th percentile of the accuracy (fractions).
    p_value
        `(1 + permutations at least as accurate as the truth) / (1 + permutations)`.
    """

    num_permutations: int
    seed: int
    mean: float
    p95: float
    p_value: float

    def as_dict(self) -> dict[str, float]:
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


def permutation_null(
    profiles: pd.DataFrame,
    *,
    exclude_shared_batch: bool = False,
    multi_batch: str = "strict",
    num_permutations: int = 1000,
    seed: int = 0,
) -> PermutationNull | None:
    """NSC or NSCB when the compounds' MoAs are shuffled.

    Whole compounds are shuffled, not treatments, so that the doses of a compound stay together as
    they do in truth. The rule that leaves out queries is applied anew to each permutation.

    Parameters
    ----------
    profiles, exclude_shared_batch, multi_batch
        See :func:`wsdino.evaluate.matching.match_moa`.
    num_permutations
        Number of shuffles.
    seed
        Of the shuffles.

    Returns
    -------
    PermutationNull, or None
        None where the truth has no query.

    Raises
    ------
    TableError
        As :func:`wsdino.evaluate.matching.match_moa` does, or if `num_permutations` is below 1.
    """
    if num_permutations < 1:
        msg = f"number of permutations is {num_permutations}; expected at least 1"
        raise TableError(msg)
    gallery = make_gallery(
        profiles, exclude_shared_batch=exclude_shared_batch, multi_batch=multi_batch
    )
    _, moa = np.unique(gallery.moa.astype(str), return_inverse=True)
    truth = _accuracy(gallery, moa)
    if truth is None:
        return None
    _, first, compound = np.unique(
        gallery.compound.astype(str), return_index=True, return_inverse=True
    )
    of_compound = moa[first]
    generator = np.random.default_rng(seed)
    shuffled = [
        _accuracy(gallery, generator.permutation(of_compound)[compound])
        for _ in range(num_permutations)
    ]
    # Without a query nothing was right either.
    accuracies = np.array([0.0 if accuracy is None else accuracy for accuracy in shuffled])
    return PermutationNull(
        num_permutations=num_permutations,
        seed=seed,
        mean=float(accuracies.mean()),
        p95=float(np.percentile(accuracies, 95)),
        p_value=float((1 + (accuracies >= truth).sum()) / (1 + num_permutations)),
    )


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
    drawn = np.random.default_rng(seed).integers(len(sizes), size=(num_resamples, len(sizes)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(low), float(high)


def average_precisions(profiles: pd.DataFrame) -> pd.DataFrame:
    """Average precision of finding treatments of the same MoA and another compound.

    Each annotated treatment ranks all those of other compounds by cosine similarity; those of its
    MoA are the right ones. Treatments whose MoA no other compound has are left out. Computed by
    copairs (Kalinin et al. 2025, doi:10.1038/s41467-025-60306-2).

    Parameters
    ----------
    profiles
        One row per treatment, see :func:`wsdino.evaluate.matching.match_moa`.

    Returns
    -------
    DataFrame
        A row per treatment that counts: the metadata that `profiles` has of `Metadata_Compound`,
        `Metadata_Concentration` and `Metadata_MoA`, and `average_precision`; empty where no MoA has
        two compounds.

    Raises
    ------
    TableError
        As :func:`wsdino.evaluate.matching.match_moa` does.
    """
    from copairs.map import average_precision

    require_columns(profiles, [COMPOUND, MOA], purpose="mAP")
    rows = annotated(profiles)
    kept = [name for name in (COMPOUND, CONCENTRATION, MOA) if name in rows]
    num_compounds = rows.groupby(MOA)[COMPOUND].nunique()
    if num_compounds.max() < 2:
        return rows[kept].iloc[:0].assign(average_precision=pd.Series(dtype=np.float64))
    if len(num_compounds) == 1:
        return rows[kept].assign(average_precision=1.0)
    scores = average_precision(
        metadata_of(rows)[kept],
        features_of(rows),
        pos_sameby=[MOA],
        pos_diffby=[COMPOUND],
        neg_sameby=[],
        neg_diffby=[MOA, COMPOUND],
        progress_bar=False,
    )
    scores = scores[(scores["n_pos_pairs"] > 0) & scores["average_precision"].notna()]
    found: pd.DataFrame = scores[[*kept, "average_precision"]]
    return found


def mean_average_precision(profiles: pd.DataFrame) -> tuple[float | None, dict[str, float]]:
    """Mean of :func:`average_precisions`.

    Returns
    -------
    map : float or None
        Mean over the treatments; None where no MoA has two compounds.
    per_moa : dict
        Mean over the treatments of each MoA.
    """
    scores = average_precisions(profiles)
    if scores.empty:
        return None, {}
    per_moa = scores.groupby(MOA)["average_precision"].mean()
    return float(scores["average_precision"].mean()), {
        str(moa): float(value) for moa, value in per_moa.items()
    }


def _accuracy(gallery: Gallery, moa: NDArray[np.intp]) -> float | None:
    queries, neighbours = nearest(gallery.similarity, gallery.admissible, moa)
    if len(queries) == 0:
        return None
    return float((moa[queries] == moa[neighbours]).mean())
