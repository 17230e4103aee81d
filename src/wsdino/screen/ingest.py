"""Converting a screen into a store, once and resumably."""

from __future__ import annotations

import hashlib
from contextlib import closing, suppress
from dataclasses import asdict
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
from wsdino.errors import ImageError, InputError, OutputError, StoreError
from wsdino.lock import one_writer
from wsdino.outside import reading
from wsdino.progress import Meter, say
from wsdino.screen.check.stored import checked, quality_columns
from wsdino.screen.convert import Conversion, in_threads, on_dask
from wsdino.screen.correction import CORRECTION, Correction, correction_of
from wsdino.screen.current import open_measures, open_records, open_statistics, sites_to_do
from wsdino.screen.headers import require_one_kind
from wsdino.screen.illumination import DEFAULT
from wsdino.screen.images import Plane, describe, planes_of, read_site
from wsdino.screen.left_out import say_left_out, without_left_out, write_left_out
from wsdino.screen.manifest import Missing, Rows, channels_of, read_rows, read_wells
from wsdino.screen.shading import effective, known_shadings, prepare_shadings
from wsdino.screen.store import (
    FORMAT,
    FORMAT_KEY,
    IMAGES,
    MANIFEST,
    open_images,
)
from wsdino.tables.manifest import given_functions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from wsdino.screen.correction import Shadings
    from wsdino.screen.selection import Selection
    from wsdino.screen.store import Store
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
    illumination: str = DEFAULT,
    scale: float = 1.0,
    selection: Selection | None = None,
    missing: Missing = "error",
    design: str | Path | None = None,
) -> Store:
    """Convert a screen into a store, or resume a conversion that was stopped.

    The manifest, the first site, and size and type of every image, by its header, are checked
    before anything is converted. A site counts as done
    once its pixels and then its statistics are on disk, and as long as its images, and what they
    are divided by, look as they did. At the end the screen is checked
    (:mod:`wsdino.screen.check`), and what looks wrong is said.
    A finished store of the same images is returned as it is, with its manifest brought up to date.

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
        Our name -> the table's or plate map's, where they have names of their own.
    illumination
        How uneven illumination is corrected, a name in
        :data:`~wsdino.screen.illumination.METHODS`.
    scale
        Size of a field in the store relative to its images, more than 0 and at most 1.
    selection
        Which of its images are read; None: all, none of which may have to be chosen.
    missing
        What to do where an image is missing: ``error``, or ``leave-out`` the row; these rows are
        written to ``left_out.csv`` in the store, each with the reason.
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
        An image is missing, damaged, or differs from the first in size or type. If damage is found
        after the first site, the store stays unfinished and can't be opened.
    OutputError
        `out` holds something else.

    Examples
    --------
    >>> import wsdino
    >>> store = wsdino.ingest("PLATES", "NEW_STORE")
    >>> len(store), store.channels
    (36, ('DAPI', 'Tubulin', 'Actin'))
    """
    out, wanted = Path(out), Correction(illumination, scale)
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; it must be at least 1")
    if workers is not None and dask is not None:
        raise InputError("workers and dask: give one; a Dask cluster has its own workers")
    _existing_images(out)
    platemap = platemap if design is None else design
    wells = None if platemap is None else read_wells(platemap, columns=columns)
    read = partial(
        read_rows,
        source,
        platemap=wells,
        controls=controls,
        columns=columns,
        selection=selection,
        missing=missing,
    )
    origin = "a table" if isinstance(source, pd.DataFrame) else str(Path(source).absolute())
    with one_writer(out):
        return _ingest(read, out, origin, wanted, workers, dask)


def _ingest(
    read: Callable[..., Rows],
    out: Path,
    origin: str,
    wanted: Correction,
    workers: int | None,
    dask: str | None,
) -> Store:
    images = _existing_images(out)
    sweep(out)
    stored = _stored_manifest(out, images)
    if images is not None and stored is not None and images.attrs["complete"]:
        # The images may be gone by now, or spelled differently on this disk.
        manifest = without_left_out(out, read(check_files=False).manifest)
        correction = effective(wanted, manifest)
        _require_same_images(images, manifest, correction, out)
        known = known_shadings(out, manifest, correction)
        if not len(sites_to_do(out, images, planes_of(manifest), known)):
            _update_metadata(out, manifest, stored)
            say(f"{out}: already complete, {len(manifest)} sites")
            return checked(out)
    rows = read()
    manifest = rows.manifest
    planes, correction = planes_of(manifest), effective(wanted, manifest)
    first = read_site(planes[0])
    if images is None:
        # Converting may take an hour: what would stop it is found before.
        require_one_kind(planes, describe(first), num_threads=workers or num_cpus())
        images = _create_images(out, manifest, first, correction, origin)
    _require_same_images(images, manifest, correction, out)
    images = images.update_attributes({"complete": False})
    for remnant in (out / IMAGES).glob("*.partial"):
        remnant.unlink()
    _write_manifest(out, manifest)
    write_left_out(out, rows)
    shadings = prepare_shadings(
        out,
        manifest,
        planes,
        correction,
        field_shape=_field_shape(images),
        expected=_expected(images),
        num_threads=workers or num_cpus(),
    )
    _write_sites(images, planes, shadings, out, workers or num_cpus(), dask)
    images.update_attributes({"complete": True})
    say_left_out(out, rows)
    return checked(out)


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
        # One chunk is one site. LZ4 on bit planes takes a millisecond per megapixel either way and
        # saves a quarter on camera noise; stronger codecs gain little more.
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
            digest.update(f"\0{plane.name}".casefold().encode())
    for name in filter(None, given_functions(manifest).values()):
        if correction.method.uses_given:
            for column in (f"PathName_{name}", f"FileName_{name}", f"Frame_{name}"):
                if column in manifest:
                    cells = map(str, manifest[column])
                    digest.update("\0".join([column, *cells]).casefold().encode())
    return digest.hexdigest()


def _field_shape(images: zarr.Array[Any]) -> tuple[int, int]:
    """Height and width of the images that a store is made from, px."""
    made: Any = images.attrs.get(CORRECTION, {})
    height, width = made.get("images", images.shape[2:])
    return int(height), int(width)


def _expected(images: zarr.Array[Any]) -> str:
    """Size and type of every image, see :func:`~wsdino.screen.images.describe`."""
    height, width = _field_shape(images)
    return f"{width} x {height} {np.dtype(images.dtype).name}"


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
    if not same and not _same_names_gone(out, images, manifest):
        now, then = len(manifest), images.shape[0]
        sites = "" if now == then else f" (it has {then} sites, and the screen now has {now})"
        raise OutputError(
            f"{out}: holds a store of other images{sites}, from {provenance['source']}; name "
            "another folder, or delete this one"
        )


def _same_names_gone(out: Path, images: zarr.Array[Any], manifest: pd.DataFrame) -> bool:
    """Whether a store is of images of the same names, which are nowhere any more.

    A table whose folders had been found elsewhere names the ones of its own again then.
    """
    names = [f"FileName_{channel}" for channel in channels_of(manifest)]
    stored = _stored_manifest(out, images)
    if stored is None or any(s[0].path.exists() for s in planes_of(manifest)):
        return False
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
    statistics, records = open_statistics(out, images), open_records(out, images)
    sites = sites_to_do(out, images, planes, shadings)
    measures = open_measures(out, images)
    statistics[sites] = np.nan
    # Workers elsewhere have other working directories.
    here = open_images(out.absolute(), mode="r+")
    assert here is not None, "the store was made before"
    scale = correction_of(images.attrs).scale
    convert = Conversion(out.absolute(), here, _expected(images), planes[0][0].path, scale)
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
            for site, found, measured, record in converted:
                records[site] = record
                measures[site] = measured
                statistics[site] = found
                meter.advance()
    except ImageError as error:
        raise ImageError(
            f"{error}; {out} stays unfinished: replace the image and run the same command again"
        ) from error
    records.flush()
    measures.flush()
    statistics.flush()


def _write_manifest(out: Path, manifest: pd.DataFrame) -> None:
    with writing(out / MANIFEST) as partial:
        manifest.to_parquet(partial, index=False)


def _stored_manifest(out: Path, images: zarr.Array[Any] | None) -> pd.DataFrame | None:
    """Return the manifest in a store; None if it is missing or damaged."""
    with suppress(StoreError), reading(out / MANIFEST, StoreError):
        stored = pd.read_parquet(out / MANIFEST)
        if images is not None and len(stored) == images.shape[0]:
            return stored
    return None


def _update_metadata(out: Path, manifest: pd.DataFrame, stored: pd.DataFrame) -> None:
    """Update the metadata of a finished store; its file names and measures are kept."""
    measured = set(quality_columns(channels_of(stored)))
    metadata = [
        name for name in manifest.columns if name.startswith("Metadata_") and name not in measured
    ]
    own = [name for name in stored if not str(name).startswith("Metadata_") or name in measured]
    updated = pd.concat([manifest[metadata], stored[own]], axis=1)
    if not updated.equals(stored):
        say(f"{out}: the source's metadata has changed; {MANIFEST} is updated")
        _write_manifest(out, updated)
