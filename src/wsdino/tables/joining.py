"""Several tables of the same sites or wells become one, with the features of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.progress import say
from wsdino.tables.columns import (
    BATCH,
    COMPOUND,
    CONCENTRATION,
    CONTROL,
    MOA,
    PLATE,
    PREFIX,
    SITE,
    WELL,
)
from wsdino.tables.doses import same_dose
from wsdino.tables.features import feature_columns, metadata_of, require_columns
from wsdino.tables.identity import texts
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

# In a table's `attrs`: which tables were joined.
JOINED = "wsdino_joined"
# What joined tables must agree on.
_AGREED = (COMPOUND, CONCENTRATION, MOA, CONTROL)


def join_tables(tables: Sequence[pd.DataFrame], *, names: Sequence[str]) -> pd.DataFrame:
    """Join tables of features by plate and well, and by site and batch where both have them.

    Features are named `table1_<name>`, `table2_<name>` and so on, in the order of the tables, so
    that none clash, and what was fitted on such tables serves others in the same order. Whitenings
    take features of such names together, whichever channel they are of, and bring each embedding,
    and each feature that has a unit of its own, to the same deviation: every table counts by the
    number of directions that it adds, and not by its units.

    Parameters
    ----------
    tables
        As :func:`wsdino.tables.reading.read_table` returns them; one is returned as it is. Where
        one has a row per well and the other a row per site, each site gets its well's features.
    names
        What to call each table in errors and notes.

    Returns
    -------
    DataFrame
        The rows that are in all tables, in the order of the first; what is left out is said.
        Metadata are those of the first table, completed by the others. `attrs["wsdino_joined"]` has
        the names.

    Raises
    ------
    TableError
        If plate or well are missing, two tables have several rows for the same place, no row is in
        both, or they disagree on what a place got.
    """
    if len(tables) == 1:
        return tables[0]
    joined, origin = _numbered(tables[0], 1), names[0]
    for number, (table, name) in enumerate(zip(tables[1:], names[1:], strict=True), start=2):
        joined = _join(joined, _numbered(table, number), origin, name)
        origin = " and ".join(names[:number])
    joined.attrs = {JOINED: list(names)}
    return joined


def read_tables(paths: Mapping[str, Path]) -> pd.DataFrame:
    """Read the tables of wsdino's own that belong together, and join them by :func:`join_tables`.

    Parameters
    ----------
    paths
        File of each table by what to call it.

    Returns
    -------
    DataFrame

    Raises
    ------
    TableError
        As :func:`wsdino.tables.reading.read_table` and :func:`join_tables` do.
    """
    return join_tables([read_table(path) for path in paths.values()], names=list(paths))


def _numbered(table: pd.DataFrame, number: int) -> pd.DataFrame:
    """Return metadata and features alone, these with the number of the table in their names."""
    features = table[feature_columns(table)].add_prefix(f"table{number}_")
    return pd.concat([metadata_of(table), features], axis=1).reset_index(drop=True)


def _join(left: pd.DataFrame, right: pd.DataFrame, origin: str, other: str) -> pd.DataFrame:
    for table, name in ((left, origin), (right, other)):
        require_columns(table, [PLATE, WELL], purpose=f"{name}: joining tables")
        for column in (PLATE, WELL):
            num = int(table[column].isna().sum())
            if num:
                raise TableError(f"{name}: {column} is missing in {num} of {len(table)} rows")
    keys = [PLATE, WELL, *(name for name in (SITE, BATCH) if name in left and name in right)]
    places = [
        _places(table, keys).assign(**{f"row{number}": np.arange(len(table))})
        for number, table in enumerate((left, right))
    ]
    repeated = [place.duplicated(keys, keep=False) for place in places]
    if all(mask.any() for mask in repeated):
        first = places[1].loc[repeated[1], keys].iloc[0]
        named = ", ".join(f"{key.removeprefix(PREFIX).lower()} {first[key]}" for key in keys)
        raise TableError(
            f"{origin} and {other} both have several rows for the same place (in {other} {named}), "
            f"so rows can't be matched; {SITE} in both would tell sites apart"
        )
    pairs = places[0].merge(places[1], on=keys).sort_values(["row0", "row1"])
    rows = [pairs["row0"].to_numpy(), pairs["row1"].to_numpy()]
    for name, table, own in ((origin, left, rows[0]), (other, right, rows[1])):
        num = len(table) - len(np.unique(own))
        if num == len(table):
            raise TableError(
                f"{origin} and {other} have no row in common (joined by {', '.join(keys)})"
            )
        if num:
            say(f"{name}: {num} of {len(table)} rows are not in the other table and left out")
    one, two = (
        table.take(own).reset_index(drop=True)
        for table, own in zip((left, right), rows, strict=True)
    )
    metadata = _agreed(metadata_of(one), metadata_of(two), origin, other)
    return pd.concat([metadata, one[feature_columns(one)], two[feature_columns(two)]], axis=1)


def _places(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Return where each row lies, as text.

    A plate goes without the batch before its name: it has one only if the table has a plate of
    that name in another batch, too.
    """
    places = pd.DataFrame({key: texts(table[key]) for key in keys})
    if BATCH in keys:
        places[PLATE] = [
            str(plate).removeprefix(f"{batch}/")
            for plate, batch in zip(places[PLATE], places[BATCH], strict=True)
        ]
    return places


def _agreed(one: pd.DataFrame, two: pd.DataFrame, origin: str, other: str) -> pd.DataFrame:
    """Complete the first table's metadata by the second's."""
    metadata = one.copy()
    for name in two.columns:
        if name not in one:
            metadata[name] = two[name]
            continue
        if name in _AGREED:
            differs = one[name].notna() & two[name].notna() & ~_same(one[name], two[name])
            if differs.any():
                row = int(np.flatnonzero(differs)[0])
                raise TableError(
                    f"{name} of plate {one[PLATE].iloc[row]}, well {one[WELL].iloc[row]} is "
                    f"{one[name].iloc[row]} in {origin} and {two[name].iloc[row]} in {other} "
                    f"({int(differs.sum())} rows differ)"
                )
        metadata[name] = one[name].where(one[name].notna(), two[name])
    return metadata


def _same(one: pd.Series, two: pd.Series) -> NDArray[np.bool_]:
    if one.name == CONCENTRATION:
        # One of the tools may have kept 32 bits, or not have the dose that this is merged with.
        a, b = (values.to_numpy(dtype=np.float64, na_value=np.nan) for values in (one, two))
        return same_dose(a, b)
    same: NDArray[np.bool_] = (one.astype(str) == two.astype(str)).to_numpy(dtype=bool)
    return same
