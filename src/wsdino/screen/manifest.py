"""Reading a screen's manifest from whatever describes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from wsdino.errors import ManifestError
from wsdino.screen.bbbc021 import (
    IMAGE_TABLE,
    find_bbbc021_tables,
    is_bbbc021_table,
    read_bbbc021_tables,
)
from wsdino.screen.files import resolve_files
from wsdino.screen.omezarr import find_plates, read_plates
from wsdino.tables.loaddata import is_table, read_plate_table, without_image_prefix
from wsdino.tables.manifest import channels_of, validate_manifest
from wsdino.tables.platemap import join_design

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["channels_of", "read_manifest", "validate_manifest"]

ACCEPTED = (
    f"a folder with {IMAGE_TABLE}, an OME-Zarr plate or a folder of such, a CellProfiler LoadData "
    "CSV, or a manifest as .csv, .csv.gz or .parquet"
)


def read_manifest(
    source: str | Path | pd.DataFrame,
    *,
    design: str | Path | None = None,
    controls: Sequence[str] | None = None,
    check_files: bool = True,
) -> pd.DataFrame:
    """Read, check and normalise a screen's manifest.

    Parameters
    ----------
    source
        A folder in BBBC021's layout (`BBBC021_v1_image.csv`, `BBBC021_v1_moa.csv`, either with
        `.gz`), that image table itself, an OME-Zarr plate or a folder of them, a CellProfiler
        LoadData CSV, a manifest (`.csv`, `.csv.gz`, `.parquet`), or a table. Relative folders of
        images are relative to the table's own; those of a DataFrame to the working directory.
    design
        Table of wells that says which got what, where the source doesn't
        (:func:`~wsdino.tables.platemap.join_design`).
    controls
        Compounds that are negative controls, whatever their case. None: `Metadata_Control` where
        there is such a column, else DMSO.
    check_files
        Require each image to exist.

    Returns
    -------
    pandas.DataFrame
        One row per site, as :func:`validate_manifest` describes, with absolute `PathName_`.

    Raises
    ------
    ManifestError
        The source is missing or unrecognised, or the table is incomplete or contradicts itself.
    ImageError
        An image is missing.
    """
    if isinstance(source, pd.DataFrame):
        table, folder, origin = source, Path(), "the table"
    else:
        path = Path(source)
        tables = find_bbbc021_tables(path) if path.is_dir() else None
        if tables is None:
            table = _read_table(path)
            if is_bbbc021_table(table):
                beside = find_bbbc021_tables(path.parent)
                tables = path, beside[1] if beside else None
        if tables is not None:
            if design is not None:
                raise ManifestError(f"{design}: {tables[0]} says itself which well got what")
            return read_bbbc021_tables(*tables, controls=controls, check_files=check_files)
        folder, origin = path.parent, str(path)
    table = without_image_prefix(table)
    if design is not None:
        table = join_design(table, Path(design), origin=origin)
    elif "Metadata_Compound" not in table:
        raise ManifestError(
            f"{origin}: doesn't say which well got which compound; give a table of wells as design "
            "(Metadata_Plate, Metadata_Well, Metadata_Compound, ...)"
        )
    table = resolve_files(table, folder, origin=origin, check_files=check_files)
    return validate_manifest(table, origin=origin, controls=controls)


def _read_table(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise ManifestError(f"{path}: no such file or folder; a screen is {ACCEPTED}")
    if path.is_dir():
        plates = find_plates(path)
        if not plates:
            raise ManifestError(
                f"{path}: this folder has neither {IMAGE_TABLE} nor OME-Zarr plates; a screen is "
                f"{ACCEPTED}"
            )
        return read_plates(plates)
    if not is_table(path):
        raise ManifestError(f"{path}: not a table that can be read; a screen is {ACCEPTED}")
    return read_plate_table(path)
