"""Plate tables as files: CellProfiler's LoadData CSV, plain manifests, compressed or Parquet."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pandas as pd

from wsdino.errors import ManifestError

if TYPE_CHECKING:
    from pathlib import Path

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")

# Identifiers stay text: a plate "0042" is not the plate 42.
_TEXT = re.compile(
    r"(Image_)?(Metadata_(Plate|Well|Batch|Compound|MoA)(_.+)?|(FileName|PathName|URL)_.+)"
)


def is_table(path: Path) -> bool:
    """Whether `path` is named like a table that :func:`read_plate_table` reads."""
    return path.name.lower().endswith(TABLE_SUFFIXES)


def read_plate_table(path: Path) -> pd.DataFrame:
    """Read a table of sites or treatments.

    Parameters
    ----------
    path
        A `.csv`, `.csv.gz` or `.parquet` file. Plates, wells, compounds and file names are read as
        text.

    Returns
    -------
    pandas.DataFrame
        As it is in the file, with blanks around column names removed.

    Raises
    ------
    ManifestError
        The file is missing or can't be read as a table.
    """
    if not path.is_file():
        raise ManifestError(f"{path}: no such file")
    try:
        if path.name.lower().endswith(".parquet"):
            table = pd.read_parquet(path)
        else:
            header = pd.read_csv(path, nrows=0, encoding="utf-8-sig").columns
            text = {name: str for name in header if _TEXT.fullmatch(name.strip())}
            table = pd.read_csv(path, dtype=text, encoding="utf-8-sig", low_memory=False)
    except (ValueError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ManifestError(f"{path}: can't be read as a table: {reason}") from error
    return table.rename(columns=lambda name: str(name).strip())


def without_image_prefix(table: pd.DataFrame) -> pd.DataFrame:
    """Rename `Image_FileName_X` to `FileName_X` and so on: CellProfiler writes both.

    A prefixed column whose plain twin exists is dropped.
    """
    plain = {name: str(name).removeprefix("Image_") for name in table.columns}
    twins = [name for name, short in plain.items() if short != name and short in plain]
    return table.drop(columns=twins).rename(columns=plain)
