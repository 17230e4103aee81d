"""Quality measures of a field, cheap enough to be taken of every field that is ingested.

They say nothing about cells: how sharp, how bright, how full a field is, at which scale its detail
lies, and a digest by which the same pixels are recognised elsewhere.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import fft

from wsdino.errors import StoreError
from wsdino.screen.records import crc_of, digest_of
from wsdino.screen.statistics import histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

MEASURES = "measures.npy"
"""Beside a store's pixels, the measures of its sites."""
NUM_BANDS = 12
"""Half-octave bands of the power spectrum, from 1/2 cycle per pixel down to 1/128."""
MIDDLE_PX = 512
"""Detail is measured in a square of at most this side in the middle of a field."""
NOISE = 0.1
"""A field whose neighbouring pixels correlate less than this shows nothing but noise."""
# The brightest value of a camera of 8 to 16 bits, stored as it is or shifted to 16.
CEILINGS = tuple(
    {(2**bits - 1) << shift for bits in (8, 10, 12, 14, 16) for shift in (0, 16 - bits)}
)


DIGESTS: Mapping[str, Callable[[bytes], int]] = {"blake2b": digest_of, "crc": crc_of}
"""By which digest the same pixels are recognised: all sites of a store have the same."""
DIGEST = "digest"
"""The attribute of a store's array that names its digest; stores without it have the first."""
OF_NEW_STORES = "crc"


def digest_named(attributes: Mapping[str, Any]) -> str:
    """Name the digest of a store's measures, by the array's attributes.

    Raises
    ------
    StoreError
        It is none of :data:`DIGESTS`.
    """
    name = str(attributes.get(DIGEST, next(iter(DIGESTS))))
    if name not in DIGESTS:
        raise StoreError(
            f"the store's digest of pixels is {name}, and this version of wsdino knows "
            f"{' and '.join(DIGESTS)}; update wsdino, or ingest the source into a new folder"
        )
    return name


def measures_type(num_channels: int) -> np.dtype[Any]:
    """Return the type of a site's measures, each of them by channel.

    ``digest``: of the pixels in the middle, 64 bits; ``minimum``, ``maximum``: counts;
    ``saturation``: share of the image's pixels at the brightest value that its camera has;
    ``foreground``, ``extent``: see :func:`foreground_of`; ``focus``: see :func:`focus_of`;
    ``relatedness``: correlation of neighbouring pixels; ``spectrum``: see :func:`spectrum_of`.
    """
    numbers = ["minimum", "maximum", "saturation", "foreground", "extent", "focus", "relatedness"]
    return np.dtype(
        [
            ("digest", "<u8", (num_channels,)),
            *((name, "<f4", (num_channels,)) for name in numbers),
            ("spectrum", "<f4", (num_channels, NUM_BANDS)),
        ]
    )


def no_measures(num_sites: int, num_channels: int) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the measures of sites that weren't measured: focus is NaN."""
    found = np.zeros(num_sites, measures_type(num_channels))
    found["focus"] = np.nan
    return found


def unmeasured(
    measures: np.ndarray[Any, np.dtype[Any]],
) -> np.ndarray[Any, np.dtype[np.intp]]:
    """Return the rows of sites that weren't measured."""
    return np.flatnonzero(np.isnan(measures["focus"]).any(axis=1))


def site_measures(
    pixels: NDArray[Any],
    raw: NDArray[Any] | None = None,
    histograms: Sequence[NDArray[np.int64]] | None = None,
    digest: str = OF_NEW_STORES,
) -> np.void:
    """Measure a site.

    Parameters
    ----------
    pixels
        (C, H, W), uint8 or uint16, as stored.
    raw
        (C, h, w): the images before correction, in which saturation shows; None: `pixels`.
    histograms
        Of the C channels of `pixels`, by :func:`~wsdino.screen.statistics.histogram`; None: they
        are made.
    digest
        A name in :data:`DIGESTS`.

    Returns
    -------
    numpy.void
        Of :func:`measures_type`.
    """
    found = np.zeros(1, measures_type(len(pixels)))
    images = pixels if raw is None else raw
    counted = [histogram(field) for field in pixels] if histograms is None else histograms
    for channel, (field, image, counts) in enumerate(zip(pixels, images, counted, strict=True)):
        middle = _middle(field)
        floats = middle.astype(np.float32)
        relatedness = relatedness_of(floats)
        is_noise = relatedness < NOISE
        found["digest"][0, channel] = DIGESTS[digest](middle.tobytes())
        found["minimum"][0, channel] = np.argmax(counts > 0)
        found["maximum"][0, channel] = len(counts) - 1
        found["saturation"][0, channel] = saturation_of(image)
        share, extent = (0.0, 0.0) if is_noise else foreground_of(field)
        found["foreground"][0, channel], found["extent"][0, channel] = share, extent
        found["focus"][0, channel] = 0 if is_noise else focus_of(floats)
        found["relatedness"][0, channel] = relatedness
        found["spectrum"][0, channel] = spectrum_of(floats)
    return found[0]  # type: ignore[no-any-return]


def _middle(field: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    side = min(*field.shape, MIDDLE_PX)
    top, left = ((length - side) // 2 for length in field.shape)
    return field[top : top + side, left : left + side]


def saturation_of(image: np.ndarray[Any, np.dtype[Any]]) -> float:
    """Return the share of an image's pixels at its camera's brightest value, 0 to 1.

    That is the image's own maximum if it is the largest number of 8, 10, 12, 14 or 16 bits; an
    image whose maximum is another number has no saturated pixels.
    """
    top = int(image.max())
    return float(np.count_nonzero(image == top) / image.size) if top in CEILINGS else 0.0


def foreground_of(field: np.ndarray[Any, np.dtype[Any]]) -> tuple[float, float]:
    """Return the share of a field that is foreground, and how wide its pieces are.

    Foreground is what lies above Otsu's threshold, which maximises the variance between two classes
    (Otsu 1979), after averaging 2 x 2 pixels, which halves noise.

    Parameters
    ----------
    field
        (H, W), uint8 or uint16.

    Returns
    -------
    tuple
        Share, 0 to 1, and mean length in px of the chords that rows and columns cut out of the
        foreground; both 0 if all pixels are equal.
    """
    from wsdino.screen.passes import chords_above

    small, threshold = _thresholded(field)
    if threshold is None:
        return 0.0, 0.0
    num, ends = chords_above(small, field.dtype.type(threshold))
    return num / small.size, 2 * (2 * num / ends)


def foreground_mask(field: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return what is foreground, as :func:`foreground_of` has it: (H // 2, W // 2).

    Nothing is where all pixels are equal or hardly related to those beside them, as camera noise.
    """
    small, threshold = _thresholded(field)
    is_noise = relatedness_of(_middle(field).astype(np.float32)) < NOISE
    bound = np.inf if threshold is None or is_noise else threshold
    mask: np.ndarray[Any, np.dtype[np.bool_]] = small > bound
    return mask


def _thresholded(
    field: np.ndarray[Any, np.dtype[Any]],
) -> tuple[np.ndarray[Any, np.dtype[Any]], int | None]:
    """Average 2 x 2 pixels of a field, and return its threshold, None if there is none."""
    from wsdino.screen.passes import average_fours

    height, width = (length // 2 for length in field.shape)
    small = np.empty((height, width), field.dtype)
    if not small.size:
        return small, None
    average_fours(np.ascontiguousarray(field), small)
    return small, _otsu(histogram(small))


def _otsu(counts: np.ndarray[Any, np.dtype[np.intp]]) -> int | None:
    """Otsu's threshold of a histogram of integers: foreground is above; None if all are equal."""
    values = np.flatnonzero(counts)
    if len(values) < 2:
        return None
    below = np.cumsum(counts[values])[:-1].astype(np.float64)
    sums = np.cumsum(counts[values] * values).astype(np.float64)
    above = counts.sum() - below
    distance = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    return int(values[np.argmax(below * above * distance**2)])


def relatedness_of(field: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    """Return the correlation of pixels with their neighbours, below and beside; 0 if all are equal.

    It is near 0 for camera noise and above 0.8 for cells.
    """
    from wsdino.screen.passes import variance

    spread = variance(np.ascontiguousarray(field))
    return 1 - _difference(field, 1) / spread if spread > 0 else 0.0


def focus_of(field: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    """Return how sharp a field is: how much of the detail within 8 px lies within 2, 0 to 1.

    With D(k) the mean squared difference of pixels k apart, this is (D(2) - D(1)) / (D(8) - D(1)):
    noise adds as much to every D and cancels. It is 3/63 = 0.05 in the limit of complete blur,
    where D grows with the square of k, and larger the finer the detail. Compare fields of one
    channel: it depends on stain and magnification too.
    """
    one, two, eight = (_difference(field, lag) for lag in (1, 2, 8))
    return float(np.clip((two - one) / (eight - one), 0, 1)) if eight > one else 0.0


def _difference(field: np.ndarray[Any, np.dtype[np.float32]], lag: int) -> float:
    """Half the mean squared difference of pixels `lag` apart, along both axes."""
    if min(field.shape) <= lag:
        return 0.0
    from wsdino.screen.passes import squared_differences

    height, width = field.shape
    down, across = squared_differences(np.ascontiguousarray(field), lag)
    return float(down / ((height - lag) * width) + across / (height * (width - lag))) / 4


def spectrum_of(
    field: np.ndarray[Any, np.dtype[np.float32]],
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the power spectrum of a square field in half-octave bands.

    Parameters
    ----------
    field
        (S, S) float32.

    Returns
    -------
    numpy.ndarray
        (NUM_BANDS,) float32: log2 of the mean power in each band, from the finest detail (periods
        of 2 to 2.8 px) to the coarsest (90 to 128 px); NaN where the field is too small for a band,
        or has no power at all. Only differences between bands and between fields mean anything.
    """
    from wsdino.screen.passes import power_in_bands, windowed

    side = len(field)
    transformed = fft.rfft2(windowed(np.ascontiguousarray(field), _window(side)), overwrite_x=True)
    starts, counts = _bands(side)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log2(power_in_bands(transformed, starts) / counts)
    return np.where(np.isfinite(found), found, np.nan).astype(np.float32)


@cache
def _window(side: int) -> NDArray[np.float32]:
    """Hann's window along one axis; a field's is its product with itself."""
    return np.hanning(side + 2)[1:-1].astype(np.float32)


@cache
def _bands(side: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each band begins in each row of coefficients, and how many each band has.

    Along a row frequencies grow, so that each band has the columns from ``starts[:, band + 1]`` up
    to ``starts[:, band]``, the finest band last.
    """
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    with np.errstate(divide="ignore"):
        # Frequencies beyond 1/2, in the corners, are in no band.
        position = np.floor(2 * np.log2(0.5 / frequency))
    starts = np.stack([(position >= band).sum(axis=1) for band in range(NUM_BANDS + 1)], axis=1)
    return starts, (starts[:, :-1] - starts[:, 1:]).sum(axis=0)
