"""Average precision of retrieval, and what it is by chance, as copairs defines them.

Kalinin et al. 2025, doi:10.1038/s41467-025-60306-2; the package copairs computes the same, which
tests check to 1e-6. Two things differ. Equal similarities count against the query here (copairs
ranks its right candidates first), so that constant features reach nothing. And a query without any
wrong candidate is left out; copairs gives it an average precision of 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import special, stats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Similarities that differ by less are equal: rounding must not decide.
TIE = 1e-12
# The same of average precisions, of which the random ones are float32.
_TIE_OF_MEANS = 1e-6
_CELLS_AT_ONCE = 4_000_000
_QUERIES_AT_ONCE = 1024


def average_precision(right: NDArray[np.floating], wrong: NDArray[np.floating]) -> float:
    """Average precision of one query.

    Parameters
    ----------
    right
        (m,) similarities of the right candidates, at least one.
    wrong
        (k,) similarities of the wrong ones, ascending.

    Returns
    -------
    float
        Mean, over the right candidates, of the share of right ones down to each.
    """
    descending = np.sort(right)[::-1]
    above = len(wrong) - np.searchsorted(wrong, descending - TIE)
    down_to = np.arange(1, len(descending) + 1)
    return float((down_to / (down_to + above)).mean())


def average_precisions(
    right: NDArray[np.floating], wrong: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Average precision of queries with as many candidates each; see :func:`average_precision`.

    Parameters
    ----------
    right
        (q, m) similarities of the right candidates, at least one.
    wrong
        (q, k) similarities of the wrong ones; both in any order.

    Returns
    -------
    ndarray
        (q,) float64.
    """
    num = right.shape[1]
    # Of equal ones the right come first in the joint order, so that what is below is counted.
    order = np.argsort(np.concatenate([right - TIE, wrong], axis=1), axis=1, kind="stable")
    places = np.nonzero(order < num)[1].reshape(right.shape)
    below = places - np.arange(num)
    above = (wrong.shape[1] - below)[:, ::-1]
    down_to = np.arange(1, num + 1)
    precisions: NDArray[np.float64] = (down_to / (down_to + above)).mean(axis=1)
    return precisions


def expected_precision(num_right: int, num_all: int) -> float:
    """Mean average precision of random rankings.

    Parameters
    ----------
    num_right, num_all
        Right candidates, and candidates in all; at least one each.

    Returns
    -------
    float
        Exact: with L = num_all, M = num_right and H the L-th harmonic number,
        ((M - 1) / (L - 1) (L - H) + H) / L.
    """
    if num_right == num_all:
        return 1.0
    harmonic = float(special.digamma(num_all + 1) + np.euler_gamma)
    share = (num_right - 1) / (num_all - 1)
    return (share * (num_all - harmonic) + harmonic) / num_all


def normalised_precisions(
    precisions: NDArray[np.float64], num_right: NDArray[np.intp], num_all: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Average precisions on a scale where chance is 0 and perfect 1.

    Parameters
    ----------
    precisions, num_right, num_all
        (q,) average precision, right candidates and all candidates of each query.

    Returns
    -------
    ndarray
        (q,), at least -1.
    """
    pairs, which = np.unique(np.stack([num_right, num_all], axis=1), axis=0, return_inverse=True)
    chance = np.array([expected_precision(int(m), int(n)) for m, n in pairs])[which.reshape(-1)]
    scaled: NDArray[np.float64] = (precisions - chance) / np.maximum(1 - chance, 1e-10)
    return np.clip(scaled, -1.0, 1.0)


def random_precisions(num_right: int, num_all: int, *, size: int, seed: int) -> NDArray[np.float32]:
    """Average precisions of random rankings; the draws are copairs' for the same seed.

    Parameters
    ----------
    num_right, num_all
        Right candidates, and candidates in all.
    size, seed
        Number of rankings, and their seed.

    Returns
    -------
    ndarray
        (size,) float32.
    """
    generator = np.random.default_rng(seed)
    places = np.arange(num_all, dtype=np.uint16 if num_all < 2**16 else np.uint32)
    down_to: NDArray[np.float32] = np.arange(1, num_right + 1, dtype=np.float32)
    drawn = np.empty(size, dtype=np.float32)
    rows_at_once = max(1, _CELLS_AT_ONCE // num_all)
    for start in range(0, size, rows_at_once):
        rankings = np.tile(places, (min(rows_at_once, size - start), 1))
        generator.permuted(rankings, axis=1, out=rankings)
        right: NDArray[Any] = np.sort(rankings[:, :num_right], axis=1)
        drawn[start : start + len(right)] = (down_to / (right + 1)).sum(axis=1) / num_right
    return drawn


def p_values(
    precisions: NDArray[np.float64],
    num_right: NDArray[np.intp],
    num_all: NDArray[np.intp],
    groups: Sequence[NDArray[np.intp]],
    *,
    null_size: int,
    seed: int,
) -> NDArray[np.float64]:
    """P value of the mean average precision of each group of queries.

    The null is that of copairs: for each query a random ranking of as many candidates, the same one
    for all queries of a group with equal numbers.

    Parameters
    ----------
    precisions, num_right, num_all
        (q,) average precision, right candidates and all candidates of each query.
    groups
        The queries of each group.
    null_size, seed
        Random rankings for each pair of numbers, and their seed.

    Returns
    -------
    ndarray
        (groups,) (1 + random means above the group's) / (1 + null_size); equal ones aren't above.
    """
    if not len(precisions):
        return np.empty(0)
    pairs, which = np.unique(np.stack([num_right, num_all], axis=1), axis=0, return_inverse=True)
    which = which.reshape(-1)
    seeds = np.random.default_rng(seed).integers(8096, size=len(pairs))
    nulls = np.stack(
        [
            random_precisions(int(m), int(n), size=null_size, seed=int(own))
            for (m, n), own in zip(pairs, seeds, strict=True)
        ]
    )
    # Groups whose queries have the same numbers share a null, which most groups of a screen do.
    alike: dict[bytes, list[int]] = {}
    for number, queries in enumerate(groups):
        alike.setdefault(np.sort(which[queries]).tobytes(), []).append(number)
    found = np.empty(len(groups))
    for numbers in alike.values():
        drawn = which[groups[numbers[0]]]
        if len(drawn) <= _QUERIES_AT_ONCE:
            null = nulls[drawn].mean(axis=0, dtype=np.float64)
        else:
            null = np.bincount(drawn, minlength=len(pairs)) @ nulls / len(drawn)
        null.sort()
        means = np.array([precisions[groups[number]].mean() for number in numbers])
        num_above = null_size - np.searchsorted(null, means + _TIE_OF_MEANS, side="right")
        found[numbers] = (1 + num_above) / (1 + null_size)
    return found


def false_discovery_rates(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Benjamini and Hochberg's q values.

    Parameters
    ----------
    p
        (n,) p values; NaN where there was no test.

    Returns
    -------
    ndarray
        (n,); NaN where there was no test.
    """
    q = np.full(len(p), np.nan)
    tested = np.isfinite(p)
    if tested.any():
        q[tested] = stats.false_discovery_control(p[tested], method="bh")
    return q
