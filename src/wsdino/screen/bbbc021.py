"""BBBC021's own tables: `BBBC021_v1_image.csv` and `BBBC021_v1_moa.csv`.

Source: https://bbbc.broadinstitute.org/BBBC021 (Caie et al., Mol. Cancer Ther. 2010; Ljosa et al.,
J. Biomol. Screen. 2013).
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.errors import ManifestError
from wsdino.screen.files import resolve_files
from wsdino.screen.loaddata import read_plate_table, without_image_prefix
from wsdino.screen.schema import channels_of, require_one_moa, validate_manifest
from wsdino.screen.unpacked import relocated

if TYPE_CHECKING:
    from collections.abc import Sequence

IMAGE_TABLE, MOA_TABLE = "BBBC021_v1_image.csv", "BBBC021_v1_moa.csv"

_SITE = re.compile(r"_s(\d+)(?=[_.])", re.IGNORECASE)
_WEEK = re.compile(r"(?:^|/)(week\d+)(?=[/_]|$)", re.IGNORECASE)
# Concentrations were printed with differing precision; neighbouring doses differ by far more.
_RELATIVE_TOLERANCE = 1e-4


def find_bbbc021_tables(folder: Path) -> tuple[Path, Path | None] | None:
    """Return the image table and the MoA table of a folder in BBBC021's layout.

    Returns
    -------
    tuple of Path, Path or None, or None
        None where the folder has no image table, compressed or not.
    """
    image_table = _either(folder / IMAGE_TABLE)
    return (image_table, _either(folder / MOA_TABLE)) if image_table else None


def is_bbbc021_table(table: pd.DataFrame) -> bool:
    """Whether a table's columns are those of `BBBC021_v1_image.csv`."""
    return any(str(name).startswith("Image_Metadata_Plate_") for name in table.columns)


def read_bbbc021_tables(
    image_csv: str | Path,
    moa_csv: str | Path | None = None,
    *,
    images_root: str | Path | None = None,
    controls: Sequence[str] | None = None,
    check_files: bool = False,
) -> pd.DataFrame:
    """Read BBBC021's image table and, joined to it, its MoA table.

    The batch is the week (`Week4` of `Week4/Week4_27481`; of folders with other names, the first),
    the site the number after `_s` in the file name. `Replicate` becomes `Metadata_Replicate` and
    any other `Image_Metadata_<Name>` becomes `Metadata_<Name>`. Folders that are not where the
    table says are looked for where archives may have been unpacked (:func:`.unpacked.relocated`).

    Parameters
    ----------
    image_csv
        `BBBC021_v1_image.csv` or `.csv.gz`.
    moa_csv
        `BBBC021_v1_moa.csv`; None: every MoA is null.
    images_root
        What the table's folders are relative to; None: the table's own folder.
    controls
        Compounds that are negative controls; None: DMSO.
    check_files
        Require each image to exist. Without, the design can be studied where no pixels are.

    Returns
    -------
    pandas.DataFrame
        A valid manifest, in the image table's order.

    Raises
    ------
    ManifestError
        A table is missing, lacks a column, or contradicts itself.
    ImageError
        An image is missing, with `check_files`.
    """
    path = Path(image_csv)
    origin = str(path)
    table = without_image_prefix(read_plate_table(path))
    channels = channels_of(table)
    if not channels:
        raise ManifestError(f"{origin}: no column Image_FileName_<Channel> names an image")
    table = _one_column(table, "Metadata_Plate", origin)
    table = _one_column(table, "Metadata_Well", origin)
    for column in ("Metadata_Compound", "Metadata_Concentration"):
        if column not in table:
            raise ManifestError(f"{origin}: no column Image_{column}")
    table = table.rename(columns={"Replicate": "Metadata_Replicate"})
    if "Metadata_Site" not in table:
        table["Metadata_Site"] = _sites(table, channels[0], origin)
    if "Metadata_Batch" not in table:
        table["Metadata_Batch"] = _weeks(table, channels[0], origin)
    if moa_csv is not None:
        table["Metadata_MoA"] = _moa_of(table, read_moa_table(moa_csv))
    root = Path(images_root) if images_root is not None else path.parent
    if root.is_dir():
        table = relocated(table, root, origin=origin)
    table = resolve_files(table, root, origin=origin, check_files=check_files)
    return validate_manifest(table, origin=origin, controls=controls)


def read_moa_table(path: str | Path) -> pd.DataFrame:
    """Read a table of mechanisms.

    Returns
    -------
    pandas.DataFrame
        Columns compound (str), concentration (float, micromolar) and moa (str), in the file's
        order.

    Raises
    ------
    ManifestError
        A column is missing, a value can't be read, or a treatment has two mechanisms.
    """
    table = read_plate_table(Path(path)).rename(columns=str.lower)
    for column in ("compound", "concentration", "moa"):
        if column not in table:
            raise ManifestError(
                f"{path}: no column {column}; a MoA table has compound, concentration and moa"
            )
    table = table[["compound", "concentration", "moa"]].dropna(how="all")
    numbers = pd.to_numeric(table["concentration"], errors="coerce")
    if table.isna().any(axis=None) or numbers.isna().any():
        bad = table[table.isna().any(axis=1) | numbers.isna()].iloc[0].tolist()
        raise ManifestError(
            f"{path}: {bad} is not a compound, a concentration in micromolar and a MoA"
        )
    table["compound"] = table["compound"].astype(str).str.strip()
    table["moa"] = table["moa"].astype(str).str.strip()
    table["concentration"] = numbers.astype(float)
    require_one_moa(table, origin=str(path), columns=("compound", "concentration", "moa"))
    return table


def _either(path: Path) -> Path | None:
    candidates = (path, path.with_name(path.name + ".gz"))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _one_column(table: pd.DataFrame, column: str, origin: str) -> pd.DataFrame:
    """Make one column of `<column>_DAPI` and the like, which agree as far as they exist."""
    copies = [name for name in table.columns if name.startswith(f"{column}_")]
    if column in table:
        return table.drop(columns=copies)
    if not copies:
        raise ManifestError(f"{origin}: no column Image_{column}_<Channel>")
    return table.rename(columns={copies[0]: column}).drop(columns=copies[1:])


def _sites(table: pd.DataFrame, channel: str, origin: str) -> pd.Series:
    names = table[f"FileName_{channel}"].fillna("").astype(str)
    sites = names.str.extract(_SITE, expand=False)
    # A row without any file name is reported by the validation.
    if (sites.isna() & (names != "")).any():
        wrong = names[sites.isna() & (names != "")].iloc[0]
        raise ManifestError(
            f"{origin}: FileName '{wrong}' tells no site; the site is the number in _s<site>_w"
        )
    return sites.fillna("0").astype(int)


def _weeks(table: pd.DataFrame, channel: str, origin: str) -> pd.Series:
    column = f"PathName_{channel}"
    if column not in table:
        raise ManifestError(f"{origin}: no column Image_{column}, which tells the batch")
    paths = table[column].fillna("").astype(str).str.strip().str.replace("\\", "/")
    return paths.map({path: _week_of(path) for path in paths.unique()})


def _week_of(path: str) -> str:
    match = _WEEK.search(path)
    if match:
        return match[1].capitalize()
    parts = PurePosixPath(path).parts
    # The plate's own folder comes last; what an absolute path starts with says nothing.
    return parts[max(len(parts) - 2, 0) if path.startswith("/") else 0] if parts else ""


def _moa_of(table: pd.DataFrame, moas: pd.DataFrame) -> pd.Series:
    """Return each row's MoA, null where the MoA table has no such treatment."""
    by_compound = dict(iter(moas.groupby("compound")))
    compounds = table["Metadata_Compound"].fillna("").astype(str).str.strip()
    doses = pd.to_numeric(table["Metadata_Concentration"], errors="coerce")
    treatments = list(zip(compounds, doses, strict=True))
    moa_of: dict[tuple[str, float], str | None] = {}
    for compound, dose in dict.fromkeys(treatments):
        moa_of[compound, dose] = None
        if compound in by_compound:
            known = by_compound[compound]
            close = np.isclose(known["concentration"], dose, rtol=_RELATIVE_TOLERANCE, atol=0)
            if close.any():
                moa_of[compound, dose] = str(known["moa"][close].iloc[0])
    return pd.Series([moa_of[key] for key in treatments], index=table.index, dtype=object)
