"""Writing tables of features: Parquet, CSV and, by its suffix, AnnData."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from wsdino.atomic import writing
from wsdino.tables.features import feature_columns, metadata_of
from wsdino.tables.files import suffix_of
from wsdino.tables.h5ad import SUFFIX, write_anndata
from wsdino.tables.lists import with_json
from wsdino.tables.parquet import write_parquet


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table atomically: metadata first, then the features as float32.

    Parameters
    ----------
    table
        Metadata and features. Parquet keeps lists of plates and batches, and `table.attrs` (how
        profiles were made); in CSV lists are JSON arrays.
    path
        `.parquet`, `.csv`, `.csv.gz` or `.h5ad` (see :func:`wsdino.tables.h5ad.write_anndata`); its
        folder is created if missing.

    Raises
    ------
    TableError
        If the format is unknown.
    OutputError
        If the path can't be written.

    Examples
    --------
    >>> import wsdino
    >>> table = wsdino.read_table("sites.csv")
    >>> wsdino.write_table(table, "sites.parquet")
    """
    path = Path(path)
    suffix = suffix_of(path)
    if suffix == SUFFIX:
        write_anndata(table, path)
        return
    features = feature_columns(table)
    ordered = pd.concat([metadata_of(table), table[features].astype(np.float32)], axis=1)
    ordered.attrs = table.attrs
    with writing(path) as partial:
        if suffix == ".parquet":
            write_parquet(ordered, partial)
        else:
            with_json(ordered).to_csv(partial, index=False)
