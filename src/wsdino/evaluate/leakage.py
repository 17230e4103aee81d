"""Leakage: how well batch or plate can be predicted from the features."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.profile.aggregate import aggregate
from wsdino.tables.columns import BATCH, COMPOUND, PLATE, WELL
from wsdino.tables.features import features_of, plate_keys, require_columns

if TYPE_CHECKING:
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
        Number of wells that have a candidate with the same label, and so count.
    sample
        Which wells took part, in words, where not all did.
    """

    accuracy: float
    chance: float
    num_wells: int
    sample: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dict."""
        return asdict(self)


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
    wells = aggregate(table, by=list(dict.fromkeys([*plate_keys(table), WELL, COMPOUND, label])))
    num_wells, sample = len(wells), None
    if num_wells > MAX_WELLS:
        drawn = np.random.default_rng(seed).choice(num_wells, MAX_WELLS, replace=False)
        wells = wells.take(np.sort(drawn)).reset_index(drop=True)
        sample = f"{MAX_WELLS:,} of {num_wells:,} wells, drawn with seed {seed}"
    features = features_of(wells)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    features = features / np.where(norms > 0, norms, 1)
    # A plate is a plate within its batch.
    own = plate_keys(wells) if label == PLATE else [label]
    labels = wells.groupby(own, sort=False, dropna=False).ngroup().to_numpy()
    compounds = pd.factorize(wells[COMPOUND])[0]
    found, chances, others = [], [], False
    for start in range(0, len(wells), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        admissible = compounds[rows, None] != compounds[None, :]
        same = admissible & (labels[rows, None] == labels[None, :])
        counts = same.any(axis=1)
        hit = _hits(features[rows] @ features.T, admissible, same)
        others |= bool((same.sum(axis=1) < admissible.sum(axis=1)).any())
        found.append(hit[counts])
        chances.append(same.sum(axis=1)[counts] / admissible.sum(axis=1)[counts])
    hits, chance = np.concatenate(found), np.concatenate(chances)
    if len(hits) == 0 or not others:
        return None
    return Leakage(float(hits.mean()), float(chance.mean()), len(hits), sample)


def _hits(
    similarity: NDArray[np.float64], admissible: NDArray[np.bool_], same: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return whether each row's most similar admissible column has the same label."""
    neighbour = np.where(admissible, similarity, -np.inf).argmax(axis=1)
    hit: NDArray[np.bool_] = same[np.arange(len(same)), neighbour]
    return hit


def leakage_of_normalised(normalised: pd.DataFrame) -> dict[str, Any]:
    """How much of batch and plate can be read off normalised features.

    Parameters
    ----------
    normalised
        Metadata and features of sites or wells, as
        :func:`wsdino.profile.normalise.normalise` returned them.

    Returns
    -------
    dict
        The `leakage` of :func:`wsdino.evaluate.results.evaluate_sites`: of `batch` and `plate`;
        None where a column is missing.
    """
    leakage: dict[str, Any] = {"batch": None, "plate": None}
    for name, column in (("batch", BATCH), ("plate", PLATE)):
        if {PLATE, WELL, COMPOUND, column} <= set(normalised):
            found = label_leakage(normalised, column)
            leakage[name] = found.as_dict() if found else None
    return leakage
