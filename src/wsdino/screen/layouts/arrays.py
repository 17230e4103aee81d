"""NumPy arrays of fields or crops, with a table that says what each is.

`images.npy`, of (N, C, H, W), has its table beside it: `images.csv` (or another format), a row per
image. `images.npz` has `images`, and the columns as arrays of N beside it, or a table too; it may
have `channels`, their names. Arrays of (N, H, W, C) and (N, H, W) are recognised by their sizes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import ImageError, TableError
from wsdino.outside import reading, require_bounded
from wsdino.progress import say
from wsdino.screen.formats import NUMPY, unnamed, which_image
from wsdino.screen.readers import RawTable
from wsdino.tables.columns import PLATE, SITE, WELL
from wsdino.tables.files import READABLE, read_file
from wsdino.tables.tidy import tidy

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray

IMAGES, CHANNELS = "images", "channels"
MAX_CHANNELS = 16
"""An axis no longer than this may be that of channels."""
FIELD = "Metadata_Field"


def recognises(path: Path) -> bool:
    """Whether a path is such an array."""
    return path.is_file() and path.suffix.lower() in NUMPY


def read(path: Path, text: Collection[str]) -> RawTable:
    """List the images of an array.

    Several images of one site, such as crops of its cells, are numbered as sites of their well; the
    site that they are from is kept as `Metadata_Field`.

    Raises
    ------
    TableError
        There is no table, or it has another number of rows than there are images.
    ImageError
        The array can't be read, or its axes can't be told.
    """
    shape, axes, names = described(path)
    table = _table(path, shape[0], text)
    if len(table) != shape[0]:
        raise TableError(
            f"{path}: has {shape[0]} images, but its table has {len(table)} rows; both must have a "
            "row per image, in the same order"
        )
    table = _with_sites(tidy(table, origin=str(path)), str(path))
    channels = names or unnamed(shape[axes.index("C")] if "C" in axes else 1)
    for i, channel in enumerate(channels):
        table[f"FileName_{channel}"] = path.name
        table[f"PathName_{channel}"] = str(path.absolute().parent)
        table[f"Series_{channel}"] = np.arange(len(table))
        table[f"Frame_{channel}"] = i
    return RawTable(table, path.parent)


def _table(path: Path, num: int, text: Collection[str]) -> pd.DataFrame:
    beside = next(
        (file for suffix in READABLE if (file := path.with_suffix(suffix)).is_file()), None
    )
    if beside is not None:
        return read_file(beside, text=text)
    columns = _columns(path, num)
    if not columns:
        raise TableError(
            f"{path}: no table of its images; {path.with_suffix('.csv').name} beside it must have "
            "a row for each, with Metadata_Plate, Metadata_Well and so on"
        )
    return pd.DataFrame(columns)


def _columns(path: Path, num: int) -> dict[str, Any]:
    """Return the one-dimensional arrays of N of an archive."""
    if path.suffix.lower() != ".npz":
        return {}
    with reading(path, TableError), np.load(path, allow_pickle=False) as archive:
        found = {key: archive[key] for key in archive.files if key not in (IMAGES, CHANNELS)}
    return {
        key: column.astype(object) if column.dtype.kind in "US" else column
        for key, column in found.items()
        if column.shape == (num,)
    }


def _with_sites(table: pd.DataFrame, origin: str) -> pd.DataFrame:
    """Give each image a site of its own, numbered within its well where there is none."""
    for column in (PLATE, WELL):
        if column not in table:
            raise TableError(f"{origin}: its table has no column {column}")
    if SITE in table and not table.duplicated([PLATE, WELL, SITE]).any():
        return table
    if SITE in table:
        table = table.rename(columns={SITE: FIELD})
    table[SITE] = table.groupby([PLATE, WELL], sort=False).cumcount() + 1
    what = f"several of one site, which is kept as {FIELD}" if FIELD in table else "without a site"
    say(f"{origin}: images are {what}; they are numbered within their wells")
    return table


def described(path: Path) -> tuple[tuple[int, ...], str, list[str]]:
    """Return shape, axes (of NCYX) and names of channels of an array of images.

    Raises
    ------
    ImageError
        The array can't be read, or its axes can't be told.
    """
    array = _array(path)
    names: list[str] = []
    if path.suffix.lower() == ".npz":
        with reading(path, ImageError), np.load(path, allow_pickle=False) as archive:
            names = [str(name) for name in archive[CHANNELS]] if CHANNELS in archive.files else []
    axes = _axes(array.shape, path)
    num = array.shape[axes.index("C")] if "C" in axes else 1
    if names and len(names) != num:
        raise ImageError(f"{path}: has {num} channels, but names {', '.join(names)}")
    return array.shape, axes, names


def _axes(shape: tuple[int, ...], path: Path) -> str:
    if len(shape) == 3:
        return "NYX"
    if len(shape) == 4:
        first, last = (shape[axis] <= MAX_CHANNELS for axis in (1, 3))
        if first != last:
            return "NCYX" if first else "NYXC"
    sides = " x ".join(map(str, shape))
    raise ImageError(
        f"{path}: the array is {sides}; it must be images x channels x height x width (or with "
        f"channels last), where channels alone are no more than {MAX_CHANNELS}, or images x height "
        "x width"
    )


def read_array(path: Path, series: int | None) -> tuple[NDArray[Any], str]:
    """Read one image of an array.

    Parameters
    ----------
    path
        See :func:`described`; also an array (H, W), or (C, H, W) with few channels.
    series
        Which image; None: the only one, of an array without an axis of images.

    Returns
    -------
    pixels, axes
        (C, H, W), (H, W, C) or (H, W), and a letter for each axis.

    Raises
    ------
    ImageError
        There is no such image.
    """
    array = _array(path)
    if series is None:
        axes = {2: "YX", 3: "CYX" if array.shape[0] <= MAX_CHANNELS else "YXC"}.get(array.ndim)
        if axes is None:
            raise ImageError(
                f"{path}: the array has {array.ndim} axes; a column Series_<Channel> must give "
                "each site's image, counted from 0"
            )
        return np.asarray(array), axes
    axes = _axes(array.shape, path)
    return np.asarray(array[which_image(path, series, len(array))]), axes[1:]


def _array(path: Path) -> NDArray[Any]:
    """Map an array; that of an archive is read whole, and kept for the next image."""
    with reading(path, ImageError, "damaged or incomplete: not an array of NumPy's"):
        if path.suffix.lower() == ".npy":
            return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))
        found = path.stat()
        return _unpacked(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1)
def _unpacked(path: Path, size: int, mtime_ns: int) -> NDArray[Any]:
    del size, mtime_ns
    require_bounded(path)
    with np.load(path, allow_pickle=False) as archive:
        names = archive.files
        if IMAGES in names:
            return np.asarray(archive[IMAGES])
    raise ImageError(f"{path}: has no array named {IMAGES}; it has {', '.join(names)}")
