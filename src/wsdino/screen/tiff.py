"""Reading TIFFs: which of a file's pages are meant, and whether all of them are there."""

from __future__ import annotations

import logging
import math
import struct
from typing import TYPE_CHECKING, Any

import tifffile

from wsdino.errors import ImageError
from wsdino.outside import require_ratio
from wsdino.screen.formats import CHANNEL_AXES, PIXEL_TYPES, Contents, unnamed, which_image
from wsdino.screen.layouts.xml import parse_text
from wsdino.screen.lengths import pixel_size

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from wsdino.screen.layouts.xml import Element

# Python prints unhandled log records; a damaged file is reported once, as an ImageError.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
_NOT_INTENSITIES = {tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.PALETTE}


def read_tiff(
    path: Path, series: int | None, out: NDArray[Any] | None = None
) -> tuple[NDArray[Any], str]:
    """Read one image of a TIFF.

    Parameters
    ----------
    path
        Its file; of an OME-TIFF set any of its files, of which the pages of this one are read.
    series
        Which image, not counting thumbnails; None: the only one of its size.
    out
        Where the pixels are written if they are of its shape and type; None: into a new array.

    Returns
    -------
    pixels, axes
        (..., H, W), and a letter for each axis. The pixels are `out` or a view of it if it fits.

    Raises
    ------
    ImageError
        There is no such image, several may be meant, part of it is missing, or its values aren't
        intensities.
    """
    with tifffile.TiffFile(path) as tiff:
        images = _images(tiff, path)
        pages = (page for image in images for page in image.pages if page is not None)
        if any(page.parent.filehandle.path != tiff.filehandle.path for page in pages):
            # OME-XML that describes a set of files; the table names this one of them.
            with tifffile.TiffFile(path, is_ome=False) as alone:
                meant = _image(_images(alone, path), path, series)
                return _checked_pixels(alone, meant, path, out)
        return _checked_pixels(tiff, _image(images, path, series), path, out)


def size_of_tiff(path: Path, series: int | None) -> tuple[int, int, np.dtype[Any]]:
    """Return height, width and type of an image of a TIFF without reading its pixels."""
    # Of an OME-TIFF set only the first image is asked for, without looking at its other files.
    with tifffile.TiffFile(path, is_ome=None if series else False) as tiff:
        images = _images(tiff, path)
        numbered = _without_previews(images) if series is None else images
        found = numbered[min(series or 0, len(numbered) - 1)]
        return *_size(found), found.dtype


def contents_of_tiff(path: Path) -> Contents:
    """Return how many images of one size a TIFF holds, without previews, and its channels' names.

    Channels are named as its OME-XML does, and `channel_0` and so on without it.
    """
    with tifffile.TiffFile(path) as tiff:
        everything = _images(tiff, path)
        images = _alike(_without_previews(everything))
        if len(images) > 1 and images != everything[: len(images)]:
            raise ImageError(
                f"{path}: {len(images)} images stand between smaller ones; give a table whose "
                "column Series_<Channel> has the one of each site, counted from 0"
            )
        first = images[0]
        sizes = dict(zip(first.axes, first.shape, strict=True))
        num = max(sizes.get(axis, 1) for axis in CHANNEL_AXES)
        names = channel_names(tiff.ome_metadata) if tiff.ome_metadata else []
    given = [name for name in names if name]
    if len(names) == num and len(set(given)) == num:
        return Contents(len(images), tuple(given))
    return Contents(len(images), unnamed(num))


def pixel_size_of_tiff(path: Path) -> float | None:
    """Return the width of a pixel of a TIFF's first image in micrometres; None: unknown.

    From OME-XML (`PhysicalSizeX`), MetaXpress' and MetaMorph's calibration, ImageJ's unit, or a
    resolution in pixels per centimetre. One in dots per inch is for printers.
    """
    with tifffile.TiffFile(path) as tiff:
        if tiff.ome_metadata:
            root = parse_text(tiff.ome_metadata.encode(), origin="OME-XML")
            # The first of the largest: a preview's pixels are wider.
            found = list(root.iterfind("Image/Pixels"))
            sizes = [int(each.get("SizeX", "0")) for each in found]
            return physical_size(found[sizes.index(max(sizes))] if found else None)
        page = _without_previews(_images(tiff, path))[0].keyframe
        description = page.description
        if description.startswith("<MetaData>"):
            root = parse_text(description.encode(), origin="MetaData")
            given = {one.get("id"): one.get("value") for one in root.iterfind("PlaneInfo/prop")}
            is_off = given.get("spatial-calibration-state") == "off"
            width, unit = (given.get(f"spatial-calibration-{end}") for end in ("x", "units"))
            return None if is_off else pixel_size(width, unit)
        tags = page.tags
        pixels, units = tags.valueof("XResolution", (0, 1))
        if not pixels or not units:
            return None
        if tiff.imagej_metadata:
            return pixel_size(units / pixels, tiff.imagej_metadata.get("unit"))
        is_metric = tags.valueof("ResolutionUnit") == tifffile.RESUNIT.CENTIMETER
        return pixel_size(units / pixels, "cm") if is_metric else None


def physical_size(pixels: Element | None) -> float | None:
    """Return the width of a pixel in micrometres, given an image's `Pixels` in OME-XML."""
    if pixels is None:
        return None
    return pixel_size(pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeXUnit", "um"))


def channel_names(description: str) -> list[str]:
    """Return the names of the channels of the first image in OME-XML, empty where missing."""
    root = parse_text(description.encode(), origin="OME-XML")
    pixels = root.find("Image/Pixels")
    return [] if pixels is None else [one.get("Name") or "" for one in pixels.iterfind("Channel")]


def _alike(images: list[tifffile.TiffPageSeries]) -> list[tifffile.TiffPageSeries]:
    """Return the images that may be meant: labels and previews differ from the first one."""
    if max(math.prod(_size(image)) for image in images) > math.prod(_size(images[0])):
        # The first one may be the preview.
        return images
    return [i for i in images if (i.shape, i.dtype) == (images[0].shape, images[0].dtype)]


def _images(tiff: tifffile.TiffFile, path: Path) -> list[tifffile.TiffPageSeries]:
    """Return the series that aren't marked as thumbnails, by the numbers that tables give them."""
    images = [series for series in tiff.series if not series.keyframe.is_reduced]
    if not images:
        raise ImageError(f"{path}: the file holds nothing but reduced copies of an image")
    return images


def _without_previews(images: list[tifffile.TiffPageSeries]) -> list[tifffile.TiffPageSeries]:
    """Leave out what has half the largest one's size or less, and is a preview, marked or not."""
    height, width = max(map(_size, images), key=math.prod)
    return [
        image
        for image in images
        if not (2 * _size(image)[0] <= height and 2 * _size(image)[1] <= width)
    ]


def _size(series: tifffile.TiffPageSeries) -> tuple[int, int]:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    return sizes["Y"], sizes["X"]


def _image(
    images: list[tifffile.TiffPageSeries], path: Path, series: int | None
) -> tifffile.TiffPageSeries:
    if series is not None:
        return images[which_image(path, series, len(images))]
    meant = _alike(_without_previews(images))
    return meant[which_image(path, None, len(meant))]


def _checked_pixels(
    tiff: tifffile.TiffFile,
    series: tifffile.TiffPageSeries,
    path: Path,
    out: NDArray[Any] | None,
) -> tuple[NDArray[Any], str]:
    """Decode a series, unless the file is cut short or its values aren't intensities."""
    size = tiff.filehandle.size
    is_grey = series.dtype.newbyteorder("=") in PIXEL_TYPES
    if is_grey and series.keyframe.photometric in _NOT_INTENSITIES:
        kind = tifffile.PHOTOMETRIC(series.keyframe.photometric).name
        raise ImageError(
            f"{path}: the pixels are stored as {kind}, so that larger is not brighter; convert the "
            "image to plain grey values (MINISBLACK)"
        )
    if series.keyframe.compression == 1 and series.keyframe.predictor != 1:
        raise ImageError(
            f"{path}: its pixels aren't compressed, and are said to be differences of neighbours "
            "(a predictor), which readers understand in different ways; save the image anew"
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
        if math.prod(page.chunked) > len(page.dataoffsets):
            raise ImageError(
                f"{path}: damaged or incomplete image: it has {len(page.dataoffsets)} of "
                f"{math.prod(page.chunked)} strips or tiles"
            )
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
    require_ratio(size, series.size * series.dtype.itemsize)
    kind_of_pixels = series.shape, series.dtype.newbyteorder("=")
    if out is None or kind_of_pixels != (out.shape, out.dtype):
        return series.asarray(), series.axes
    # tifffile changes the shape of the array that it is given, for a while.
    return series.asarray(out=out.view()), series.axes


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
