"""Reading a screen's manifest from any supported description of a screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import pandas as pd

from wsdino.errors import InputError, TableError, did_you_mean, option
from wsdino.remote import shown
from wsdino.screen import bbbc021
from wsdino.screen.choosing import selected
from wsdino.screen.files import MissingImage, find_files, require_images
from wsdino.screen.pixel_sizes import require_pixel_size, with_pixel_sizes
from wsdino.screen.readers import RawTable, read_raw
from wsdino.screen.selection import Selection
from wsdino.tables.columns import COMPOUND, PREFIX
from wsdino.tables.lists import require_single
from wsdino.tables.manifest import channels_of, validate_manifest
from wsdino.tables.platemap import PlateMap, read_platemap, tidy_and_join

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsdino.tables.welltables import WellTable

__all__ = ["channels_of", "read_manifest", "read_rows", "read_wells", "validate_manifest"]


# What to do with rows whose images are missing.
Missing = Literal["error", "leave-out"]
REASON = "Metadata_Left_Out"
"""Column of rows that are left out: the reason."""


class Rows(NamedTuple):
    """The rows of a screen's table."""

    manifest: pd.DataFrame
    """Those of sites that can be read, as :func:`read_manifest` returns them."""
    left_out: pd.DataFrame
    """Metadata of the other rows, and the reason; the index is their row in the table."""
    missing: tuple[MissingImage, ...]
    """The images that are missing."""


def read_manifest(
    source: str | Path | pd.DataFrame,
    *,
    platemap: str | Path | pd.DataFrame | WellTable | PlateMap | None = None,
    controls: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    check_files: bool = True,
    selection: Selection | None = None,
    missing: Missing = "error",
    pixel_size: float | None = None,
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
        Look for each image.
    selection
        Which of its images are read; None: all, none of which may have to be chosen.
    missing
        What to do where an image is missing: ``error``, or ``leave-out`` the row.
    pixel_size
        Width of a pixel of the images in micrometres. None: what the table, the instrument's files
        or the images say (`Metadata_PixelSize`), if they do.
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
        An image is missing, or all are.

    Examples
    --------
    >>> import wsdino
    >>> manifest = wsdino.read_manifest("PLATES")
    >>> [name for name in manifest if name.startswith("FileName_")]
    ['FileName_DAPI', 'FileName_Tubulin', 'FileName_Actin']
    """
    platemap = platemap if design is None else design
    rows = read_rows(
        source,
        platemap=platemap,
        controls=controls,
        columns=columns,
        selection=selection,
        check_files=check_files,
        missing=missing,
        pixel_size=pixel_size,
    )
    return rows.manifest


def read_rows(
    source: str | Path | pd.DataFrame,
    *,
    platemap: str | Path | pd.DataFrame | WellTable | PlateMap | None = None,
    controls: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    check_files: bool = True,
    selection: Selection | None = None,
    missing: Missing = "error",
    pixel_size: float | None = None,
) -> Rows:
    """Read a screen's manifest, and the rows that are left out of it.

    Parameters and errors are those of :func:`read_manifest`.
    """
    if missing not in get_args(Missing):
        near = did_you_mean(missing, get_args(Missing))
        raise InputError(f"missing {missing!r}{near}: use {' or '.join(get_args(Missing))}")
    require_pixel_size(pixel_size)
    columns, selection = columns or {}, selection or Selection()
    if isinstance(source, pd.DataFrame):
        raw, origin = RawTable(source, Path()), "the table"
    else:
        raw = read_raw(Path(source), text=columns.values(), pattern=selection.pattern)
        origin = shown(source)
    folder, platemap = raw.folder, raw.wells if platemap is None else platemap
    wells = None if platemap is None else read_wells(platemap, columns=columns)
    table = tidy_and_join(raw.table, wells, origin=origin, columns=columns)
    del raw  # of millions of rows it takes as much memory as the result
    if COMPOUND not in table and wells is not None:
        raise TableError(
            f"{wells.origin}: no column {COMPOUND}; it has {', '.join(wells.columns)}; to read it "
            f"from a column with another name, use {option(f'--column {COMPOUND}=NAME')}"
        )
    if COMPOUND not in table:
        raise TableError(
            f"{origin}: doesn't say which well received which compound; give a plate map by "
            f"{option('--platemap FILE')}, a table with {COMPOUND} and so on for each "
            f"Metadata_Plate and Metadata_Well, or name the column by "
            f"{option(f'--column {COMPOUND}=NAME')}"
        )
    require_single(table, origin=origin)
    table = selected(table, selection, origin=origin)
    table, absent = find_files(table, folder, origin=origin, check_files=check_files)
    reasons: dict[int, str] = {}
    for image in absent:
        known = reasons.get(image.row)
        reasons[image.row] = f"{known}; {image.text}" if known else f"no image file {image.text}"
    if missing == "error" or len(reasons) == len(table):
        require_images(absent, table, origin=origin)
    manifest = validate_manifest(table, origin=origin, controls=controls)
    manifest = with_pixel_sizes(manifest, pixel_size, origin=origin)
    left_out = manifest.loc[sorted(reasons)]
    left_out = left_out[[name for name in left_out if str(name).startswith(PREFIX)]]
    if len(left_out):
        manifest = manifest.drop(index=left_out.index).reset_index(drop=True)
    return Rows(
        manifest,
        left_out.assign(**{REASON: [reasons[row] for row in left_out.index]}),
        tuple(absent),
    )


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
