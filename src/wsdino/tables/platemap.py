"""Plate maps: what each well received, if the table of images or features doesn't say.

All commands share one join. The plate map's values take precedence over the table's, except in
columns that the user names (`--column`) and the table has; a missing value never replaces another.
Rows whose well isn't in the plate map, and rows left without a compound, are dropped and reported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from wsdino.counting import counted
from wsdino.errors import TableError, option
from wsdino.progress import say
from wsdino.tables.columns import (
    BATCH,
    COMPOUND,
    CONTROL,
    FILE_COLUMN,
    METADATA,
    PLATE,
    PLATE_MAP,
    PREFIX,
    SITE,
    WELL,
    find_column,
    plain_name,
    require_sources,
)
from wsdino.tables.identity import texts
from wsdino.tables.inferred import inferred
from wsdino.tables.tidy import has_values, tidy
from wsdino.tables.welltables import SOURCE, WellTable, read_wells

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_MAP_NAME = "plate_map_name"


@dataclass(frozen=True)
class PlateMap:
    """Metadata of wells.

    Attributes
    ----------
    wells
        Tidy `Metadata_*` columns; one row per well, or several that agree or differ by site.
        Without `Metadata_Plate` it applies to every plate, without `Metadata_Well` to every well
        of a plate.
    origin
        Where it came from, for messages.
    columns
        Original names of the columns.
    by_batch
        Whether each row is about its own batch alone.
    """

    wells: pd.DataFrame
    origin: str
    columns: tuple[str, ...]
    by_batch: bool = False


def read_platemap(
    source: str | Path | pd.DataFrame | WellTable | PlateMap,
    *,
    columns: Mapping[str, str] | None = None,
) -> PlateMap:
    """Read a plate map.

    Parameters
    ----------
    source
        A table of wells, in our names or those of other tools, such as the Broad's plate maps
        (`well_position`, `broad_sample`, `mmoles_per_liter`); or a `barcode_platemap.csv`
        (`Assay_Plate_Barcode`, `Plate_Map_Name`) with the maps in `platemap/` beside it, or the
        folder that contains both, or a folder of such batches; or a folder with JUMP's tables
        (`well.csv.gz`); or a manifest.
    columns
        Our name -> the table's, as given by the user.

    Returns
    -------
    PlateMap

    Raises
    ------
    TableError
        If a file is missing or can't be read, or the table names neither plates nor wells.
    """
    if isinstance(source, PlateMap):
        return source
    if isinstance(source, pd.DataFrame):
        source = WellTable(source, "the plate map")
    if not isinstance(source, WellTable):
        source = read_wells(Path(source))
    raw, origin = source.table, source.origin
    wells = tidy(raw, origin=origin, columns=columns)
    is_screen = any(FILE_COLUMN.fullmatch(str(name)) for name in wells)
    if not is_screen:
        # Every column in a table of wells is metadata.
        plain = [name for name in map(str, wells.columns) if not name.startswith(PREFIX)]
        named = {name: PREFIX + name for name in plain}
        named |= {name: PLATE_MAP for name in plain if plain_name(name) == _MAP_NAME}
        new = {name: to for name, to in named.items() if to not in wells}
        wells = wells.rename(columns=new)
        wells = wells.assign(**{name: inferred(wells[name]) for name in new.values()})
    wells = wells[[name for name in wells.columns if name.startswith(PREFIX)]]
    wells = wells[[name for name in wells.columns if has_values(wells, name)]]
    # Metadata of whole plates, such as their batch, doesn't need wells; compounds do.
    if WELL not in wells and (PLATE not in wells or COMPOUND in wells):
        raise TableError(
            f"{origin}: no column {WELL}; it has {', '.join(map(str, raw.columns))}; a plate map "
            "has one row per well; name the column of wells by "
            f"{option('--column Metadata_Well=NAME')}"
        )
    return PlateMap(wells, origin, tuple(map(str, raw.columns)), source.by_batch)


def tidy_and_join(
    raw: pd.DataFrame,
    platemap: PlateMap | None,
    *,
    origin: str,
    columns: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Convert a table to our names, and join it with a plate map if there is one.

    Parameters
    ----------
    raw
        The table as read from its file.
    platemap
        Metadata of its wells.
    origin
        Name of the table in messages.
    columns
        Our name -> the table's or the plate map's, as given by the user.

    Returns
    -------
    DataFrame
        See :func:`~wsdino.tables.tidy.tidy` and :func:`join_platemap`.

    Raises
    ------
    TableError
        As these functions do, or if neither table has a column that the user named.
    """
    columns = columns or {}
    theirs = [*map(str, raw.columns), *(platemap.columns if platemap else ())]
    require_sources(columns, theirs, origin=origin)
    table = tidy(raw, origin=origin, columns=columns)
    if platemap is None:
        return table
    own = [ours for ours, name in columns.items() if find_column(name, raw.columns) is not None]
    return join_platemap(table, platemap, origin=origin, keep=own)


def join_platemap(
    table: pd.DataFrame, platemap: PlateMap, *, origin: str, keep: Collection[str] = ()
) -> pd.DataFrame:
    """Add the plate map's metadata of each well to a table of sites or wells.

    Parameters
    ----------
    table
        Tidy, with the plates and wells by which the plate map is joined. It is not changed.
    platemap
        See :class:`PlateMap`. Columns that vary within its wells are joined by site if both tables
        have sites, and left out otherwise.
    origin
        Where `table` came from, for messages.
    keep
        Columns of the table that the plate map must not change.

    Returns
    -------
    DataFrame
        The rows whose well is in the plate map and has a compound, in order, with a fresh index:
        metadata first, then all other columns.

    Raises
    ------
    TableError
        If `table` has no plates or wells, a well of the plate map has contradictory rows, or no row
        is left.
    """
    wells = platemap.wells
    keys = _keys(table, platemap, origin)
    table = table.reset_index(drop=True)
    matched = table[keys].copy()
    if PLATE in keys:
        matched[PLATE] = _barcodes(table[PLATE], wells[PLATE], platemap.origin)
    in_well, in_site = _constant(wells, keys, platemap.origin)
    joined = matched.merge(in_well, on=keys, how="left", indicator="_found", sort=False)
    absent = (joined.pop("_found") == "left_only").to_numpy()
    if SITE in table and in_site is not None:
        by_site = [*keys, SITE]
        ours = matched.assign(**{SITE: table[SITE]})
        more = ours.merge(in_site, on=by_site, how="left", sort=False)
        joined = joined.assign(**{name: more[name] for name in more.columns.difference(by_site)})
    added = [name for name in joined.columns if name not in keys and name not in keep]
    result = table.copy()
    for name in added:
        result[name] = _winning(table, joined[name], platemap.origin)
    result = _left(result, absent, platemap.origin, origin)
    metadata = [name for name in result.columns if str(name).startswith(PREFIX)]
    return result[metadata + [name for name in result.columns if name not in metadata]]


def _keys(table: pd.DataFrame, platemap: PlateMap, ours: str) -> list[str]:
    """Return the columns by which a table is joined with a plate map."""
    wells, theirs, by_batch = platemap.wells, platemap.origin, platemap.by_batch
    keys = [key for key in (PLATE, WELL) if key in wells]
    if PLATE not in wells and has_values(table, PLATE_MAP) and has_values(wells, PLATE_MAP):
        keys = [PLATE_MAP, *keys]
    for column in (BATCH, SOURCE) if PLATE in wells else ():
        if has_values(table, column) and has_values(wells, column):
            several = wells[[PLATE, column]].drop_duplicates().duplicated(PLATE).any()
            keys = [column, *keys] if several or (by_batch and column == BATCH) else keys
    for key in keys:
        if not has_values(table, key):
            has = ", ".join(name for name in table.columns if str(name).startswith(PREFIX))
            raise TableError(
                f"{ours}: no column {key}, which is needed to join it with {theirs}; it has "
                f"{has or 'no metadata'}"
            )
    return keys


def _barcodes(plates: pd.Series, known: pd.Series, origin: str) -> pd.Series:
    """Return the plates by their names in the plate map.

    Instruments append date and measurement to a barcode: `BR00117035__2021-05-02T16_02_51-...`
    """
    theirs = set(known.dropna())
    short = {
        plate: plate.partition("__")[0]
        for plate in plates.dropna().unique()
        if isinstance(plate, str) and plate not in theirs and plate.partition("__")[0] in theirs
    }
    if short:
        plate, barcode = next(iter(short.items()))
        say(
            f"{origin}: {counted(len(short), 'plate')} matched by barcode, such as {plate} as "
            f"{barcode}"
        )
    return plates.map(lambda plate: short.get(plate, plate) if isinstance(plate, str) else plate)


def _constant(
    wells: pd.DataFrame, keys: list[str], origin: str
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Split a plate map into the columns constant within wells, and those that vary by site.

    Missing values are ignored; apart from these, each well must have a single value.
    """
    wells = wells.dropna(subset=keys)
    grouped = wells.groupby(keys, sort=False)
    num_values = grouped.nunique()
    varying = [name for name in num_values.columns if (num_values[name] > 1).any()]
    for name in varying:
        if name in METADATA and name != SITE:
            first = num_values[num_values[name] > 1].reset_index()[keys].iloc[0]
            same = wells[(wells[keys] == first).all(axis=1)]
            found = ", ".join(map(str, same[name].dropna().unique()))
            raise TableError(
                f"{origin}: well {'/'.join(map(str, first))} occurs with different values "
                f"({name} is {found})"
            )
    drop = [name for name in {*varying, SITE} if name in wells]
    # The first value that isn't missing.
    in_well = grouped.first().drop(columns=drop, errors="ignore").reset_index()
    in_site = None
    by_site = [*keys, SITE]
    if varying and SITE in wells and not wells.duplicated(by_site).any():
        in_site = wells[by_site + [name for name in varying if name != SITE]]
    lost = [name for name in varying if name != SITE] if in_site is None else []
    if lost:
        say(
            f"{origin}: {', '.join(lost)} left out, of which some wells have several values; with "
            f"one row for each {SITE} they are joined by site"
        )
    return in_well, in_site


def _winning(table: pd.DataFrame, theirs: pd.Series, origin: str) -> pd.Series:
    """Return the plate map's value if it has one, else the table's."""
    name = str(theirs.name)
    if name not in table:
        return theirs
    ours = table[name]
    said = theirs.notna()
    if name in METADATA:
        pairs = zip(texts(ours), texts(theirs), strict=True)
        differ = sum(a is not None and b is not None and a != b for a, b in pairs)
        if differ:
            say(f"{origin}: its {name} replaces a different one in {differ} of {len(table)} rows")
    if not said.any():
        return ours
    if said.all():
        return theirs
    mixed = theirs.astype(object).where(said, ours.astype(object))
    both_numbers = all(pd.api.types.is_numeric_dtype(one) for one in (ours, theirs))
    return pd.to_numeric(mixed) if both_numbers and name != CONTROL else mixed


def _left(table: pd.DataFrame, absent: object, theirs: str, ours: str) -> pd.DataFrame:
    """Drop and report rows that aren't in the plate map, or that have no compound."""
    gone = pd.Series(absent, index=table.index)
    if COMPOUND in table:
        gone |= table[COMPOUND].isna()
    if not gone.any():
        return table
    what = "no compound" if COMPOUND in table else "no row"
    places = [key for key in (PLATE, WELL) if key in table]
    where = table.loc[gone, places].drop_duplicates()
    named = [" ".join(map(str, row)) for row in where.head(3).itertuples(index=False)]
    shown = ", ".join(named) + (", ..." if len(where) > 3 else "")
    if gone.all():
        raise TableError(
            f"{theirs}: has {what} for any of the {len(table)} rows of {ours} ({shown}); plates "
            "and wells must have the same names in both"
        )
    say(
        f"{theirs}: has {what} for {int(gone.sum())} of {len(table)} rows of {ours}; they are left "
        f"out ({len(where)} wells: {shown})"
    )
    return table[~gone].reset_index(drop=True)
