"""The design of a screen: which well got what, where the table of images doesn't say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsdino.errors import ManifestError
from wsdino.progress import say
from wsdino.screen.loaddata import read_plate_table
from wsdino.screen.schema import normalise_well

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

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
