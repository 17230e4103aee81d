"""Leakage: how much of where and how wells were made can be told from the features."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.counting import counted
from wsdino.evaluate.confounders import CONFOUNDERS, DENSITY, cells_of, plate_numbers
from wsdino.evaluate.probe import linear_probe
from wsdino.profile.aggregate import aggregate
from wsdino.profile.rows import control_rows, directions, lengths, moments
from wsdino.tables.columns import COMPOUND, PLATE, WELL
from wsdino.tables.features import features_of, plate_keys, require_columns

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

MAX_WELLS = 20_000
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Leakage:
    """Result of :func:`label_leakage`.

    Attributes
    ----------
    accuracy
        Fraction of wells whose nearest neighbour of another compound has the same label.
    chance
        The same for a neighbour drawn at random.
    num_wells
        Number of wells that have a candidate with the same label, and so count; those whose own or
        whose neighbour's label isn't known don't.
    sample
        Which wells took part, in words, where not all did: of many some are drawn, and a well that
        is zero in every feature is no neighbour and has none.
    """

    accuracy: float
    chance: float
    num_wells: int
    sample: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dict, with `lift`: accuracy over chance."""
        return asdict(self) | {"lift": self.accuracy / self.chance}


def label_leakage(table: pd.DataFrame, label: str, *, seed: int = 0) -> Leakage | None:
    """Measure how often a well's nearest neighbour comes from the same batch (or plate).

    Neighbours of the same compound don't count, because in most designs a compound lies in one
    batch. Sites are averaged to wells first. Without leakage, accuracy is near chance, apart from
    what compounds that share a batch share in phenotype.

    Parameters
    ----------
    table
        Normalised sites or wells with `Metadata_Plate`, `Metadata_Well`, `Metadata_Compound`.
    label
        `Metadata_Batch`, `Metadata_Plate`, or any other column constant in a well.
    seed
        Of the draw of :data:`MAX_WELLS` wells where there are more: time grows with their square.

    Returns
    -------
    Leakage, or None
        None where no well has a candidate with the same label, or all candidates have it.

    Raises
    ------
    TableError
        If a column is missing, or as in :func:`wsdino.tables.features.features_of`.
    """
    require_columns(table, [PLATE, WELL, COMPOUND, label], purpose="leakage")
    rows, sample = _some_wells(table, [label], seed)
    wells = _wells(table.iloc[rows], [label])
    classes = plate_numbers(wells) if label == PLATE else wells[label]
    compounds = _compounds(wells)
    neighbours = _Neighbours.of(features_of(wells), compounds, sample)
    return neighbours.shared(_codes(classes, missing=True))


def leakage_of(
    table: pd.DataFrame, normalised: pd.DataFrame, *, seed: int = 0
) -> dict[str, dict[str, Any] | None]:
    """Measure how much of each confounder is in the features, before and after normalisation.

    Parameters
    ----------
    table
        Metadata and features of n sites or wells, not normalised.
    normalised
        The same rows as :func:`wsdino.profile.normalise.normalise` returned them.
    seed
        Of what is drawn where there are more than :data:`MAX_WELLS` wells, and of the probe.

    Returns
    -------
    dict
        By name of :data:`CONFOUNDERS`, None where the table doesn't have it or it has one value:
        what :meth:`Leakage.as_dict` has of the normalised features, with `probe` (what
        :func:`wsdino.evaluate.probe.linear_probe` found, with compounds as groups and each control
        well a group of its own, or None), and the same of the features before as `before`, which
        are only standardised, so that no unit outweighs the others.
    """
    if not {PLATE, WELL, COMPOUND} <= set(table):
        return {each.name: None for each in CONFOUNDERS}
    rows, sample = _some_wells(table, [], seed)
    some = table.iloc[rows]
    raw, made = _wells(some, []), _wells(normalised.iloc[rows], [])
    density = cells_of(some)
    if density is not None:
        by = some.assign(**{DENSITY: density}).groupby(_keys(some, []), sort=False, dropna=False)
        raw[DENSITY] = by[DENSITY].mean().to_numpy()
    codes = {
        each.name: _codes(classes)
        for each in CONFOUNDERS
        if (classes := each.classes(raw)) is not None
    }
    before = features_of(raw)
    centre, deviation = moments(before)
    before = np.divide(before - centre, deviation, out=np.zeros_like(before), where=deviation > 0)
    first, second = (
        _measured(features, codes, raw, sample, seed) for features in (before, features_of(made))
    )
    return {
        each.name: own | {"before": first.get(each.name)}
        if (own := second.get(each.name))
        else None
        for each in CONFOUNDERS
    }


def _measured(
    features: NDArray[np.float64],
    codes: Mapping[str, NDArray[np.intp]],
    wells: pd.DataFrame,
    sample: str | None,
    seed: int,
) -> dict[str, dict[str, Any]]:
    compounds = _compounds(wells)
    # Controls have no phenotype: each tells of the others, and would otherwise all be in one fold.
    is_control = control_rows(wells)
    groups = np.where(is_control, compounds.max() + 1 + np.arange(len(wells)), compounds)
    probes = linear_probe(features, codes, groups, seed=seed)
    neighbours = _Neighbours.of(features, compounds, sample)
    found = {}
    for name, own in codes.items():
        shared, probe = neighbours.shared(own), probes[name]
        if shared:
            found[name] = shared.as_dict() | {"probe": asdict(probe) if probe else None}
    return found


def _keys(table: pd.DataFrame, labels: list[str]) -> list[str]:
    return list(dict.fromkeys([*plate_keys(table), WELL, COMPOUND, *labels]))


def _some_wells(
    table: pd.DataFrame, labels: list[str], seed: int
) -> tuple[NDArray[np.intp], str | None]:
    """Return the rows of the wells that take part, and which these are where not all do.

    The rows are in the order of their wells, so that what is drawn, and what equal neighbours
    decide, doesn't depend on their order in the table.
    """
    codes = table.groupby(_keys(table, labels), sort=True, dropna=False).ngroup().to_numpy()
    num_wells = int(codes.max(initial=-1)) + 1
    in_order = np.argsort(codes, kind="stable")
    if num_wells <= MAX_WELLS:
        return in_order, None
    drawn = np.random.default_rng(seed).choice(num_wells, MAX_WELLS, replace=False)
    is_drawn = np.zeros(num_wells, dtype=bool)
    is_drawn[drawn] = True
    sample = f"{MAX_WELLS:,} of {num_wells:,} wells, drawn with seed {seed}"
    return in_order[is_drawn[codes[in_order]]], sample


def _wells(table: pd.DataFrame, labels: list[str]) -> pd.DataFrame:
    return aggregate(table, by=_keys(table, labels))


def _codes(classes: pd.Series[Any], *, missing: bool = False) -> NDArray[np.intp]:
    """Return the number of each row's class; missing ones are -1, or a class of their own."""
    return np.asarray(pd.factorize(classes, use_na_sentinel=not missing)[0], dtype=np.intp)


def _compounds(wells: pd.DataFrame) -> NDArray[np.intp]:
    return np.asarray(pd.factorize(wells[COMPOUND], use_na_sentinel=False)[0], dtype=np.intp)


@dataclass(frozen=True)
class _Neighbours:
    """Wells that have a direction, with the most similar of another compound.

    Attributes
    ----------
    rows
        (k,) which of the wells these are.
    compounds
        (k,) number of each one's compound.
    nearest
        (k,) position among them of each one's neighbour; -1 where there is none.
    sample
        As that of :class:`Leakage`.
    """

    rows: NDArray[np.intp]
    compounds: NDArray[np.intp]
    nearest: NDArray[np.intp]
    sample: str | None

    @classmethod
    def of(
        cls, features: NDArray[np.float64], compounds: NDArray[np.intp], sample: str | None
    ) -> _Neighbours:
        """Find them among all wells that take part."""
        norms = lengths(features)
        rows = np.flatnonzero(norms)
        unit, own = directions(features[rows], norms[rows]), compounds[rows]
        nearest = np.empty(len(rows), dtype=np.intp)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            some = slice(start, start + _ROWS_AT_ONCE)
            admissible = own[some, None] != own[None, :]
            similarity = np.where(admissible, unit[some] @ unit.T, -np.inf)
            nearest[some] = np.where(admissible.any(axis=1), similarity.argmax(axis=1), -1)
        if len(rows) < len(features):
            zero = f"{counted(len(features) - len(rows), 'well')} zero in every feature"
            sample = f"{sample or counted(len(features), 'well')}, less {zero}"
        return cls(rows, own, nearest, sample)

    def shared(self, labels: NDArray[np.intp]) -> Leakage | None:
        """Measure how often the nearest well of another compound has the same label.

        Parameters
        ----------
        labels
            (n,) of all wells that take part; -1: not known.
        """
        labels, compounds = labels[self.rows], self.compounds
        known = labels >= 0
        if not known.any():
            return None
        # Wells of other compounds that have the same label, and any.
        both = labels * (int(compounds.max()) + 1) + compounds
        same = _sizes(labels[known]) - _sizes(both[known])
        all_ = known.sum() - _sizes(compounds[known])
        asked = (same > 0) & known[self.nearest[known]]
        if not asked.any() or not (same < all_).any():
            return None
        hits = labels[known][asked] == labels[self.nearest[known][asked]]
        chance = same[asked] / all_[asked]
        return Leakage(float(hits.mean()), float(chance.mean()), len(hits), self.sample)


def _sizes(codes: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return for each row how many have its code."""
    _, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    sizes: NDArray[np.intp] = counts[inverse]
    return sizes
