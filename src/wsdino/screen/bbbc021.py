"""BBBC021's own tables: `BBBC021_v1_image.csv` and `BBBC021_v1_moa.csv`.

Source: https://bbbc.broadinstitute.org/BBBC021 (Caie et al., Mol. Cancer Ther. 2010; Ljosa et al.,
J. Biomol. Screen. 2013).
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pandas as pd

from wsdino.errors import TableError
from wsdino.screen.files import resolve_files
from wsdino.screen.unpacked import relocated
from wsdino.tables.columns import BATCH, MOA, PLATE, SITE, TREATMENT, WELL
from wsdino.tables.doses import require_one_moa, same_dose
from wsdino.tables.files import column_names, is_table, read_file
from wsdino.tables.manifest import channels_of, validate_manifest
from wsdino.tables.tidy import tidy

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

IMAGE_TABLE, MOA_TABLE = "BBBC021_v1_image.csv", "BBBC021_v1_moa.csv"

_SITE = re.compile(r"_s(\d+)(?=[_.])", re.IGNORECASE)
_WEEK = re.compile(r"(?:^|/)(week\d+)(?=[/_]|$)", re.IGNORECASE)


def recognises(path: Path) -> bool:
    """Whether a path is a folder with BBBC021's image table, or a table with its columns."""
    if path.is_dir():
        return _either(path / IMAGE_TABLE) is not None
    return path.is_file() and is_table(path) and is_image_table(column_names(path))


def find_tables(path: Path) -> tuple[Path, Path | None]:
    """Return the image table at or in a path, and the MoA table beside it if there is one."""
    folder = path if path.is_dir() else path.parent
    images = _either(path / IMAGE_TABLE) if path.is_dir() else path
    assert images is not None, "the path was recognised before"
    return images, _either(folder / MOA_TABLE)


def is_image_table(names: Sequence[str]) -> bool:
    """Whether a table has the columns of `BBBC021_v1_image.csv`: one plate per channel."""
    prefix = "Image_FileName_"
    channels = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return any(f"Image_Metadata_Plate_{channel}" in names for channel in channels)


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
        Require each image to exist. If False, the layout can be studied without any images.

    Returns
    -------
    pandas.DataFrame
        A valid manifest, in the image table's order.

    Raises
    ------
    TableError
        A table is missing, lacks a column, or contradicts itself.
    ImageError
        An image is missing, with `check_files`.
    """
    path = Path(image_csv)
    root = Path(images_root) if images_root is not None else path.parent
    table = read_image_table(path, None if moa_csv is None else Path(moa_csv), root=root)
    table = resolve_files(table, root, origin=str(path), check_files=check_files)
    return validate_manifest(table, origin=str(path), controls=controls)


def read_image_table(
    path: Path, moa_csv: Path | None = None, *, root: Path, text: Collection[str] = ()
) -> pd.DataFrame:
    """Read BBBC021's image table as it is, with batch, site and MoA; see `read_bbbc021_tables`."""
    origin = str(path)
    raw = read_file(path, text=text)
    # Annotated copies number the weeks in a column Batch; here the folders give the names.
    table = tidy(raw.drop(columns="Batch", errors="ignore"), origin=origin)
    channels = channels_of(table)
    if not channels:
        raise TableError(f"{origin}: no column Image_FileName_<Channel> with image names")
    for column in (PLATE, WELL):
        if column not in table:
            raise TableError(f"{origin}: no column Image_{column}_<Channel>")
    for column in TREATMENT:
        if column not in table:
            raise TableError(f"{origin}: no column Image_{column}")
    table = table.rename(columns={"Replicate": "Metadata_Replicate"})
    if SITE not in table:
        table[SITE] = _sites(table, channels[0], origin)
    if BATCH not in table:
        table[BATCH] = _weeks(table, channels[0], origin)
    if moa_csv is not None:
        known = _moa_of(table, read_moa_table(moa_csv))
        table[MOA] = known.where(known.notna(), table[MOA]) if MOA in table else known
    return relocated(table, root, origin=origin) if root.is_dir() else table


def read_moa_table(path: str | Path) -> pd.DataFrame:
    """Read a table of mechanisms.

    Returns
    -------
    pandas.DataFrame
        Columns compound (str), concentration (float, micromolar) and moa (str), in the file's
        order.

    Raises
    ------
    TableError
        A column is missing, a value can't be read, or a treatment has two mechanisms.
    """
    table = read_file(path).rename(columns=str.lower)
    for column in ("compound", "concentration", "moa"):
        if column not in table:
            raise TableError(
                f"{path}: no column {column}; a MoA table has compound, concentration and moa"
            )
    table = table[["compound", "concentration", "moa"]].dropna(how="all")
    numbers = pd.to_numeric(table["concentration"], errors="coerce")
    if table.isna().any(axis=None) or numbers.isna().any():
        bad = table[table.isna().any(axis=1) | numbers.isna()].iloc[0].tolist()
        raise TableError(
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


def _sites(table: pd.DataFrame, channel: str, origin: str) -> pd.Series:
    names = table[f"FileName_{channel}"].fillna("").astype(str)
    sites = names.str.extract(_SITE, expand=False)
    # A row without any file name is reported by the validation.
    if (sites.isna() & (names != "")).any():
        wrong = names[sites.isna() & (names != "")].iloc[0]
        raise TableError(
            f"{origin}: FileName '{wrong}' has no site; the site is the number in _s<site>_w"
        )
    return sites.fillna("0").astype(int)


def _weeks(table: pd.DataFrame, channel: str, origin: str) -> pd.Series:
    column = f"PathName_{channel}"
    if column not in table:
        raise TableError(f"{origin}: no column Image_{column}, which gives the batch")
    paths = table[column].fillna("").astype(str).str.strip().str.replace("\\", "/")
    return paths.map({path: _week_of(path) for path in paths.unique()})


def _week_of(path: str) -> str:
    match = _WEEK.search(path)
    if match:
        return match[1].capitalize()
    parts = PurePosixPath(path).parts
    # The plate's own folder comes last; the start of an absolute path is irrelevant.
    return parts[max(len(parts) - 2, 0) if path.startswith("/") else 0] if parts else ""


def _moa_of(table: pd.DataFrame, moas: pd.DataFrame) -> pd.Series:
    """Return each row's MoA, null if the MoA table doesn't have the treatment."""
    by_compound = dict(iter(moas.groupby("compound")))
    compounds = table["Metadata_Compound"].fillna("").astype(str).str.strip()
    doses = pd.to_numeric(table["Metadata_Concentration"], errors="coerce")
    treatments = list(zip(compounds, doses, strict=True))
    moa_of: dict[tuple[str, float], str | None] = {}
    for compound, dose in dict.fromkeys(treatments):
        moa_of[compound, dose] = None
        if compound in by_compound:
            known = by_compound[compound]
            close = same_dose(known["concentration"], dose)
            if close.any():
                moa_of[compound, dose] = str(known["moa"][close].iloc[0])
    return pd.Series([moa_of[key] for key in treatments], index=table.index, dtype=object)
