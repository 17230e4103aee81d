"""Converting a screen into a store, once and resumably."""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr
from zarr.codecs import BloscCodec

from wsdino.atomic import sweep, visible, writing
from wsdino.device import num_cpus
from wsdino.errors import ImageError, InputError, OutputError
from wsdino.lock import one_writer
from wsdino.progress import Meter, say
from wsdino.screen.convert import Conversion, in_threads, on_dask
from wsdino.screen.images import Plane, planes_of, read_site
from wsdino.screen.manifest import channels_of, read_manifest, read_wells
from wsdino.screen.records import (
    RECORDS,
    changed_sites,
    crc32,
    image_state,
    record_type,
    set_state,
)
from wsdino.screen.store import (
    FORMAT,
    FORMAT_KEY,
    IMAGES,
    MANIFEST,
    STATISTIC_NAMES,
    STATISTICS,
    Store,
    chunk_path,
    open_images,
    open_store,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wsdino.tables.platemap import PlateMap


def ingest(
    source: str | Path | pd.DataFrame,
    out: str | Path,
    *,
    platemap: str | Path | pd.DataFrame | PlateMap | None = None,
    workers: int | None = None,
    dask: str | None = None,
    controls: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    design: str | Path | None = None,
) -> Store:
    """Convert a screen into a store, or resume a conversion that was stopped.

    The manifest and the first site are checked before anything is written. A site is done once its
    pixels and then its statistics are on disk, as long as its images have not changed. A finished
    store of the same images is returned with its manifest updated.

    Parameters
    ----------
    source
        Anything that :func:`read_manifest` reads.
    out
        Folder of the store: new, empty, or a store of the same images.
    platemap
        What each well received, as for :func:`read_manifest`.
    workers
        Number of reading threads; None: one per CPU that this process may use.
    dask
        Address of a Dask scheduler; its workers convert the sites, instead of threads here. Images
        and store must be on a file system that they share.
    controls
        Compounds that are negative controls; None: `Metadata_Control` if it has any value, else
        DMSO.
    columns
        Our name -> the table's or plate map's, if it differs.
    design
        The former name of `platemap`.

    Returns
    -------
    Store
        Finished and open.

    Raises
    ------
    TableError
        The source is missing, unrecognised, incomplete, or contradicts itself.
    ImageError
        An image is missing, damaged, or differs from the first in size or type. If this is found
        after the first site, the store stays unfinished and can't be opened.
    OutputError
        `out` holds something else.
    """
    out = Path(out)
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1")
    if workers is not None and dask is not None:
        raise InputError("workers and dask: give one; a Dask cluster has its own workers")
    _existing_images(out)
    platemap = platemap if design is None else design
    wells = None if platemap is None else read_wells(platemap, columns=columns)
    read = partial(read_manifest, source, platemap=wells, controls=controls, columns=columns)
    origin = "a table" if isinstance(source, pd.DataFrame) else str(Path(source).absolute())
    with one_writer(out):
        return _ingest(read, out, origin, workers, dask)


def _ingest(
    read: Callable[..., pd.DataFrame],
    out: Path,
    origin: str,
    workers: int | None,
    dask: str | None,
) -> Store:
    images = _existing_images(out)
    sweep(out)
    if images is not None and images.attrs["complete"]:
        # The images may be gone by now, or spelled differently on this disk.
        manifest = read(check_files=False)
        _require_same_images(images, manifest, out)
        if not len(_sites_to_do(out, images, planes_of(manifest))):
            _update_metadata(out, manifest)
            say(f"{out}: already complete, {len(manifest)} sites")
            return open_store(out)
    manifest = read()
    planes = planes_of(manifest)
    if images is None:
        images = _create_images(out, manifest, read_site(planes[0]), origin)
    _require_same_images(images, manifest, out)
    images = images.update_attributes({"complete": False})
    for remnant in (out / IMAGES).glob("*.partial"):
        remnant.unlink()
    _write_manifest(out, manifest)
    _write_sites(images, planes, out, workers or num_cpus(), dask)
    images.update_attributes({"complete": True})
    return open_store(out)


def _existing_images(out: Path) -> zarr.Array[Any] | None:
    """Open the array that an earlier ingest left in `out`; None if there is nothing at all."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: this is a file; a store is a folder, so name another")
    images = open_images(out, mode="r+")
    if images is None and out.is_dir():
        # A process killed right at the start leaves only a folder for the array.
        started = all(path.suffix == ".partial" for path in (out / IMAGES).glob("*"))
        others = [name for name in visible(out) if not (name == IMAGES and started)]
        if others:
            raise OutputError(
                f"{out}: the folder is not empty (it has {min(others)}) and is not a store; name a "
                "new or empty folder"
            )
    return images


def _create_images(
    out: Path, manifest: pd.DataFrame, first: np.ndarray[Any, np.dtype[Any]], origin: str
) -> zarr.Array[Any]:
    """Write the array's description, which makes `out` an unfinished store."""
    out.mkdir(parents=True, exist_ok=True)
    attributes: dict[str, Any] = {
        FORMAT_KEY: FORMAT,
        "complete": False,
        "channels": channels_of(manifest),
        "pixel_scaling": {"applied": "none", "dtype_max": int(np.iinfo(first.dtype).max)},
        "provenance": {
            "source": origin,
            "images_sha256": _fingerprint(manifest),
            "wsdino": version("wsdino"),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    return zarr.create_array(
        out / IMAGES,
        shape=(len(manifest), *first.shape),
        chunks=(1, *first.shape),
        dtype=first.dtype,
        # One chunk is one site. LZ4 on bit planes takes a millisecond per megapixel either way and
        # saves a quarter on camera noise; stronger codecs gain little more.
        compressors=BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=("site", "channel", "y", "x"),
        attributes=attributes,
    )


def _fingerprint(manifest: pd.DataFrame) -> str:
    """Return a digest of the images of all sites, ignoring the case of their names."""
    digest = hashlib.sha256("\0".join(channels_of(manifest)).encode())
    for site in planes_of(manifest):
        for plane in site:
            digest.update(f"\0{plane.path}\0{plane.frame}".casefold().encode())
    return digest.hexdigest()


def _require_same_images(images: zarr.Array[Any], manifest: pd.DataFrame, out: Path) -> None:
    provenance: Any = images.attrs["provenance"]
    if provenance["images_sha256"] != _fingerprint(manifest):
        now, then = len(manifest), images.shape[0]
        sites = "" if now == then else f" (it has {then} sites, and the screen now has {now})"
        raise OutputError(
            f"{out}: holds a store of other images{sites}, from {provenance['source']}; name "
            "another folder, or delete this one"
        )


def _write_sites(
    images: zarr.Array[Any],
    planes: Sequence[Sequence[Plane]],
    out: Path,
    num_workers: int,
    dask: str | None,
) -> None:
    """Read each unfinished site, and write its pixels, then its statistics."""
    statistics, records = _open_statistics(out, images), _open_records(out, images)
    sites = _sites_to_do(out, images, planes)
    statistics[sites] = np.nan
    height, width = images.shape[2:]
    expected = f"{width} x {height} {np.dtype(images.dtype).name}"
    # Workers elsewhere have other working directories.
    here = open_images(out.absolute(), mode="r+")
    assert here is not None, "the store was made before"
    convert = Conversion(out.absolute(), here, expected, planes[0][0].path)
    jobs = [(site, planes[site]) for site in sites.tolist()]
    if dask is not None and jobs:
        converted = on_dask(convert, jobs, scheduler=dask)
    else:
        converted = in_threads(convert, jobs, num_threads=num_workers)
    try:
        with (
            Meter("ingest", len(planes), done=len(planes) - len(sites)) as meter,
            closing(converted),
        ):
            for site, found, record in converted:
                records[site] = record
                statistics[site] = found
                meter.advance()
    except ImageError as error:
        raise ImageError(
            f"{error}; {out} stays unfinished: replace the image and run the same command again"
        ) from error
    records.flush()
    statistics.flush()


def _open_statistics(out: Path, images: zarr.Array[Any]) -> np.memmap[Any, np.dtype[np.float32]]:
    """Map the (N, C, 5) float32 statistics; NaN for unfinished sites."""
    shape = (*images.shape[:2], len(STATISTIC_NAMES))
    return _open_array(out / STATISTICS, np.full(shape, np.nan, np.float32))


def _open_records(out: Path, images: zarr.Array[Any]) -> np.memmap[Any, np.dtype[Any]]:
    """Map the (N,) records of the sites; zeros for unfinished ones."""
    return _open_array(out / RECORDS, np.zeros(images.shape[0], record_type(images.shape[1])))


def _open_array(path: Path, start: np.ndarray[Any, np.dtype[Any]]) -> np.memmap[Any, np.dtype[Any]]:
    """Map an array for writing; if there is none of this shape, start with the given one."""
    if path.is_file():
        # A complete store on a read-only disk needs no writing.
        mode = "r+" if os.access(path, os.W_OK) else "c"
        try:
            found = np.lib.format.open_memmap(path, mode=mode)
            if (found.shape, found.dtype) == (start.shape, start.dtype):
                return found
        except (ValueError, EOFError):
            say(f"{path}: damaged; its sites are read again")
    with writing(path) as partial, partial.open("wb") as file:
        np.save(file, start)
    return np.lib.format.open_memmap(path, mode="r+")


def _sites_to_do(
    out: Path, images: zarr.Array[Any], planes: Sequence[Sequence[Plane]]
) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return the sites that are unfinished, or have images or pixels that have changed since.

    An image that no longer exists counts as unchanged.
    """
    statistics, records = _open_statistics(out, images), _open_records(out, images)
    done = np.isfinite(statistics).all(axis=(1, 2))
    paths = [chunk_path(out, site) for site in range(len(planes))]
    looks_changed = set(changed_sites(records, paths))
    states: dict[Path, int | None] = {}
    for site in np.flatnonzero(done).tolist():
        for plane, recorded in zip(planes[site], records["images"][site].tolist(), strict=True):
            if plane.path not in states:
                states[plane.path] = image_state(plane.path)
            done[site] &= states[plane.path] in (None, recorded)
        if done[site] and site in looks_changed:
            done[site] = _holds_its_pixels(images, site, paths[site], records)
    return np.flatnonzero(~done)


def _holds_its_pixels(
    images: zarr.Array[Any], site: int, path: Path, records: np.memmap[Any, np.dtype[Any]]
) -> bool:
    """Whether a site's file holds what was written; if so, its current state is recorded."""
    try:
        # Zarr reads an absent file as zeros.
        if not path.is_file() or crc32(np.asarray(images[site])) != records["crc32"][site]:
            return False
    except (RuntimeError, ValueError, OSError):
        return False
    set_state(records, site, path)
    return True


def _write_manifest(out: Path, manifest: pd.DataFrame) -> None:
    with writing(out / MANIFEST) as partial:
        manifest.to_parquet(partial, index=False)


def _update_metadata(out: Path, manifest: pd.DataFrame) -> None:
    """Update the metadata of a finished store; its file names are kept."""
    stored = pd.read_parquet(out / MANIFEST)
    metadata = [name for name in manifest.columns if name.startswith("Metadata_")]
    files = [name for name in stored.columns if not name.startswith("Metadata_")]
    updated = pd.concat([manifest[metadata], stored[files]], axis=1)
    if not updated.equals(stored):
        say(f"{out}: the source's metadata has changed; {MANIFEST} is updated")
        _write_manifest(out, updated)
