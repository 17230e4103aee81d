"""Standard scores: plate by plate, on each plate's controls, or on all rows at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.profile.base import Fit, Needs
from wsdino.profile.rows import CONSTANT, control_rows, moments, plate_rows
from wsdino.profile.stored import require_entries, require_kept, require_numbers
from wsdino.tables.columns import PLATE
from wsdino.tables.features import feature_columns, features_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wsdino.profile.base import State


class AllRows:
    """Centre and scale on all rows that it was fitted on."""

    def fit(self, table: pd.DataFrame, options: Mapping[str, Any]) -> Fit:  # noqa: ARG002
        """Take the moments of all rows; see :class:`wsdino.profile.base.Method`."""
        centre, deviation = moments(features_of(table))
        kept, note = _varying(feature_columns(table), deviation)
        state = {"kept": kept, "centre": centre, "deviation": deviation}
        return Fit(state, "all rows", len(table), note)

    def transform(self, table: pd.DataFrame, state: State) -> pd.DataFrame:
        """Centre and scale; see :class:`wsdino.profile.base.Method`."""
        return _scaled(table, state["kept"], state["centre"], state["deviation"])

    def check(self, state: State, features: Sequence[str]) -> None:
        """Require a centre and a deviation; see :class:`wsdino.profile.base.Method`."""
        require_entries(state, ("kept", "centre", "deviation"))
        require_numbers(state, "centre", (len(features),))
        _require_deviation(state, features)


class PlateControls:
    """Centre on each plate's controls, and scale by the deviation of all controls so centred."""

    def fit(self, table: pd.DataFrame, options: Mapping[str, Any]) -> Fit:  # noqa: ARG002
        """Take one deviation for all plates; see :class:`wsdino.profile.base.Method`."""
        features, controls = features_of(table), control_rows(table)
        centred = features - _centres_of_controls(table, features)
        deviation = centred[controls].std(axis=0)
        deviation[deviation <= CONSTANT * np.abs(features).max(axis=0)] = 0
        kept, dropped = _varying(feature_columns(table), deviation)
        note = "; ".join(filter(None, ["one deviation for all plates", dropped]))
        state = {"kept": kept, "deviation": deviation}
        return Fit(state, "controls of each plate", int(controls.sum()), note)

    def transform(self, table: pd.DataFrame, state: State) -> pd.DataFrame:
        """Centre each plate on its own controls; see :class:`wsdino.profile.base.Method`."""
        _require(table, Needs(controls_per_plate=1), "plate_controls")
        centre = _centres_of_controls(table, features_of(table))
        return _scaled(table, state["kept"], centre, state["deviation"])

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
        _, deviation = _plate_moments(table, on_controls=on_controls)
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
        centre, deviation = _plate_moments(table, on_controls=on_controls)
        names = feature_columns(table)
        for name in state["kept"]:
            constant = np.flatnonzero(deviation[:, names.index(name)] == 0)
            if len(constant):
                raise TableError(
                    f"normalisation plate: feature {name} is constant on plate "
                    f"{table[PLATE].iloc[constant[0]]}, but was not in the table that was fitted on"
                )
        return _scaled(table, state["kept"], centre, deviation)

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


def _centres_of_controls(table: pd.DataFrame, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (n, F): the mean of the controls of each row's plate."""
    controls, centre = control_rows(table), np.empty_like(features)
    for rows in plate_rows(table):
        centre[rows] = features[rows[controls[rows]]].mean(axis=0)
    return centre


def _plate_moments(
    table: pd.DataFrame, *, on_controls: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (n, F) each: mean and deviation of each row's plate."""
    features, controls = features_of(table), control_rows(table)
    centre, deviation = np.empty_like(features), np.empty_like(features)
    for rows in plate_rows(table):
        own = rows[controls[rows]] if on_controls else rows
        centre[rows], deviation[rows] = moments(features[own])
    return centre, deviation


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


def _scaled(
    table: pd.DataFrame,
    kept: list[str],
    centre: NDArray[np.float64],
    deviation: NDArray[np.float64],
) -> pd.DataFrame:
    """Centre and scale the features that are kept."""
    names = feature_columns(table)
    positions = [names.index(name) for name in kept]
    scaled = (features_of(table) - centre)[:, positions] / deviation[..., positions]
    return pd.DataFrame(scaled, columns=kept, index=table.index)
