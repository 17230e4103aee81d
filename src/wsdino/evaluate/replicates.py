"""Do replicates agree? Percent replicating, and their retrieval across plates. No controls needed.

Both take replicates on different plates only, because wells of one plate are alike anyway.

*Percent replicating*, as in copairs (`correlation_test`): the share of treatments whose replicates
correlate more, in the median over pairs, than the 95th percentile of medians over random pairs of
wells of different treatments on different plates. Such a median is over as many pairs as the median
treatment has wells that come first in a pair, at most :data:`MAX_PAIRS`. The two wells of a pair
lie at different positions of their plates or, as a null of its own, at the same one: replicates
that lie at one position on all plates share its effect, too.

*Retrieval*: each well ranks all treated wells on other plates by cosine similarity; right ones are
those of its treatment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.evaluate.intervals import clustered_interval
from wsdino.evaluate.precision import TIE, average_precision, expected_precision
from wsdino.evaluate.wells import Part, Wells, batches_of, groups_of
from wsdino.tables.columns import COMPOUND

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NUM_NULL = 1000
MAX_PAIRS = 50
# Of a treatment in more wells, such as a positive control, this many are drawn.
MAX_WELLS = 500
# With more treated wells, retrieval is among those of a sample of treatments.
MAX_RETRIEVED = 20_000
_ROWS_AT_ONCE = 512
_ROUNDS = 50


def replicate_correlations(
    part: Part, *, seed: int = 0
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.intp]]:
    """Median correlation of each treatment's wells on different plates.

    Parameters
    ----------
    part
        Wells, and which of them are asked.
    seed
        Of the draw of :data:`MAX_WELLS` wells where a treatment has more.

    Returns
    -------
    treatment : ndarray
        (t,) numbers of the treatments with wells on two plates.
    median : ndarray
        (t,) median of Pearson's correlation over all such pairs.
    num_first : ndarray
        (t,) wells that come first in a pair, by which copairs sizes its null.
    """
    wells, generator = part.wells, np.random.default_rng(seed)
    some = [
        rows
        if len(rows) <= MAX_WELLS
        else np.sort(generator.choice(rows, MAX_WELLS, replace=False))
        for rows in groups_of(wells.treatment, np.flatnonzero(part.asked))
    ]
    found: list[tuple[NDArray[Any], ...]] = [
        (np.empty(0, np.intp), np.empty(0), np.empty(0, np.intp))
    ]
    for rows in batches_of(some, rows_at_once=_ROWS_AT_ONCE):
        plates = wells.plate[rows]
        apart = np.triu(plates[:, :, None] != plates[:, None, :])
        scaled = _centred(wells, rows.ravel()).reshape(*rows.shape, -1)
        correlations = np.where(apart, scaled @ scaled.transpose(0, 2, 1), np.nan)
        median = _medians(correlations.reshape(len(rows), -1))
        known = np.isfinite(median)
        num_first = apart.any(axis=2).sum(axis=1)
        found.append((wells.treatment[rows[known, 0]], median[known], num_first[known]))
    treatment, median, num_first = (np.concatenate(each) for each in zip(*found, strict=True))
    order = np.argsort(treatment)
    return treatment[order], median[order], num_first[order]


def random_pairs(
    part: Part, *, num: int, same_position: bool, seed: int = 0
) -> NDArray[np.intp] | None:
    """Draw pairs of wells of different treatments on different plates.

    Parameters
    ----------
    part
        Wells, and which of them are drawn.
    num
        How many pairs.
    same_position
        Whether the two lie at the same position of their plates, or at different ones.
    seed
        Of the draw.

    Returns
    -------
    ndarray or None
        (num, 2) numbers of wells; None where there are no such pairs, or next to none.
    """
    wells, rows = part.wells, np.flatnonzero(part.asked)
    if len(rows) < 2:
        return None
    generator = np.random.default_rng(seed)
    order = rows[np.argsort(wells.position[rows], kind="stable")]
    _, start, count = np.unique(wells.position[order], return_index=True, return_counts=True)
    group = np.repeat(np.arange(len(start)), count)
    found: list[NDArray[np.intp]] = []
    num_found = 0
    for _ in range(_ROUNDS):
        one = generator.integers(len(order), size=2 * num)
        if same_position:
            two = start[group[one]] + generator.integers(count[group[one]])
        else:
            two = generator.integers(len(order), size=2 * num)
        first, second = order[one], order[two]
        fits = (
            (wells.treatment[first] != wells.treatment[second])
            & (wells.plate[first] != wells.plate[second])
            & ((wells.position[first] == wells.position[second]) == same_position)
        )
        found.append(np.stack([first, second], axis=1)[fits])
        num_found += int(fits.sum())
        if num_found >= num:
            return np.concatenate(found)[:num]
    return None


def null_correlations(
    wells: Wells, pairs: NDArray[np.intp], *, num_pairs: int
) -> NDArray[np.float64]:
    """Median correlations of random pairs, some at a time.

    Parameters
    ----------
    wells
        n wells.
    pairs
        (size * num_pairs, 2) what :func:`random_pairs` drew.
    num_pairs
        Pairs behind each median.

    Returns
    -------
    ndarray
        (size,) medians of Pearson's correlation.
    """
    correlations = [
        np.einsum("ij,ij->i", _centred(wells, part[:, 0]), _centred(wells, part[:, 1]))
        for part in np.array_split(pairs, max(1, len(pairs) // _ROWS_AT_ONCE))
    ]
    medians: NDArray[np.float64] = np.nanmedian(
        np.concatenate(correlations).reshape(-1, num_pairs), axis=1
    )
    return medians


def percent_replicating(
    parts: Sequence[Part], *, seed: int = 0
) -> tuple[dict[str, Any], dict[int, float]]:
    """Share of the treatments whose replicates correlate more than random wells do.

    Parameters
    ----------
    parts
        Wells and treatments asked; each part has thresholds of its own.
    seed
        Of the random pairs.

    Returns
    -------
    result : dict
        `num_treatments` with wells on two plates; for `other_position` and `same_position` the
        `threshold` (95th percentile of the null; the mean over the parts with such treatments),
        `num_above` and the `share` above, or None where one of these parts has no such pairs.
    correlations : dict
        Median correlation by the number of the treatment.
    """
    correlations: dict[int, float] = {}
    thresholds: dict[str, list[float]] = {"other_position": [], "same_position": []}
    above = dict.fromkeys(thresholds, 0)
    num_asked = 0
    for part in parts:
        treatment, median, num_first = replicate_correlations(part, seed=seed)
        correlations |= dict(zip(treatment.tolist(), median.tolist(), strict=True))
        if not len(treatment):
            continue
        num_asked += 1
        num_pairs = min(int(np.median(num_first)), MAX_PAIRS)
        for name, own in thresholds.items():
            same = name == "same_position"
            pairs = random_pairs(part, num=NUM_NULL * num_pairs, same_position=same, seed=seed)
            if pairs is not None:
                null = null_correlations(part.wells, pairs, num_pairs=num_pairs)
                own.append(float(np.nanpercentile(null, 95)))
                above[name] += int((median > own[-1]).sum())
    num = len(correlations)
    result: dict[str, Any] = {"num_treatments": num}
    for name, found in thresholds.items():
        result[name] = None
        if found and len(found) == num_asked:
            shares = {"num_above": above[name], "share": above[name] / num}
            result[name] = {"threshold": float(np.mean(found)), **shares}
    return result, correlations


@dataclass(frozen=True)
class Retrieved:
    """What :func:`retrieve` found for each of q wells.

    Attributes
    ----------
    compound
        (q,) its compound.
    precision, by_chance
        (q,) average precision, and its expectation for random rankings.
    first, first_by_chance
        (q,) whether the most similar candidate is right, and how probable that is by chance.
    """

    compound: NDArray[np.object_]
    precision: NDArray[np.float64]
    by_chance: NDArray[np.float64]
    first: NDArray[np.float64]
    first_by_chance: NDArray[np.float64]


def retrieve(part: Part, rows: NDArray[np.intp]) -> Retrieved:
    """Let each well asked rank all others that lie on other plates.

    Parameters
    ----------
    part
        Wells, and which of them are asked.
    rows
        (k,) the wells that take part, no controls, ascending.

    Returns
    -------
    Retrieved
        Of the wells whose treatment has a well on another plate, beside those of others.
    """
    wells = part.wells
    plate, treatment, features = wells.plate[rows], wells.treatment[rows], wells.unit(rows)
    of_treatment = {
        int(treatment[own[0]]): own for own in groups_of(treatment, np.arange(len(rows)))
    }
    num_on = np.bincount(plate)
    queries: list[int] = []
    numbers: list[tuple[float, float, float, float]] = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = np.arange(start, min(start + _ROWS_AT_ONCE, len(rows)))
        block = block[part.asked[rows[block]]]
        for row, similar in zip(block, features[block] @ features.T, strict=True):
            own = of_treatment[int(treatment[row])]
            right = similar[own[plate[own] != plate[row]]]
            num_wrong = len(rows) - num_on[plate[row]] - len(right)
            if not len(right) or not num_wrong:
                continue
            # Only what is as similar as the least similar right one has a say in the ranks.
            close = np.flatnonzero(similar >= right.min() - TIE)
            close = close[(plate[close] != plate[row]) & (treatment[close] != treatment[row])]
            near = np.sort(similar[close])
            num = len(right) + num_wrong
            is_first = not len(near) or right.max() > near[-1] + TIE
            queries.append(int(rows[row]))
            numbers.append(
                (
                    average_precision(right, near),
                    expected_precision(len(right), num),
                    float(is_first),
                    len(right) / num,
                )
            )
    compound = wells.metadata[COMPOUND].to_numpy(dtype=object)[queries]
    return Retrieved(compound, *np.array(numbers, dtype=np.float64).reshape(-1, 4).T)


def retrieval_across_plates(parts: Sequence[Part], *, seed: int = 0) -> dict[str, Any] | None:
    """How well a treatment's wells are found on other plates, among those of all treatments.

    Parameters
    ----------
    parts
        Wells and treatments asked.
    seed
        Of the sample and of the bootstrap.

    Returns
    -------
    dict or None
        `map`, the mean average precision over `num_queries` wells; `map_ci`, its interval at 95 %
        (bootstrap over compounds; None with a single one); `map_by_chance`; `first`, the share of
        wells whose most similar one is right, and `first_by_chance`; `num_wells` that took part;
        `sample`, in words, where not all did. None where no treatment lies on two plates.
    """
    wells = parts[0].wells
    usable = ~wells.is_control
    for part in parts:
        usable &= part.wells.norms > 0
    rows, sample = _sampled(wells, np.flatnonzero(usable), seed)
    found = [vars(retrieve(part, rows)) for part in parts]
    joined = {name: np.concatenate([each[name] for each in found]) for name in found[0]}
    if not len(joined["precision"]):
        return None
    clusters = joined["compound"].astype(str)
    interval = None
    if len(np.unique(clusters)) > 1:
        interval = clustered_interval(joined["precision"], clusters, seed=seed)
    return {
        "map": float(joined["precision"].mean()),
        "map_ci": interval,
        "map_by_chance": float(joined["by_chance"].mean()),
        "first": float(joined["first"].mean()),
        "first_by_chance": float(joined["first_by_chance"].mean()),
        "num_queries": len(clusters),
        "num_wells": len(rows),
        "sample": sample,
    }


def _centred(wells: Wells, rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """Features of some wells, centred and scaled so that products are correlations; else NaN."""
    features = wells.features[rows].astype(np.float64)
    features -= features.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, np.nan)


def _medians(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median (n,) of what isn't NaN in each row (n, m); NaN where all is."""
    ordered = np.sort(values, axis=1)
    num = np.isfinite(ordered).sum(axis=1, keepdims=True)
    middle = np.clip(np.concatenate([(num - 1) // 2, num // 2], axis=1), 0, None)
    medians: NDArray[np.float64] = np.take_along_axis(ordered, middle, axis=1).mean(axis=1)
    return medians


def _sampled(
    wells: Wells, rows: NDArray[np.intp], seed: int
) -> tuple[NDArray[np.intp], str | None]:
    """Take whole treatments at random until there are enough wells."""
    if len(rows) <= MAX_RETRIEVED:
        return rows, None
    groups = groups_of(wells.treatment, rows)
    order = np.random.default_rng(seed).permutation(len(groups))
    sizes = np.cumsum([len(groups[each]) for each in order])
    taken = order[: max(1, int(np.searchsorted(sizes, MAX_RETRIEVED, side="right")))]
    kept = np.sort(np.concatenate([groups[each] for each in taken]))
    words = (
        f"{len(taken):,} of {len(groups):,} treatments, {len(kept):,} of {len(rows):,} wells, "
        f"drawn with seed {seed}"
    )
    return kept, words
