"""Standard scores: plate by plate, on each plate's controls, or on all rows at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.profile.base import Fit, Needs
from wsdino.profile.rows import (
    CONSTANT,
    control_rows,
    moments,
    moments_of_blocks,
    plate_rows,
)
from wsdino.profile.stored import require_entries, require_kept, require_numbers
from wsdino.tables.columns import PLATE
from wsdino.tables.features import feature_blocks, feature_columns, features_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from wsdino.profile.base import State

    # Rows, their features, and what these are centred on and scaled by.
    _Part = tuple[
        slice | NDArray[np.intp], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]
    ]


class AllRows:
    """Centre and scale on all rows that it was fitted on."""

    def fit(self, table: pd.DataFrame, options: Mapping[str, Any]) -> Fit:  # noqa: ARG002
        """Take the moments of all rows; see :class:`wsdino.profile.base.Method`."""
        centre, deviation = moments_of_blocks(lambda: (block for _, block in feature_blocks(table)))
        kept, note = _varying(feature_columns(table), deviation)
        state = {"kept": kept, "centre": centre, "deviation": deviation}
        return Fit(state, "all rows", len(table), note)

    def transform(self, table: pd.DataFrame, state: State) -> pd.DataFrame:
        """Centre and scale; see :class:`wsdino.profile.base.Method`."""
        centre, deviation = state["centre"], state["deviation"]
        parts = ((rows, block, centre, deviation) for rows, block in feature_blocks(table))
        return _scaled(table, state["kept"], parts)

    def check(self, state: State, features: Sequence[str]) -> None:
        """Require a centre and a deviation; see :class:`wsdino.profile.base.Method`."""
        require_entries(state, ("kept", "centre", "deviation"))
        require_numbers(state, "centre", (len(features),))
        _require_deviation(state, features)


class PlateControls:
    """Centre on each plate's controls, and scale by the deviation of all controls so centred."""

    def fit(self, table: pd.DataFrame, options: Mapping[str, Any]) -> Fit:  # noqa: ARG002
        """Take one deviation for all plates; see :class:`wsdino.profile.base.Method`."""
        controls, names = control_rows(table), feature_columns(table)
        number, largest = np.cumsum(controls) - 1, np.zeros(len(names))
        centred = np.empty((int(controls.sum()), len(names)))
        for rows, block in _plate_blocks(table):
            own = controls[rows]
            centred[number[rows[own]]] = block[own] - block[own].mean(axis=0)
            np.maximum(largest, np.abs(block).max(axis=0), out=largest)
        deviation = centred.std(axis=0)
        deviation[deviation <= CONSTANT * largest] = 0
        kept, dropped = _varying(names, deviation)
        note = "; ".join(filter(None, ["one deviation for all plates", dropped]))
        state = {"kept": kept, "deviation": deviation}
        return Fit(state, "controls of each plate", int(controls.sum()), note)

    def transform(self, table: pd.DataFrame, state: State) -> pd.DataFrame:
        """Centre each plate on its own controls; see :class:`wsdino.profile.base.Method`."""
        _require(table, Needs(controls_per_plate=1), "plate_controls")
        controls, deviation = control_rows(table), state["deviation"]
        parts = (
            (rows, block, block[controls[rows]].mean(axis=0), deviation)
            for rows, block in _plate_blocks(table)
        )
        return _scaled(table, state["kept"], parts)

    def check(self, state: State, features: Sequence[str]) -> None:
        """Require a deviation; see :class:`wsdino.profile.base.Method`."""
        require_entries(state, ("kept", "deviation"))
        _require_deviation(state, features)


class EachPlate:
    """Centre and scale each plate on its own controls, or on all its rows."""

    def fit(self, table: pd.DataFrame, options: Mapping[str, Any]) -> Fit:  # noqa: ARG002
        """Choose controls or all rows, and the features; see the protocol `Method`."""
        controls, plates = control_rows(table), plate_rows(table)
        on_controls = all(controls[rows].sum() >= 2 for rows in plates)
        deviation = np.stack(
            [found for *_, found in _plate_moments(table, on_controls=on_controls)]
        )
        kept, dropped = _varying(feature_columns(table), deviation)
        state = {"kept": kept, "on_controls": on_controls}
        if on_controls:
            return Fit(state, "controls of each plate", int(controls.sum()), dropped)
        note = "not every plate has two controls: each was standardised on all its rows"
        note = "; ".join(filter(None, [note, dropped]))
        return Fit(state, "all rows of each plate", len(table), note)

    def transform(self, table: pd.DataFrame, state: State) -> pd.DataFrame:
        """Standardise each plate on its own rows; see :class:`wsdino.profile.base.Method`."""
        on_controls = state["on_controls"]
        needs = Needs(controls_per_plate=2) if on_controls else Needs(rows_per_plate=2)
        _require(table, needs, "plate")
        names, kept = feature_columns(table), state["kept"]
        positions = [names.index(name) for name in kept]

        def checked() -> Iterator[_Part]:
            for part in _plate_moments(table, on_controls=on_controls):
                constant = np.flatnonzero(part[3][positions] == 0)
                if len(constant):
                    plate = table[PLATE].iloc[part[0]].iloc[0]
                    raise TableError(
                        f"normalisation plate: feature {kept[constant[0]]} is constant on plate "
                        f"{plate}, but was not in the table that was fitted on"
                    )
                yield part

        return _scaled(table, kept, checked())

    def check(self, state: State, features: Sequence[str]) -> None:
        """Require names, and whether controls are used; see the protocol `Method`."""
        require_entries(state, ("kept", "on_controls"))
        require_kept(state, features)
        if state["on_controls"] not in (True, False):
            raise ValueError(f"its on_controls is {state['on_controls']!s:.60}; expected a bool")


class Nothing:
    """Leave the features as they are."""

    def fit(self, table: pd.DataFrame, options: Mapping[str, Any]) -> Fit:  # noqa: ARG002
        """Fit on nothing; see :class:`wsdino.profile.base.Method`."""
        return Fit({}, "", 0)

    def transform(self, table: pd.DataFrame, state: State) -> pd.DataFrame:  # noqa: ARG002
        """Return the features as float64; see :class:`wsdino.profile.base.Method`."""
        return pd.DataFrame(features_of(table), columns=feature_columns(table), index=table.index)

    def check(self, state: State, features: Sequence[str]) -> None:  # noqa: ARG002
        """Require nothing; see :class:`wsdino.profile.base.Method`."""
        require_entries(state, ())


def _require_deviation(state: State, features: Sequence[str]) -> None:
    """Require a deviation of each feature, above 0 where the feature is kept."""
    require_numbers(state, "deviation", (len(features),))
    kept = {"deviation": state["deviation"][require_kept(state, features)]}
    require_numbers(kept, "deviation", kept["deviation"].shape, positive=True)


def _require(table: pd.DataFrame, needs: Needs, name: str) -> None:
    unmet = needs.unmet(table)
    if unmet:
        raise TableError(f"normalisation {name} {unmet}")


def _plate_blocks(
    table: pd.DataFrame,
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """Go through the plates of a table: rows (n,) and features (n, F) of each."""
    features = features_of(table, dtype=None)
    for rows in plate_rows(table):
        yield rows, features[rows].astype(np.float64, copy=False)


def _plate_moments(table: pd.DataFrame, *, on_controls: bool) -> Iterator[_Part]:
    """Go through the plates: rows and features of each, with mean and deviation (F,)."""
    controls = control_rows(table)
    for rows, block in _plate_blocks(table):
        yield rows, block, *moments(block[controls[rows]] if on_controls else block)


def _varying(names: list[str], deviation: NDArray[np.float64]) -> tuple[list[str], str]:
    """Return the features with a deviation everywhere, and a note about the others."""
    varies = np.flatnonzero(np.atleast_2d(deviation > 0).all(axis=0))
    if len(varies) == 0:
        raise TableError(
            "every feature is constant in the rows that the normalisation was fitted on"
        )
    note = ""
    if len(varies) < len(names):
        num_constant = len(names) - len(varies)
        note = f"{num_constant} of {len(names)} features are constant there and were dropped"
    return [names[position] for position in varies], note


def _scaled(table: pd.DataFrame, kept: list[str], parts: Iterable[_Part]) -> pd.DataFrame:
    """Centre and scale the features that are kept, some rows at a time."""
    names = feature_columns(table)
    positions = [names.index(name) for name in kept]
    scaled = np.empty((len(table), len(kept)))
    for rows, block, centre, deviation in parts:
        scaled[rows] = (block - centre)[:, positions] / deviation[positions]
    return pd.DataFrame(scaled, columns=kept, index=table.index, copy=False)
