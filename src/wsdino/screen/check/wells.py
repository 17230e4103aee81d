"""Checks that compare wells of one treatment across plates: controls, and labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import norm

from wsdino.screen.check.evidence import Evidence, Finding, Wells
from wsdino.tables.places import place_of, plate_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Place = tuple[int, int]

# Controls: mean squared distance to the nearest other plate's, in variances of a control well, and
# how many times that of the median plate; for wells as they are, and relative to their own plate.
# On clean simulated screens of one site per well they reach 1.5 and 3.6, and 1.0 and 4.5.
FAR, FAR_ON_PLATE, TIMES_MEDIAN = 3.0, 1.5, 5.0
LEAST_VARIANCE = 0.1
# How far below the other plates' a plate's controls may stand apart from its treated wells: the
# share; how much less it is; and that in standard errors, and in deviations of the other plates. On
# clean simulated plates of three sites per well it is 0.62 at least, and on those of one site that
# are below 0.6 the other plates differ, too.
LEAST_APART, LOST, LOST_BY, STANDARD_ERRORS, DEVIATIONS = 0.6, 0.6, 0.2, 1.5, 1.5
# What tells controls from treated wells is learned this often, from so many wells at most.
NUM_FOLDS, MOST_LEARNED = 10, 20_000
FEW_CONTROLS, FEW_PLATES = 2, 3
# Labels: what has to be shared by two plates; the chance that any shift of any pair agrees as well
# by chance; and by how many standard errors the shift has to agree better than no shift.
FEW_TREATMENTS, FEW_WELLS, MOST_PARTNERS = 5, 8, 6
BY_CHANCE, BETTER = 0.001, 2.0
MOST_DEVIATIONS, RIDGE = 4.0, 1.0


def controls(evidence: Evidence) -> Iterator[Finding]:
    """Plates whose controls differ from those of all other plates."""
    wells = evidence.wells
    counts = Counter(wells.plates[wells.controls])
    plates = [plate for plate, count in counts.items() if count >= FEW_CONTROLS]
    if len(plates) < FEW_PLATES or not wells.features.shape[1]:
        return
    centred = _centred(wells)
    far = _distances(_filled(wells.features), wells, plates)
    far_on_plate = _distances(centred, wells, plates)
    apart = _apart(centred, wells, plates)
    for number, plate in enumerate(plates):
        if _is_far(far, number, FAR):
            text = "differ from those of every other plate"
        elif _is_far(far_on_plate, number, FAR_ON_PLATE):
            text = "stand to the other wells of their plate as those of no other plate do"
        elif _is_lost(apart, plate):
            text = (
                "look hardly more like those of the other plates than its treated wells do: are "
                "they the controls?"
            )
        else:
            continue
        yield Finding("controls", f"plate {plate}: its controls {text}")


def _filled(features: Floats) -> Floats:
    middle = np.nanmedian(features, axis=0)
    return np.where(np.isnan(features), middle, features)


def _centred(wells: Wells) -> Floats:
    """Features relative to the median of all wells of the plate; 0 where there is none."""
    table = pd.DataFrame(wells.features)
    centre = table.groupby(wells.plates).transform("median")
    centred: Floats = np.nan_to_num((table - centre).to_numpy())
    return centred


def _distances(features: Floats, wells: Wells, plates: list[str]) -> Floats:
    """Distance of each plate's controls to those of the nearest other plate."""
    own = [features[wells.controls & (wells.plates == plate)] for plate in plates]
    means = np.stack([each.mean(axis=0) for each in own])
    variance = np.median([each.var(axis=0, ddof=1) for each in own], axis=0)
    variance = np.maximum(variance, LEAST_VARIANCE * variance.mean())
    scaled = means / np.sqrt(np.where(variance > 0, variance, np.inf))
    distances = np.stack([((scaled - each) ** 2).mean(axis=1) for each in scaled])
    np.fill_diagonal(distances, np.inf)
    nearest: Floats = distances.min(axis=1)
    return nearest


def _is_far(distances: Floats, number: int, least: float) -> bool:
    others = np.median(np.delete(distances, number))
    return bool(distances[number] >= max(least, TIMES_MEDIAN * others))


class _Apart(NamedTuple):
    """How often a control is nearer to other plates' controls than a treated well is."""

    share: float
    num_controls: int
    num_treated: int


def _apart(features: Floats, wells: Wells, plates: list[str]) -> dict[str, _Apart]:
    """How far the controls of each plate stand apart from its treated wells.

    The mean of two looks at it: the distance to the controls of the other plates, and what tells
    controls from treated wells there, by linear discriminant analysis.
    """
    unlike = _unlike_controls(features, wells)
    found = {}
    for plate in plates:
        is_here = wells.plates == plate
        scores = [_distances_to_controls(features, wells, plate)]
        if unlike is not None:
            scores.append(unlike[is_here])
        is_control = wells.controls[is_here]
        num_treated = int((~is_control).sum())
        shares = [(score[is_control][:, None] < score[~is_control]).mean() for score in scores]
        share = float(np.mean(shares)) if num_treated else np.nan
        found[plate] = _Apart(share, int(is_control.sum()), num_treated)
    return found


def _distances_to_controls(features: Floats, wells: Wells, plate: str) -> Floats:
    """Squared Mahalanobis' distance of a plate's wells to the controls of the other plates."""
    is_here = wells.plates == plate
    elsewhere = wells.controls & ~is_here
    table = pd.DataFrame(features[elsewhere])
    grouped = table.groupby(wells.plates[elsewhere])
    centre = grouped.mean().median().to_numpy()
    within = (table - grouped.transform("mean")).to_numpy()
    covariance = np.cov(within, rowvar=False).reshape(features.shape[1], -1)
    covariance += LEAST_VARIANCE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    away = features[is_here] - centre
    squared: Floats = np.einsum("ij,ij->i", away, np.linalg.solve(covariance, away.T).T)
    return squared


def _unlike_controls(features: Floats, wells: Wells) -> Floats | None:
    """Log odds of being treated, of all wells, learned from other plates; None if nothing is."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    numbers = pd.factorize(wells.plates)[0]
    odds = np.zeros(len(features))
    for fold in range(min(NUM_FOLDS, numbers.max() + 1)):
        is_own = numbers % NUM_FOLDS == fold
        others = np.flatnonzero(~is_own)
        step = -(-len(others) // MOST_LEARNED) or 1
        known, treated = features[others[::step]], ~wells.controls[others[::step]]
        # Whatever doesn't vary at all says nothing, and can't be scaled.
        varies = known.std(axis=0) > 0 if len(known) else np.zeros(0, bool)
        if len(np.unique(treated)) < 2 or not varies.any():
            return None
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        model.fit(known[:, varies], treated)
        odds[is_own] = model.decision_function(features[is_own][:, varies])
    return odds


def _is_lost(apart: dict[str, _Apart], plate: str) -> bool:
    """Whether a plate's controls are hardly nearer than its treated wells, and other plates' are.

    The standard error is that of an area under the curve (Hanley and McNeil 1982).
    """
    share, num_controls, num_treated = apart[plate]
    others = np.array([other.share for name, other in apart.items() if name != plate])
    usual = float(np.nanmedian(others))
    deviation = 1.4826 * float(np.nanmedian(np.abs(others - usual)))
    if not num_treated or not usual >= LEAST_APART:
        return False
    q1, q2 = usual / (2 - usual), 2 * usual**2 / (1 + usual)
    variance = usual * (1 - usual) + (num_controls - 1) * (q1 - usual**2)
    variance += (num_treated - 1) * (q2 - usual**2)
    error = max(np.sqrt(variance / (num_controls * num_treated)), 1 / (num_controls * num_treated))
    least = max(LOST_BY, STANDARD_ERRORS * error, DEVIATIONS * deviation)
    return bool(share < LOST and share < usual - least)


@dataclass(frozen=True)
class Shift:
    """A way in which a plate's labels may have gone astray.

    Parameters
    ----------
    text
        Completes "its labels were moved ...".
    inverse
        Number of the shift that undoes it, in :data:`SHIFTS`.
    wells
        For the places of a plate's wells, the place to which each well's label belongs.
    """

    text: str
    inverse: int
    wells: Callable[[list[Place]], dict[Place, Place]]


def _by(rows: int, columns: int) -> Callable[[list[Place]], dict[Place, Place]]:
    return lambda places: {(r, c): (r + rows, c + columns) for r, c in places}


def _along(step: int, *, by_column: bool) -> Callable[[list[Place]], dict[Place, Place]]:
    def moved(places: list[Place]) -> dict[Place, Place]:
        order = sorted(places, key=lambda place: place[::-1] if by_column else place)
        return dict(pairwise(order if step > 0 else order[::-1]))

    return moved


def _turned(places: list[Place]) -> dict[Place, Place]:
    rows, columns = (max(place[axis] for place in places) + 1 for axis in (0, 1))
    size = plate_format(rows, columns)
    return {(r, c): (size[0] - 1 - r, size[1] - 1 - c) for r, c in places}


SHIFTS = (
    Shift("one column to the right", 1, _by(0, 1)),
    Shift("one column to the left", 0, _by(0, -1)),
    Shift("one row down", 3, _by(1, 0)),
    Shift("one row up", 2, _by(-1, 0)),
    Shift("to the next well used, row by row", 5, _along(1, by_column=False)),
    Shift("to the well used before, row by row", 4, _along(-1, by_column=False)),
    Shift("to the next well used, column by column", 7, _along(1, by_column=True)),
    Shift("to the well used before, column by column", 6, _along(-1, by_column=True)),
    Shift("by half a turn of the plate", 8, _turned),
)


class _Plate(NamedTuple):
    """A plate's wells: features (n, F), code of each one's treatment, and row by place."""

    features: Floats
    treatments: NDArray[np.intp]
    rows: dict[Place, int]


class _Shifted(NamedTuple):
    """Two plates that agree better if labels are shifted: of one, or backwards of the other."""

    one: str
    other: str
    shift: int
    better: float


def shifted(evidence: Evidence) -> Iterator[Finding]:
    """Plates whose labels are off by a well: replicates agree better after a shift.

    Wells of a treatment are correlated between two plates, with the labels as they are and moved.
    A shift is said if wells agree after it by more than chance (at ``BY_CHANCE``, with Bonferroni's
    correction for all pairs and shifts), and better than before by ``BETTER`` standard errors.
    """
    wells = evidence.wells
    compared = _pairs(wells)
    if not compared or not wells.features.shape[1]:
        return
    plates = _plates(wells)
    least = norm.isf(BY_CHANCE / (len(SHIFTS) * len(compared)))
    found = [
        _Shifted(one, other, best[0], best[1])
        for one, other in compared
        if (best := _best_shift(plates[one], plates[other], least)) is not None
    ]
    while found:
        counts = Counter(name for pair in found for name in (pair.one, pair.other))
        (worst, most), *rest = counts.most_common()
        pairs = [pair for pair in found if worst in (pair.one, pair.other)]
        clearest = max(pairs, key=lambda pair: pair.better)
        mate = clearest.other if clearest.one == worst else clearest.one
        shift = clearest.shift if clearest.one == worst else SHIFTS[clearest.shift].inverse
        text = (
            f"plate {worst}: its wells agree better with those of the same treatment on plate "
            f"{mate} if its labels are moved {SHIFTS[shift].text}"
        )
        if rest and rest[0][1] == most:
            text += f" (or those of plate {rest[0][0]} the other way)"
        yield Finding("shifted labels", text)
        found = [pair for pair in found if pair not in pairs]


def _plates(wells: Wells) -> dict[str, _Plate]:
    """Standardise the features by plate, and give all of them and their mixtures equal weight."""
    table = pd.DataFrame(wells.features)
    grouped = table.groupby(wells.plates)
    deviation = grouped.transform("std").to_numpy()
    centred = (table - grouped.transform("median")).to_numpy()
    scaled = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
    scaled = np.nan_to_num(scaled).clip(-MOST_DEVIATIONS, MOST_DEVIATIONS)
    values, vectors = np.linalg.eigh(np.cov(scaled, rowvar=False).reshape(scaled.shape[1], -1))
    even = scaled @ (vectors / np.sqrt(values + RIDGE * values.mean() + np.finfo(float).tiny))
    plates = {}
    for plate in pd.unique(wells.plates):
        rows = np.flatnonzero(wells.plates == plate)
        places = {place_of(str(name)): i for i, name in enumerate(wells.names[rows])}
        known = {place: row for place, row in places.items() if place is not None}
        plates[str(plate)] = _Plate(even[rows], wells.treatments[rows], known)
    return plates


def _pairs(wells: Wells) -> list[tuple[str, str]]:
    """Pairs of plates to compare: each with those that it shares most treatments with."""
    held = {
        str(plate): set(wells.treatments[wells.plates == plate].tolist())
        for plate in pd.unique(wells.plates)
    }
    order = {plate: number for number, plate in enumerate(held)}
    pairs = set()
    for plate, own in held.items():
        shared = Counter({other: len(own & its) for other, its in held.items() if other != plate})
        for other, count in shared.most_common(MOST_PARTNERS):
            if count >= FEW_TREATMENTS:
                pairs.add((plate, other) if order[plate] < order[other] else (other, plate))
    return sorted(pairs)


def _best_shift(one: _Plate, other: _Plate, least: float) -> tuple[int, float] | None:
    """Return the shift that agrees best with another plate, if any is to be said."""
    best: tuple[int, float] | None = None
    for number, shift in enumerate(SHIFTS):
        forth = _agreement(one, other, shift)
        back = _agreement(other, one, SHIFTS[shift.inverse])
        before, after = (np.concatenate(parts) for parts in zip(forth, back, strict=True))
        if len(before) < 2 * FEW_WELLS:
            continue
        better = _standard_errors(after - before)
        if better >= BETTER and _standard_errors(after) >= least and (not best or better > best[1]):
            best = number, better
    return best


def _agreement(plate: _Plate, other: _Plate, shift: Shift) -> tuple[Floats, Floats]:
    """Correlations of a plate's wells with the same treatments elsewhere, before and after."""
    table = pd.DataFrame(other.features).groupby(other.treatments).mean()
    moved = shift.wells(list(plate.rows)) if plate.rows else {}
    here, there = [], []
    for place, row in plate.rows.items():
        target = plate.rows.get(moved.get(place, (-1, -1)))
        treatment = plate.treatments[row]
        if target is None or treatment not in table.index:
            continue
        # Neighbours of one treatment say nothing.
        if plate.treatments[target] != treatment:
            here.append(row)
            there.append(target)
    expected = table.loc[plate.treatments[here]].to_numpy()
    return _correlations(plate.features[here], expected), _correlations(
        plate.features[there], expected
    )


def _correlations(one: Floats, other: Floats) -> Floats:
    """Pearson's correlation of each row with the same one of the other."""
    if not len(one):
        return np.empty(0)
    one, other = (each - each.mean(axis=1, keepdims=True) for each in (one, other))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    found: Floats = np.zeros(len(one))
    np.divide((one * other).sum(axis=1), norms, out=found, where=norms > 0)
    return found


def _standard_errors(values: Floats) -> float:
    """Mean over its standard error."""
    error = values.std() / np.sqrt(len(values))
    return float(values.mean() / error) if error > 0 else 0.0
