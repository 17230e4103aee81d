"""AnnData files: X = features, obs = metadata, var = features with their channel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.atomic import writing
from wsdino.errors import TableError
from wsdino.outside import parse_json
from wsdino.progress import say
from wsdino.tables.columns import (
    BATCH,
    COMPOUND,
    CONCENTRATION,
    PLATE,
    PREFIX,
    SITE,
    WELL,
)
from wsdino.tables.features import channel_of, feature_columns, features_of, metadata_of
from wsdino.tables.lists import labels_of, with_json

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".h5ad"
# Coordinates of a map, in a table and in `obsm`.
MAP_COLUMNS, MAP = (f"{PREFIX}UMAP_1", f"{PREFIX}UMAP_2"), "X_umap"
# How profiles were made, in `uns` as in a table's `attrs`: as JSON, for lists of anything.
_PROVENANCE = "wsdino"


def write_anndata(table: pd.DataFrame, path: Path) -> None:
    """Write a table as AnnData.

    Parameters
    ----------
    table
        Metadata and features.
    path
        `.h5ad`. The names of obs keep the `Metadata_` prefix, with `_` for `/`, which HDF5 doesn't
        allow in a name (this is reported); rows are named by batch, plate, well and site, or by
        compound and concentration. `var["channel"]` is the channel in `emb_<channel>_<index>`,
        empty for features with other names. Lists of plates and batches are JSON arrays; a map
        (:data:`MAP_COLUMNS`) is also `obsm["X_umap"]`; `uns["wsdino"]` has `table.attrs` as JSON.

    Raises
    ------
    TableError
        If the format is unknown, or a feature is not finite.
    OutputError
        If the path can't be written.
    """
    import anndata

    if path.suffix != SUFFIX:
        msg = f"{path}: unknown format for AnnData; expected a name that ends in {SUFFIX}"
        raise TableError(msg)
    names = feature_columns(table)
    metadata = with_json(metadata_of(table))
    text = metadata.select_dtypes(include="object").columns
    # HDF5 can't mix text and missing values; a categorical can.
    metadata = metadata.astype(dict.fromkeys(text, "category"))
    metadata.index = pd.Index(_row_names(table), dtype=object)
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
        uns={_PROVENANCE: json.dumps(table.attrs)} if table.attrs else {},
    )
    if set(MAP_COLUMNS) <= set(table):
        data.obsm[MAP] = table[list(MAP_COLUMNS)].to_numpy(dtype=np.float32)
    with writing(path) as partial:
        data.write_h5ad(partial)


def read_anndata(path: Path) -> pd.DataFrame:
    """Read an AnnData file of wsdino's or of another tool.

    Parameters
    ----------
    path
        `.h5ad`.

    Returns
    -------
    DataFrame
        The columns of obs, each with the prefix `Metadata_`, so that none becomes a feature; the
        features in X, float32 if they are stored so; `obsm["X_umap"]` as :data:`MAP_COLUMNS`; and
        in `attrs` what :func:`write_anndata` put there.

    Raises
    ------
    ValueError, OSError, KeyError
        If the file is damaged or of another kind.
    """
    import anndata

    data = anndata.read_h5ad(path)
    matrix = data.X.toarray() if hasattr(data.X, "toarray") else np.asarray(data.X)
    metadata = data.obs.reset_index(drop=True)
    metadata.columns = [
        name if str(name).startswith(PREFIX) else f"{PREFIX}{name}" for name in metadata
    ]
    for name in metadata.select_dtypes(include="category"):
        values = metadata[name].astype(object)
        metadata[name] = values.where(values.notna(), None)
    if MAP in data.obsm and not set(MAP_COLUMNS) & set(metadata):
        points = np.asarray(data.obsm[MAP])
        metadata = metadata.assign(**{n: points[:, at] for at, n in enumerate(MAP_COLUMNS)})
    features = pd.DataFrame(matrix, columns=pd.Index(data.var_names.astype(str), dtype=object))
    table: pd.DataFrame = pd.concat([metadata, features], axis=1)
    made: Any = data.uns.get(_PROVENANCE)
    if isinstance(made, str):
        table.attrs = parse_json(made)
    return table


def _row_names(table: pd.DataFrame) -> list[str]:
    """Name each row by its place, or else by its treatment; equal ones are numbered."""
    keys = [name for name in (BATCH, PLATE, WELL, SITE) if name in table]
    if WELL not in keys:
        keys = [name for name in (COMPOUND, CONCENTRATION) if name in table]
    names = [
        "_".join(part for value in row for part in [_text(value)] if part) or "row"
        for row in table[keys].itertuples(index=False, name=None)
    ]
    if not keys:
        names = ["row"] * len(table)
    seen: dict[str, int] = {}
    for position, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        names[position] = name if seen[name] == 1 else f"{name}-{seen[name] - 1}"
    return names


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if value == value else ""
    return "+".join(label for label in labels_of(value) if label)
