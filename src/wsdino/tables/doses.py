"""Concentrations, and which of them are the same treatment.

Concentrations are in micromolar. Those of a compound that differ only by rounding are merged, and a
missing one stays missing.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.progress import say
from wsdino.tables.columns import (
    COMPOUND,
    CONCENTRATION,
    MOA,
    UNIT_COLUMNS,
    UNITS,
    micromolar_per_unit,
    plain_name,
)
from wsdino.tables.identity import numbers, row_of, texts
from wsdino.tables.lean import with_columns

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# Doses are printed with differing precision; neighbouring ones differ by far more.
SAME_DOSE = 1e-4
_ALMOST_SAME_DOSE = 1e-2


def same_dose(one: ArrayLike, other: ArrayLike) -> NDArray[np.bool_]:
    """Tell which doses differ by rounding alone, or not at all; a missing one is like none."""
    same: NDArray[np.bool_] = np.isclose(one, other, rtol=SAME_DOSE, atol=0)
    return same


def micromolar(values: pd.Series, factor: float, *, origin: str) -> pd.Series:
    """Convert concentrations to micromolar, given the number of micromolar per unit."""
    what = "a number of micromolar, at least 0" if factor == 1 else "a number, at least 0"
    found = numbers(values, origin=origin, what=what)
    # Dividing by whole numbers rounds once.
    return found * factor if factor >= 1 else found / round(1 / factor)


def units_of(source: str, table: pd.DataFrame) -> str | None:
    """Name the column that has the units of concentrations.

    Parameters
    ----------
    source
        Column that the concentrations are read from.
    table
        With this column.

    Returns
    -------
    str or None
        `dose_unit` is of `dose` where the table has both, else of the concentrations.
    """
    names = {plain_name(name): str(name) for name in reversed(table.columns)}
    owner_of = {unit: unit.rpartition("_")[0] for unit in UNIT_COLUMNS if unit in names}
    own = [unit for unit, owner in owner_of.items() if owner == plain_name(source)]
    free = [unit for unit, owner in owner_of.items() if owner not in names]
    return next((names[unit] for unit in own + free), None)


def with_unit_of_name(
    table: pd.DataFrame, source: str, column: str, *, origin: str
) -> pd.DataFrame:
    """Note that concentrations are in micromolar now, as the name of their column had the unit.

    Parameters
    ----------
    table
        With concentrations.
    source
        What their column was called, such as `mmoles_per_liter`.
    column
        What :func:`units_of` found.
    origin
        Where it came from, for messages.

    Raises
    ------
    TableError
        The column of units says otherwise.
    """
    factor = micromolar_per_unit(source)
    if factor is None:
        return table
    units = texts(table[column])
    bad = units.notna() & (units.map(lambda unit: UNITS.get(plain_name(str(unit)))) != factor)
    if bad.any():
        raise TableError(
            f"{origin}: {column} is '{units[bad].iloc[0]}' in {row_of(bad)}, but the name of "
            f"{source} says another unit; rename that column without a unit, or drop {column}"
        )
    return table.assign(**{column: units.where(units.isna(), "uM")})


def in_micromolar(table: pd.DataFrame, column: str, *, origin: str) -> pd.DataFrame:
    """Convert `Metadata_Concentration` to micromolar if a column of units gives another unit.

    Parameters
    ----------
    table
        With concentrations.
    column
        What :func:`units_of` found.
    origin
        Where it came from, for messages.

    Raises
    ------
    TableError
        A unit is unknown.
    """
    units = texts(table[column])
    factors = units.map(lambda unit: 1.0 if unit is None else UNITS.get(plain_name(unit)))
    bad = factors.isna()
    if bad.any():
        raise TableError(
            f"{origin}: {column} is '{units[bad].iloc[0]}' in {row_of(bad)}; the known units are "
            "uM, nM, mM, pM and M"
        )
    if (factors == 1).all():
        return table
    said = ", ".join(sorted({str(unit) for unit in units[factors != 1]}))
    say(f"{origin}: converted concentrations from {said} ({column}) to micromolar")
    table = table.copy()
    doses = [
        micromolar(table.loc[factors == factor, CONCENTRATION], factor, origin=origin)
        for factor in factors.unique()
    ]
    table[CONCENTRATION] = pd.concat(doses).reindex(table.index)
    table[column] = units.where(units.isna(), "uM")
    return table


def merge_equal_doses(table: pd.DataFrame, *, origin: str) -> pd.DataFrame:
    """Merge concentrations of a compound that differ only by rounding into the roundest of them.

    Concentrations within 0.01 % of each other differ only by rounding; the one of the fewest digits
    stands for all, the least of several, whatever the order of rows. Those within 1 % are reported
    and left alone.
    """
    if COMPOUND not in table or CONCENTRATION not in table:
        return table
    pairs = table[[COMPOUND, CONCENTRATION]].dropna()
    pairs = pairs[pairs[COMPOUND].map(lambda name: isinstance(name, str)).astype(bool)]
    changes: dict[tuple[str, float], float] = {}
    close: list[str] = []
    for compound, doses in pairs.drop_duplicates().groupby(COMPOUND, sort=False)[CONCENTRATION]:
        if len(doses) > 1:
            roundest, near = _same_doses(doses.to_numpy(dtype=np.float64))
            changes |= {(str(compound), dose): one for dose, one in roundest.items() if dose != one}
            close += [f"{compound} at {low:g} and {high:g} uM" for low, high in near]
    if changes:
        (compound, dose), one = next(iter(changes.items()))
        say(
            f"{origin}: {len(changes)} concentrations differ only by rounding from another of "
            f"their compound and are merged with it, such as {compound} at {dose!r} and {one!r} uM"
        )
        keys = zip(table[COMPOUND], table[CONCENTRATION], strict=True)
        merged = [changes.get(key, key[1]) if isinstance(key[0], str) else key[1] for key in keys]
        table = with_columns(table, {CONCENTRATION: merged})
    if close:
        more = f" and {len(close) - 1} more" if len(close) > 1 else ""
        say(f"{origin}: {close[0]}{more} differ by less than 1 % and count as different treatments")
    return table


def _same_doses(doses: NDArray[np.float64]) -> tuple[dict[float, float], list[tuple[float, float]]]:
    """Map each dose to the roundest equal one, and list pairs of neighbours, nearly equal."""
    ordered = np.sort(doses)
    gaps = np.diff(ordered) / np.maximum(ordered[1:], np.finfo(np.float64).tiny)
    groups = np.split(ordered, np.flatnonzero(gaps > SAME_DOSE) + 1)
    roundest: dict[float, float] = {}
    for group in groups:
        # Ascending, so that the least of several wins.
        one = min(group.tolist(), key=_num_digits)
        roundest |= dict.fromkeys(group.tolist(), one)
    near = (gaps > SAME_DOSE) & (gaps < _ALMOST_SAME_DOSE)
    pairs = [(float(ordered[i]), float(ordered[i + 1])) for i in np.flatnonzero(near)]
    return roundest, pairs


def _num_digits(dose: float) -> int:
    """Count the significant digits of a dose as it is written: 1 for 0.1, 16 or so for 1 / 3."""
    return len(Decimal(repr(dose)).normalize().as_tuple().digits)


def require_one_moa(
    table: pd.DataFrame,
    *,
    origin: str,
    columns: tuple[str, str, str] = (COMPOUND, CONCENTRATION, MOA),
) -> None:
    """Raise TableError if a treatment has two mechanisms.

    Parameters
    ----------
    table
        Any table with the three `columns`.
    origin
        Where it came from, for the message.
    columns
        Names of the compound, concentration and MoA columns.
    """
    compound, concentration, moa = columns
    pairs = table.dropna(subset=[moa]).drop_duplicates(list(columns))
    double = pairs[pairs.duplicated([compound, concentration], keep=False)]
    if len(double):
        treatment = double.groupby([compound, concentration], sort=False, dropna=False)
        (name, dose), same = next(iter(treatment))
        found = " and ".join(f"'{value}'" for value in same[moa])
        raise TableError(
            f"{origin}: {treatment_name(name, dose)} has more than one MoA: {found}; give each "
            "treatment a single one"
        )


def treatment_name(compound: object, concentration: object) -> str:
    """Return `taxol at 0.3 uM`, or the compound alone if the concentration is missing."""
    if isinstance(concentration, (int, float)) and not np.isnan(concentration):
        return f"{compound} at {concentration:g} uM"
    return str(compound)
