"""Choosing how far a whitening is shrunk, by weak labels alone.

No mechanism of action enters. Labels (compounds, say) are dealt out to folds; a whitening is fitted
without a fold's labels, and each of the fold's rows is then asked which of them it belongs to,
judged by its mean cosine similarity to each label's rows on *other plates*. The shrinkage under
which the right labels get the highest probability is chosen. Unlike the share of right nearest
neighbours this score is smooth, and unlike a likelihood of the features it does not change when
features are copied or rescaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.profile.rows import directions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

RULE = "held-out labels recognised on other plates"
NUM_FOLDS = 4
# Similarities times these are the logits; for each fold and candidate the best of them counts.
INVERSE_TEMPERATURES = (4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(frozen=True)
class Choice:
    """Which shrinkage was chosen, and why.

    Attributes
    ----------
    value
        The shrinkage.
    rule
        :data:`RULE`; `given` or `default` where nothing was compared.
    candidates, scores
        What was compared, ascending, and the mean log probability of the right label (nats; at most
        0, higher is better). Empty where nothing was compared.
    note
        Why nothing was compared, or empty.
    """

    value: float
    rule: str
    candidates: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return {
            "value": self.value,
            "rule": self.rule,
            "candidates": list(self.candidates),
            "scores": list(self.scores),
            "note": self.note,
        }


def recognition_score(
    vectors: NDArray[np.float64], labels: NDArray[np.intp], plates: NDArray[np.intp]
) -> float:
    """Mean log probability with which rows are recognised by their label's rows on other plates.

    Parameters
    ----------
    vectors
        (n, k); only their directions count. A row of zeros is equally far from all.
    labels, plates
        (n,) codes from 0.

    Returns
    -------
    float
        Nats, at most 0. The logit of a label is the mean cosine similarity to its rows on other
        plates, times the best of :data:`INVERSE_TEMPERATURES`. Rows whose label is on no other
        plate are not asked, and a label that is on no other plate is no answer. NaN if no row can
        be asked.
    """
    unit = directions(vectors)
    num_labels = int(labels.max()) + 1
    sums, counts = np.zeros((num_labels, unit.shape[1])), np.zeros(num_labels)
    np.add.at(sums, labels, unit)
    np.add.at(counts, labels, 1)
    similarity = np.full((len(unit), num_labels), -np.inf)
    for plate in np.unique(plates):
        rows = np.flatnonzero(plates == plate)
        own, own_counts = np.zeros_like(sums), np.zeros_like(counts)
        np.add.at(own, labels[rows], unit[rows])
        np.add.at(own_counts, labels[rows], 1)
        elsewhere = np.flatnonzero(counts > own_counts)
        means = (sums - own)[elsewhere] / (counts - own_counts)[elsewhere, None]
        similarity[np.ix_(rows, elsewhere)] = unit[rows] @ means.T
    right = similarity[np.arange(len(unit)), labels]
    asked = np.isfinite(right)
    if not asked.any():
        return float("nan")
    return max(
        float(np.mean(scale * right[asked] - _log_sum_exp(scale * similarity[asked])))
        for scale in INVERSE_TEMPERATURES
    )


def choose_shrinkage(
    fit: Callable[[NDArray[np.bool_]], Callable[[float], NDArray[np.float64]]],
    *,
    labels: NDArray[Any],
    plates: NDArray[Any] | None,
    candidates: Sequence[float],
    default: float,
    num_folds: int = NUM_FOLDS,
    seed: int = 0,
) -> Choice:
    """Choose the shrinkage under which held-out labels are recognised best on other plates.

    Parameters
    ----------
    fit
        Called with a mask of the n rows that may be used; returns what maps a shrinkage to the
        vectors (n, k) of all rows.
    labels
        (n,); None or NaN: the row is always used for fitting and never asked (controls).
    plates
        (n,), or None: every row counts as a plate of its own.
    candidates
        Shrinkages to compare.
    default
        What is taken if fewer than two labels for each fold are on two plates.
    num_folds, seed
        Of dealing the labels out.

    Returns
    -------
    Choice
        Of equal scores the largest shrinkage wins.
    """
    codes = factorised(labels)
    places = np.arange(len(codes)) if plates is None else factorised(plates)
    known = codes >= 0
    pairs = pd.DataFrame({"label": codes[known], "plate": places[known]}).drop_duplicates()
    on_plates = pairs["label"].value_counts().sort_index()
    replicated = on_plates.index[on_plates > 1].to_numpy()
    if len(replicated) < 2 * num_folds:
        note = f"{len(replicated)} labels on two plates are too few to choose by"
        return Choice(float(default), "default", note=note)
    fold = np.full(codes.max(initial=0) + 1, -1)
    dealt = np.random.default_rng(seed).permutation(len(replicated))
    fold[replicated[dealt]] = np.arange(len(replicated)) % num_folds
    fold_of_row = np.where(known, fold[np.maximum(codes, 0)], -1)
    ordered = tuple(sorted(float(value) for value in candidates))
    total, num_asked = np.zeros(len(ordered)), 0
    for number in range(num_folds):
        held = fold_of_row == number
        transform = fit(~held)
        own = np.unique(codes[held], return_inverse=True)[1]
        scores = [recognition_score(transform(value)[held], own, places[held]) for value in ordered]
        total += np.array(scores) * held.sum()
        num_asked += int(held.sum())
    means = total / num_asked
    best = len(ordered) - 1 - int(np.argmax(means[::-1]))
    return Choice(ordered[best], RULE, ordered, tuple(float(score) for score in means))


def factorised(values: NDArray[Any]) -> NDArray[np.intp]:
    """Return codes from 0 in the order of the values as text; -1 for None and NaN."""
    column = pd.Series(values, dtype=object)
    text = column.astype(str).where(column.notna(), None)
    codes: NDArray[np.intp] = pd.factorize(text, sort=True)[0].astype(np.intp)
    return codes


def _log_sum_exp(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    top = logits.max(axis=1)
    result: NDArray[np.float64] = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return result
