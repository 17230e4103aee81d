"""A table written in parts, by several processes, and merged as a stream."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import numpy as np
import pandas as pd

from wsdino.atomic import writing
from wsdino.errors import OutputError
from wsdino.outside import reading
from wsdino.tables.files import suffix_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import pyarrow as pa


@dataclass(frozen=True)
class TablePart:
    """Some rows of a table, in a separate file.

    Parameters
    ----------
    path
        ``.parquet``.
    rows
        Their rows in the whole table.
    """

    path: Path
    rows: slice

    def write(self, table: pd.DataFrame) -> None:
        """Write the part atomically."""
        with writing(self.path) as partial:
            table.to_parquet(partial, index=False)

    def read(self) -> pd.DataFrame:
        """Read the part.

        Raises
        ------
        OutputError
            If it is damaged.
        """
        with reading(self.path, OutputError, "damaged", advice="delete it and run again"):
            return pd.read_parquet(self.path)


def merge_parts(
    parts: Sequence[TablePart], metadata: pd.DataFrame, features: Sequence[str], out: Path
) -> None:
    """Write the whole table, atomically, with one part in memory at a time.

    Parameters
    ----------
    parts
        In the order of their rows.
    metadata
        ``Metadata_*`` columns of all rows; they determine the types of the table.
    features
        Names of the float32 columns that follow.
    out
        ``.parquet`` (one row group per part), ``.csv`` or ``.csv.gz``.

    Raises
    ------
    OutputError
        If a part is damaged, or the path can't be written.
    """
    suffix, tables = suffix_of(out), (part.read() for part in parts)
    with writing(out) as partial:
        if suffix == ".parquet":
            _write_parquet(tables, _schema(metadata, features), partial)
        else:
            _write_csv(tables, partial)


def _schema(metadata: pd.DataFrame, features: Sequence[str]) -> pa.Schema:
    """Derive types from all rows: within a part, a column may hold only missing values."""
    import pyarrow as pa

    no_rows = pd.DataFrame(np.empty((0, len(features)), np.float32), columns=list(features))
    whole = pa.Schema.from_pandas(metadata, preserve_index=False)
    floats = pa.Schema.from_pandas(no_rows, preserve_index=False)
    names = pd.concat([metadata.iloc[:0], no_rows], axis=1)
    described = pa.Schema.from_pandas(names, preserve_index=False).metadata
    return pa.schema([*whole, *floats], metadata=described)


def _write_parquet(tables: Iterable[pd.DataFrame], schema: pa.Schema, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    with parquet.ParquetWriter(path, schema) as writer:
        for table in tables:
            writer.write_table(pa.Table.from_pandas(table, schema=schema, preserve_index=False))


def _write_csv(tables: Iterable[pd.DataFrame], path: Path) -> None:
    def write(file: TextIO) -> None:
        for number, table in enumerate(tables):
            table.to_csv(file, index=False, header=number == 0)

    if path.suffix == ".gz":
        with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
            write(file)
    else:
        with path.open("w", encoding="utf-8", newline="") as plain:
            write(plain)
