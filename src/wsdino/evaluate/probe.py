"""A linear probe: what can be read off features by a linear rule, for compounds it hasn't seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsdino.evaluate.held_out import deal
from wsdino.profile.rows import moments

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

NUM_FOLDS = 5
MAX_WELLS = 5_000


@dataclass(frozen=True)
class Probe:
    """Result of :func:`linear_probe` for one label.

    Attributes
    ----------
    accuracy
        Mean over the classes of the share of their wells that are told right (balanced accuracy).
    chance
        The same for a rule that doesn't look at the features: one over the number of classes.
    num_classes, num_wells
        Classes that at least two groups have, and their wells.
    sample
        Which wells took part, in words, where not all did.
    """

    accuracy: float
    chance: float
    num_classes: int
    num_wells: int
    sample: str | None = None


def linear_probe(
    features: NDArray[np.floating],
    labels: Mapping[str, NDArray[np.integer]],
    groups: NDArray[np.integer],
    *,
    num_folds: int = NUM_FOLDS,
    seed: int = 0,
) -> dict[str, Probe | None]:
    """Tell labels from features by ridge regression, cross-validated over groups.

    Groups are dealt out to folds, so that the wells of a group are never told by a rule that has
    seen others of them. The rule is the linear discriminant: regression on the classes' indicators,
    each prediction divided by the class's share, so that every class counts alike. The covariance
    is that of Ledoit and Wolf, which doesn't look at the labels.

    Parameters
    ----------
    features
        (n, F).
    labels
        By name, (n,) class of each well from 0, -1 where it isn't known.
    groups
        (n,) group of each well, such as its compound.
    num_folds
        At most; no more than there are groups.
    seed
        Of the deal, and of the draw of :data:`MAX_WELLS` wells where there are more.

    Returns
    -------
    dict
        For each label a probe; None where fewer than two classes have at least two groups.
    """
    num_wells, sample = len(features), None
    if num_wells > MAX_WELLS:
        rows = np.sort(np.random.default_rng(seed).choice(num_wells, MAX_WELLS, replace=False))
        features, groups = features[rows], groups[rows]
        labels = {name: codes[rows] for name, codes in labels.items()}
        sample = f"{MAX_WELLS:,} of {num_wells:,} wells, drawn with seed {seed}"
    known = {name: _told_apart(codes, groups) for name, codes in labels.items()}
    open_ = {name: codes for name, codes in known.items() if codes.max(initial=-1) > 0}
    names = sorted(map(str, np.unique(groups)))
    if not open_ or len(names) < 2:
        return dict.fromkeys(labels)
    folds = deal(names, min(num_folds, len(names)), seed)
    fold = np.array([folds[str(group)] for group in groups])
    scores = _scores(np.asarray(features, dtype=np.float64), open_, fold)
    found: dict[str, Probe | None] = dict.fromkeys(labels)
    for name, codes in open_.items():
        asked = (codes >= 0) & np.isfinite(scores[name]).any(axis=1)
        right = scores[name][asked].argmax(axis=1) == codes[asked]
        classes = np.unique(codes[asked])
        if len(classes) < 2:
            continue
        shares = [float(right[codes[asked] == each].mean()) for each in classes]
        found[name] = Probe(
            float(np.mean(shares)), 1 / len(classes), len(classes), int(asked.sum()), sample
        )
    return found


def _told_apart(codes: NDArray[np.integer], groups: NDArray[np.integer]) -> NDArray[np.intp]:
    """Return new numbers of the classes that several groups have, from 0; others get -1."""
    pairs = np.unique(np.stack([codes, groups]), axis=1)
    classes, counts = np.unique(pairs[0], return_counts=True)
    kept = classes[(counts > 1) & (classes >= 0)]
    found = np.full(len(codes), -1, dtype=np.intp)
    mine = np.isin(codes, kept)
    found[mine] = np.searchsorted(kept, codes[mine])
    return found


def _scores(
    features: NDArray[np.float64],
    labels: Mapping[str, NDArray[np.intp]],
    fold: NDArray[np.integer],
) -> dict[str, NDArray[np.float64]]:
    """Return for each label (n, classes) how likely each class is; -inf where it wasn't seen."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    centre, deviation = moments(features)
    varies = deviation > 0
    centred = (features - centre)[:, varies] / deviation[varies]
    shrinkage = max(float(ledoit_wolf_shrinkage(centred, assume_centered=True)), 1e-3)
    found = {
        name: np.full((len(codes), int(codes.max()) + 1), -np.inf) for name, codes in labels.items()
    }
    whole = centred.T @ centred
    for number in np.unique(fold):
        asked = fold == number
        own = centred[asked]
        num_seen = len(centred) - len(own)
        covariance = (1 - shrinkage) * (whole - own.T @ own) / num_seen
        covariance[np.diag_indices_from(covariance)] += shrinkage
        seen = centred[~asked]
        # One solution for the classes of all labels.
        shares = {name: _indicators(codes[~asked], found[name].shape[1]) for name, codes in
                  labels.items()}  # fmt: skip
        targets = np.concatenate([each - each.mean(axis=0) for each in shares.values()], axis=1)
        weights = np.linalg.solve(covariance, seen.T @ targets / num_seen)
        predicted, start = own @ weights, 0
        for name, each in shares.items():
            prior = each.mean(axis=0)
            part = predicted[:, start : start + len(prior)]
            start += len(prior)
            likely = np.full(part.shape, -np.inf)
            np.divide(part, prior, out=likely, where=prior > 0)
            # A class that was not seen can't be told: its wells aren't asked.
            codes = labels[name][asked]
            likely[(codes >= 0) & (prior[codes] == 0)] = -np.inf
            found[name][asked] = likely
    return found


def _indicators(codes: NDArray[np.intp], num_classes: int) -> NDArray[np.float64]:
    table = np.zeros((len(codes), num_classes))
    known = codes >= 0
    table[np.flatnonzero(known), codes[known]] = 1
    return table
