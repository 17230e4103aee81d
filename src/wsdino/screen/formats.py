"""The formats of image files: one table, from which reading, headers and messages derive.

What reads a format is imported only when it is needed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np

from wsdino.errors import ImageError
from wsdino.remote import is_remote

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    # From axes and shape of an image, what to take along each axis.
    Taken = Callable[[str, tuple[int, ...]], tuple[slice, ...]]

PIXEL_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16))
CHANNEL_AXES = "CSIQ"
"""Axes that may be that of channels: channel, RGB sample, and two of stacks of unknown pages."""
NUMPY, MICROSCOPES = (".npy", ".npz"), (".czi", ".nd2", ".lif")
"""Suffixes of formats that have layouts of their own."""
# Where a PNG's header has its type of colour; 3 is a palette.
_PNG_COLOUR_TYPE = 25


@dataclass(frozen=True)
class Contents:
    """What an image file holds.

    Attributes
    ----------
    num_images
        Images, such as positions of a stage.
    channels
        Names of the channels of each.
    """

    num_images: int
    channels: tuple[str, ...]


def unnamed(num: int) -> tuple[str, ...]:
    """Return names for channels that have none."""
    return tuple(f"channel_{i}" for i in range(num))


@dataclass(frozen=True)
class ImageFormat:
    """A format of image files.

    Parameters
    ----------
    name
        In messages.
    suffixes
        In lower case; empty: a folder.
    read
        Given a path, which of its images (None: its only one) and a function that says what to take
        of given axes, returns that part of the pixels and a letter for each axis of the whole. It
        may be given an array, too, into which it may read what has its shape and type.
    contents
        Says what a file holds; None: a single image, whose channels are counted by reading it.
    size
        Given a path and which of its images, returns height, width and type from the header; None:
        only reading the pixels tells.
    pixel_size
        Returns the width of a pixel in micrometres, None where the file doesn't say; None: none of
        this format says.
    """

    name: str
    suffixes: tuple[str, ...]
    read: Callable[[Path, int | None, Taken, NDArray[Any] | None], tuple[NDArray[Any], str]]
    contents: Callable[[Path], Contents] | None = None
    size: Callable[[Path, int | None], tuple[int, int, np.dtype[Any]]] | None = None
    pixel_size: Callable[[Path], float | None] | None = None


def which_image(path: Path, series: int | None, num: int, *, num_meant: int | None = None) -> int:
    """Return the number of the image that is meant, of those of a file.

    Parameters
    ----------
    path, series
        As for :attr:`ImageFormat.read`.
    num
        How many images the file holds.
    num_meant
        How many of them may be meant where `series` is None; None: all.

    Raises
    ------
    ImageError
        There is no such image, or several and none is named.
    """
    several = num if num_meant is None else num_meant
    if series is None and several > 1:
        raise ImageError(
            f"{path}: the file holds {several} images; a column Series_<Channel> must give the one "
            "of each site, counted from 0"
        )
    if (series or 0) >= num:
        raise ImageError(
            f"{path}: there is no image {series}; the file holds {num}, counted from 0"
        )
    return series or 0


def _tiff(
    path: Path, series: int | None, taken: Taken, out: NDArray[Any] | None
) -> tuple[NDArray[Any], str]:
    from wsdino.screen.tiff import read_tiff

    pixels, axes = read_tiff(path, series, out)
    return pixels[taken(axes, pixels.shape)], axes


def _png(
    path: Path, series: int | None, taken: Taken, out: NDArray[Any] | None
) -> tuple[NDArray[Any], str]:
    del out
    which_image(path, series, 1)
    content = path.read_bytes()
    if content[_PNG_COLOUR_TYPE : _PNG_COLOUR_TYPE + 1] == b"\x03":
        raise ImageError(
            f"{path}: the pixels are stored as a palette, so that larger is not brighter; convert "
            "the image to plain grey values"
        )
    image = imagecodecs.png_decode(content)
    axes = "YXS"[: image.ndim]
    return image[taken(axes, image.shape)], axes


def _numpy(
    path: Path, series: int | None, taken: Taken, out: NDArray[Any] | None
) -> tuple[NDArray[Any], str]:
    del out
    from wsdino.screen.layouts.arrays import read_array

    pixels, axes = read_array(path, series)
    return pixels[taken(axes, pixels.shape)], axes


def _bioio(
    path: Path, series: int | None, taken: Taken, out: NDArray[Any] | None
) -> tuple[NDArray[Any], str]:
    del out
    from wsdino.screen.layouts.microscopes import read_scene

    return read_scene(path, series, taken)


def _bioio_contents(path: Path) -> Contents:
    from wsdino.screen.layouts.microscopes import scenes_and_channels

    scenes, channels = scenes_and_channels(path)
    return Contents(len(scenes), tuple(channels))


def _omezarr(
    path: Path, series: int | None, taken: Taken, out: NDArray[Any] | None
) -> tuple[NDArray[Any], str]:
    del out
    from wsdino.screen.omezarr import read_image

    which_image(path, series, 1)
    return read_image(path, taken)


def _tiff_contents(path: Path) -> Contents:
    from wsdino.screen.tiff import contents_of_tiff

    return contents_of_tiff(path)


def _tiff_size(path: Path, series: int | None) -> tuple[int, int, np.dtype[Any]]:
    from wsdino.screen.tiff import size_of_tiff

    return size_of_tiff(path, series)


def _png_size(path: Path, series: int | None) -> tuple[int, int, np.dtype[Any]]:
    """Read the first chunk of a PNG."""
    which_image(path, series, 1)
    with path.open("rb") as file:
        start = file.read(_PNG_COLOUR_TYPE)
    if start[1:4] != b"PNG" or len(start) < _PNG_COLOUR_TYPE:
        raise ValueError("not a PNG")
    width, height, depth = struct.unpack(">IIB", start[16:])
    return height, width, np.dtype(np.uint16 if depth == 16 else np.uint8)


def _omezarr_size(path: Path, series: int | None) -> tuple[int, int, np.dtype[Any]]:
    from wsdino.screen.omezarr import size_of_image

    which_image(path, series, 1)
    return size_of_image(path)


def _tiff_pixel_size(path: Path) -> float | None:
    from wsdino.screen.tiff import pixel_size_of_tiff

    return pixel_size_of_tiff(path)


def _bioio_pixel_size(path: Path) -> float | None:
    from wsdino.screen.layouts.microscopes import pixel_size_of_scene

    return pixel_size_of_scene(path)


def _omezarr_pixel_size(path: Path) -> float | None:
    from wsdino.screen.omezarr import pixel_size_of_image

    return pixel_size_of_image(path)


FORMATS = (
    ImageFormat("TIFF", (".tif", ".tiff"), _tiff, _tiff_contents, _tiff_size, _tiff_pixel_size),
    ImageFormat("PNG", (".png",), _png, size=_png_size),
    ImageFormat("NumPy", NUMPY, _numpy),
    ImageFormat(
        "CZI, ND2, LIF", MICROSCOPES, _bioio, _bioio_contents, pixel_size=_bioio_pixel_size
    ),
    ImageFormat("OME-Zarr", (), _omezarr, size=_omezarr_size, pixel_size=_omezarr_pixel_size),
)


def format_of(path: Path) -> ImageFormat | None:
    """Return the format of an image by its name, or by being a folder; None if it is unknown."""
    suffix = path.suffix.lower()
    for known in FORMATS:
        if suffix in known.suffixes if known.suffixes else path.is_dir() or is_remote(path):
            return known
    return None
