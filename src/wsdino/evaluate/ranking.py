"""Ranked candidates: what a labelling of the treatments scores, for many labellings at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Comparisons of labels in memory at once.
_CELLS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Scores:
    """What :meth:`Ranking.scores` found for each of P labellings.

    Attributes
    ----------
    num_queries
        (P,) rows with a candidate of the same label.
    accuracy
        (P,) fraction of queries whose first candidate in the gallery has the same label; 0 without
        queries.
    mean_precision
        (P,) mean of the queries' average precisions; 0 without queries.
    """

    num_queries: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    mean_precision: NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """Each row's candidates, the most similar first; see :func:`rank`.

    Attributes
    ----------
    order
        (n, n) rows, those that are no candidates at the end.
    is_candidate
        (n, n) bool: whether the row at that rank is a candidate.
    """

    order: NDArray[np.intp]
    is_candidate: NDArray[np.bool_]

    def scores(self, labels: NDArray[np.int32]) -> Scores:
        """Score labellings; the rule on queries and gallery is applied to each anew.

        Parameters
        ----------
        labels
            (P, n) labels, numbered from 0.

        Returns
        -------
        Scores
        """
        at_once = max(1, _CELLS_AT_ONCE // self.order.size)
        parts = [
            self._scores(labels[start : start + at_once])
            for start in range(0, len(labels), at_once)
        ]
        return Scores(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def _scores(
        self, labels: NDArray[np.int32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        num, n = labels.shape
        right, counted = self._right_and_counted(labels)
        is_query = right.any(axis=2)
        num_queries = is_query.sum(axis=1)
        first = np.broadcast_to(counted, right.shape).argmax(axis=2)
        hit = np.take_along_axis(right, first[:, :, None], axis=2)[:, :, 0]
        rows, precisions = _precisions(right, counted)
        sums = np.bincount(rows // n, weights=precisions, minlength=num)
        divisor = np.maximum(num_queries, 1)
        return num_queries, (hit & is_query).sum(axis=1) / divisor, sums / divisor

    def _right_and_counted(
        self, labels: NDArray[np.int32]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return (P, n, n) at each rank: a candidate of the same label; one in the gallery."""
        right = (labels[:, self.order] == labels[:, :, None]) & self.is_candidate
        labelling, query = np.nonzero(right.any(axis=2))
        has_query = np.zeros((len(labels), labels.max(initial=0) + 1), dtype=bool)
        has_query[labelling, labels[labelling, query]] = True
        in_gallery = np.take_along_axis(has_query, labels, axis=1)
        if in_gallery.all():
            return right, self.is_candidate[None]
        return right, in_gallery[:, self.order] & self.is_candidate


def rank(similarity: NDArray[np.float64], admissible: NDArray[np.bool_]) -> Ranking:
    """Rank each row's candidates by similarity, equal ones by their position.

    Parameters
    ----------
    similarity
        (n, n).
    admissible
        (n, n) bool: row i may match row j.

    Returns
    -------
    Ranking
    """
    order = np.where(admissible, -similarity, np.inf).argsort(axis=1, kind="stable")
    return Ranking(order, np.take_along_axis(admissible, order, axis=1))


def _precisions(
    right: NDArray[np.bool_], counted: NDArray[np.bool_]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the flat (P, n) positions of the queries and the average precision of each."""
    n = right.shape[1]
    ranks = np.broadcast_to(counted.cumsum(axis=2, dtype=np.int32), right.shape)
    labelling, query, place = np.nonzero(right)
    row = labelling * n + query
    # Right ones come row by row in order of rank: the k-th of its row has k right ones down to it.
    rows, start, count = np.unique(row, return_index=True, return_counts=True)
    down_to = np.arange(len(row)) - np.repeat(start, count) + 1
    shares = down_to / ranks[labelling, query, place]
    sums = np.add.reduceat(shares, start) if len(row) else np.zeros(0)
    return rows, sums / count
