"""What a whitening by weak label is fitted on: the input checked, plates' centres, features in use.

Every error is a :class:`wsdino.errors.TableError` of one line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.tables.features import LARGEST, has_squares

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_CONSTANT = 1e-9


def wants_centres(
    control: NDArray[np.bool_], plates: NDArray[Any] | None, centre: bool | None
) -> tuple[bool, list[str]]:
    """Return whether plates are to be centred on their controls, and a note about it."""
    if centre is False:
        return False, []
    if plates is None:
        if centre:
            msg = "plates can't be centred on their controls: no plates were given"
            raise TableError(msg)
        return False, ["plates not centred: none are known"]
    names = plate_names(plates, len(control))
    distinct = np.unique(names)
    without = np.setdiff1d(distinct, names[control])
    if len(without):
        found = f"{len(without)} of {len(distinct)} plates have no controls (such as {without[0]})"
        if centre:
            msg = f"plates can't be centred on their controls: {found}"
            raise TableError(msg)
        return False, [f"plates not centred: {found}"]
    return True, [f"{len(distinct)} plates each centred on their controls' means"]


def centres_of_controls(
    matrix: NDArray[np.floating], control: NDArray[np.bool_], plates: NDArray[Any] | None
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return (plates, F) means of controls, and (n,) each row's plate; TableError without any."""
    if plates is None:
        msg = "this weak_label whitening centres plates on their controls; plates were not given"
        raise TableError(msg)
    names, codes = np.unique(plate_names(plates, len(matrix)), return_inverse=True)
    chosen = np.flatnonzero(control)
    chosen = chosen[np.argsort(codes[chosen], kind="stable")]
    counts = np.bincount(codes[chosen], minlength=len(names))
    centres = np.empty((len(names), matrix.shape[1]))
    for plate, rows in enumerate(np.split(chosen, np.cumsum(counts)[:-1])):
        if not len(rows):
            msg = (
                f"plate {names[plate]} has no controls to be centred on, which weak_label was "
                "fitted with; give its control rows too"
            )
            raise TableError(msg)
        centres[plate] = matrix[rows].mean(axis=0, dtype=np.float64)
    return centres, codes


def varying_features(
    matrix: NDArray[np.float64],
    centred: NDArray[np.float64],
    fitted: NDArray[np.bool_],
    blocks: Sequence[Sequence[int]] | None,
) -> tuple[NDArray[np.intp], list[NDArray[np.intp]]]:
    """Return the positions of the features to use, and for each block where they are in that."""
    varies = centred[fitted].std(axis=0) > _CONSTANT * np.abs(matrix[fitted]).max(axis=0)
    chosen = [list(range(matrix.shape[1]))] if blocks is None else [list(b) for b in blocks]
    flat = [position for block in chosen for position in block]
    if len(set(flat)) != len(flat) or not set(flat) <= set(range(matrix.shape[1])):
        msg = f"blocks must hold each of {matrix.shape[1]} features' positions at most once"
        raise TableError(msg)
    kept = np.array(sorted(position for position in flat if varies[position]), dtype=np.intp)
    if len(kept) == 0:
        msg = "every feature is constant over the rows that weak_label is fitted on"
        raise TableError(msg)
    groups = [
        np.searchsorted(kept, [position for position in sorted(block) if varies[position]])
        for block in chosen
    ]
    return kept, [group for group in groups if len(group)]


def finite_matrix(features: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return features as a float matrix; TableError unless all have squares and there are some."""
    matrix = np.asarray(features)
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        msg = f"weak_label needs a matrix of rows and features; found shape {matrix.shape}"
        raise TableError(msg)
    if not has_squares(matrix):
        bad = int(np.sum([not has_squares(column) for column in matrix.T]))
        msg = (
            f"weak_label needs finite features of at most {LARGEST:g}; {bad} of {matrix.shape[1]} "
            "have missing, infinite or larger values; drop or fill these first"
        )
        raise TableError(msg)
    return matrix


def check_replicates(codes: NDArray[np.intp], control: NDArray[np.bool_]) -> None:
    """Raise TableError unless there are two labels and one of them has two rows."""
    sizes = np.bincount(codes) if len(codes) else np.zeros(0, dtype=np.intp)
    if len(sizes) < 2 or not (sizes > 1).any():
        msg = (
            f"weak_label needs at least two labels, one of them with replicates; found "
            f"{len(sizes)} (controls count as one), {int((sizes > 1).sum())} with replicates, in "
            f"{len(codes)} labelled rows of which {int(control.sum())} are controls"
        )
        raise TableError(msg)


def check_scatter(covariance: NDArray[np.float64], groups: Sequence[NDArray[np.intp]]) -> None:
    """Raise TableError if replicates don't differ in a whole block of features."""
    variances = covariance.diagonal()
    for group in groups:
        if not variances[group].sum() > 0:
            msg = (
                f"weak_label can't whiten {len(group)} features in which no label's replicates "
                "differ; are rows repeated, or profiles given where sites or wells belong?"
            )
            raise TableError(msg)


def control_mask(controls: NDArray[np.bool_] | None, num_rows: int) -> NDArray[np.bool_]:
    """Return which of the rows are controls: none where `controls` is None."""
    mask = np.zeros(num_rows, dtype=bool) if controls is None else np.asarray(controls, dtype=bool)
    if len(mask) != num_rows:
        msg = (
            f"{len(mask)} entries say which of {num_rows} rows are controls; expected one for each"
        )
        raise TableError(msg)
    return mask


def plate_names(plates: NDArray[Any] | None, num_rows: int) -> NDArray[np.str_]:
    """Return each row's plate as text; TableError where one is missing."""
    assert plates is not None
    if len(plates) != num_rows:
        msg = f"{len(plates)} plates for {num_rows} rows; expected one for each"
        raise TableError(msg)
    missing = int(pd.isna(pd.Series(plates, dtype=object)).sum())
    if missing:
        msg = f"the plate is missing in {missing} of {num_rows} rows; weak_label needs each or none"
        raise TableError(msg)
    return np.array([str(value) for value in plates], dtype=np.str_)
