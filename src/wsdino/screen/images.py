"""Reading one site's image planes: TIFF, PNG and OME-Zarr, as unchanged integers."""

from __future__ import annotations

import logging
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import imagecodecs
import numpy as np
import tifffile

from wsdino.errors import ImageError, InputError
from wsdino.screen.omezarr import read_image
from wsdino.tables.manifest import channels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

TIFF_SUFFIXES = (".tif", ".tiff")
PNG_SUFFIXES = (".png",)
PIXEL_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16))

# Axes that may be the channel axis: channel, RGB sample, and two that tifffile assigns to stacks
# of unknown pages.
_CHANNEL_AXES = "CSIQ"
# Errors of the decoders on damaged files; those of imagecodecs are RuntimeErrors.
_DECODING_ERRORS = (
    tifffile.TiffFileError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)

# Python prints unhandled log records; a damaged file is reported once, as an ImageError.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
_NOT_INTENSITIES = {tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.PALETTE}


class Plane(NamedTuple):
    """Location of one channel of one site."""

    path: Path
    """An image file."""
    frame: int | None
    """Index along its channel axis; None if the file has a single plane."""


def planes_of(manifest: pd.DataFrame) -> list[list[Plane]]:
    """Return the planes of each site's channels, in the order of :func:`channels_of`.

    Parameters
    ----------
    manifest
        A valid manifest; `Frame_<Channel>`, if given, is the zero-based index of the channel's
        plane in its file, as in CellProfiler.
    """
    per_channel = []
    for channel in channels_of(manifest):
        folders, names = manifest[f"PathName_{channel}"], manifest[f"FileName_{channel}"]
        frames = manifest.get(f"Frame_{channel}", [None] * len(manifest))
        per_channel.append(
            [
                Plane(Path(folder, name), None if frame is None else int(frame))
                for folder, name, frame in zip(folders, names, frames, strict=True)
            ]
        )
    return [list(planes) for planes in zip(*per_channel, strict=True)]


def read_site(planes: Sequence[Plane]) -> np.ndarray[Any, np.dtype[Any]]:
    """Read one site.

    Parameters
    ----------
    planes
        One per channel; a file shared by several is read once.

    Returns
    -------
    numpy.ndarray
        (C, H, W), uint8 or uint16, the files' own values.

    Raises
    ------
    ImageError
        A file can't be read, is not of type uint8 or uint16, has no such plane, or the
        planes differ in size or type.
    """
    stacks = {path: read_planes(path) for path in dict.fromkeys(plane.path for plane in planes)}
    images = [_plane(stacks[plane.path], plane) for plane in planes]
    first = images[0]
    for plane, image in zip(planes, images, strict=True):
        require_alike(describe(image), plane.path, describe(first), planes[0].path)
    return np.stack(images)


def describe(image: np.ndarray[Any, np.dtype[Any]]) -> str:
    """Describe the size and type of an image (..., H, W): `1280 x 1024 uint16`."""
    height, width = image.shape[-2:]
    return f"{width} x {height} {image.dtype.name}"


def require_alike(found: str, path: Path, expected: str, expected_path: Path) -> None:
    """Raise ImageError unless two descriptions by :func:`describe` are equal."""
    if found != expected:
        raise ImageError(
            f"{path}: the image is {found}, but {expected_path} is {expected}; all images of a "
            "screen must have the same size and type"
        )


def read_planes(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    """Read all planes of an image file.

    Parameters
    ----------
    path
        A TIFF (`.tif`, `.tiff`, OME-TIFF too) or PNG, or the folder of an OME-Zarr image.

    Returns
    -------
    numpy.ndarray
        (planes, H, W), uint8 or uint16. Planes lie along the channel axis, or are the components
        of an RGB image.

    Raises
    ------
    ImageError
        The file is missing, damaged, of another format or pixel type, or has more axes than these.
    """
    suffix = path.suffix.lower()
    if suffix not in TIFF_SUFFIXES + PNG_SUFFIXES and not path.is_dir():
        raise ImageError(
            f"{path}: '{suffix}' files can't be read; images must be TIFF, PNG or OME-Zarr"
        )
    try:
        if path.is_dir():
            image, axes = read_image(path)
        else:
            image, axes = _read_tiff(path) if suffix in TIFF_SUFFIXES else _read_png(path)
    except InputError:
        raise
    except _DECODING_ERRORS as error:
        if not path.exists():
            raise ImageError(f"{path}: no such image file") from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ImageError(f"{path}: damaged or incomplete image: {reason}") from error
    if image.dtype.newbyteorder("=") not in PIXEL_TYPES:
        raise ImageError(
            f"{path}: pixels are {image.dtype.name}; they must be uint8 or uint16, as the "
            "microscope wrote them"
        )
    return _channels_first(image, axes, path)


def _read_tiff(path: Path) -> tuple[np.ndarray[Any, np.dtype[Any]], str]:
    with tifffile.TiffFile(path) as tiff:
        series = _image_series(tiff, path)
        pages = (page for page in series.pages if page is not None)
        if any(page.parent.filehandle.path != tiff.filehandle.path for page in pages):
            # OME-XML that describes a set of files; the table names this one of them.
            with tifffile.TiffFile(path, is_ome=False) as alone:
                return _checked_pixels(alone, _image_series(alone, path), path)
        return _checked_pixels(tiff, series, path)


def _image_series(tiff: tifffile.TiffFile, path: Path) -> tifffile.TiffPageSeries:
    """Return the first series that isn't a thumbnail."""
    for series in tiff.series:
        if not series.keyframe.is_reduced:
            return series
    raise ImageError(f"{path}: the file holds nothing but reduced copies of an image")


def _checked_pixels(
    tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, path: Path
) -> tuple[np.ndarray[Any, np.dtype[Any]], str]:
    """Decode a series, unless the file is cut short or its values aren't intensities."""
    size = tiff.filehandle.size
    is_grey = series.dtype.newbyteorder("=") in PIXEL_TYPES
    if is_grey and series.keyframe.photometric in _NOT_INTENSITIES:
        kind = tifffile.PHOTOMETRIC(series.keyframe.photometric).name
        raise ImageError(
            f"{path}: the pixels are stored as {kind}, so that larger is not brighter; convert the "
            "image to plain grey values (MINISBLACK)"
        )
    if not _has_all_pages(tiff):
        raise ImageError(
            f"{path}: damaged or incomplete image: the file ends after {size} bytes, before "
            "its last page does"
        )
    for page in series.pages:
        # tifffile fills missing planes and truncated strips with zeros instead of raising.
        if page is None:
            raise ImageError(f"{path}: damaged or incomplete image: a plane is missing")
        if 0 in page.databytecounts:
            raise ImageError(f"{path}: incomplete image: part of it was never written")
        ends = (
            start + count
            for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        )
        if max(ends, default=0) > size:
            raise ImageError(
                f"{path}: damaged or incomplete image: the file ends after {size} bytes, "
                "before its pixels do"
            )
    return series.asarray(), series.axes


def _has_all_pages(tiff: tifffile.TiffFile) -> bool:
    """Follow the chain of a TIFF's pages, which tifffile cuts at the first broken link."""
    file, layout = tiff.filehandle, tiff.tiff

    def number(format_: str, offset: int) -> int | None:
        file.seek(offset)
        content = file.read(struct.calcsize(format_))
        whole = len(content) == struct.calcsize(format_)
        return int(struct.unpack(format_, content)[0]) if whole else None

    link: int | None = 8 if tiff.is_bigtiff else 4
    for _ in range(len(tiff.pages) + 1):
        page = number(layout.offsetformat, link) if link else None
        if not page:
            return page == 0
        num_tags = number(layout.tagnoformat, page)
        link = num_tags and page + layout.tagnosize + num_tags * layout.tagsize
    return False


def _read_png(path: Path) -> tuple[np.ndarray[Any, np.dtype[Any]], str]:
    image = imagecodecs.png_decode(path.read_bytes())
    return image, "YXS"[: image.ndim]


def _channels_first(
    image: np.ndarray[Any, np.dtype[Any]], axes: str, path: Path
) -> np.ndarray[Any, np.dtype[Any]]:
    """Return (planes, H, W) of an image whose only long axes are Y, X and a channel axis."""
    long = [axis for axis, size in zip(axes, image.shape, strict=True) if axis in "YX" or size > 1]
    channel = "".join(axis for axis in long if axis not in "YX")
    if len(channel) > 1 or channel not in _CHANNEL_AXES or {"Y", "X"} - set(axes):
        shape = " x ".join(map(str, image.shape))
        raise ImageError(
            f"{path}: the image has axes {axes} ({shape}); it must be a single plane or a stack of "
            "channels; project or split it first"
        )
    image = image.reshape(
        [size for axis, size in zip(axes, image.shape, strict=True) if axis in long]
    )
    order = [long.index(axis) for axis in channel + "YX"]
    planes = image.transpose(order).reshape(-1, *(image.shape[i] for i in order[-2:]))
    return planes.astype(image.dtype.newbyteorder("="), copy=False)


def _plane(stack: np.ndarray[Any, np.dtype[Any]], plane: Plane) -> np.ndarray[Any, np.dtype[Any]]:
    num_planes = len(stack)
    if plane.frame is None and num_planes > 1:
        raise ImageError(
            f"{plane.path}: the image has {num_planes} planes; a column Frame_<Channel> must give "
            "each channel's plane, counted from 0"
        )
    if (plane.frame or 0) >= num_planes:
        raise ImageError(
            f"{plane.path}: there is no plane {plane.frame}; the image has {num_planes}, counted "
            "from 0"
        )
    return np.asarray(stack[plane.frame or 0])
