"""The source of a step's pixels: device memory, or the store with prefetch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsdino.device import free_memory
from wsdino.model.upload import host_memory, upload
from wsdino.progress import Meter, say

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from wsdino.model.scaling import InputScaling
    from wsdino.screen.store import Store

READ_AT_ONCE = 64


@dataclass(frozen=True)
class FieldBatch:
    """The fields needed by a step, on the device.

    Parameters
    ----------
    pixels
        (n, C, H, W) stored integers.
    offset, gain
        (n, C) float32 input scaling.
    sites
        (n,) sorted int64: the site of each row; None if row i is site i.
    """

    pixels: Tensor
    offset: Tensor
    gain: Tensor
    sites: NDArray[np.int64] | None = None

    def rows(self, sites: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of `pixels` that hold the given sites."""
        return sites if self.sites is None else np.searchsorted(self.sites, sites)


class Fields:
    """Fields of a store for training.

    Parameters
    ----------
    store
        The store.
    scaling
        Input scaling.
    device
        Where the fields are needed.
    residency
        See :class:`~wsdino.train.options.Optimisation`.
    """

    def __init__(
        self, store: Store, *, scaling: InputScaling, device: torch.device, residency: str
    ) -> None:
        self._store, self._device = store, device
        scaling.report(store)
        self._offset, self._gain = scaling.for_store(store)
        num_bytes = math.prod(store.shape) * store.dtype.itemsize
        free = free_memory(device)
        resident = residency == "device" or (residency == "auto" and num_bytes < free / 2)
        say(
            f"fields: {num_bytes / 2**20:.0f} MiB, {free / 2**20:.0f} MiB free on {device}: "
            + ("kept in its memory" if resident else "streamed from the store")
        )
        self._host: Tensor | None = None
        self._all = self._whole_store() if resident else None

    def fetch(self, sites: NDArray[np.int64]) -> FieldBatch:
        """Return the fields of the given sites, without repeats; valid until the next call."""
        if self._all is not None:
            return self._all
        unique = np.unique(sites)
        return self._batch(self._read(unique), unique)

    def _read(self, sites: NDArray[np.int64]) -> Tensor:
        """Read into existing memory, which is pinned for a GPU."""
        num = len(sites)
        if self._host is None or len(self._host) < num:
            room = np.empty((num, *self._store.shape[1:]), self._store.dtype)
            self._host = host_memory(room, self._device)
        self._store.read(sites, self._host[:num].numpy().view(self._store.dtype))
        return upload(self._host[:num], self._device)

    def _whole_store(self) -> FieldBatch:
        """Read in parts, because each part is in memory twice while it is copied."""
        rows = np.arange(len(self._store))
        with Meter("read", len(rows), last_line=False) as meter:
            first = self._read(rows[:1])
            pixels = first.new_empty(len(rows), *first.shape[1:])
            for start in range(0, len(rows), READ_AT_ONCE):
                part = rows[start : start + READ_AT_ONCE]
                pixels[start : start + len(part)] = self._read(part)
                meter.advance(len(part))
        self._host = None
        return self._batch(pixels, None)

    def _batch(self, pixels: Tensor, sites: NDArray[np.int64] | None) -> FieldBatch:
        rows = slice(None) if sites is None else sites
        offset, gain = (upload(x[rows], self._device) for x in (self._offset, self._gain))
        return FieldBatch(pixels, offset, gain, sites)
