"""Normalisation of embeddings and profiles: whitening and standardisation.

Typical variation normalisation (TVN; Ando, McLean & Berndl 2017) whitens all features with the PCA
of the negative controls, so that directions in which controls vary anyway count no more than any
other. Where a screen has no controls, the same whitening can be fitted on everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.tables.columns import CONTROL, PLATE
from wsdino.tables.features import (
    channel_of,
    feature_columns,
    features_of,
    metadata_of,
    plate_keys,
    require_columns,
)
from wsdino.tables.lists import require_one_label

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHODS = {
    "tvn": "PCA whitening fitted on the control rows (Metadata_Control)",
    "whiten_all": "the same whitening, fitted on all rows",
    "plate": "standardised plate by plate, on controls if every plate has two, else on all rows",
    "plate_controls": "centred on each plate's controls, over the deviation of all these",
    "standardise_all": "standardised on all rows at once",
    "none": "as they are",
}
EIGENVALUE_FLOOR = 1e-10
# Whitening what it was fitted on, with nearly as many axes as rows, makes every row equally far
# from every other. On Ljosa's CellProfiler table NSC falls to 27/103 with 0, and is 81 to 93 with
# 0.01 to 1; TVN, fitted on controls alone, hardly depends on it.
WHITEN_ALL_REGULARISATION = 0.1
_CONSTANT = 1e-9


@dataclass(frozen=True)
class TVN:
    """A whitening fitted by :func:`fit_tvn`.

    Attributes
    ----------
    mean
        (F,) mean of the controls.
    projection
        (F, k): principal axes of the controls, each over the root of its eigenvalue.
    eigenvalues
        (k,) variances of the controls along the axes (`n - 1` in the denominator), decreasing.
    num_fitted
        Number of controls.
    rank
        Number of axes along which the controls vary at all; k is at most this.
    """

    mean: NDArray[np.float64]
    projection: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    num_fitted: int
    rank: int

    def transform(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Whiten features.

        Parameters
        ----------
        features
            (m, F) in the features the whitening was fitted on.

        Returns
        -------
        ndarray
            (m, k) float64. The controls themselves get mean 0 and identity covariance.

        Raises
        ------
        TableError
            If the number of features is another.
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            msg = (
                f"features of shape {features.shape} can't be whitened; expected (rows, "
                f"{len(self.mean)}) as at fitting"
            )
            raise TableError(msg)
        result: NDArray[np.float64] = (features - self.mean) @ self.projection
        return result


def fit_tvn(
    controls: NDArray[np.floating],
    *,
    num_components: int | None = None,
    regularisation: float = 0.0,
) -> TVN:
    """Fit typical variation normalisation: PCA whitening of the controls.

    n controls span at most n - 1 axes. Axes along which they don't vary (eigenvalue below 1e-10 of
    the largest, which is where rounding of float32 features lies) can't be whitened and are left
    out, whatever number of components is asked for.

    Parameters
    ----------
    controls
        (n, F) features of the control rows; they needn't be centred.
    num_components
        Number of axes to keep, the widest first; default all. The paper keeps 384 of 384.
    regularisation
        Added to each eigenvalue, in units of their mean, so that axes estimated from few controls
        are not blown up. With 0 the controls' covariance becomes exactly the identity.

    Returns
    -------
    TVN

    Raises
    ------
    TableError
        If there are fewer than two controls, the controls are all alike, a feature is not finite,
        or an option is out of range.

    Notes
    -----
    Ando, McLean & Berndl (2017), "Improving phenotypic measurements in high-content imaging
    screens", doi:10.1101/161422; without that paper's second step (CORAL between batches).
    """
    matrix = np.asarray(controls, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) < 2 or matrix.shape[1] == 0:
        msg = (
            f"whitening needs at least 2 rows to fit on and 1 feature; found shape {matrix.shape}; "
            f"other methods: {_alternatives('tvn')}"
        )
        raise TableError(msg)
    if not np.isfinite(matrix).all():
        msg = "whitening needs finite features; found missing or infinite values among the controls"
        raise TableError(msg)
    if num_components is not None and num_components < 1:
        msg = f"num_components is {num_components}; expected at least 1"
        raise TableError(msg)
    if regularisation < 0:
        msg = f"regularisation is {regularisation}; expected 0 or more"
        raise TableError(msg)
    mean = matrix.mean(axis=0)
    _, singular, axes = np.linalg.svd(matrix - mean, full_matrices=False)
    eigenvalues = singular**2 / (len(matrix) - 1)
    scale = max(float(np.abs(mean).max()), 1e-300) * np.finfo(np.float64).eps * len(matrix)
    if eigenvalues[0] <= scale**2:
        msg = f"the {len(matrix)} rows to fit on are all alike: every feature is constant"
        raise TableError(msg)
    rank = int((eigenvalues > EIGENVALUE_FLOOR * eigenvalues[0]).sum())
    kept = min(rank, num_components or rank)
    widened = eigenvalues[:kept] + regularisation * eigenvalues[:rank].mean()
    # The sign of an axis is arbitrary; fixing it makes results equal across LAPACK builds.
    largest = np.abs(axes[:kept]).argmax(axis=1)
    signs = np.sign(axes[np.arange(kept), largest])
    projection = (axes[:kept] * (signs / np.sqrt(widened))[:, None]).T
    return TVN(mean, projection, eigenvalues[:kept], len(matrix), rank)


def normalise(
    table: pd.DataFrame,
    *,
    method: str = "tvn",
    num_components: int | None = None,
    regularisation: float | None = None,
    per_channel: bool = True,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Normalise the features of a table of sites or wells.

    Parameters
    ----------
    table
        Metadata and features.
    method
        One of :data:`METHODS`.
    num_components
        For the whitenings, see :func:`fit_tvn`; with `per_channel` for each channel.
    regularisation
        For the whitenings, see :func:`fit_tvn`; default 0 for `tvn`, as published, and 0.1 for
        `whiten_all`, whose rows are the ones it was fitted on.
    per_channel
        For the whitenings: whiten the features `emb_<channel>_<index>` of each channel alone and
        concatenate, as the paper does. Features with other names, which have units of their own,
        are brought to the same deviation and whitened together.

    Returns
    -------
    normalised : DataFrame
        The same rows and metadata. Whitened features are named `emb_<channel>_<index>`
        (`white_<index>` for features with other names), others keep their names.
    info : dict
        `method`, `fitted_on`, `num_fitted` (rows), `num_components` (whitened features in all, or
        None) and `note`, as `results.json` holds it.

    Raises
    ------
    TableError
        If the method is unknown or needs controls or plates that the table doesn't have, if every
        feature is constant, or as in :func:`wsdino.tables.features.features_of`.
    """
    if method not in METHODS:
        msg = f"normalisation method is {method!r}; expected one of {', '.join(METHODS)}"
        raise TableError(msg)
    features = features_of(table)
    names = feature_columns(table)
    if method in ("tvn", "whiten_all"):
        fitted = _control_rows(table, method) if method == "tvn" else np.ones(len(table), bool)
        if regularisation is None:
            regularisation = 0.0 if method == "tvn" else WHITEN_ALL_REGULARISATION
        groups = _channel_groups(names) if per_channel else {"": list(range(len(names)))}
        features, names, note = _whiten(features, fitted, groups, num_components, regularisation)
        info = _info(method, "controls" if method == "tvn" else "all", fitted.sum(), note)
        info["num_components"] = len(names)
    elif method == "none":
        info = _info(method, "nothing", 0, "")
    else:
        if method == "standardise_all":
            centre, deviation = _moments(features)
            fitted_on, num_fitted, note = "all", len(table), ""
        elif method == "plate_controls":
            centre, deviation, num_fitted = _plate_controls(table, features)
            fitted_on, note = "controls of each plate", "one deviation for all plates"
        else:
            centre, deviation, num_fitted, fitted_on, note = _plate(table, features)
        features, names, dropped = _standardise(features, names, centre, deviation)
        info = _info(method, fitted_on, num_fitted, "; ".join(filter(None, [note, dropped])))
    columns = pd.DataFrame(features, columns=names, index=table.index)
    return pd.concat([metadata_of(table), columns], axis=1), info


def _info(method: str, fitted_on: str, num_fitted: int, note: str) -> dict[str, Any]:
    return {
        "method": method,
        "fitted_on": fitted_on,
        "num_fitted": int(num_fitted),
        "num_components": None,
        "note": note,
    }


def _alternatives(method: str) -> str:
    needs_controls = ("tvn", "plate_controls")
    return ", ".join(name for name in METHODS if name != method and name not in needs_controls)


def _control_rows(table: pd.DataFrame, method: str) -> NDArray[np.bool_]:
    """Return which rows are controls; at least two are."""
    controls = table[CONTROL].to_numpy(dtype=bool) if CONTROL in table else np.zeros(len(table))
    if controls.sum() < 2:
        found = f"{int(controls.sum())} in {len(table)} rows" if CONTROL in table else "no column"
        msg = (
            f"normalisation {method} needs control rows ({CONTROL} true), found {found}; without "
            f"controls use one of {_alternatives(method)}"
        )
        raise TableError(msg)
    return controls.astype(bool)


def _channel_groups(names: list[str]) -> dict[str, list[int]]:
    """Map each channel, in order of first appearance, to its features' positions."""
    groups: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        channel = channel_of(name) if name.startswith("emb_") else ""
        groups.setdefault(channel, []).append(position)
    return groups


def _whiten(
    features: NDArray[np.float64],
    fitted: NDArray[np.bool_],
    groups: dict[str, list[int]],
    num_components: int | None,
    regularisation: float,
) -> tuple[NDArray[np.float64], list[str], str]:
    blocks, names, notes = [], [], []
    for channel, positions in groups.items():
        block = features[:, positions]
        if not channel:
            # Features of other tools have units of their own; embeddings share one.
            deviation = _moments(block[fitted])[1]
            block = block / np.where(deviation > 0, deviation, 1)
        tvn = fit_tvn(block[fitted], num_components=num_components, regularisation=regularisation)
        blocks.append(tvn.transform(block))
        stem = f"emb_{channel}" if channel else "white"
        kept = blocks[-1].shape[1]
        names += [f"{stem}_{index}" for index in range(kept)]
        wanted = min(num_components or len(positions), len(positions))
        if kept < wanted:
            where = f"{channel}: " if channel else ""
            notes.append(
                f"{where}{kept} components instead of {wanted}: the {tvn.num_fitted} rows fitted "
                "on vary along no more"
            )
    if regularisation:
        notes.insert(0, f"regularisation {regularisation:g}")
    if len(groups) > 1:
        notes.insert(0, f"whitened per channel ({', '.join(filter(None, groups))})")
    return np.concatenate(blocks, axis=1), names, "; ".join(notes)


def _moments(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation per feature; 0 for one that only rounding moves."""
    centre, deviation = rows.mean(axis=0), rows.std(axis=0)
    deviation[deviation <= _CONSTANT * np.abs(centre)] = 0
    return centre, deviation


def _plate_rows(table: pd.DataFrame, method: str) -> list[NDArray[np.intp]]:
    """Return the positions of each plate's rows."""
    require_columns(table, [PLATE], purpose=f"normalisation {method}")
    if table[PLATE].isna().any():
        msg = f"normalisation {method}: {PLATE} is missing in {table[PLATE].isna().sum()} rows"
        raise TableError(msg)
    keys = plate_keys(table)
    require_one_label(table, keys, purpose=f"normalisation {method}")
    codes = table.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()
    return [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]


def _plate_controls(
    table: pd.DataFrame, features: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    controls = _control_rows(table, "plate_controls")
    centre = np.empty_like(features)
    for rows in _plate_rows(table, "plate_controls"):
        own = rows[controls[rows]]
        if len(own) == 0:
            msg = (
                f"normalisation plate_controls needs controls on every plate, plate "
                f"{table[PLATE].iloc[rows[0]]} has none; use one of "
                f"{_alternatives('plate_controls')}"
            )
            raise TableError(msg)
        centre[rows] = features[own].mean(axis=0)
    deviation = (features - centre)[controls].std(axis=0)
    deviation[deviation <= _CONSTANT * np.abs(features).max(axis=0)] = 0
    return centre, deviation, int(controls.sum())


def _plate(
    table: pd.DataFrame, features: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], int, str, str]:
    plates = _plate_rows(table, "plate")
    controls = table[CONTROL].to_numpy(dtype=bool) if CONTROL in table else np.zeros(len(table))
    controls = controls.astype(bool)
    on_controls = all(controls[rows].sum() >= 2 for rows in plates)
    centre, deviation, num_fitted = np.empty_like(features), np.empty_like(features), 0
    for rows in plates:
        own = rows[controls[rows]] if on_controls else rows
        if len(own) < 2:
            msg = (
                f"normalisation plate needs two rows on every plate, plate "
                f"{table[PLATE].iloc[rows[0]]} has {len(own)}; use one of {_alternatives('plate')}"
            )
            raise TableError(msg)
        centre[rows], deviation[rows] = _moments(features[own])
        num_fitted += len(own)
    if on_controls:
        return centre, deviation, num_fitted, "controls of each plate", ""
    note = "not every plate has two controls: each was standardised on all its rows"
    return centre, deviation, num_fitted, "all rows of each plate", note


def _standardise(
    features: NDArray[np.float64],
    names: list[str],
    centre: NDArray[np.float64],
    deviation: NDArray[np.float64],
) -> tuple[NDArray[np.float64], list[str], str]:
    """Centre and scale; drop features that are constant where they were fitted."""
    varies = np.flatnonzero(np.atleast_2d(deviation > 0).all(axis=0))
    if len(varies) == 0:
        msg = "every feature is constant where the normalisation was fitted"
        raise TableError(msg)
    dropped = ""
    if len(varies) < len(names):
        num_constant = len(names) - len(varies)
        dropped = f"{num_constant} of {len(names)} features don't vary there and were dropped"
    scaled = (features - centre)[:, varies] / deviation[..., varies]
    return scaled, [names[position] for position in varies], dropped
