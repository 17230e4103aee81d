"""Plates of OME-TIFF files, alone or in sets that OME-XML describes together.

Source: https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/ (Plate, WellSample, TiffData). The
description is in every file, in one of them, or in a companion file (`.companion.ome`).
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd
import tifffile

from wsdino.errors import TableError
from wsdino.outside import reading
from wsdino.progress import say
from wsdino.remote import absolute, named, opened, shown
from wsdino.screen.choosing import TIME, Z
from wsdino.screen.layouts.listing import CHANNEL, as_sites, unique_names
from wsdino.screen.layouts.places import files_below
from wsdino.screen.layouts.xml import Element, parse, parse_text
from wsdino.screen.readers import RawTable
from wsdino.screen.tiff import physical_size
from wsdino.tables.columns import PIXEL_SIZE, PLATE, SITE, WELL

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

_SUFFIXES = (".ome.tif", ".ome.tiff")
_COMPANION = (".companion.ome", ".ome.xml")
# (z, channel, time point) of an image -> its file's name and the number of its page there.
Pages = dict[tuple[int, int, int], tuple[str, int]]


def recognises(path: Path) -> bool:
    """Whether a path is an OME-TIFF or companion file, or a folder of them, with a plate."""
    first = next(iter(_files(path)), None)
    if first is None:
        return False
    try:
        return _description(first).find("Plate") is not None
    except TableError:
        return False


def _files(path: Path) -> list[Path]:
    """Return the files that may describe a plate, companions first."""
    found = files_below(path, lambda name: name.lower().endswith((*_SUFFIXES, *_COMPANION)))
    return sorted(found, key=lambda file: not file.name.lower().endswith(_COMPANION))


def _description(file: Path) -> Element:
    """Return a file's OME-XML, or that of the file that it names for it."""
    root = _own_description(file)
    other = _described_in(root, file)
    return root if other is None else _own_description(other)


def _described_in(root: Element, file: Path) -> Path | None:
    """Return the file that a file names for its description; None if it has its own."""
    elsewhere = root.find("BinaryOnly")
    return None if elsewhere is None else file.parent / elsewhere.get("MetadataFile", "")


def _own_description(file: Path) -> Element:
    if file.name.lower().endswith(_COMPANION):
        return parse(file)
    with (
        reading(named(file), TableError, "not a readable TIFF"),
        opened(file) as content,
        tifffile.TiffFile(content) as tiff,
    ):
        text = tiff.pages.first.description
    return parse_text(text.encode(), origin=f"{shown(file)} (OME-XML)")


def read(path: Path, text: Collection[str]) -> RawTable:
    """List the sites of all plates.

    Planes and time points of a file are counted from 0; where they are in files of their own, they
    are told apart by `Metadata_Z` and `Metadata_Time`, counted from 0 too.

    Raises
    ------
    TableError
        OME-XML is missing, damaged or incomplete, or images differ in their channels.
    """
    del text
    # Files of one name may lie in the folders of several plates.
    described: set[Path] = set()
    rows: list[dict[str, Any]] = []
    others: list[Path] = []
    for file in _files(path):
        if file in described:
            continue
        root = _own_description(file)
        other = _described_in(root, file)
        if other in described:
            continue
        found = list(_sites(root if other is None else _own_description(other), file))
        described |= {file.parent / str(row["FileName"]) for row in found} | {file}
        described |= set() if other is None else {other}
        rows += found
        if not found:
            others.append(file)
    if rows and others:
        say(
            f"{shown(path)}: {len(others)} OME-TIFF files are of no plate and left out, such as "
            f"{others[0].relative_to(path)}"
        )
    if not rows:
        raise TableError(f"{shown(path)}: its OME-XML has no plate with images")
    images = pd.DataFrame(rows)
    for column in (Z, TIME, "Series", "Frame"):
        if column in images and images[column].isna().all():
            images = images.drop(columns=column)
    channels = list(dict.fromkeys(images[CHANNEL]))
    return RawTable(as_sites(images, channels, origin=shown(path)), path)


def _sites(root: Element, file: Path) -> Iterator[dict[str, Any]]:
    """List a row for each channel, and where they have files of their own, plane and time."""
    images = {image.get("ID"): image for image in root.iterfind("Image")}
    order = {key: number for number, key in enumerate(images)}
    pages = {key: _pages(image, file) for key, image in images.items()}
    is_set = {name for one in pages.values() for name, _ in one.values()} != {file.name}
    for plate in root.iterfind("Plate"):
        for well in plate.iterfind("Well"):
            samples = sorted(well.iterfind("WellSample"), key=lambda s: int(s.get("Index") or 0))
            for site, sample in enumerate(samples, start=1):
                reference = sample.find("ImageRef")
                key = None if reference is None else reference.get("ID")
                if key is None:
                    continue
                if key not in images:
                    raise TableError(
                        f"{shown(file)}: its OME-XML has no image {key}, which a well names"
                    )
                place = {
                    PLATE: plate.get("Name") or plate.get("ID"),
                    WELL: f"r{int(well.get('Row', 0)) + 1}c{int(well.get('Column', 0)) + 1}",
                    SITE: site,
                    PIXEL_SIZE: physical_size(images[key].find("Pixels")),
                    "PathName": str(absolute(file).parent),
                }
                names = _channels(images[key])
                if is_set:
                    rows = list(_pages_of_a_set(pages[key], _sizes(images[key]), names))
                else:
                    # tifffile tells the axes of a file that is not one of a set.
                    rows = [
                        {
                            "FileName": file.name,
                            "Series": order[key],
                            "Frame": channel if len(names) > 1 else None,
                            CHANNEL: name,
                        }
                        for channel, name in enumerate(names)
                    ]
                for row in rows:
                    yield place | row


def _sizes(image: Element) -> list[int]:
    """Return the number of an image's z planes, channels and time points."""
    pixels = image.find("Pixels")
    return [1 if pixels is None else int(pixels.get(f"Size{axis}", 1)) for axis in "ZCT"]


def _channels(image: Element) -> list[str]:
    given = [channel.get("Name") or "" for channel in image.iterfind("Pixels/Channel")]
    given += [""] * (_sizes(image)[1] - len(given))
    return list(unique_names({str(i): name for i, name in enumerate(given)}).values())


def _pages_of_a_set(pages: Pages, sizes: list[int], names: list[str]) -> Iterator[dict[str, Any]]:
    """List an image's planes, each a page of some file."""
    own = [name for name, _ in pages.values()]
    num_pages = {name: own.count(name) for name in set(own)}
    for z, channel, time in product(*(range(size) for size in sizes)):
        if (z, channel, time) in pages:
            name, page = pages[z, channel, time]
            yield {
                "FileName": name,
                "Frame": page if num_pages[name] > 1 else None,
                CHANNEL: names[channel],
                Z: z if sizes[0] > 1 else None,
                TIME: time if sizes[2] > 1 else None,
            }


def _pages(image: Element, file: Path) -> Pages:
    """Return where each plane of an image is, by its TiffData elements."""
    pixels, sizes = image.find("Pixels"), _sizes(image)
    if pixels is None:
        raise TableError(f"{shown(file)}: image {image.get('ID')} of its OME-XML has no Pixels")
    order = [axis for axis in pixels.get("DimensionOrder", "XYZCT") if axis in "ZCT"]
    size = dict(zip("ZCT", sizes, strict=True))
    pages: Pages = {}
    for data in pixels.iterfind("TiffData"):
        uuid = data.find("UUID")
        name = file.name if uuid is None else uuid.get("FileName") or file.name
        first = {axis: int(data.get(f"First{axis}") or 0) for axis in "ZCT"}
        page = int(data.get("IFD") or 0)
        whole = sizes[0] * sizes[1] * sizes[2]
        count = int(data.get("PlaneCount") or (1 if data.get("IFD") else whole))
        index = first[order[0]] + size[order[0]] * (
            first[order[1]] + size[order[1]] * first[order[2]]
        )
        for step in range(min(count, whole - index)):
            rest, place = index + step, {}
            for axis in order:
                rest, place[axis] = divmod(rest, size[axis])
            pages[place["Z"], place["C"], place["T"]] = (name, page + step)
    return pages
