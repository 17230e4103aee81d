"""The treatments of a run with all that is known of each, which several sections share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import InputError
from wsdino.evaluate.confounders import DENSITY, cells_of
from wsdino.profile.rows import directions, lengths
from wsdino.report.activity import most_active
from wsdino.report.columns import Column, controls_of, metadata_columns, numbers
from wsdino.report.words import DISTANCE, concentration, well_distance
from wsdino.runrecord import Omitted, RunRecord
from wsdino.tables.columns import COMPOUND, CONCENTRATION, MOA, TREATMENT
from wsdino.tables.features import features_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

NUM_NEIGHBOURS = 10
_ROWS_AT_ONCE = 512
# Columns of the activity's rows, their headings, and whether a colour scale is logarithmic.
_ACTIVITY = (
    ("mean_average_precision", "Activity (mAP)", False),
    ("corrected_p_value", "q value", True),
    ("replicate_correlation", "Replicate correlation", False),
    ("distance", DISTANCE, False),
    ("num_wells", "Wells", False),
)
NEAREST = "Nearest other compound"
NEAREST_COSINE = "Its cosine"


def treatment_key(compound: object, dose: object) -> tuple[str, str]:
    """Identify a treatment as displayed: compound, and concentration in micromolar."""
    return str(compound), concentration(dose)


@dataclass(frozen=True)
class Treated:
    """The treatments of a run, without controls; see :func:`treated_of`.

    Attributes
    ----------
    frame
        n rows of `profiles.parquet`.
    features
        (n, F) float64.
    rows
        The row of `results.json`'s activity of each, empty where there is none.
    wrong
        Treatments whose NSC neighbour has another mechanism.
    right
        Those whose NSC neighbour has the same; others were no query.
    well_distance
        What the distance of a well is called; see :func:`wsdino.report.words.well_distance`.
    """

    frame: pd.DataFrame
    features: NDArray[np.float64]
    rows: tuple[Mapping[str, Any], ...]
    wrong: frozenset[tuple[str, str]]
    right: frozenset[tuple[str, str]] = frozenset()
    well_distance: str = DISTANCE

    def __len__(self) -> int:
        return len(self.frame)

    @cached_property
    def keys(self) -> list[tuple[str, str]]:
        """Compound and dose of each, as displayed."""
        return keys_of(self.frame)

    @cached_property
    def names(self) -> list[str]:
        """Name of each."""
        return treatment_names(self.frame)

    def rows_of(self, frame: pd.DataFrame) -> list[int]:
        """Row of the treatment of each row of a table; -1 for controls and what isn't here."""
        row_of = {key: row for row, key in enumerate(self.keys)}
        controls = controls_of(frame)
        return [
            -1 if is_control else row_of.get(key, -1)
            for key, is_control in zip(keys_of(frame), controls, strict=True)
        ]

    @cached_property
    def moas(self) -> list[str | None]:
        """Mechanism of each, or None."""
        return moas_of(self.frame)

    @cached_property
    def by_activity(self) -> list[int]:
        """Rows in the order of :func:`wsdino.report.activity.most_active`."""
        named = self.frame[[name for name in TREATMENT if name in self.frame]].to_dict("records")
        facts = [{**name, **row} for name, row in zip(named, self.rows, strict=True)]
        return sorted(range(len(self)), key=lambda row: most_active(facts[row]))

    @cached_property
    def neighbours(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The most similar treatments of each: (n, k) rows, the nearest first, and cosines.

        Other doses of the compound are among them; -1 and NaN where there are fewer than k.
        """
        return nearest_rows(self.features, NUM_NEIGHBOURS)

    @cached_property
    def columns(self) -> list[Column]:
        """What is known of each treatment: metadata, activity, matching, nearest compound."""
        found = metadata_columns(self.frame)
        if any(self.rows):
            found.append(Column("Active", [_is_active(row) for row in self.rows]))
            for key, name, is_log in _ACTIVITY:
                column = numbers(name, [row.get(key) for row in self.rows], is_log=is_log)
                if any(value is not None for value in column.values):
                    found.append(column)
        if self.wrong:
            answers = dict.fromkeys(self.right, "right") | dict.fromkeys(self.wrong, "wrong")
            matched = [answers.get(key, "not asked") for key in self.keys]
            found.append(Column("NSC neighbour", matched))
        return [*found, *self._nearest_columns()]

    def _nearest_columns(self) -> list[Column]:
        rows, cosines = nearest_rows(self.features, 1, groups=[key[0] for key in self.keys])
        if (rows < 0).all():
            return []
        names = [self.names[row] if row >= 0 else None for row in rows[:, 0]]
        return [Column(NEAREST, names), numbers(NEAREST_COSINE, cosines[:, 0].tolist())]


def treated_of(record: RunRecord, sites: pd.DataFrame | None = None) -> Treated:
    """Gather the treatments of a run.

    Parameters
    ----------
    record
        Contents of the run folder.
    sites
        Metadata of the screen's sites, for the density of cells, or None.

    Returns
    -------
    Treated

    Raises
    ------
    Omitted
        There are no profiles, or none of treatments.
    """
    if record.profiles is None:
        raise Omitted(record.problems["profiles.parquet"])
    frame = record.profiles
    if COMPOUND not in frame:
        raise Omitted(f"profiles.parquet has no {COMPOUND}")
    # As for activity and neighbours, rows of an unknown compound are no treatment.
    frame = frame[~controls_of(frame) & frame[COMPOUND].notna()].reset_index(drop=True)
    if frame.empty:
        raise Omitted("profiles.parquet has no treated profiles")
    try:
        features = features_of(frame)
    except InputError as error:
        raise Omitted(str(error)) from error
    known = {
        treatment_key(row.get(COMPOUND), row.get(CONCENTRATION)): row
        for row in record.results.get("activity", {}).get("treatments", [])
    }
    wrong, right = (
        frozenset(
            treatment_key(row.get("compound", ""), row.get("concentration"))
            for row in record.results.get("nsc_neighbours", [])
            if row.get("correct") is answer
        )
        for answer in (False, True)
    )
    rows = tuple(known.get(key, {}) for key in keys_of(frame))
    if sites is not None and COMPOUND in sites and (density := cells_of(sites)) is not None:
        index = pd.MultiIndex.from_tuples(keys_of(sites))
        of_key = pd.Series(density, index=index).groupby(level=[0, 1]).mean().to_dict()
        found = [of_key.get(key, np.nan) for key in keys_of(frame)]
        frame = frame.assign(**{DENSITY: np.array(found, dtype=np.float64)})
    matrix = np.asarray(features, dtype=np.float64)
    return Treated(frame, matrix, rows, wrong, right, well_distance(record.results))


def keys_of(frame: pd.DataFrame) -> list[tuple[str, str]]:
    """Return compound and dose of each row of a table, as displayed."""
    doses = frame[CONCENTRATION] if CONCENTRATION in frame else [None] * len(frame)
    return [treatment_key(*pair) for pair in zip(frame[COMPOUND], doses, strict=True)]


def treatment_names(frame: pd.DataFrame) -> list[str]:
    """Return the name of each row's treatment, as displayed; empty where the table doesn't say."""
    if COMPOUND not in frame:
        return [""] * len(frame)
    known = frame[COMPOUND].notna()
    names = (" ".join(key).strip() for key in keys_of(frame))
    return [name if is_known else "" for name, is_known in zip(names, known, strict=True)]


def moas_of(frame: pd.DataFrame) -> list[str | None]:
    """Return the mechanism of each row of a table, None if there is none."""
    if MOA not in frame:
        return [None] * len(frame)
    return [str(moa) if pd.notna(moa) and str(moa) else None for moa in frame[MOA]]


def nearest_rows(
    features: NDArray[np.float64], num: int, *, groups: list[str] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Find the most similar other rows of each row by cosine, in blocks.

    Parameters
    ----------
    features
        (n, F).
    num
        k, the number of neighbours.
    groups
        Rows of the same group are no neighbours of each other; default: each row is its own.

    Returns
    -------
    rows : ndarray
        (n, k) the most similar first, of equal ones the earlier row; -1 where there is no other.
    cosines : ndarray
        (n, k); NaN where there is none. Rows that are zero everywhere have no neighbours and are
        none.
    """
    norms = lengths(features)
    unit = directions(features, norms)
    labels = list(range(len(features))) if groups is None else groups
    _, codes = np.unique(np.array(labels, dtype=object).astype(str), return_inverse=True)
    rows = np.full((len(features), num), -1, dtype=np.intp)
    cosines = np.full((len(features), num), np.nan)
    for start in range(0, len(features), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        similar = unit[block] @ unit.T
        # Rounding makes equal rows equal, whatever the order of summation was.
        similar = np.round(similar, 12)
        similar[codes[block, None] == codes[None]] = -np.inf
        similar[:, norms == 0] = -np.inf
        similar[norms[block] == 0] = -np.inf
        order = np.argsort(-similar, axis=1, kind="stable")[:, :num]
        found = np.take_along_axis(similar, order, axis=1)
        there = np.isfinite(found)
        rows[block, : order.shape[1]] = np.where(there, order, -1)
        cosines[block, : order.shape[1]] = np.where(there, found, np.nan)
    return rows, cosines


def _is_active(row: Mapping[str, Any]) -> str:
    if row.get("p_value") is None:
        return "not tested"
    return "active" if row.get("is_active") else "not active"
