"""What is done to pixels on their way into a store: even illumination, then a smaller size."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from wsdino.errors import ImageError, InputError
from wsdino.outside import reading
from wsdino.remote import is_remote, local_copy, named, state_of
from wsdino.screen.illumination import DEFAULT, IlluminationMethod, illumination_method

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

CORRECTION = "correction"
"""The attribute of a store's array that says how its images were corrected."""


@dataclass(frozen=True)
class Correction:
    """What is done to the images of a screen.

    Parameters
    ----------
    illumination
        A name in :data:`~wsdino.screen.illumination.METHODS`.
    scale
        Size of a field in the store relative to that of its images, more than 0 and at most 1.

    Raises
    ------
    InputError
        If there is no such method, or the scale is out of range.
    """

    illumination: str = DEFAULT
    scale: float = 1.0

    def __post_init__(self) -> None:
        illumination_method(self.illumination)
        if not 0 < self.scale <= 1:
            raise InputError(f"scale {self.scale:g}: it must be more than 0 and at most 1")

    @property
    def method(self) -> IlluminationMethod:
        """How illumination is corrected."""
        return illumination_method(self.illumination)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Height and width in the store of images (..., H, W), px."""
        height, width = (max(1, round(side * self.scale)) for side in shape[-2:])
        return height, width


def correction_of(attributes: Mapping[str, Any]) -> Correction:
    """Return how the images of a store were corrected, by the array's attributes."""
    made = attributes.get(CORRECTION, {})
    return Correction(made.get("illumination", "none"), made.get("scale", 1.0))


class Shading(NamedTuple):
    """How one channel of one site was lit."""

    function: Path
    """``.npy`` of (H, W), or a file of :data:`FUNCTION_FORMATS` that describes it."""
    offset: float
    """Dark counts: those that are there without light."""
    state: int | None = None
    """Changes with function and offset; None where the function's file is missing."""
    frame: int | None = None
    """Which of the file's functions."""


Shadings = tuple[Shading | None, ...]
"""One for each channel; None where nothing is corrected."""


def corrected(
    pixels: NDArray[Any], shadings: Sequence[Shading | None], *, scale: float
) -> NDArray[Any]:
    """Divide a site by its illumination functions and resize it.

    Parameters
    ----------
    pixels
        (C, H, W), uint8 or uint16.
    shadings
        One for each channel.
    scale
        As in :class:`Correction`.

    Returns
    -------
    numpy.ndarray
        (C, round(scale * H), round(scale * W)) of the same type, clipped to its range.

    Raises
    ------
    ImageError
        A function can't be read or has another size.
    """
    if scale == 1 and not any(shadings):
        return pixels
    top = np.iinfo(pixels.dtype).max
    sides = Correction("none", scale).shape(pixels.shape)
    found = np.empty((len(pixels), *sides), pixels.dtype)
    for channel, (plane, shading) in enumerate(zip(pixels, shadings, strict=True)):
        image = plane.astype(np.float32)
        if shading is not None:
            function = load_function(shading.function, plane.shape, frame=shading.frame)
            image = (image - np.float32(shading.offset)) / function + np.float32(shading.offset)
            image = image.clip(0, top)
        if scale != 1:
            image = resized(image, sides)
        found[channel] = np.rint(image).clip(0, top).astype(pixels.dtype)
    return found


def resized(image: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Shrink an image (H, W) by bicubic interpolation, as CellProfiler 4.0's Resize does.

    That is scikit-image's ``resize`` with ``mode="symmetric"`` before its version 0.19: a Gaussian
    against aliasing, then cubic convolution (a = -1/2) within the range of what it leaves.
    """
    from scipy.ndimage import gaussian_filter
    from skimage import transform

    factors = [old / new for old, new in zip(image.shape, shape, strict=True)]
    smooth = gaussian_filter(image, [max(0.0, (factor - 1) / 2) for factor in factors])
    # Corners lie on corners: pixel i of the result is centred on (i + 1/2) * factor - 1/2.
    untyped: Any = transform
    places = untyped.AffineTransform(
        scale=factors[::-1], translation=[(factor - 1) / 2 for factor in factors[::-1]]
    )
    small: NDArray[np.float32] = untyped.warp(
        smooth,
        places,
        output_shape=shape,
        order=3,
        mode="symmetric",
        clip=True,
        preserve_range=True,
    )
    return small


def _harmony(path: Path, frame: int | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    from wsdino.screen.layouts.harmony import flat_field

    return flat_field(path, frame or 0, shape)


def _array(path: Path, frame: int | None, shape: tuple[int, ...]) -> NDArray[np.float32]:
    del shape
    found = np.load(path, allow_pickle=False)
    return np.asarray(found if frame is None else found[frame], dtype=np.float32)


FUNCTION_FORMATS: dict[str, Callable[[Path, int | None, tuple[int, ...]], NDArray[np.float32]]] = {
    ".npy": _array,
    ".xml": _harmony,
}
"""By the suffix of its file, how an illumination function is read."""


def _function(path: Path, shape: tuple[int, ...], frame: int | None) -> NDArray[np.float32]:
    advice = "an illumination function must be an array of numbers (.npy)"
    with (
        reading(named(path), ImageError, "not a readable illumination function", advice=advice),
        local_copy(path) as file,
    ):
        return FUNCTION_FORMATS.get(path.suffix.lower(), _array)(file, frame, shape)


# Each site asks for the functions of its channels, and Harmony's file of them lists all images.
@lru_cache(maxsize=16)
def _function_at(
    path: Path, state: str | None, shape: tuple[int, ...], frame: int | None
) -> NDArray[np.float32]:
    del state
    return _function(path, shape, frame)


def load_function(
    path: Path, shape: tuple[int, ...], *, frame: int | None = None
) -> NDArray[np.float32]:
    """Read an illumination function (H, W).

    Parameters
    ----------
    path
        An array (`.npy`), or the index of a Harmony measurement (`.xml`).
    shape
        Of the images.
    frame
        Which function of the file: its index, or Harmony's `ChannelID`.

    Raises
    ------
    ImageError
        It is missing, no array of numbers, of another shape than the images, or not positive.
    """
    if is_remote(path):
        function = _function_at(path, state_of(path), tuple(shape), frame)
    else:
        function = _function(path, tuple(shape), frame)
    if function.shape != tuple(shape):
        found, wanted = (" x ".join(map(str, sides)) for sides in (function.shape, shape))
        raise ImageError(
            f"{path}: the illumination function is {found}, and the images are {wanted} px (height "
            "x width); both must have one size"
        )
    if not (np.isfinite(function) & (function > 0)).all():
        raise ImageError(f"{path}: an illumination function must be positive everywhere")
    return function
