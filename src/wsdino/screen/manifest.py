"""Reading a screen's manifest from any supported description of a screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from wsdino.errors import TableError
from wsdino.screen import bbbc021
from wsdino.screen.choosing import selected
from wsdino.screen.files import resolve_files
from wsdino.screen.readers import RawTable, read_raw
from wsdino.screen.selection import Selection
from wsdino.tables.columns import COMPOUND
from wsdino.tables.manifest import channels_of, validate_manifest
from wsdino.tables.platemap import PlateMap, read_platemap, tidy_and_join

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsdino.tables.welltables import WellTable

__all__ = ["channels_of", "read_manifest", "read_wells", "validate_manifest"]


def read_manifest(
    source: str | Path | pd.DataFrame,
    *,
    platemap: str | Path | pd.DataFrame | WellTable | PlateMap | None = None,
    controls: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    check_files: bool = True,
    selection: Selection | None = None,
    design: str | Path | None = None,
) -> pd.DataFrame:
    """Read, check and normalise a screen's manifest.

    Parameters
    ----------
    source
        Anything that one of :data:`wsdino.screen.readers.READERS` recognises, or a table. Image
        folders are relative to the table's own; those of a DataFrame to the working directory.
    platemap
        What each well received; see :func:`read_wells`.
    controls
        Compounds that are negative controls, in any case. None: `Metadata_Control` if it has any
        value, else DMSO.
    columns
        Our name -> the table's or plate map's, if it differs.
    check_files
        Require each image to exist.
    selection
        Which of its images are read; None: all, none of which may have to be chosen.
    design
        The former name of `platemap`.

    Returns
    -------
    pandas.DataFrame
        One row per site, as :func:`validate_manifest` describes, with absolute `PathName_`.

    Raises
    ------
    TableError
        The source is missing or unrecognised, or the table is incomplete or contradicts itself.
    ImageError
        An image is missing.
    """
    columns, selection = columns or {}, selection or Selection()
    if isinstance(source, pd.DataFrame):
        raw, origin = RawTable(source, Path()), "the table"
    else:
        raw = read_raw(Path(source), text=columns.values(), pattern=selection.pattern)
        origin = str(source)
    platemap = platemap if design is None else design
    platemap = raw.wells if platemap is None else platemap
    wells = None if platemap is None else read_wells(platemap, columns=columns)
    table = tidy_and_join(raw.table, wells, origin=origin, columns=columns)
    if COMPOUND not in table and wells is not None:
        raise TableError(
            f"{wells.origin}: no column {COMPOUND}; it has {', '.join(wells.columns)}; to read it "
            f"from a column with another name, use --column {COMPOUND}=NAME"
        )
    if COMPOUND not in table:
        raise TableError(
            f"{origin}: doesn't say which well received which compound; give a plate map "
            f"(--platemap: a table with {COMPOUND} and so on for each Metadata_Plate and "
            f"Metadata_Well), or name the column (--column {COMPOUND}=NAME)"
        )
    table = selected(table, selection, origin=origin)
    table = resolve_files(table, raw.folder, origin=origin, check_files=check_files)
    return validate_manifest(table, origin=origin, controls=controls)


def read_wells(
    source: str | Path | pd.DataFrame | WellTable | PlateMap,
    *,
    columns: Mapping[str, str] | None = None,
) -> PlateMap:
    """Read the metadata of wells: a plate map, or the table of a screen in BBBC021's layout.

    Parameters
    ----------
    source
        Anything that :func:`wsdino.tables.platemap.read_platemap` reads, or BBBC021's folder or
        image table, with or without the images.
    columns
        Our name -> the table's, as given by the user.

    Raises
    ------
    TableError
        As either reader does.
    """
    if isinstance(source, (str, Path)) and bbbc021.recognises(Path(source)):
        wells = read_manifest(source, check_files=False)
        return PlateMap(read_platemap(wells).wells, str(source), tuple(wells.columns))
    return read_platemap(source, columns=columns)
