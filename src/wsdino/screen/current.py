"""Which sites of a store are done and current: made from the images and functions as they are now.

What decides this is in the store's statistics and records; see :mod:`wsdino.screen.records`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.atomic import writing_buffered
from wsdino.errors import StoreError
from wsdino.outside import reading
from wsdino.progress import say
from wsdino.remote import is_remote
from wsdino.screen.array import IMAGES
from wsdino.screen.measures import MEASURES, no_measures
from wsdino.screen.records import (
    RECORDS,
    changed_sites,
    crc32,
    file_state,
    plane_state,
    record_type,
    remote_states,
    set_state,
)
from wsdino.screen.sealed import require_intact
from wsdino.screen.shards import PixelFiles, pixel_files
from wsdino.screen.store import STATISTIC_NAMES, STATISTICS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import zarr

    from wsdino.screen.correction import Shadings
    from wsdino.screen.planes import Plane


def open_statistics(out: Path, images: zarr.Array[Any]) -> np.memmap[Any, np.dtype[np.float32]]:
    """Map the (N, C, 5) float32 statistics; NaN for sites that aren't done."""
    shape = (*images.shape[:2], len(STATISTIC_NAMES))
    return _open_array(out / STATISTICS, np.full(shape, np.nan, np.float32))


def open_records(out: Path, images: zarr.Array[Any]) -> np.memmap[Any, np.dtype[Any]]:
    """Map the (N,) records of the sites; zeros for those that aren't done."""
    return _open_array(out / RECORDS, np.zeros(images.shape[0], record_type(images.shape[1])))


def open_measures(out: Path, images: zarr.Array[Any]) -> np.memmap[Any, np.dtype[Any]]:
    """Map the (N,) measures of the sites; see :func:`.measures.no_measures` for those not done."""
    return _open_array(out / MEASURES, no_measures(images.shape[0], images.shape[1]))


def _open_array(path: Path, start: np.ndarray[Any, np.dtype[Any]]) -> np.memmap[Any, np.dtype[Any]]:
    """Map an array for writing; where there is none like it, begin with the one given.

    One of fewer sites goes on with its own.
    """
    if path.is_file():
        # Of a store that can't be written nothing needs to be, where it is complete.
        mode = "r+" if os.access(path, os.W_OK) else "c"
        try:
            with reading(path, StoreError):
                require_intact(path)
                # Opened for writing, a file that was cut off would be filled up with zeros.
                np.lib.format.open_memmap(path, mode="r")
                found = np.lib.format.open_memmap(path, mode=mode)
            if (found.shape, found.dtype) == (start.shape, start.dtype):
                return found
            if (found.shape[1:], found.dtype) == (start.shape[1:], start.dtype):
                start[: len(found)] = found[: len(start)]
        except StoreError:
            say(f"{path}: damaged; it is made anew")
    with writing_buffered(path) as buffer:
        np.save(buffer, start)
    return np.lib.format.open_memmap(path, mode="r+")


def sites_to_do(
    out: Path,
    images: zarr.Array[Any],
    planes: Sequence[Sequence[Plane]],
    shadings: Sequence[Shadings] | None,
) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return the sites that aren't done, or whose images, functions or pixels have changed since.

    An image or an illumination function that is gone by now can't have changed.

    Parameters
    ----------
    out
        Folder of the store.
    images
        Its array.
    planes
        Of N sites.
    shadings
        Of the same, None where illumination functions are gone.

    Returns
    -------
    ndarray
        (n,) row numbers, ascending.
    """
    statistics, records = open_statistics(out, images), open_records(out, images)
    done = np.isfinite(statistics).all(axis=(1, 2))
    files = pixel_files(out / IMAGES, images)
    paths = [files.path(site) for site in range(len(planes))]
    looks_changed = set(changed_sites(records, paths))
    parts = (part.path for site in planes for plane in site for part in plane.parts)
    states = remote_states(path for path in parts if is_remote(path))
    for site in np.flatnonzero(done).tolist():
        for plane, recorded in zip(planes[site], records["images"][site].tolist(), strict=True):
            done[site] &= plane_state(plane, states) in (None, recorded)
        if shadings is not None:
            known = records["functions"][site].tolist()
            done[site] &= all(
                (shading.state if shading else 0) in (None, recorded)
                for shading, recorded in zip(shadings[site], known, strict=True)
            )
        if done[site] and site in looks_changed:
            done[site] = _holds_its_pixels(files, site, records)
    return np.flatnonzero(~done)


def _holds_its_pixels(files: PixelFiles, site: int, records: np.memmap[Any, np.dtype[Any]]) -> bool:
    """Whether a site's file holds what was written; how it looks now is noted then."""
    # Taken first: a file that changes meanwhile will look changed next time.
    path = files.path(site)
    state, pixels = file_state(path), np.empty(files.shape, files.dtype)
    with suppress(StoreError), reading(path, StoreError):
        files.read(site, pixels)
        # Zarr reads an absent file as zeros.
        if state != (0, 0, 0) and crc32(pixels) == records["crc32"][site]:
            set_state(records, site, state)
            return True
    return False
