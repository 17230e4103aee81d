"""Making a store of a screen, once, resumably."""

from __future__ import annotations

import hashlib
from contextlib import closing, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr
from zarr.codecs import BloscCodec

from wsdino.errors import ImageError, InputError, OutputError
from wsdino.progress import Meter, say
from wsdino.screen.convert import Conversion, in_threads, on_dask
from wsdino.screen.correction import Correction
from wsdino.screen.illumination import DEFAULT
from wsdino.screen.images import Plane, planes_of, read_site
from wsdino.screen.manifest import channels_of, read_manifest
from wsdino.screen.shading import (
    effective,
    functions_of,
    given_functions,
    known_shadings,
    prepare_shadings,
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
    num_cpus,
    open_images,
    open_store,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsdino.screen.correction import Shadings

CORRECTION = "correction"


def ingest(
    source: str | Path | pd.DataFrame,
    out: str | Path,
    *,
    design: str | Path | None = None,
    workers: int | None = None,
    dask: str | None = None,
    controls: Sequence[str] | None = None,
    illumination: str = DEFAULT,
    scale: float = 1.0,
) -> Store:
    """Convert a screen into a store, or go on where an earlier call was stopped.

    The manifest and the first site are checked before anything is written. A site counts as done
    once its pixels and then its statistics are on disk, and as long as none of its images is newer.
    A finished store of the same images is returned as it is, with its manifest brought up to date.

    Parameters
    ----------
    source
        What :func:`read_manifest` reads.
    out
        Folder of the store: new, empty, or a store of the same images.
    design
        Table of wells, as for :func:`read_manifest`.
    workers
        Number of reading threads; None: one for each CPU this process may use.
    dask
        Address of a Dask scheduler on whose workers sites are converted, instead of threads here;
        images and store lie on a file system that they share.
    controls
        Compounds that are negative controls; None: `Metadata_Control` where there is such a column,
        else DMSO.
    illumination
        How uneven illumination is corrected, a name in
        :data:`~wsdino.screen.illumination.METHODS`.
    scale
        Size of a field in the store relative to its images, more than 0 and at most 1.

    Returns
    -------
    Store
        Finished and open.

    Raises
    ------
    ManifestError
        The source is missing, unrecognised, incomplete, or contradicts itself.
    ImageError
        An image is missing, damaged, or unlike the first. If that shows after the first site, the
        store stays unfinished, and says so when opened.
    OutputError
        `out` holds something else.
    """
    out, wanted = Path(out), Correction(illumination, scale)
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1")
    if workers is not None and dask is not None:
        raise InputError("workers and dask: give one; a Dask cluster has its own workers")
    images = _existing_images(out)
    if images is not None and images.attrs["complete"]:
        # The images may be gone by now, or spelled otherwise than on this disk.
        manifest = read_manifest(source, design=design, controls=controls, check_files=False)
        correction = effective(wanted, manifest)
        _require_same_images(images, manifest, correction, out)
        shadings = known_shadings(out, manifest, correction)
        statistics = _open_statistics(out, images)
        if not len(_sites_to_do(out, planes_of(manifest), shadings, statistics)):
            _update_metadata(out, manifest)
            say(f"{out}: already complete, {len(manifest)} sites")
            return open_store(out)
    manifest = read_manifest(source, design=design, controls=controls)
    planes, correction = planes_of(manifest), effective(wanted, manifest)
    if images is None:
        origin = "a table" if isinstance(source, pd.DataFrame) else str(Path(source).absolute())
        images = _create_images(out, manifest, read_site(planes[0]), correction, origin)
    _require_same_images(images, manifest, correction, out)
    images = images.update_attributes({"complete": False})
    for remnant in (out / IMAGES).glob("*.partial"):
        remnant.unlink()
    _write_manifest(out, manifest)
    height, width = _field_shape(images)
    shadings = prepare_shadings(
        out,
        manifest,
        planes,
        correction,
        field_shape=(height, width),
        expected=f"{width} x {height} {np.dtype(images.dtype).name}",
        num_threads=workers or num_cpus(),
    )
    _write_sites(images, planes, shadings, out, workers or num_cpus(), dask)
    images.update_attributes({"complete": True})
    return open_store(out)


def _existing_images(out: Path) -> zarr.Array[Any] | None:
    """Open the array that an earlier ingest left in `out`; None where there is nothing at all."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: this is a file; a store is a folder, so name another")
    images = open_images(out, mode="r+")
    if images is None and out.is_dir():
        # A kill right at the start leaves a folder for the array and no more.
        started = all(path.suffix == ".partial" for path in (out / IMAGES).glob("*"))
        others = [path.name for path in out.iterdir() if not (path.name == IMAGES and started)]
        if others:
            raise OutputError(
                f"{out}: the folder is not empty (it has {min(others)}) and is no store; name a "
                "new or empty folder"
            )
    return images


def _create_images(
    out: Path,
    manifest: pd.DataFrame,
    first: np.ndarray[Any, np.dtype[Any]],
    correction: Correction,
    origin: str,
) -> zarr.Array[Any]:
    """Write the array's description, which makes `out` an unfinished store."""
    out.mkdir(parents=True, exist_ok=True)
    attributes: dict[str, Any] = {
        FORMAT_KEY: FORMAT,
        "complete": False,
        "channels": channels_of(manifest),
        "pixel_scaling": {"applied": "none", "dtype_max": int(np.iinfo(first.dtype).max)},
        CORRECTION: {**asdict(correction), "images": [int(side) for side in first.shape[1:]]},
        "provenance": {
            "source": origin,
            "images_sha256": _fingerprint(manifest, correction),
            "wsdino": version("wsdino"),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    shape = (len(first), *correction.shape(first.shape))
    return zarr.create_array(
        out / IMAGES,
        shape=(len(manifest), *shape),
        chunks=(1, *shape),
        dtype=first.dtype,
        # One chunk is one site. LZ4 on bit planes costs a millisecond for a megapixel either way
        # and takes a quarter off camera noise; stronger codecs gain little more.
        compressors=BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
        chunk_key_encoding={"name": "default", "separator": "."},
        dimension_names=("site", "channel", "y", "x"),
        attributes=attributes,
    )


def _fingerprint(manifest: pd.DataFrame, correction: Correction) -> str:
    """Return a digest of which images make up the sites, whatever the case of their names."""
    digest = hashlib.sha256("\0".join(channels_of(manifest)).encode())
    for site in planes_of(manifest):
        for plane in site:
            digest.update(f"\0{plane.path}\0{plane.frame}".casefold().encode())
    for name in filter(None, given_functions(manifest).values()):
        if correction.method.uses_given:
            for column in (f"PathName_{name}", f"FileName_{name}"):
                digest.update("\0".join([column, *manifest[column]]).casefold().encode())
    return digest.hexdigest()


def _field_shape(images: zarr.Array[Any]) -> tuple[int, int]:
    """Height and width of the images that a store is made from, px."""
    made: Any = images.attrs.get(CORRECTION, {})
    height, width = made.get("images", images.shape[2:])
    return int(height), int(width)


def correction_of(attributes: Mapping[str, Any]) -> Correction:
    """Return how the images of a store were corrected, by the array's attributes."""
    made = attributes.get(CORRECTION, {})
    return Correction(made.get("illumination", "none"), made.get("scale", 1.0))


def _require_same_images(
    images: zarr.Array[Any], manifest: pd.DataFrame, correction: Correction, out: Path
) -> None:
    provenance: Any = images.attrs["provenance"]
    made = correction_of(images.attrs)
    if made != correction:
        raise OutputError(
            f"{out}: holds a store made with illumination {made.illumination} and scale "
            f"{made.scale:g}, and {correction.illumination} and {correction.scale:g} are wanted; "
            "name another folder, or delete this one"
        )
    same = provenance["images_sha256"] == _fingerprint(manifest, correction)
    if not same and not _same_names_gone(out, manifest):
        raise OutputError(
            f"{out}: holds a store of other images, from {provenance['source']}; name another "
            "folder, or delete this one"
        )


def _same_names_gone(out: Path, manifest: pd.DataFrame) -> bool:
    """Whether a store is of images of the same names, which are nowhere any more.

    A table whose folders had been found elsewhere names the ones of its own again then.
    """
    names = [f"FileName_{channel}" for channel in channels_of(manifest)]
    if not (out / MANIFEST).is_file() or any(s[0].path.exists() for s in planes_of(manifest)):
        return False
    stored = pd.read_parquet(out / MANIFEST)
    return set(names) <= set(stored) and stored[names].equals(manifest[names])


def _write_sites(
    images: zarr.Array[Any],
    planes: Sequence[Sequence[Plane]],
    shadings: Sequence[Shadings],
    out: Path,
    num_workers: int,
    dask: str | None,
) -> None:
    """Read each site that isn't done, and write its pixels, then its statistics."""
    statistics = _open_statistics(out, images)
    sites = _sites_to_do(out, planes, shadings, statistics)
    statistics[sites] = np.nan
    height, width = _field_shape(images)
    expected = f"{width} x {height} {np.dtype(images.dtype).name}"
    # Workers elsewhere have other working directories.
    here = open_images(out.absolute(), mode="r+")
    assert here is not None, "the store was made before"
    scale = correction_of(images.attrs).scale
    convert = Conversion(here, expected, planes[0][0].path, scale)
    jobs = [(site, planes[site], shadings[site]) for site in sites.tolist()]
    if dask is not None and jobs:
        converted = on_dask(convert, jobs, scheduler=dask)
    else:
        converted = in_threads(convert, jobs, num_threads=num_workers)
    try:
        with (
            Meter("ingest", len(planes), done=len(planes) - len(sites)) as meter,
            closing(converted),
        ):
            for site, found in converted:
                statistics[site] = found
                meter.advance()
    except ImageError as error:
        raise ImageError(
            f"{error}; {out} stays unfinished: mend the image and run again to go on"
        ) from error
    statistics.flush()


def _open_statistics(out: Path, images: zarr.Array[Any]) -> np.memmap[Any, np.dtype[np.float32]]:
    """Map the (N, C, 5) float32 statistics; NaN for sites that aren't done."""
    path = out / STATISTICS
    shape = (*images.shape[:2], len(STATISTIC_NAMES))
    if not path.is_file():
        temporary = path.with_suffix(".partial")
        with temporary.open("wb") as file:
            np.save(file, np.full(shape, np.nan, np.float32))
        temporary.replace(path)
    statistics = np.lib.format.open_memmap(path, mode="r+")
    assert statistics.shape == shape
    return statistics


def _sites_to_do(
    out: Path,
    planes: Sequence[Sequence[Plane]],
    shadings: Sequence[Shadings] | None,
    statistics: np.ndarray[Any, np.dtype[np.float32]],
) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return the sites that aren't done, or whose images or functions have changed since."""
    done = np.isfinite(statistics).all(axis=(1, 2))
    for site in np.flatnonzero(done).tolist():
        written = _modified(chunk_path(out, site))
        sources = dict.fromkeys(plane.path for plane in planes[site])
        if shadings is not None:
            sources |= dict.fromkeys(functions_of(shadings[site]))
        done[site] = written is not None and all(
            (_modified(path) or 0) <= written for path in sources
        )
    return np.flatnonzero(~done)


def _modified(path: Path) -> int | None:
    """Return when a file was last written (ns); None where there is none."""
    with suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return None


def _write_manifest(out: Path, manifest: pd.DataFrame) -> None:
    temporary = (out / MANIFEST).with_suffix(".partial")
    manifest.to_parquet(temporary, index=False)
    temporary.replace(out / MANIFEST)


def _update_metadata(out: Path, manifest: pd.DataFrame) -> None:
    """Bring a finished store's metadata up to date; its file names stay as they were."""
    stored = pd.read_parquet(out / MANIFEST)
    metadata = [name for name in manifest.columns if name.startswith("Metadata_")]
    files = [name for name in stored.columns if not name.startswith("Metadata_")]
    updated = pd.concat([manifest[metadata], stored[files]], axis=1)
    if not updated.equals(stored):
        say(f"{out}: the source's metadata has changed; {MANIFEST} follows")
        _write_manifest(out, updated)
