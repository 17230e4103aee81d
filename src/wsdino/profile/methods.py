"""The named ways to make profiles: `NORMALISATIONS` and `AGGREGATIONS`.

A new one is an entry here, beside the module that has its numerics; the options of the command
line and of the config, their help, the checks before a run and the words of a report follow from
the table. Numerics are imported when they are used, so that the names cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from wsdino.errors import TableError, find_named
from wsdino.profile.base import Needs, Normalisation

if TYPE_CHECKING:
    import pandas as pd

    from wsdino.profile.base import Method

# Whitening what it was fitted on, with nearly as many axes as rows, makes every row equally far
# from every other. On Ljosa's CellProfiler table NSC falls to 27/103 with 0, and is 81 to 93 with
# 0.01 to 1; TVN, fitted on controls alone, hardly depends on it.
WHITEN_ALL_REGULARISATION = 0.1


def _tvn() -> Method:
    from wsdino.profile.whitening import Whitening

    return Whitening(on_controls=True)


def _whiten_all() -> Method:
    from wsdino.profile.whitening import Whitening

    return Whitening(on_controls=False)


def _weak_label() -> Method:
    from wsdino.profile.weak_label_method import WeakLabel

    return WeakLabel()


def _plate() -> Method:
    from wsdino.profile.standardise import EachPlate

    return EachPlate()


def _plate_controls() -> Method:
    from wsdino.profile.standardise import PlateControls

    return PlateControls()


def _standardise_all() -> Method:
    from wsdino.profile.standardise import AllRows

    return AllRows()


def _none() -> Method:
    from wsdino.profile.standardise import Nothing

    return Nothing()


NORMALISATIONS: tuple[Normalisation, ...] = (
    Normalisation(
        name="tvn",
        help="PCA whitening fitted on the controls, as published",
        method=_tvn,
        needs=Needs(controls=2),
        options={"num_components": None, "regularisation": 0.0, "per_channel": True},
    ),
    Normalisation(
        name="whiten_all",
        help="the same whitening, fitted on all rows",
        method=_whiten_all,
        needs=Needs(rows=2),
        options={
            "num_components": None,
            "regularisation": WHITEN_ALL_REGULARISATION,
            "per_channel": True,
        },
    ),
    Normalisation(
        name="weak_label",
        help="whitened by the scatter within weak labels, each plate centred on its controls",
        method=_weak_label,
        needs=Needs(label=True),
        options={"label": "compound", "regularisation": "auto", "per_channel": False},
    ),
    Normalisation(
        name="plate",
        help="standardised plate by plate, on controls if every plate has two, else on all rows",
        method=_plate,
        needs=Needs(rows_per_plate=2),
    ),
    Normalisation(
        name="plate_controls",
        help="centred on each plate's controls, scaled by the deviation of all controls",
        method=_plate_controls,
        needs=Needs(controls=2, controls_per_plate=1),
    ),
    Normalisation(
        name="standardise_all",
        help="standardised on all rows at once",
        method=_standardise_all,
    ),
    Normalisation(name="none", help="as they are", method=_none, scales=False),
)


# `auto` is the first of these for which a table has all that it needs.
AUTO, _AUTOMATIC = "auto", ("tvn", "whiten_all")


@dataclass(frozen=True, kw_only=True)
class Aggregation:
    """A way from sites or wells to treatment profiles, as one entry of `AGGREGATIONS`.

    Attributes
    ----------
    name
        What users call it.
    help
        What it does, in one line.
    steps
        What is done in turn: the statistic of each feature (`mean` or `median`) over the rows of
        each treatment on each `plate`, or of each `treatment`.
    """

    name: str
    help: str
    steps: tuple[tuple[Literal["mean", "median"], Literal["plate", "treatment"]], ...]


AGGREGATIONS: tuple[Aggregation, ...] = (
    Aggregation(
        name="published",
        help="mean per treatment and plate, then median per treatment",
        steps=(("mean", "plate"), ("median", "treatment")),
    ),
    Aggregation(name="mean", help="mean of a treatment's rows", steps=(("mean", "treatment"),)),
    Aggregation(
        name="median", help="median of a treatment's rows", steps=(("median", "treatment"),)
    ),
)


def normalisation_names() -> list[str]:
    """Names of the normalisations."""
    return [entry.name for entry in NORMALISATIONS]


def aggregation_names() -> list[str]:
    """Names of the aggregations."""
    return [entry.name for entry in AGGREGATIONS]


def find_normalisation(name: str) -> Normalisation:
    """Look up a normalisation.

    Parameters
    ----------
    name
        Of an entry of :data:`NORMALISATIONS`.

    Returns
    -------
    Normalisation

    Raises
    ------
    TableError
        If there is none of that name; names all.
    """
    return find_named(NORMALISATIONS, name, what="normalisation", error=TableError)


def find_aggregation(name: str) -> Aggregation:
    """Look up an aggregation.

    Parameters
    ----------
    name
        Of an entry of :data:`AGGREGATIONS`.

    Returns
    -------
    Aggregation

    Raises
    ------
    TableError
        If there is none of that name; names all.
    """
    return find_named(AGGREGATIONS, name, what="aggregation", error=TableError)


def nominal_normalisation(name: str) -> Normalisation:
    """Look up a normalisation before the screen is known.

    Parameters
    ----------
    name
        Of an entry of :data:`NORMALISATIONS`, or `auto`.

    Returns
    -------
    Normalisation
        For `auto` the first that it may become; all of them have the same options.

    Raises
    ------
    TableError
        If there is none of that name; names all.
    """
    return find_normalisation(_AUTOMATIC[0] if name == AUTO else name)


def settle_normalisation(name: str | None, table: pd.DataFrame) -> tuple[str, str]:
    """Say which normalisation is meant for a table.

    Parameters
    ----------
    name
        As the user gave it; `auto` or None stand for `tvn`, and for `whiten_all` where there are no
        controls.
    table
        Metadata of sites or wells.

    Returns
    -------
    name : str
        Of an entry of :data:`NORMALISATIONS`.
    why : str
        What a reader should know of the choice; may be empty.
    """
    if name not in (AUTO, None):
        return str(name), ""
    first, *others = (find_normalisation(each) for each in _AUTOMATIC)
    unmet = first.unmet(table)
    chosen = next((each for each in others if not each.unmet(table)), first) if unmet else first
    if chosen is first:
        return first.name, ""
    return chosen.name, f"normalisation {first.name} {unmet}; {chosen.name} is used instead"


def usable_normalisations(table: pd.DataFrame) -> list[str]:
    """Names of the normalisations for which a table has all that they need.

    Parameters
    ----------
    table
        Metadata of sites or wells.

    Returns
    -------
    list of str
        In the order of :data:`NORMALISATIONS`.
    """
    return [entry.name for entry in NORMALISATIONS if not entry.unmet(table)]
