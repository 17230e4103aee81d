"""Writing tables of features: Parquet, CSV, AnnData."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from wsdino.atomic import writing
from wsdino.errors import TableError
from wsdino.progress import say
from wsdino.tables.features import channel_of, feature_columns, features_of, metadata_of
from wsdino.tables.files import suffix_of
from wsdino.tables.lists import with_json


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table atomically: metadata first, then the features as float32.

    Parameters
    ----------
    table
        Metadata and features. Parquet keeps lists of plates and batches, and `table.attrs` (how
        profiles were made); in CSV lists are JSON arrays.
    path
        `.parquet`, `.csv` or `.csv.gz`; its folder is created if missing.

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
    features = feature_columns(table)
    ordered = pd.concat([metadata_of(table), table[features].astype(np.float32)], axis=1)
    ordered.attrs = table.attrs
    with writing(path) as partial:
        if suffix == ".parquet":
            ordered.to_parquet(partial, index=False)
        else:
            with_json(ordered).to_csv(partial, index=False)


def write_anndata(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table as AnnData: X = features, obs = metadata, var = features with their channel.

    Parameters
    ----------
    table
        Metadata and features.
    path
        `.h5ad`. The names of obs keep the `Metadata_` prefix, with `_` for `/`, which HDF5 doesn't
        allow in a name (this is reported); `var["channel"]` is the channel in
        `emb_<channel>_<index>`, empty for features with other names. Lists of plates and batches
        are JSON arrays.

    Raises
    ------
    TableError
        If the format is unknown, or a feature is not finite.
    OutputError
        If the path can't be written.
    """
    import anndata

    path = Path(path)
    if path.suffix != ".h5ad":
        msg = f"{path}: unknown format for AnnData; expected a name that ends in .h5ad"
        raise TableError(msg)
    names = feature_columns(table)
    metadata = with_json(metadata_of(table))
    text = metadata.select_dtypes(include="object").columns
    # HDF5 can't mix text and missing values; a categorical can.
    metadata = metadata.astype(dict.fromkeys(text, "category"))
    metadata.index = pd.RangeIndex(len(metadata)).astype(str)
    renamed = {n: n.replace("/", "_") for n in map(str, metadata.columns) if "/" in n}
    for name, new in renamed.items():
        if new in metadata:
            raise TableError(f"{path}: {name} can't be written as {new}, which the table has too")
        say(f"{path}: {name} is written as {new}")
    metadata = metadata.rename(columns=renamed)
    channels = [channel_of(name) for name in names]
    data = anndata.AnnData(
        X=features_of(table).astype(np.float32),
        obs=metadata,
        var=pd.DataFrame({"channel": channels}, index=pd.Index(names, dtype=object)),
    )
    with writing(path) as partial:
        data.write_h5ad(partial)
