"""The store: a screen's pixels as one Zarr array, and its manifest beside it."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from functools import cache, cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.atomic import writing_buffered
from wsdino.device import num_cpus
from wsdino.errors import OutputError, StoreError
from wsdino.lock import one_writer
from wsdino.outside import reading
from wsdino.progress import Meter, say
from wsdino.screen.array import IMAGES, image_shape, open_images
from wsdino.screen.records import (
    RECORDS,
    changed_sites,
    crc32,
    file_state,
    record_type,
    set_state,
)
from wsdino.screen.sealed import load_sealed
from wsdino.screen.shards import pixel_files
from wsdino.tables.columns import PIXEL_SIZE
from wsdino.tables.keep import rows_to_keep
from wsdino.tables.parquet import read_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import zarr

MANIFEST, STATISTICS = "manifest.parquet", "statistics.npy"
STATISTIC_NAMES = ("mean", "std", "p01", "p50", "p99")
MAX_READERS = 8
# Threads that find damage at the same time note it one after the other.
_DOUBT = Lock()


class Store:
    """A finished store; get one from :func:`open_store`.

    It can be pickled and used from several threads or processes.

    Attributes
    ----------
    path : Path
        The store's folder.
    attributes : dict
        Attributes of the Zarr array: channels, pixel_scaling, provenance and more.
    rows : ndarray or None
        Sites of the store on disk that this one consists of, int64; None: all.

    Examples
    --------
    >>> import wsdino
    >>> store = wsdino.open_store("STORE")
    >>> sorted(set(store.manifest["Metadata_Batch"]))
    ['Week1', 'Week2']
    """

    def __init__(
        self,
        path: Path,
        images: zarr.Array[Any],
        rows: np.ndarray[Any, np.dtype[np.int64]] | None = None,
    ) -> None:
        self.path, self.rows = path, rows
        self._images = images
        self.attributes: dict[str, Any] = dict(images.attrs)
        self._files = pixel_files(path / IMAGES, images)

    def __len__(self) -> int:
        return int(self._images.shape[0]) if self.rows is None else len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray[Any, np.dtype[Any]]:
        """Return site `index` as (C, H, W); negative ones count from the end."""
        site = np.empty(self._images.shape[1:], self.dtype)
        self._load(self._row(index), site)
        return site

    def __repr__(self) -> str:
        height, width = self.field_shape
        channels = ", ".join(self.channels)
        return (
            f"<Store {self.path}: {len(self)} sites, {channels}, {width} x {height} {self.dtype}>"
        )

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, in the order of the second axis."""
        return tuple(self.attributes["channels"])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Sites, channels, height and width in pixels."""
        _, channels, height, width = self._images.shape
        return len(self), int(channels), int(height), int(width)

    @property
    def field_shape(self) -> tuple[int, int]:
        """Height and width of a field in pixels."""
        height, width = self._images.shape[2:]
        return int(height), int(width)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width in pixels of the images that it was made from."""
        return image_shape(self._images)

    @property
    def pixel_sizes(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(N,) width of a pixel of each site in micrometres, NaN where that isn't known.

        That of its images, `Metadata_PixelSize`, times how many of their pixels make one here.
        """
        known = self.manifest.get(PIXEL_SIZE, np.nan)
        widths: np.ndarray[Any, np.dtype[np.float64]] = np.full(len(self), np.nan)
        widths[:] = known
        widths *= self.image_shape[1] / self.field_shape[1]
        return widths

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels, uint8 or uint16."""
        return np.dtype(self._images.dtype)

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """The manifest; row i is site i."""
        with _undamaged(self.path / MANIFEST):
            manifest = read_parquet(self.path / MANIFEST)
        return manifest if self.rows is None else manifest.iloc[self.rows].reset_index(drop=True)

    @cached_property
    def statistics(self) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
        """Intensity statistics: mean, std, p01, p50 and p99, each float32 (N, C)."""
        shape = (*self.whole.shape[:2], len(STATISTIC_NAMES))
        with _undamaged(self.path / STATISTICS):
            table = load_sealed(self.path / STATISTICS)
            if table.shape != shape or table.dtype != np.float32:
                raise ValueError(f"{table.dtype} {table.shape} instead of float32 {shape}")
        table = table if self.rows is None else table[self.rows]
        return {name: table[:, :, i] for i, name in enumerate(STATISTIC_NAMES)}

    @cached_property
    def pixels_digest(self) -> str:
        """Digest of the pixels of all sites, independent of their files' names and times.

        Checksums were computed when the screen was ingested. A site whose file has changed since
        is read and compared.

        Raises
        ------
        StoreError
            A site's pixels are not those that were ingested.
        """
        what = f"{self.channels} {self.shape} {self.dtype}"
        checksums = self.whole._checksums  # noqa: SLF001 a store of the same kind
        own = checksums if self.rows is None else checksums[self.rows]
        return hashlib.sha256(what.encode() + own.tobytes()).hexdigest()

    @property
    def whole(self) -> Store:
        """The store with all sites on disk."""
        return self if self.rows is None else Store(self.path, self._images)

    def chunk_path(self, index: int) -> Path:
        """Return the file that holds the pixels of a site, alone or with others."""
        return self._files.path(self._row(index))

    @cached_property
    def _checksums(self) -> np.ndarray[Any, np.dtype[np.uint32]]:
        """Return the checksum of every site on disk; see :attr:`pixels_digest`."""
        known = self._records()
        if known is None:
            say(f"{self.path}: has no checksums of its sites; reading all of them once")
        records = np.zeros(len(self), record_type(len(self.channels))) if known is None else known
        paths = [self._files.path(site) for site in range(len(self))]
        changed = changed_sites(records, paths)
        with Meter("check pixels", len(changed), last_line=False) as meter:
            for site in changed:
                # Taken first: a file that changes meanwhile will look changed next time.
                state = file_state(paths[site])
                # Compared with the checksum that is known, if one is.
                records["crc32"][site] = crc32(self[site])
                set_state(records, site, state)
                meter.advance()
        if changed:
            self._write_records(records)
        return np.array(records["crc32"])

    @cached_property
    def manifest_digest(self) -> str:
        """Digest of the manifest's file, and of which of its rows are in this store."""
        digest = hashlib.sha256((self.path / MANIFEST).read_bytes())
        if self.rows is not None:
            digest.update(self.rows.tobytes())
        return digest.hexdigest()

    def _records(self) -> np.ndarray[Any, np.dtype[Any]] | None:
        """Load the sites' records; None if there are none."""
        with suppress(StoreError), _undamaged(self.path / RECORDS):
            found: np.ndarray[Any, np.dtype[Any]] = np.load(self.path / RECORDS)
            # All sites on disk, whichever this store consists of.
            if (found.shape, found.dtype) == (
                self._images.shape[:1],
                record_type(len(self.channels)),
            ):
                return found
        return None

    def _write_records(self, records: np.ndarray[Any, np.dtype[Any]]) -> None:
        """Write the sites' records, unless somebody else writes, or nobody can."""
        with (
            suppress(OutputError),
            one_writer(self.path),
            writing_buffered(self.path / RECORDS) as buffer,
        ):
            np.save(buffer, records)

    @cached_property
    def _known(self) -> np.ndarray[Any, np.dtype[np.uint32]] | None:
        """Checksums of all sites on disk as they were ingested; None if there are none."""
        records = self._records()
        return None if records is None else np.array(records["crc32"])

    def read(
        self,
        indices: Sequence[int] | np.ndarray[Any, Any],
        out: np.ndarray[Any, np.dtype[Any]] | None = None,
    ) -> np.ndarray[Any, np.dtype[Any]]:
        """Read several sites at once, in several threads.

        Parameters
        ----------
        indices
            n site numbers, in any order; negative ones count from the end.
        out
            (n, C, H, W) of the store's type, each site contiguous, to read into: allocating memory
            takes nearly as long as decoding.

        Returns
        -------
        numpy.ndarray
            (n, C, H, W), in the order of `indices`; `out` if it was given.

        Raises
        ------
        IndexError
            There is no such site.
        ValueError
            `out` has another shape or type.
        """
        rows = [self._row(int(index)) for index in indices]
        shape = (len(rows), *self._images.shape[1:])
        sites = np.empty(shape, self.dtype) if out is None else out
        if (sites.shape, sites.dtype) != (shape, self.dtype):
            raise ValueError(
                f"out is {sites.dtype} {sites.shape}; these sites are {self.dtype} {shape}"
            )
        num_readers = max(1, min(MAX_READERS, num_cpus(), len(rows)))

        def read_share(reader: int) -> None:
            for position in range(reader, len(rows), num_readers):
                self._load(rows[position], sites[position])

        if num_readers == 1:
            read_share(0)
        else:
            pool = _readers(os.getpid())
            shares = [pool.submit(read_share, reader) for reader in range(num_readers)]
            # After an error none may still write to `out`, or hold the store's lock.
            wait(shares)
            for share in shares:
                share.result()
        return sites

    def _load(self, row: int, out: np.ndarray[Any, np.dtype[Any]]) -> None:
        """Read a site on disk, and compare it with its checksum."""
        path = self._files.path(row)
        try:
            with _undamaged(path):
                self._files.read(row, out)
                if self._known is not None and crc32(out) != self._known[row]:
                    raise ValueError("the pixels differ from those that were ingested")
        except StoreError:
            self._doubt(row)
            raise

    def _doubt(self, row: int) -> None:
        """Forget how a damaged file looked, so that the next ingest reads and mends its sites."""
        with _DOUBT:
            records = self._records()
            if records is not None:
                set_state(records, self._files.neighbours(row), (0, 0, 0))
                self._write_records(records)

    def _row(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"no site {index} in a store of {len(self)}")
        index %= len(self)
        return index if self.rows is None else int(self.rows[index])


def _undamaged(path: Path) -> AbstractContextManager[None]:
    """Read a part of a store; see :func:`~wsdino.outside.reading`."""
    return reading(path, StoreError, "the store is damaged", advice="ingest it again")


@cache
def _readers(_process: int) -> ThreadPoolExecutor:
    """Return this process's thread pool, reused because starting threads takes as long as work."""
    return ThreadPoolExecutor(MAX_READERS, thread_name_prefix="wsdino-reader")


def open_store(path: str | Path, *, keep: str | None = None) -> Store:
    """Open a finished store for reading.

    Parameters
    ----------
    path
        The store's folder.
    keep
        Condition on the manifest's columns (:func:`~wsdino.tables.keep.rows_to_keep`); only sites
        that meet it are in the store that is opened. None: all.

    Raises
    ------
    TableError
        The condition can't be read, or no site meets it.
    StoreError
        There is no store, it isn't finished, or it is damaged.

    Examples
    --------
    >>> import wsdino
    >>> store = wsdino.open_store("STORE")
    >>> store
    <Store STORE: 36 sites, DAPI, Tubulin, Actin, 64 x 64 uint16>
    >>> store.read(range(2)).shape
    (2, 3, 64, 64)
    """
    path = Path(path)
    images = open_images(path)
    if images is None:
        what = "no store here" if path.exists() else "no such folder"
        raise StoreError(f"{path}: {what} ({IMAGES} is missing); make one with wsdino ingest")
    if not images.attrs["complete"]:
        raise StoreError(
            f"{path}: this store isn't finished; run the same wsdino ingest again to finish it"
        )
    store = Store(path, images)
    for name in (MANIFEST, STATISTICS):
        if not (path / name).is_file():
            raise StoreError(f"{path}: the store is damaged: {name} is missing; ingest it again")
    # Zarr silently reads a missing chunk as zeros.
    present = {chunk.name for chunk in (path / IMAGES).iterdir()}
    paths = [store.chunk_path(site) for site in range(len(store))]
    absent = [file for file in paths if file.name not in present]
    if absent:
        raise StoreError(
            f"{path}: the store is damaged: the pixels of {len(absent)} of {len(store)} sites are "
            "missing; ingest it again"
        )
    num_rows = len(store.manifest)
    if num_rows != len(store):
        raise StoreError(
            f"{path}: the store is damaged: {MANIFEST} has {num_rows} rows for {len(store)} sites; "
            "ingest it again"
        )
    if keep is None:
        return store
    rows = rows_to_keep(store.manifest, keep, origin=str(path))
    return Store(path, images, rows.astype(np.int64))
