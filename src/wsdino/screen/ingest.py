"""Converting a screen into a store, once and resumably."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr

from wsdino.atomic import library_writes, sweep, visible
from wsdino.device import num_cpus
from wsdino.errors import ImageError, InputError, OutputError
from wsdino.lock import one_writer
from wsdino.progress import Meter, say
from wsdino.remote import absolute, shown
from wsdino.screen.array import FORMAT, FORMAT_KEY, IMAGES, image_shape, open_images
from wsdino.screen.check.stored import checked
from wsdino.screen.convert import Conversion, in_threads, on_dask, threads_for
from wsdino.screen.correction import CORRECTION, Correction, correction_of
from wsdino.screen.current import open_measures, open_records, open_statistics, sites_to_do
from wsdino.screen.headers import require_one_kind
from wsdino.screen.illumination import DEFAULT
from wsdino.screen.images import Plane, Planes, describe, read_site
from wsdino.screen.left_out import say_left_out, without_left_out, write_left_out
from wsdino.screen.manifest import Missing, Rows, channels_of, read_rows, read_wells
from wsdino.screen.measures import DIGEST, MEASURES, OF_NEW_STORES, digest_named
from wsdino.screen.records import STATE, set_state
from wsdino.screen.relabel import say_changes, update_metadata, write_manifest
from wsdino.screen.same_sites import fingerprint, in_store_order, stored_manifest
from wsdino.screen.sealed import seal, unseal
from wsdino.screen.shading import effective, known_shadings, prepare_shadings
from wsdino.screen.shards import COMPRESSOR, num_sites_per_file, pixel_files
from wsdino.screen.store import STATISTICS
from wsdino.tables.manifest import KEY

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
    sites_per_file: int | None = None,
    pixel_size: float | None = None,
    design: str | Path | None = None,
) -> Store:
    """Convert a screen into a store, or resume a conversion that was stopped.

    The manifest, the first site, and size and type of every image, by its header, are checked
    before anything is converted. A site counts as done
    once its pixels and then its statistics are on disk, and as long as its images, and what they
    are divided by, look as they did. At the end the screen is checked
    (:mod:`wsdino.screen.check`), and what looks wrong is said.
    A finished store of the same images is returned as it is, with its manifest brought up to date:
    labels are replaced without reading pixels. Sites that the source has gained are added.

    Parameters
    ----------
    source
        Anything that :func:`read_manifest` reads.
    out
        Folder of the store: new, empty, or a store of the same images, or of some of them.
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
    sites_per_file
        How many sites share a file of a new store; None: by
        :func:`~wsdino.screen.shards.num_sites_per_file`, one up to 4,096 sites.
    pixel_size
        Width of a pixel of the images in micrometres, as for :func:`read_manifest`.
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
    if sites_per_file is not None and sites_per_file < 1:
        raise InputError(f"sites_per_file is {sites_per_file}; it must be at least 1")
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
        pixel_size=pixel_size,
    )
    origin = "a table" if isinstance(source, pd.DataFrame) else shown(absolute(Path(source)))
    with one_writer(out):
        return _ingest(read, out, origin, wanted, workers, dask, sites_per_file)


def _ingest(
    read: Callable[..., Rows],
    out: Path,
    origin: str,
    wanted: Correction,
    workers: int | None,
    dask: str | None,
    sites_per_file: int | None,
) -> Store:
    images = _existing_images(out)
    sweep(out)
    if images is not None:
        _require_files(out, images, sites_per_file)
    if images is not None and images.attrs["complete"]:
        # The images may be gone by now, or spelled differently on this disk.
        manifest = without_left_out(out, read(check_files=False).manifest)
        correction = effective(wanted, manifest)
        manifest = in_store_order(out, images, manifest, correction)
        if len(manifest) == images.shape[0] and stored_manifest(out, images) is not None:
            known = known_shadings(out, manifest, correction)
            if not len(sites_to_do(out, images, Planes(manifest), known)):
                update_metadata(out, manifest)
                say(f"{out}: already complete, {len(manifest)} sites")
                return checked(out)
    rows = read()
    manifest = rows.manifest
    correction, num_threads = effective(wanted, manifest), workers or num_cpus()
    if images is None:
        planes = Planes(manifest)
        first = read_site(planes[0])
        # Converting may take an hour: what would stop it is found before.
        require_one_kind(planes, describe(first), planes[0][0].path, num_threads=num_threads)
        images = _create_images(out, manifest, first, correction, origin, sites_per_file)
    else:
        manifest = in_store_order(out, images, manifest, correction)
        planes = Planes(manifest)
        images = _with_new_sites(out, images, manifest, correction, num_threads)
    with library_writes(out / IMAGES):
        images = images.update_attributes({"complete": False})
    sweep(out / IMAGES)
    # Those of Zarr itself, which writes the array's description.
    for remnant in (out / IMAGES).glob("*.partial"):
        remnant.unlink()
    write_manifest(out, manifest)
    write_left_out(out, rows)
    shadings = prepare_shadings(
        out,
        manifest,
        planes,
        correction,
        field_shape=image_shape(images),
        expected=_expected(images),
        num_threads=num_threads,
    )
    _write_sites(images, planes, shadings, out, num_threads, dask)
    with library_writes(out / IMAGES):
        images.update_attributes({"complete": True})
    say_left_out(out, rows)
    return checked(out)


def _require_files(out: Path, images: zarr.Array[Any], sites_per_file: int | None) -> None:
    has = images.shards[0] if images.shards else 1
    if sites_per_file not in (None, has):
        raise OutputError(
            f"{out}: holds a store with {has} sites in a file, and {sites_per_file} are wanted; "
            "name another folder, or delete this one"
        )


def _with_new_sites(
    out: Path,
    images: zarr.Array[Any],
    manifest: pd.DataFrame,
    correction: Correction,
    num_threads: int,
) -> zarr.Array[Any]:
    """Make room for the sites that a screen has gained, which are last in its table."""
    old, all_sites = images.shape[0], len(manifest)
    if old == all_sites:
        return images
    new = Planes(manifest.iloc[old:])
    example = Planes(manifest.iloc[:1])[0][0].path
    require_one_kind(new, _expected(images), example, num_threads=num_threads)
    plate, well, site = manifest.loc[old, KEY]
    say(
        f"{out}: {all_sites - old} new sites, such as plate {plate}, well {well}, site {site}, are "
        f"added to the {old} that are there"
    )
    # In this order a process that is killed in between leaves an unfinished store, which goes on.
    with library_writes(out / IMAGES):
        images = images.update_attributes({"complete": False})
    say_changes(out, manifest)
    write_manifest(out, manifest)
    provenance: Any = images.attrs["provenance"]
    made_of = {"images_sha256": fingerprint(manifest, correction)}
    with library_writes(out / IMAGES):
        images.resize((all_sites, *images.shape[1:]))
        return images.update_attributes({"provenance": {**provenance, **made_of}})


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
    sites_per_file: int | None,
) -> zarr.Array[Any]:
    """Write the array's description, which makes `out` an unfinished store."""
    out.mkdir(parents=True, exist_ok=True)
    attributes: dict[str, Any] = {
        FORMAT_KEY: FORMAT,
        "complete": False,
        "channels": channels_of(manifest),
        "pixel_scaling": {"applied": "none", "dtype_max": int(np.iinfo(first.dtype).max)},
        CORRECTION: {**asdict(correction), "images": [int(side) for side in first.shape[1:]]},
        DIGEST: OF_NEW_STORES,
        "provenance": {
            "source": origin,
            "images_sha256": fingerprint(manifest, correction),
            "wsdino": version("wsdino"),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    shape = (len(first), *correction.shape(first.shape))
    site_bytes = int(np.prod(shape)) * first.dtype.itemsize
    num = sites_per_file or num_sites_per_file(len(manifest), site_bytes)
    with library_writes(out / IMAGES):
        return zarr.create_array(
            out / IMAGES,
            shape=(len(manifest), *shape),
            chunks=(1, *shape),
            shards=(num, *shape) if num > 1 else None,
            dtype=first.dtype,
            compressors=COMPRESSOR,
            chunk_key_encoding={"name": "default", "separator": "."},
            dimension_names=("site", "channel", "y", "x"),
            attributes=attributes,
        )


def _expected(images: zarr.Array[Any]) -> str:
    """Size and type of every image, see :func:`~wsdino.screen.images.describe`."""
    height, width = image_shape(images)
    return f"{width} x {height} {np.dtype(images.dtype).name}"


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
    for name in (STATISTICS, MEASURES) if len(sites) else ():
        unseal(out / name)
    statistics[sites] = np.nan
    scale = correction_of(images.attrs).scale
    # Workers elsewhere have other working directories.
    files = pixel_files((out / IMAGES).absolute(), images)
    if files.foreign is not None and len(sites):
        raise OutputError(
            f"{out}: its pixels are encoded in another way than wsdino does, so that sites can't "
            "be added or made anew; ingest the source into a new folder"
        )
    digest = digest_named(images.attrs)
    convert = Conversion(files, _expected(images), planes[0][0].path, scale, digest)
    # One by one: the planes of a million sites would fill the memory.
    jobs = (
        ([(site, planes[site], shadings[site]) for site in group],)
        for group in files.together(sites.tolist())
    )
    if dask is not None and len(sites):
        converted = on_dask(convert, jobs, scheduler=dask)
    else:
        site_bytes = images.shape[1] * math.prod(image_shape(images)) * images.dtype.itemsize
        num_threads = threads_for(site_bytes, num_workers)
        converted = in_threads(convert, jobs, num_threads=num_threads)
    try:
        with (
            Meter("ingest", len(planes), done=len(planes) - len(sites)) as meter,
            closing(converted),
        ):
            for group in converted:
                for site, found, measured, record in group:
                    records[site] = record
                    measures[site] = measured
                    statistics[site] = found
                    meter.advance()
                # The other sites of the file were copied into it.
                set_state(records, files.neighbours(site), tuple(record[list(STATE)].item()))
    except ImageError as error:
        raise ImageError(
            f"{error}; {out} stays unfinished: replace the image and run the same command again"
        ) from error
    records.flush()
    measures.flush()
    statistics.flush()
    for name in (STATISTICS, MEASURES):
        seal(out / name)
