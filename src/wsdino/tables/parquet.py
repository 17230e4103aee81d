"""Parquet files, each page of which has a checksum that is compared when it is read.

Parquet allows for it and leaves it out by default: a flipped bit would be another number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    import io
    from pathlib import Path


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write a table without its index."""
    table.to_parquet(path, index=False, write_page_checksum=True)


def read_parquet(source: Path | io.BytesIO) -> pd.DataFrame:
    """Read a table; pages that come without a checksum are taken as they are.

    Raises
    ------
    OSError
        The file is damaged. Damaged bytes can raise nearly anything else, too.
    """
    return pd.read_parquet(source, page_checksum_verification=True)
