"""Checking that the rows of a table are treatments, as matching requires.

A table of sites or wells has several rows per treatment; taken as treatments, each row would find
its nearest neighbour among thousands, and the result would only look like an accuracy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wsdino.errors import TableError
from wsdino.profile.aggregate import ATTRIBUTE
from wsdino.tables.columns import (
    BATCH,
    COMPOUND,
    CONCENTRATION,
    CONTROL,
    MOA,
    PLATE,
    SITE,
    TREATMENT,
    WELL,
)
from wsdino.tables.lists import LIST_COLUMNS

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

# Separator with which earlier versions joined the plates and batches of a treatment.
_OLD_SEPARATOR = ";"


def require_treatments(profiles: pd.DataFrame, *, command: str | None = None) -> None:
    """Refuse a table of sites or wells, or profiles that can't be interpreted correctly.

    Parameters
    ----------
    profiles
        With `Metadata_Compound`.
    command
        The command line that evaluates the table, for the advice; None: advice for Python too.

    Raises
    ------
    TableError
        If a treatment with an MoA has several rows; if the table has a well or a site in each row
        and doesn't say that it was made by :func:`wsdino.profile.aggregate.make_profiles`; or if an
        earlier version made the profiles and joined several plates or batches to one name. The
        message has the right command.
    """
    repeated = _repeated_treatment(profiles)
    made_here = ATTRIBUTE in profiles.attrs
    if repeated or (not made_here and _unit(profiles) != "rows"):
        raise TableError(_refusal(profiles, repeated, command))
    if made_here:
        _refuse_joined(profiles)


def are_treatments(table: pd.DataFrame) -> bool:
    """Tell whether each row is a treatment, rather than a well or a site.

    Parameters
    ----------
    table
        With `Metadata_Compound`.

    Returns
    -------
    bool
    """
    if ATTRIBUTE in table.attrs:
        return True
    return _unit(table) == "rows" and _repeated_treatment(table) is None


def is_control(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows are negative controls; none if the table has no such column."""
    if CONTROL not in table:
        return np.zeros(len(table), dtype=bool)
    return table[CONTROL].to_numpy(dtype=bool)


def joined_labels(profiles: pd.DataFrame) -> str | None:
    """Return the first batch whose name looks like several joined, as earlier versions did."""
    if BATCH not in profiles:
        return None
    texts = (value for value in profiles[BATCH] if isinstance(value, str))
    return next((text for text in texts if _OLD_SEPARATOR in text), None)


def _repeated_treatment(profiles: pd.DataFrame) -> str | None:
    """Say which treatment (with an MoA, if any has one) has the most rows, if any has several."""
    keys = [name for name in TREATMENT if name in profiles]
    known = profiles[COMPOUND].notna() & ~is_control(profiles)
    # Without mechanisms every treatment counts.
    if MOA in profiles and profiles[MOA].notna().any():
        known &= profiles[MOA].notna()
    rows = profiles[known]
    counts = rows.groupby(keys, sort=False, dropna=False).size()
    if counts.empty or counts.max() < 2:
        return None
    most = counts.index[int(counts.to_numpy().argmax())]
    compound, *dose = most if isinstance(most, tuple) else (most,)
    named = f"{compound} {dose[0]:g} uM" if dose and dose[0] == dose[0] else str(compound)
    return f"{named} has {counts.max()} rows"


def _unit(profiles: pd.DataFrame) -> str:
    """Say what the rows of a table of several rows for each treatment are."""
    for column, unit in ((SITE, "sites"), (WELL, "wells")):
        if column in profiles and profiles[column].notna().any():
            return unit
    return "rows"


def _refusal(profiles: pd.DataFrame, repeated: str | None, command: str | None) -> str:
    unit = _unit(profiles)
    column = {"sites": SITE, "wells": WELL}.get(unit)
    found = ", ".join(filter(None, [repeated, column and f"the table has {column}"]))
    options, arguments = _right_options(profiles)
    line = " ".join([command or "wsdino evaluate TABLE", "--from-sites", *options])
    advice = f"`{line}` profiles them first"
    if command is None:
        call = f"make_profiles({', '.join(['table', *arguments])})"
        advice = f"`{call}` profiles them; on the command line: {line}"
    if CONCENTRATION not in profiles:
        advice = f"with a column {CONCENTRATION} (from a plate map, perhaps) {advice}"
    are = f"the rows are {unit}, " if column else ""
    return f"{are}expected one row for each treatment ({found}); {advice}"


def _right_options(profiles: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return what to profile the table with, on the command line and in Python."""
    options, arguments = [], []
    if is_control(profiles).sum() < 2:
        options += ["--normalise", "whiten_all"]
        arguments.append('normalisation="whiten_all"')
    if PLATE not in profiles:
        options += ["--aggregate", "mean"]
        arguments.append('aggregation="mean"')
    return options, arguments


def _refuse_joined(profiles: pd.DataFrame) -> None:
    for name in LIST_COLUMNS:
        for value in profiles.get(name, ()):
            if isinstance(value, str) and _OLD_SEPARATOR in value:
                msg = (
                    f"{name} holds {value!r}: an earlier version of wsdino made these profiles and "
                    f"joined several names by {_OLD_SEPARATOR!r}; make them again from the sites "
                    "(wsdino profile)"
                )
                raise TableError(msg)
