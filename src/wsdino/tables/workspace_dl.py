"""The Cell Painting Gallery's layout for deep-learning features, `workspace_dl`, out and in.

`embeddings/<network>/<batch>/<plate>/<well>-<site>/embedding.parquet` has a site's features,
`profiles/<network>/<batch>/<plate>/<plate>.parquet` those of a plate's wells,
`collated/<network>/collated.parquet` those of all wells and `consensus/<network>/consensus.parquet`
those of treatments
(https://broadinstitute.github.io/cellpainting-gallery/data_structure.html).
"""

from __future__ import annotations

import filecmp
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.atomic import sweep
from wsdino.errors import TableError
from wsdino.tables.columns import BATCH, PLATE, SITE, WELL
from wsdino.tables.features import require_columns
from wsdino.tables.writing import write_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = "workspace_dl"
# What is read where a tree has several: the finest first.
_LEVELS = ("embeddings", "profiles", "collated", "consensus")
_SITE = re.compile(r"(?P<well>[A-Za-z]{1,2}\d{1,2})-(?P<site>\d+)")
# Names that a folder can have everywhere.
_NAME = re.compile(r"[\w.+@=-][\w .+@=-]*")


def write_workspace_dl(
    sites: pd.DataFrame,
    wells: pd.DataFrame,
    treatments: pd.DataFrame,
    folder: Path,
    *,
    network: str,
) -> Path:
    """Write the features of a network in the Gallery's layout.

    Parameters
    ----------
    sites
        Metadata and features as the network gives them; without `Metadata_Site` no embeddings are
        written.
    wells, treatments
        The same by well, and profiles.
    folder
        That of a source, `<project>/<source>`; `workspace_dl` is made in it.
    network
        Name of the network, with something that tells its weights: `wsdino_1a2b3c4d`.

    Returns
    -------
    Path
        `workspace_dl`.

    Raises
    ------
    TableError
        If batch, plate, well or some rows' site are missing, a name can't be that of a folder, or
        the network has other features there already.
    OutputError
        If a path can't be written.
    """
    require_columns(sites, [BATCH, PLATE, WELL], purpose=f"the layout {FOLDER}")
    # A row without one would be in no file.
    named = [name for name in (BATCH, PLATE, WELL, SITE) if name in sites]
    places = {"network": [network]} | {name: sites[name].unique() for name in named}
    for what, names in places.items():
        bad = [name for name in names if not _NAME.fullmatch(str(name))]
        if any(pd.isna(name) for name in names):
            raise TableError(
                f"{what} is missing in some rows; folders of {FOLDER} are named after it"
            )
        if bad:
            raise TableError(f"{what} {bad[0]!r} can't be the name of a folder")
    root = folder / FOLDER
    planned = dict(_planned(sites, wells, treatments, root, network))
    _refuse_others(planned, [root / level / network for level in _LEVELS])
    for path, table in planned.items():
        write_table(table, path)
    return root


def _planned(
    sites: pd.DataFrame, wells: pd.DataFrame, treatments: pd.DataFrame, root: Path, network: str
) -> Iterator[tuple[Path, pd.DataFrame]]:
    """Yield each file of the layout with its table."""
    if SITE in sites:
        for (batch, plate, well, site), own in sites.groupby([BATCH, PLATE, WELL, SITE]):
            place = root / "embeddings" / network / str(batch) / str(plate) / f"{well}-{site}"
            yield place / "embedding.parquet", own
    for (batch, plate), own in wells.groupby([BATCH, PLATE]):
        yield root / "profiles" / network / str(batch) / str(plate) / f"{plate}.parquet", own
    yield root / "collated" / network / "collated.parquet", wells
    yield root / "consensus" / network / "consensus.parquet", treatments


def _refuse_others(planned: dict[Path, pd.DataFrame], folders: list[Path]) -> None:
    """Refuse files of a network but those to be written, which a killed command may have left."""
    for folder in folders:
        sweep(folder)
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            if path not in planned or not _holds(path, planned[path]):
                raise TableError(
                    f"{folder}: this network's features are there already ({path.name} has "
                    "others); give another --network, or remove them"
                )


def _holds(path: Path, table: pd.DataFrame) -> bool:
    """Whether a file is, byte for byte, what would be written."""
    with tempfile.TemporaryDirectory() as temporary:
        fresh = Path(temporary, path.name)
        write_table(table, fresh)
        return filecmp.cmp(path, fresh, shallow=False)


def is_workspace_dl(path: Path) -> bool:
    """Whether a folder has, or lies in, a tree of this layout."""
    return path.is_dir() and (_root(path) is not None)


def read_workspace_dl(path: Path, read: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    """Read the features of one network from such a tree, or from a part of it.

    Parameters
    ----------
    path
        A source's folder, its `workspace_dl`, or a folder in this, down to a plate's.
    read
        Reads one file.

    Returns
    -------
    DataFrame
        A row for each site (or cell) of the embeddings, or where there are none for each well.
        Batch, plate, well and site that a file lacks are those of its path; a column of vectors
        becomes a column for each of their numbers.

    Raises
    ------
    TableError
        If there are several networks, no file, or files with different columns.
    """
    root = _root(path)
    if root is None:
        raise TableError(f"{path}: no {FOLDER} there")
    files = sorted(_files(root, path))
    if not files:
        raise TableError(f"{path}: no features there, such as embeddings/NETWORK/BATCH")
    networks = sorted({file.relative_to(root).parts[1] for file in files})
    if len(networks) > 1:
        level = files[0].relative_to(root).parts[0]
        raise TableError(
            f"{path}: has {len(networks)} networks ({', '.join(networks)}); give the folder of "
            f"one, such as {root / level / networks[0]}"
        )
    tables = [_with_places(_spread(read(file)), file.relative_to(root)) for file in files]
    first = list(tables[0])
    for file, table in zip(files, tables, strict=True):
        if list(table) != first:
            others = sorted(set(map(str, first)) ^ set(map(str, table)))
            what = ", ".join(others[:3]) or "in their order"
            raise TableError(f"{file}: other columns than {files[0]} ({what})")
    return pd.concat(tables, ignore_index=True)


def _root(path: Path) -> Path | None:
    whole = path.resolve()
    if (whole / FOLDER).is_dir():
        return whole / FOLDER
    return next((each for each in (whole, *whole.parents) if each.name == FOLDER), None)


def _files(root: Path, path: Path) -> Iterator[Path]:
    whole = path.resolve()
    parts = whole.relative_to(root).parts if whole.is_relative_to(root) else ()
    for level in _LEVELS:
        if parts and parts[0] != level:
            continue
        below = whole if parts else root / level
        found = [each for each in below.rglob("*.parquet") if each.is_file()]
        if found:
            yield from found
            return


def _with_places(table: pd.DataFrame, place: Path) -> pd.DataFrame:
    """Complete a file's metadata by those of its path, which begins with level and network."""
    parts = place.parts
    known: dict[str, str | int] = {}
    if parts[0] in ("embeddings", "profiles") and len(parts) > 4:
        known = {BATCH: parts[2], PLATE: parts[3]}
    if parts[0] == "embeddings" and len(parts) > 5:
        found = _SITE.fullmatch(parts[4])
        if found:
            known |= {WELL: found["well"], SITE: int(found["site"])}
    missing = {name: value for name, value in known.items() if name not in table}
    return table.assign(**missing)


def _spread(table: pd.DataFrame) -> pd.DataFrame:
    """Make a column for each number of a column of vectors."""
    for name in list(table):
        cells = table[name]
        if cells.dtype != object or not len(cells) or not isinstance(cells.iloc[0], np.ndarray):
            continue
        if cells.iloc[0].dtype.kind != "f" or cells.map(len).nunique() != 1:
            continue
        matrix = np.stack(cells.tolist())
        names = [f"{name}_{number}" for number in range(matrix.shape[1])]
        vectors = pd.DataFrame(matrix, columns=names, index=table.index)
        table = pd.concat([table.drop(columns=name), vectors], axis=1)
    return table
