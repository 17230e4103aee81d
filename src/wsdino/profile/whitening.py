"""Whitening: typical variation normalisation, and the same fitted on all rows.

Typical variation normalisation (TVN; Ando, McLean & Berndl 2017) whitens all features with the PCA
of the negative controls, so that directions in which controls vary anyway count no more than any
other. Where a screen has no controls, the same whitening can be fitted on everything.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.counting import counted
from wsdino.errors import TableError, option
from wsdino.profile.base import Fit
from wsdino.profile.rows import chosen_blocks, mean_of_blocks, moments_of_blocks
from wsdino.profile.stored import require_entries, require_numbers, require_positions
from wsdino.tables.columns import CONTROL
from wsdino.tables.features import (
    LARGEST,
    ROWS_AT_ONCE,
    channel_of,
    embeddings_among,
    feature_blocks,
    feature_columns,
    has_squares,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from wsdino.profile.base import State

EIGENVALUE_FLOOR = 1e-10


@dataclass(frozen=True)
class TVN:
    """A whitening fitted by :func:`fit_tvn`.

    Attributes
    ----------
    mean
        (F,) mean of the controls.
    projection
        (F, k): principal axes of the controls, each over the root of its eigenvalue; or (F, F),
        symmetric, where directions in which the controls don't vary are kept.
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
            (m, k) or (m, F) float64, as `projection` is. Without regularisation the controls
            themselves get mean 0 and identity covariance.

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
    the largest, which is where rounding of float32 features lies) can't be whitened without
    regularisation, and are left out, whatever number of components is asked for: of many features
    and few controls most of what compounds do may be lost. With regularisation, and no more
    controls than features, they are kept, at the variance that it adds to every axis, unless
    `num_components` is given. Of more controls such axes say that nothing is there, like the sum
    of features that a layer norm has centred, and they are left out.

    Parameters
    ----------
    controls
        (n, F) features of the control rows; they needn't be centred.
    num_components
        Number of axes to keep, the widest first; default all. The paper keeps 384 of 384.
    regularisation
        Added to each eigenvalue, in units of the mean of those that aren't zero, so that axes
        estimated from few controls are not blown up. With 0 the controls' covariance becomes
        exactly the identity.

    Returns
    -------
    TVN

    Raises
    ------
    TableError
        If there are fewer than two controls, the controls are all alike, a feature is not finite
        or too large to be squared, or an option is out of range.

    Notes
    -----
    Ando, McLean & Berndl (2017), "Improving phenotypic measurements in high-content imaging
    screens", doi:10.1101/161422; without that paper's second step (CORAL between batches).

    Examples
    --------
    >>> import wsdino
    >>> import numpy as np
    >>> controls = np.random.default_rng(0).normal(size=(100, 3)) @ np.diag([1.0, 2.0, 3.0])
    >>> whitened = wsdino.fit_tvn(controls).transform(controls)
    >>> bool(np.allclose(np.cov(whitened.T), np.eye(3)))
    True
    """
    matrix = np.asarray(controls, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) < 2 or matrix.shape[1] == 0:
        msg = f"whitening needs at least 2 rows to fit on and 1 feature; found shape {matrix.shape}"
        raise TableError(msg)
    if not has_squares(matrix):
        msg = (
            f"whitening needs finite features of at most {LARGEST:g}; found missing, infinite or "
            "larger values among the controls"
        )
        raise TableError(msg)
    parts = [matrix[start : start + ROWS_AT_ONCE] for start in range(0, len(matrix), ROWS_AT_ONCE)]
    return _fit_blocks(lambda: parts, num_components=num_components, regularisation=regularisation)


def _fit_blocks(
    blocks: Callable[[], Iterable[NDArray[np.float64]]],
    *,
    num_components: int | None,
    regularisation: float,
) -> TVN:
    """Fit as :func:`fit_tvn` does, on rows that are gone through some at a time, and twice."""
    if num_components is not None and num_components < 1:
        msg = f"num_components is {num_components}; expected at least 1"
        raise TableError(msg)
    if regularisation < 0:
        msg = f"regularisation is {regularisation}; expected 0 or more"
        raise TableError(msg)
    mean, num = mean_of_blocks(blocks)
    # Of several blocks the triangular factor stands for all rows: it has their axes and variances.
    factor: NDArray[np.float64] | None = None
    for block in blocks():
        centred = block - mean
        if factor is not None:
            centred = np.asarray(np.linalg.qr(np.concatenate([factor, centred]), mode="r"))
        factor = centred
    assert factor is not None
    _, singular, axes = np.linalg.svd(factor, full_matrices=False)
    eigenvalues = singular**2 / (num - 1)
    scale = max(float(np.abs(mean).max()), 1e-300) * np.finfo(np.float64).eps * num
    if eigenvalues[0] <= scale**2:
        msg = f"the {num} rows to fit on are all alike: every feature is constant"
        raise TableError(msg)
    rank = int((eigenvalues > EIGENVALUE_FLOOR * eigenvalues[0]).sum())
    kept = min(rank, num_components or rank)
    added = regularisation * eigenvalues[:rank].mean()
    widened = eigenvalues[:kept] + added
    if added > 0 and num_components is None and num <= len(mean):
        outside = 1 / np.sqrt(added)
        symmetric = (axes[:rank].T * (1 / np.sqrt(widened) - outside)) @ axes[:rank]
        symmetric[np.diag_indices(len(mean))] += outside
        return TVN(mean, symmetric, eigenvalues[:rank], num, rank)
    # The sign of an axis is arbitrary; fixing it makes results equal across LAPACK builds.
    largest = np.abs(axes[:kept]).argmax(axis=1)
    signs = np.sign(axes[np.arange(kept), largest])
    projection = (axes[:kept] * (signs / np.sqrt(widened))[:, None]).T
    return TVN(mean, projection, eigenvalues[:kept], num, rank)


@dataclass(frozen=True)
class Whitening:
    """Whiten the features, of each channel alone or all together.

    Options: `num_components` and `regularisation` as in :func:`fit_tvn`, the first of each channel
    where `per_channel` is true; `per_channel`: whiten the features `emb_<channel>_<index>` of each
    channel alone and concatenate, as the paper does. Features with other names are whitened
    together: those that have units of their own are each brought to the same deviation, and those
    of an embedding (:func:`wsdino.tables.features.embeddings_among`) all by one number, since they
    share a unit.

    Attributes
    ----------
    on_controls
        Whether to fit on the controls, or on all rows.
    """

    on_controls: bool

    def fit(self, table: pd.DataFrame, options: Mapping[str, Any]) -> Fit:
        """Fit a whitening for each channel, or one; see :class:`wsdino.profile.base.Method`."""
        names = feature_columns(table)
        fitted = table[CONTROL].to_numpy(bool) if self.on_controls else np.ones(len(table), bool)
        # Controls are few; all rows are read anew each time that they are gone through.
        held = list(chosen_blocks(table, fitted)) if self.on_controls else None
        num_components, regularisation = options["num_components"], options["regularisation"]
        groups = channel_groups(names) if options["per_channel"] else {"": list(range(len(names)))}
        state: list[dict[str, Any]] = []
        notes: list[str] = []
        width = max(map(len, groups.values()))
        for channel, positions in groups.items():

            def blocks(
                own: list[int] = positions, by: NDArray[np.float64] | None = None
            ) -> Iterator[NDArray[np.float64]]:
                for block in held or chosen_blocks(table, fitted):
                    yield block[:, own] if by is None else block[:, own] / by

            deviation = None
            if not channel:
                embeddings = embeddings_among([names[at] for at in positions])
                deviation = _units(moments_of_blocks(blocks)[1], embeddings)
                if shared := len(embeddings) - embeddings.count(0):
                    of = counted(max(embeddings), "embedding")
                    notes.append(
                        f"{shared} features are taken for {of} by their names: of one unit, and "
                        "not divided each by its own deviation"
                    )
            tvn = _fit_blocks(
                partial(blocks, by=deviation),
                num_components=num_components,
                regularisation=regularisation,
            )
            state.append(
                {
                    "channel": channel,
                    "positions": positions,
                    "deviation": deviation,
                    "tvn": dict(vars(tvn)),
                }
            )
            kept = tvn.projection.shape[1]
            wanted = min(num_components or len(positions), len(positions))
            if kept < wanted:
                where = f"{channel}: " if channel else ""
                notes.append(
                    f"{where}{kept} components instead of {wanted}: the {tvn.num_fitted} rows "
                    "fitted on vary in no further direction"
                )
        if regularisation:
            notes.insert(0, f"regularisation {regularisation:g}")
        if len(groups) > 1:
            notes.insert(0, f"whitened per channel ({', '.join(filter(None, groups))})")
        return Fit(
            {"groups": state},
            "controls" if self.on_controls else "all rows",
            int(fitted.sum()),
            "; ".join(notes),
            num_components=sum(group["tvn"]["projection"].shape[1] for group in state),
            warning=self._warning(
                int(fitted.sum()),
                width,
                is_split=len(groups) > 1,
                keeps_all=bool(regularisation) and num_components is None,
            ),
        )

    def _warning(
        self, num_fitted: int, num_features: int, *, is_split: bool, keeps_all: bool
    ) -> str:
        """Warn where there are fewer rows to fit on than features."""
        if num_fitted > num_features:
            return ""
        rows = "rows of controls" if self.on_controls else "rows"
        of_each = " of each channel" if is_split else ""
        counted = f"{num_fitted} {rows} for {num_features} features{of_each}"
        few = f"The whitening was fitted on {counted}"
        if not self.on_controls:
            return (
                f"{few}: so few rows become nearly equally far from each other, whatever their "
                "treatments; use weak_label or plate, or far fewer components than there are rows: "
                f"{option('--num-components NUMBER')}."
            )
        if keeps_all:
            return (
                f"{few}: how they vary is known only in part; compare with the normalisation "
                "whiten_all or weak_label, or use more controls."
            )
        return (
            f"{few}: directions in which those controls don't vary are lost, and much of the "
            "phenotype may be; use a regularisation, such as 0.01, which keeps them, compare with "
            "the normalisation whiten_all or weak_label, or use more controls."
        )

    def transform(self, table: pd.DataFrame, state: State) -> pd.DataFrame:
        """Whiten the features of each group; see :class:`wsdino.profile.base.Method`."""
        names: list[str] = []
        places: list[slice] = []
        for group in state["groups"]:
            width = group["tvn"]["projection"].shape[1]
            stem = f"emb_{group['channel']}" if group["channel"] else "white"
            places.append(slice(len(names), len(names) + width))
            names += [f"{stem}_{index}" for index in range(width)]
        white = np.empty((len(table), len(names)))
        for rows, features in feature_blocks(table):
            for group, columns in zip(state["groups"], places, strict=True):
                block = features[:, group["positions"]]
                if group["deviation"] is not None:
                    block = block / group["deviation"]
                white[rows, columns] = TVN(**group["tvn"]).transform(block)
        return pd.DataFrame(white, columns=names, index=table.index, copy=False)

    def check(self, state: State, features: Sequence[str]) -> None:
        """Require a whitening for each group of features; see the protocol `Method`."""
        require_entries(state, ("groups",))
        positions: list[int] = []
        for group in state["groups"]:
            require_entries(group, ("channel", "positions", "deviation", "tvn"))
            require_positions(group["positions"], len(features), "positions")
            positions += group["positions"]
            num = len(group["positions"])
            if group["deviation"] is not None:
                require_numbers(group, "deviation", (num,), positive=True)
            _check_tvn(group["tvn"], num)
        channels = [str(group["channel"]) for group in state["groups"]]
        if len(set(channels)) < len(channels) or sorted(positions) != list(range(len(features))):
            raise ValueError(f"its groups {channels!s:.60} aren't each feature once")


def _units(deviation: NDArray[np.float64], embeddings: Sequence[int]) -> NDArray[np.float64]:
    """Return what to divide each feature by, given its deviation and its embedding."""
    result = np.where(deviation > 0, deviation, 1.0)
    for number in set(embeddings) - {0}:
        # A feature that hardly varies among the controls must not become the loudest.
        own = np.array(embeddings) == number
        mean = float(np.sqrt((deviation[own] ** 2).mean()))
        result[own] = mean if mean > 0 else 1.0
    return result


def _check_tvn(state: State, num_features: int) -> None:
    """Raise ValueError if :func:`fit_tvn` makes no such :class:`TVN`."""
    require_entries(state, [each.name for each in fields(TVN)])
    num = len(state["eigenvalues"])
    require_numbers(state, "mean", (num_features,))
    # All axes along which the controls vary, or some: only with all may it keep the others as well.
    keeps_all = num == state["rank"] and np.shape(state["projection"])[-1:] == (num_features,)
    width = num_features if keeps_all else num
    require_numbers(state, "projection", (num_features, width))
    require_numbers(state, "eigenvalues", (num,), positive=True)
    rank, num_fitted = state["rank"], state["num_fitted"]
    if not 1 <= num <= rank <= min(num_features, num_fitted - 1):
        raise ValueError(
            f"it has {num} axes of {rank} in {num_features} features of {num_fitted} rows"
        )


def channel_groups(names: list[str]) -> dict[str, list[int]]:
    """Map each channel, in order of first appearance, to its features' positions.

    Parameters
    ----------
    names
        Of the features; those not of the form `emb_<channel>_<index>` are of channel `""`.

    Returns
    -------
    dict
        Positions by channel.
    """
    groups: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        channel = channel_of(name) if name.startswith("emb_") else ""
        groups.setdefault(channel, []).append(position)
    return groups
