"""The array of a store, and what it says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from typing_extensions import TypedDict

from wsdino.errors import StoreError
from wsdino.outside import reading, require_shape
from wsdino.screen.correction import CORRECTION

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = "images.zarr"
FORMAT_KEY, FORMAT = "wsdino_store", 1


class _Attributes(TypedDict):
    """What the array says of itself, among other things."""

    complete: bool
    channels: list[str]
    provenance: dict[str, Any]


def image_shape(images: zarr.Array[Any]) -> tuple[int, int]:
    """Height and width in pixels of the images that a store is made from, given its array."""
    made: Any = images.attrs.get(CORRECTION, {})
    height, width = made.get("images", images.shape[2:])
    return int(height), int(width)


def open_images(path: Path, *, mode: str = "r") -> zarr.Array[Any] | None:
    """Open a store's array, finished or not.

    Returns
    -------
    zarr.Array or None
        (site, channel, y, x); None if the folder has no such array.

    Raises
    ------
    StoreError
        The array was not written by this version of wsdino.
    """
    folder = path / IMAGES
    if not (folder / "zarr.json").is_file():
        return None
    anew = "delete the store, and ingest its source again"
    with reading(folder, StoreError, "the store is damaged", advice=anew):
        # This setting stays with the array, even when it is sent elsewhere: black sites have files
        # too, so that a missing file always means a missing site.
        with zarr.config.set({"array.write_empty_chunks": True}):
            images = zarr.open_array(folder, mode=mode)
        found = images.attrs.get(FORMAT_KEY)
        if found == FORMAT:
            require_shape(dict(images.attrs), _Attributes)
            if images.ndim != 4 or images.dtype not in (np.uint8, np.uint16):
                raise ValueError(f"{images.dtype} {images.shape} are no pixels")
            named: Any = images.attrs["channels"]
            if images.shape[1] != len(named):
                raise ValueError(f"it has {images.shape[1]} channels, and names {named}")
    if found != FORMAT:
        raise StoreError(
            f"{folder}: {FORMAT_KEY} is {found} instead of {FORMAT}: not a store of this version "
            "of wsdino; ingest its source again"
        )
    return images
