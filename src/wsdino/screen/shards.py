"""The files of a store's pixels: each holds one site, or several sites and an index of them.

Both are as Zarr's version 3 prescribes, the latter by its sharding codec, and any Zarr library
reads them. They are read and written here because Zarr takes four times as long for a site, decodes
a shard anew for each site that is written to it, and reads what is missing as zeros.
"""

from __future__ import annotations

import itertools
import math
import os
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import google_crc32c
import imagecodecs
import numpy as np
from zarr.codecs import BloscCodec

from wsdino.atomic import writing
from wsdino.screen import frames

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray

COMPRESSOR = BloscCodec(cname=frames.CODEC, clevel=frames.LEVEL, shuffle=frames.SHUFFLE)

FEW_FILES = 4096
MIN_SITES, MAX_BYTES = 16, 64 * 2**20
_ABSENT = 2**64 - 1
_CHECKSUM = 4
# Four bytes of versions, flags and the size of a number; bytes when unpacked, of a block, packed.
_BLOSC_HEADER = struct.Struct("<4B3I")


def num_sites_per_file(num_sites: int, site_bytes: int) -> int:
    """Choose how many sites share a file of a new store.

    One where that makes few files, so that all CPUs have work and a stopped ingest loses little;
    otherwise the smallest power of two that does, but no more than 16 sites or 64 MiB of pixels,
    whichever is more.
    """
    chosen, most = 1, max(MIN_SITES, MAX_BYTES // site_bytes)
    while num_sites > chosen * FEW_FILES and 2 * chosen <= most:
        chosen *= 2
    return chosen


@dataclass(frozen=True)
class PixelFiles:
    """The files of a store's array.

    Parameters
    ----------
    folder
        That of the array.
    shape, dtype
        Of a site, (C, H, W).
    sites_per_file
        How many sites a file holds; the last one may hold fewer.
    foreign
        The array, where its files are encoded in another way than here: Zarr reads it then, and
        nothing can be written.
    """

    folder: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    sites_per_file: int = 1
    foreign: zarr.Array[Any] | None = None
    _indices: dict[int, NDArray[np.uint64]] = field(default_factory=dict, repr=False, compare=False)

    def path(self, site: int) -> Path:
        """Return the file that holds a site."""
        return self.folder / f"c.{site // self.sites_per_file}.0.0.0"

    def neighbours(self, site: int) -> slice:
        """Return which sites share the file of a site, itself among them."""
        first = site // self.sites_per_file * self.sites_per_file
        return slice(first, first + self.sites_per_file)

    def together(self, sites: Iterable[int]) -> list[list[int]]:
        """Group sites by their file."""
        groups: dict[int, list[int]] = {}
        for site in sites:
            groups.setdefault(site // self.sites_per_file, []).append(site)
        return list(groups.values())

    def read(self, site: int, out: NDArray[Any]) -> None:
        """Decode a site into an array (C, H, W).

        Raises
        ------
        ValueError, RuntimeError, OSError
            The file is missing or damaged, or lacks the site.
        """
        if self.foreign is not None:
            out[...] = self.foreign[site]
            return
        found = imagecodecs.blosc_decode(self._frame(site), out=out.data.cast("B"))
        if len(found) != out.nbytes:
            raise ValueError(f"{len(found)} bytes instead of {out.nbytes}")

    def encode(self, pixels: NDArray[Any], memory: NDArray[np.uint8] | None = None) -> memoryview:
        """Encode a site (C, H, W), see :func:`~wsdino.screen.frames.encode`."""
        return frames.encode(np.ascontiguousarray(pixels, self.dtype), memory)

    def write(self, file: int, frames: Iterable[tuple[int, bytes | memoryview]]) -> Path:
        """Write a file whole; sites that it held before, and that aren't given, are copied.

        They are in ascending order, whatever is written when.

        Parameters
        ----------
        file
            Its number.
        frames
            Sites of it, ascending, and each one encoded; consumed one by one.

        Raises
        ------
        OutputError
            The file can't be written.
        """
        path = self.path(file * self.sites_per_file)
        with writing(path) as partial, partial.open("wb") as out:
            if self.sites_per_file == 1:
                ((_, frame),) = frames
                out.write(frame)
                return path
            index = np.full((self.sites_per_file, 2), _ABSENT, "<u8")
            for site, frame in self._merged(file, frames):
                index[site % self.sites_per_file] = out.tell(), len(frame)
                out.write(frame)
            content = index.tobytes()
            out.write(content + google_crc32c.value(content).to_bytes(_CHECKSUM, "little"))
        self._indices.pop(file, None)
        return path

    def _merged(
        self, file: int, frames: Iterable[tuple[int, bytes | memoryview]]
    ) -> Iterator[tuple[int, bytes | memoryview]]:
        """Yield what is given of a file, and between it what the file on disk has."""
        first = file * self.sites_per_file
        end = first + self.sites_per_file
        for given, frame in itertools.chain(frames, [(end, b"")]):
            for site in range(first, given):
                if (known := self._known_frame(site)) is not None:
                    yield site, known
            if given < end:
                yield given, frame
            first = given + 1

    def _known_frame(self, site: int) -> bytes | None:
        """Return a site as the file on disk has it; None if that lacks it or is damaged."""
        try:
            return self._frame(site)
        except (ValueError, OSError):
            return None

    def _frame(self, site: int) -> bytes:
        """Return a site as it is encoded.

        Blosc believes what a frame says of its own length, and would read what lies behind it.
        """
        frame = self._stored(site)
        if len(frame) < _BLOSC_HEADER.size:
            raise ValueError(f"{len(frame)} bytes are no frame of Blosc")
        *_, plain, _, packed = _BLOSC_HEADER.unpack_from(frame)
        whole = math.prod(self.shape) * self.dtype.itemsize
        if (packed, plain) != (len(frame), whole):
            raise ValueError(
                f"its frame of {len(frame)} bytes is said to have {packed} and to hold {plain}; it "
                f"should hold {whole}"
            )
        return frame

    def _stored(self, site: int) -> bytes:
        path = self.path(site)
        if self.sites_per_file == 1:
            return path.read_bytes()
        file, place = divmod(site, self.sites_per_file)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if file not in self._indices:
                self._indices[file] = self._read_index(descriptor)
            start, length = self._indices[file][place].tolist()
            if start == _ABSENT:
                raise ValueError(f"it lacks site {site}")
            frame = os.pread(descriptor, length, start)
        finally:
            os.close(descriptor)
        if len(frame) != length:
            raise ValueError(f"it ends before site {site} does")
        return frame

    def _read_index(self, descriptor: int) -> NDArray[np.uint64]:
        length = 16 * self.sites_per_file
        start = os.fstat(descriptor).st_size - length - _CHECKSUM
        content = os.pread(descriptor, length + _CHECKSUM, start) if start >= 0 else b""
        checksum = int.from_bytes(content[length:], "little")
        if not content or google_crc32c.value(content[:length]) != checksum:
            raise ValueError("its index of sites is damaged")
        return np.frombuffer(content[:length], "<u8").reshape(-1, 2)


def pixel_files(folder: Path, images: zarr.Array[Any]) -> PixelFiles:
    """Return the files of a store's array, given the array's folder."""
    num = images.shards[0] if images.shards else 1
    codecs: list[Any] = [codec.to_dict() for codec in images.metadata.codecs]  # type: ignore[union-attr]
    sharding: dict[str, Any] = {
        "index_location": "end",
        "index_codecs": ({"name": "bytes"}, {"name": "crc32c"}),
    }
    if images.shards:
        sharding = codecs[0]["configuration"]
        codecs = list(sharding["codecs"])
    is_ours = (
        [codec["name"] for codec in codecs] == ["bytes", "blosc"]
        and [codec["name"] for codec in sharding["index_codecs"]] == ["bytes", "crc32c"]
        and sharding["index_location"] == "end"
        and tuple(images.chunks) == (1, *images.shape[1:])
    )
    dtype = np.dtype(images.dtype)
    return PixelFiles(folder, images.shape[1:], dtype, int(num), None if is_ours else images)
