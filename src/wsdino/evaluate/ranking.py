"""Ranked candidates: what a labelling of the treatments scores, for many labellings at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
    """Where each row has its candidates, the most similar first; see :func:`rank`.

    Attributes
    ----------
    place
        (n, n + 1) int32: how many candidates of row i come before row j, and n if j is no
        candidate; the last column, n throughout, stands for no row.
    """

    place: NDArray[np.int32]

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
        found = [self._scores(labelling) for labelling in labels]
        queries, accuracy, precision = (list(column) for column in zip(*found, strict=True))
        return Scores(np.array(queries), np.array(accuracy), np.array(precision))

    def _scores(self, labels: NDArray[np.int32]) -> tuple[int, float, float]:
        # Only places of the right ones are looked at: as many as a label has rows, not n.
        same = _rows_of_each(labels)[labels]
        places = np.sort(np.take_along_axis(self.place, same, axis=1), axis=1)
        is_right = places < len(labels)
        is_query = is_right[:, 0]
        if not is_query.any():
            return 0, 0.0, 0.0
        has_query = np.zeros(labels.max() + 1, dtype=bool)
        has_query[labels[is_query]] = True
        places = (
            places[is_query] - self._before(places, np.flatnonzero(~has_query[labels]))[is_query]
        )
        shares = np.arange(1, places.shape[1] + 1) / (places + 1)
        is_right = is_right[is_query]
        precisions = np.where(is_right, shares, 0.0).sum(axis=1) / is_right.sum(axis=1)
        return len(places), float((places[:, 0] == 0).mean()), float(precisions.mean())

    def _before(self, places: NDArray[np.int32], left: NDArray[np.intp]) -> NDArray[np.intp]:
        """Count, for (n, m) places, the rows before each that have left the gallery."""
        if not len(left):
            return np.zeros(places.shape, dtype=np.intp)
        n = len(places)
        # Row after row on one axis, so that one search finds them all.
        offset = np.arange(n)[:, None] * (n + 1)
        gone = np.sort(self.place[:, left], axis=1) + offset
        return np.searchsorted(gone.ravel(), places + offset) - np.arange(n)[:, None] * len(left)


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
    n = len(similarity)
    order = np.where(admissible, -similarity, np.inf).argsort(axis=1, kind="stable")
    place = np.full((n, n + 1), n, dtype=np.int32)
    np.put_along_axis(place, order, np.arange(n, dtype=np.int32)[None], axis=1)
    place[:, :n][~admissible] = n
    return Ranking(place)


def _rows_of_each(labels: NDArray[np.int32]) -> NDArray[np.intp]:
    """Rows of each label (labels, most), filled up with the number of rows."""
    n, counts = len(labels), np.bincount(labels)
    order = np.argsort(labels, kind="stable")
    start = np.cumsum(counts) - counts
    rows = np.full((len(counts), counts.max(initial=0)), n, dtype=np.intp)
    of_sorted = labels[order]
    rows[of_sorted, np.arange(n) - start[of_sorted]] = order
    return rows
