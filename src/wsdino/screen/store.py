"""The store: a screen's pixels as one Zarr array, and its manifest beside it."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import zarr
from typing_extensions import TypedDict

from wsdino.atomic import writing
from wsdino.device import num_cpus
from wsdino.errors import OutputError, StoreError
from wsdino.lock import one_writer
from wsdino.outside import reading, require_shape
from wsdino.progress import Meter, say
from wsdino.screen.array import IMAGES, open_images
from wsdino.screen.records import (
    RECORDS,
    changed_sites,
    crc32,
    file_state,
    record_type,
    set_state,
)
from wsdino.screen.shards import pixel_files
from wsdino.tables.keep import rows_to_keep

if TYPE_CHECKING:
    from collections.abc import Sequence

MANIFEST, STATISTICS = "manifest.parquet", "statistics.npy"
STATISTIC_NAMES = ("mean", "std", "p01", "p50", "p99")
MAX_READERS = 8


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
