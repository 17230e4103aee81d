"""Whitening by weak label.

TVN whitens the directions in which negative controls vary. Replicates of the same compound vary in
more ways than controls do, since batches differ in their response too, and a compound's doses
differ in strength: the scatter of replicates around their label's mean shows all of that, for every
label that has replicates. Whitening by it needs no mechanism of action, only which rows belong
together (the weak label) and which are negative controls (a class of their own).

The steps, in order, each fitted on the rows that have a label or are controls:

1. each plate's mean of controls is subtracted, where every plate has controls and there are no more
   features than rows to fit;
2. each feature is centred on its median, divided by its deviation (1.4826 times the median absolute
   deviation) and softened by `2 arcsinh(z / 2)`, which is linear near 0 and logarithmic far away,
   so that no outlier makes a direction;
3. each feature is divided by its pooled deviation within labels, and the pooled covariance within
   labels is whitened, with a ridge added to each eigenvalue: shrinkage towards features that are
   independent. Of all whitenings it is the symmetric one (ZCA), which is unique and keeps each
   feature in its place;
4. of more features than rows, plates are centred only now. How controls differ from plate to plate
   shows technical directions; centred first, plates don't show them, and among so many features
   rows then look alike along them (`benchmarks/results/weak_label.md`);
5. the mean of the labels' means becomes the origin. Cosine similarities around the controls are
   ruled by what all active compounds share; around the mean of the compounds they are not.

The steps, their order and the default ridge were set on simulated screens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.errors import TableError
from wsdino.profile.shrinkage import Choice, choose_shrinkage, factorised
from wsdino.profile.weak_label_input import (
    centres_of_controls,
    check_replicates,
    check_scatter,
    control_mask,
    finite_matrix,
    plate_names,
    varying_features,
    wants_centres,
)
from wsdino.profile.within_label import (
    mean_of_labels,
    robust_moments,
    soften,
    spanned,
    symmetric_whitening,
    within_covariance,
)
from wsdino.tables.features import ROWS_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

AUTO = "auto"
RIDGES = (0.003, 0.01, 0.03, 0.1)
DEFAULT_RIDGE = 0.03
SOFTENING = 2.0
_LEAST_NOISE = 0.01  # of the deviation over all rows: no feature is trusted beyond it


@dataclass(frozen=True)
class WeakLabelWhitening:
    """A whitening fitted by :func:`fit_weak_label`.

    Attributes
    ----------
    centred, centred_last
        Whether each plate's mean of controls is subtracted, and whether only after whitening.
    kept
        (f,) positions of the features that vary, of `num_features`: the columns of the result.
    location, scale
        (f,) centre and deviation before softening.
    softening
        Deviations from which on a feature is compressed; None: not at all.
    origin
        (f,) mean of the labels' means, after softening.
    remainder
        (f,) mean of the labels' means that is left where plates are centred last; else zeros.
    projection
        (f, f) symmetric whitening, each row over its feature's deviation within labels.
    choice
        The ridge, the rule that chose it, and that rule's scores.
    num_features, num_fitted, num_labels, num_replicated
        Features and rows at fitting, labels (without controls), and those of them with two rows.
    num_controls
        Control rows at fitting.
    notes
        What else should be said, in words.
    """

    centred: bool
    centred_last: bool
    kept: NDArray[np.intp]
    location: NDArray[np.float64]
    scale: NDArray[np.float64]
    softening: float | None
    origin: NDArray[np.float64]
    remainder: NDArray[np.float64]
    projection: NDArray[np.float64]
    choice: Choice
    num_features: int
    num_fitted: int
    num_labels: int
    num_replicated: int
    num_controls: int
    notes: tuple[str, ...]

    def transform(
        self,
        features: NDArray[np.floating],
        *,
        plates: NDArray[Any] | None = None,
        controls: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float64]:
        """Whiten features.

        Parameters
        ----------
        features
            (m, F) in the features the whitening was fitted on, all finite.
        plates, controls
            (m,) names, and bool which rows are negative controls; both needed where plates were
            centred at fitting. Each plate is centred on its controls among these rows, be it a
            plate that was there or a new one.

        Returns
        -------
        ndarray
            (m, f) float64; column j belongs to feature `kept[j]`.

        Raises
        ------
        TableError
            If a feature is not finite, their number is another, plates are missing, or a plate has
            no controls.
        """
        matrix = finite_matrix(features)
        if matrix.shape[1] != self.num_features:
            msg = (
                f"features of shape {matrix.shape} can't be whitened; expected (rows, "
                f"{self.num_features}) as at fitting"
            )
            raise TableError(msg)
        control = control_mask(controls, len(matrix))
        first, last = self.centred and not self.centred_last, self.centred and self.centred_last
        if first:
            centres, codes = centres_of_controls(matrix, control, plates)
        result = np.empty((len(matrix), len(self.kept)))
        for start in range(0, len(matrix), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            block = matrix[rows].astype(np.float64)
            if first:
                block -= centres[codes[rows]]
            soft = soften((block[:, self.kept] - self.location) / self.scale, self.softening)
            result[rows] = (soft - self.origin) @ self.projection
        if last:
            centres, codes = centres_of_controls(result, control, plates)
            for start in range(0, len(matrix), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                result[rows] -= centres[codes[rows]] + self.remainder
        return result

    def describe(self) -> str:
        """Say in one line what was fitted; parts are separated by `; `."""
        controls = (
            f" and {self.num_controls} rows of controls" if self.num_controls else ", no controls"
        )
        fitted = f"whitened by the scatter within {self.num_replicated} labels with replicates"
        parts = [fitted + controls, f"ridge {self.choice.value:g} ({self.choice.rule})"]
        return "; ".join([*parts, *filter(None, [self.choice.note]), *self.notes])


def fit_weak_label(
    features: NDArray[np.floating],
    labels: NDArray[Any],
    *,
    controls: NDArray[np.bool_] | None = None,
    plates: NDArray[Any] | None = None,
    ridge: float | str = AUTO,
    centre: bool | None = None,
    centre_last: bool | None = None,
    softening: float | None = SOFTENING,
    blocks: Sequence[Sequence[int]] | None = None,
    seed: int = 0,
) -> WeakLabelWhitening:
    """Fit a whitening by weak label; the module's text gives the steps.

    Parameters
    ----------
    features
        (n, F) features of sites or wells, all finite.
    labels
        (n,) weak labels of any type. None or NaN: no label; unless such a row is a control it is
        not fitted on (which is how a compound is left out).
    controls
        (n,) bool, which rows are negative controls: one label of their own, whatever `labels` says.
        Default: none.
    plates
        (n,) names of the plates, for centring and for the choice of the ridge.
    ridge
        Added to each eigenvalue of the covariance within labels, in units of their mean, with every
        feature in units of its deviation within labels. `auto`: chosen among :data:`RIDGES` by
        :func:`wsdino.profile.shrinkage.choose_shrinkage` (no MoA).
        With 0 the covariance within labels becomes exactly the identity, along the axes along which
        replicates vary at all; the others are dropped then.
    centre
        Subtract each plate's mean of controls. None: where every plate has controls.
    centre_last
        Subtract it after whitening. None: where more features (of a block, if there are blocks)
        vary than there are rows to fit.
    softening
        Deviations from which on a feature is compressed; None: not at all.
    blocks
        Positions of features that are whitened together, such as a channel's; every feature in at
        most one block, and features in none are left out. Default: all together, which was better
        on most simulated screens.
    seed
        Of dealing the labels out to the folds that choose the ridge.

    Returns
    -------
    WeakLabelWhitening

    Raises
    ------
    TableError
        If a feature is not finite, the lengths differ, fewer than two labels are there (controls
        count as one), no label has replicates, every feature is constant, plates can't be centred
        as asked, or an option is out of range.

    Notes
    -----
    The idea of whitening by replicates is the within-class covariance normalisation of speaker
    recognition (Hatch, Kajarekar & Stolcke 2006), which is linear discriminant analysis without its
    last step.
    """
    matrix = finite_matrix(features).astype(np.float64, copy=False)
    _check_options(ridge, softening)
    control = control_mask(controls, len(matrix))
    if len(labels) != len(matrix):
        msg = f"{len(labels)} labels for {len(matrix)} rows; expected one for each"
        raise TableError(msg)
    codes = factorised(labels)
    codes[control] = codes.max(initial=-1) + 1
    fitted = codes >= 0
    codes = np.where(fitted, codes, 0)
    codes[fitted] = np.unique(codes[fitted], return_inverse=True)[1]
    check_replicates(codes[fitted], control)
    centred_on_controls, notes = wants_centres(control, plates, centre)
    kept, groups = varying_features(matrix, matrix, fitted, blocks)
    if centre_last is None:
        centre_last = max(map(len, groups)) > int(fitted.sum())
    centred_last = centred_on_controls and centre_last
    centred = matrix
    if centred_last:
        notes.append("centred after whitening")
    elif centred_on_controls:
        centres, plate_of = centres_of_controls(matrix, control, plates)
        centred = matrix - centres[plate_of]
        kept, groups = varying_features(matrix, centred, fitted, blocks)
    if len(kept) < matrix.shape[1]:
        left_out = matrix.shape[1] - len(kept)
        notes.append(f"{left_out} of {matrix.shape[1]} features left out: constant or in no block")
    location, scale = robust_moments(centred[fitted][:, kept])
    soft = soften((centred[:, kept] - location) / scale, softening)
    if softening is not None:
        notes.append(f"features softened from {softening:g} deviations on")
    if len(groups) > 1:
        notes.append(f"{len(groups)} blocks of features, each whitened on its own")
    covariance = within_covariance(soft[fitted], codes[fitted])
    noise = np.sqrt(covariance.diagonal())
    noise = np.maximum(noise, _LEAST_NOISE * soft[fitted].std(axis=0))
    standard, covariance = soft / noise, covariance / np.outer(noise, noise)
    check_scatter(covariance, groups)
    choice = _choice(
        ridge, standard, codes, fitted, control, plates, groups, seed, centre=centred_last
    )
    projection = np.zeros((len(kept), len(kept)))
    for group in groups:
        at = np.ix_(group, group)
        coordinates, basis = spanned(standard[fitted][:, group])
        if basis is None:
            projection[at] = symmetric_whitening(covariance[at], choice.value)
        else:
            inside = within_covariance(coordinates, codes[fitted])
            projection[at] = symmetric_whitening(inside, choice.value, basis=basis)
    origin = mean_of_labels(standard[fitted], codes[fitted], control[fitted])
    remainder = np.zeros(len(kept))
    if centred_last:
        white = (standard - origin) @ projection
        centres, plate_of = centres_of_controls(white, control, plates)
        white -= centres[plate_of]
        remainder = mean_of_labels(white[fitted], codes[fitted], control[fitted])
    sizes = np.bincount(codes[fitted & ~control])
    return WeakLabelWhitening(
        centred=centred_on_controls,
        centred_last=centred_last,
        kept=kept,
        location=location,
        scale=scale,
        softening=softening,
        origin=origin * noise,
        remainder=remainder,
        projection=projection / noise[:, None],
        choice=choice,
        num_features=matrix.shape[1],
        num_fitted=int(fitted.sum()),
        num_labels=int((sizes > 0).sum()),
        num_replicated=int((sizes > 1).sum()),
        num_controls=int(control.sum()),
        notes=tuple(notes),
    )


def _choice(
    ridge: float | str,
    standard: NDArray[np.float64],
    codes: NDArray[np.intp],
    fitted: NDArray[np.bool_],
    control: NDArray[np.bool_],
    plates: NDArray[Any] | None,
    groups: list[NDArray[np.intp]],
    seed: int,
    *,
    centre: bool,
) -> Choice:
    """Return the given ridge, or the one that the fitted rows' labels choose."""
    if ridge != AUTO:
        return Choice(float(ridge), "given")
    own, is_control = codes[fitted], control[fitted]
    places = None if plates is None else plate_names(plates, len(standard))[fitted]
    # Only angles between rows are asked for.
    parts = [spanned(standard[fitted][:, group])[0] for group in groups]

    def fit(used: NDArray[np.bool_]) -> Callable[[float], NDArray[np.float64]]:
        left = np.unique(own[used], return_inverse=True)[1]
        spectra = [np.linalg.eigh(within_covariance(rows[used], left)) for rows in parts]
        turned = [
            (rows - mean_of_labels(rows[used], left, is_control[used])) @ axes
            for rows, (_, axes) in zip(parts, spectra, strict=True)
        ]

        def transform(value: float) -> NDArray[np.float64]:
            blocks = []
            for block, (variances, _), group in zip(turned, spectra, groups, strict=True):
                widened = np.maximum(variances, 0) + value * variances.sum() / len(group)
                # Without this fold's labels a block may have no scatter left.
                blocks.append(block / np.sqrt(np.where(widened > 0, widened, 1)))
            white = np.concatenate(blocks, axis=1)
            if centre:
                centres, plate_of = centres_of_controls(white, is_control, places)
                white -= centres[plate_of]
                white -= mean_of_labels(white[used], left, is_control[used])
            return white

        return transform

    asked = own.astype(object)
    asked[is_control] = None
    return choose_shrinkage(
        fit, labels=asked, plates=places, candidates=RIDGES, default=DEFAULT_RIDGE, seed=seed
    )


def _check_options(ridge: float | str, softening: float | None) -> None:
    if isinstance(ridge, str):
        if ridge != AUTO:
            msg = f"ridge is {ridge!r}; expected {AUTO} or a number of at least 0"
            raise TableError(msg)
    elif not 0 <= ridge < np.inf:
        msg = f"ridge is {ridge}; expected {AUTO} or a number of at least 0"
        raise TableError(msg)
    if softening is not None and not 0 < softening < np.inf:
        msg = f"softening is {softening}; expected None or a number above 0"
        raise TableError(msg)
