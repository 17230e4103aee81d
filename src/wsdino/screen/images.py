"""Reading one site's image planes, as unchanged integers, from any format of image files."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wsdino.errors import ImageError, option
from wsdino.outside import reading
from wsdino.remote import is_remote, local_copy, named
from wsdino.screen.formats import (
    CHANNEL_AXES,
    FORMATS,
    PIXEL_TYPES,
    Contents,
    ImageFormat,
    format_of,
    unnamed,
)
from wsdino.screen.planes import Plane, Planes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "Plane",
    "Planes",
    "describe",
    "read_header",
    "read_planes",
    "read_site",
    "require_alike",
]

_DAMAGED = "damaged or incomplete image"


def contents_of(path: Path) -> Contents:
    """Say what an image file holds.

    Raises
    ------
    ImageError
        The file can't be read.
    """
    kind = format_of(path)
    if kind is None or kind.contents is None:
        return Contents(1, unnamed(len(read_planes(path))))
    with reading(named(path), ImageError, _DAMAGED), _copy_of(path, kind) as file:
        found = kind.contents(file)
    return Contents(found.num_images, found.channels or unnamed(1))


def read_site(planes: Sequence[Plane], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Read one site.

    Parameters
    ----------
    planes
        One per channel; a file shared by several is read once.
    out
        A site read before, which isn't needed any more: its memory is used again if the shape and
        type are the same. Asking the system for new memory takes longer than reading into it.

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
    stacks: dict[tuple[Any, ...], NDArray[Any]] = {}
    left = Counter(_stack_of(part) for plane in planes for part in plane.parts)

    def image(plane: Plane, into: NDArray[Any] | None = None) -> NDArray[Any]:
        key = _stack_of(plane)
        if key not in stacks:
            stacks[key] = read_planes(
                plane.path, series=plane.series, z=plane.z, time=plane.time, out=into
            )
        found = _plane(stacks[key], plane)
        left[key] -= 1
        # A site may be a gigabyte: no image stays beside its copy in the result.
        if not left[key]:
            del stacks[key]
        return found

    fits = out is not None and len(out) == len(planes)
    site = out if out is not None and fits else np.empty((len(planes), 0, 0))
    for channel, plane in enumerate(planes):
        # What a maximum is taken of may be another channel by itself.
        first = image(plane, None if plane.others else site[channel])
        others = [image(part) for part in plane.others]
        for part, other in zip(plane.others, others, strict=True):
            require_alike(describe(other), part.path, describe(first), plane.path)
        if not channel and describe(site) != describe(first):
            site = np.empty((len(planes), *first.shape), first.dtype)
        require_alike(describe(first), plane.path, describe(site), planes[0].path)
        found = np.maximum.reduce([first, *others]) if others else first
        if not np.may_share_memory(found, site[channel]):
            site[channel] = found
    return site


def _stack_of(plane: Plane) -> tuple[Any, ...]:
    """Return what tells apart the images that are read."""
    return plane.path, plane.series, plane.z, plane.time


def describe(image: NDArray[Any]) -> str:
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


def read_planes(
    path: Path,
    *,
    series: int | None = None,
    z: int | Literal["max"] | None = None,
    time: int | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Read all channels of an image file.

    Parameters
    ----------
    path
        A file in one of :data:`~wsdino.screen.formats.FORMATS`, or the folder of an OME-Zarr image.
    series
        Which of the file's images, from 0; None: its only one.
    z, time
        What is taken along these axes, from 0; None: the image has one.
    out
        (H, W), into which a single plane of this size and type may be read, without a copy.

    Returns
    -------
    numpy.ndarray
        (planes, H, W), uint8 or uint16. Planes lie along the channel axis, or are the components
        of an RGB image.

    Raises
    ------
    ImageError
        The file is missing, damaged, of another format or pixel type, or has axes of which nothing
        was chosen.
    """
    kind = _known_format(path)

    def taken(axes: str, shape: tuple[int, ...]) -> tuple[slice, ...]:
        if len(axes) != len(shape):
            raise ValueError(f"{len(shape)} axes, but the metadata names {len(axes)}")
        # A chosen axis stays, of length 1, so that the others keep their places.
        return tuple(
            _along(axis, size, {"Z": z, "T": time}.get(axis), path)
            for axis, size in zip(axes, shape, strict=True)
        )

    with reading(named(path), ImageError, _DAMAGED), _copy_of(path, kind) as file:
        image, axes = kind.read(file, series, taken, out)
    _require_pixel_type(image.dtype, path)
    if z == "max" and "Z" in axes:
        image = image.max(axis=axes.index("Z"), keepdims=True)
    elif z not in (None, 0, "max") and "Z" not in axes:
        raise ImageError(f"{path}: there is no z plane {z}; the image has a single one, 0")
    if time and "T" not in axes:
        raise ImageError(f"{path}: there is no time point {time}; the image has a single one, 0")
    with reading(path, ImageError, _DAMAGED):
        return _channels_first(image, axes, path)


def read_header(path: Path, series: int | None = None) -> str | None:
    """Describe an image from its header, as :func:`describe` does, without reading pixels.

    Parameters
    ----------
    path, series
        As for :func:`read_planes`.

    Returns
    -------
    str or None
        None where only reading the pixels tells.

    Raises
    ------
    ImageError
        As there, as far as the header tells.
    """
    kind = _known_format(path)
    # What lies elsewhere is fetched whole, and then once.
    if kind.size is None or is_remote(path):
        return None
    with reading(path, ImageError, _DAMAGED):
        height, width, dtype = kind.size(path, series)
    _require_pixel_type(dtype, path)
    return f"{width} x {height} {dtype.newbyteorder('=').name}"


def _known_format(path: Path) -> ImageFormat:
    kind = format_of(path)
    if kind is None:
        names = ", ".join(known.name for known in FORMATS[:-1])
        raise ImageError(
            f"{path}: '{path.suffix.lower()}' files can't be read; images must be {names} or "
            f"{FORMATS[-1].name}"
        )
    return kind


@contextmanager
def _copy_of(path: Path, kind: ImageFormat) -> Iterator[Path]:
    """Yield an image to read: itself, or a copy of a remote file, unless Zarr reads it there."""
    if kind.suffixes:
        with local_copy(path) as file:
            yield file
    else:
        yield path


def _require_pixel_type(dtype: np.dtype[Any], path: Path) -> None:
    if dtype.newbyteorder("=") not in PIXEL_TYPES:
        raise ImageError(
            f"{path}: pixels are {dtype.name}; they must be uint8 or uint16, as the "
            "microscope wrote them"
        )


_CHOICES = {"Z": ("z planes", "--z 0 or --z max"), "T": ("time points", "--time 0")}


def _along(axis: str, size: int, wanted: int | str | None, path: Path) -> slice:
    """Return what is to be read along an axis."""
    if axis not in _CHOICES or wanted == "max":
        return slice(None)
    name, advice = _CHOICES[axis]
    if wanted is None and size > 1:
        raise ImageError(
            f"{path}: the image has {size} {name}, counted from 0; choose by {option(advice)}"
        )
    index = int(wanted or 0)
    if index >= size:
        raise ImageError(
            f"{path}: there is no {name[:-1]} {index}; the image has {size}, counted from 0"
        )
    return slice(index, index + 1)


def _channels_first(image: NDArray[Any], axes: str, path: Path) -> NDArray[Any]:
    """Return (planes, H, W) of an image whose only long axes are Y, X and a channel axis."""
    long = [axis for axis, size in zip(axes, image.shape, strict=True) if axis in "YX" or size > 1]
    channel = "".join(axis for axis in long if axis not in "YX")
    if len(channel) > 1 or channel not in CHANNEL_AXES or {"Y", "X"} - set(axes):
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


def _plane(stack: NDArray[Any], plane: Plane) -> NDArray[Any]:
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
