"""The design of a screen: which well got what, where the table of images doesn't say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from wsdino.errors import ManifestError, TableError
from wsdino.progress import say
from wsdino.tables.columns import CONTROL, MOA, PLATE, SITE, TREATMENT, WELL
from wsdino.tables.features import feature_columns, metadata_of, require_columns
from wsdino.tables.loaddata import read_plate_table
from wsdino.tables.manifest import normalise_well
from wsdino.tables.reading import tidy

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ["Metadata_Plate", "Metadata_Well"]


def join_design(table: pd.DataFrame, design: Path, *, origin: str) -> pd.DataFrame:
    """Add what a design says of each well to a table of sites.

    Wells that the design has not, or has without a compound, are left out, and that is said.

    Parameters
    ----------
    table
        A row per site, with plate and well. It is not changed.
    design
        `.csv`, `.csv.gz` or `.parquet` with `Metadata_Plate`, `Metadata_Well`, `Metadata_Compound`
        and any other `Metadata_*` column, a row per well. Without `Metadata_Plate` it holds for
        every plate.
    origin
        Where `table` came from, for messages.

    Returns
    -------
    pandas.DataFrame
        The sites whose well has a compound, with the design's columns; they win over the table's.

    Raises
    ------
    ManifestError
        A column is missing, a well stands twice, or no site is left.
    """
    wells = read_plate_table(design).filter(regex="^Metadata_")
    wells = wells.drop(columns="Metadata_Site", errors="ignore").drop_duplicates()
    keys = [key for key in KEYS if key in wells]
    for column in ("Metadata_Well", "Metadata_Compound"):
        if column not in wells:
            raise ManifestError(f"{design}: no column {column}; it has {', '.join(wells.columns)}")
    for key in keys:
        if key not in table:
            raise ManifestError(f"{origin}: no column {key}, by which {design} is joined")
    compounds = wells["Metadata_Compound"].fillna("").astype(str).str.strip()
    wells = _with_keys(wells[compounds != ""], keys)
    twice = wells.duplicated(keys)
    if twice.any():
        where = "/".join(wells.loc[twice, keys].iloc[0])
        raise ManifestError(f"{design}: well {where} stands there with different contents")
    ours = _with_keys(table.drop(columns=wells.columns.difference(keys), errors="ignore"), keys)
    joined = ours.merge(wells, on=keys, how="left", sort=False)
    absent = joined["Metadata_Compound"].isna()
    if absent.any():
        first = "/".join(joined.loc[absent, keys].iloc[0])
        if absent.all():
            raise ManifestError(
                f"{design}: has no compound for any of the {len(joined)} sites of {origin}, the "
                f"first in {first}; plates and wells have to be named alike in both"
            )
        say(
            f"{design}: has no compound for {int(absent.sum())} of {len(joined)} sites, the first "
            f"in {first}; they are left out"
        )
    return joined[~absent].reset_index(drop=True)


def _with_keys(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Write plates and wells as both sides do; what names no well stays, to be told of later."""
    table = table.copy()
    for key in keys:
        table[key] = table[key].astype(str).str.strip()
    known = {well: normalise_well(well) or well for well in table["Metadata_Well"].unique()}
    table["Metadata_Well"] = table["Metadata_Well"].map(known)
    return table


def attach_metadata(table: pd.DataFrame, design: pd.DataFrame) -> pd.DataFrame:
    """Join a table with the design of its screen by plate and well (and site, where both have it).

    Parameters
    ----------
    table
        Features with at least `Metadata_Plate` and `Metadata_Well`.
    design
        A manifest, or any table of wells with `Metadata_*` columns. What varies within a well
        (such as the site, where the table has none) is left out.

    Returns
    -------
    DataFrame
        `table`, row for row, with the columns of the design that it didn't have.

    Raises
    ------
    TableError
        If plate or well are missing, the design has two compounds in one well, or rows of the
        table are not in the design.
    """
    keys = [PLATE, WELL, *([SITE] if SITE in table and SITE in design else [])]
    for name, frame in (("table", table), ("design", design)):
        require_columns(frame, keys, purpose=f"joining a table with a design (here: the {name})")
    wells = metadata_of(tidy(design, origin="design"))
    num_values = wells.groupby(keys, sort=False).nunique(dropna=False)
    for name in (column for column in (*TREATMENT, MOA, CONTROL) if column in num_values):
        if (num_values[name] > 1).any():
            where = num_values.index[num_values[name] > 1][0]
            msg = f"design: {name} has several values in {'/'.join(map(str, where))}; expected one"
            raise TableError(msg)
    constant = num_values.columns[(num_values == 1).all()]
    wells = wells[[*keys, *constant]].drop_duplicates(keys)
    ours = tidy(table, origin="table")
    new = [name for name in wells.columns if name not in ours or name in keys]
    joined = ours.merge(wells[new], on=keys, how="left", indicator="_found", sort=False)
    absent = joined.pop("_found").astype(str) == "left_only"
    if absent.any():
        first = "/".join(str(joined.loc[absent, key].iloc[0]) for key in keys)
        msg = (
            f"{int(absent.sum())} of {len(joined)} rows are not in the design, the first is "
            f"{first}; plate and well have to be named alike in both"
        )
        raise TableError(msg)
    return pd.concat([metadata_of(joined), joined[feature_columns(ours)]], axis=1)
