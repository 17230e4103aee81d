"""Measurements of Harmony (Operetta, Opera Phenix), versions V5 to V7: `Index.idx.xml`.

Each image has an element with its file, row, column, field, plane, time point and channel; from V6
on, what a channel's images share is in an element of the channel. Sources: files of the three
versions, https://github.com/broadinstitute/pe2loaddata.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.counting import counted
from wsdino.errors import TableError
from wsdino.progress import say
from wsdino.remote import absolute, shown
from wsdino.screen.choosing import TIME, Z
from wsdino.screen.layouts.listing import CHANNEL, as_sites, read_plates, unique_names
from wsdino.screen.layouts.places import files_below
from wsdino.screen.layouts.xml import Element, parse, text_of
from wsdino.screen.lengths import pixel_size
from wsdino.screen.readers import RawTable
from wsdino.tables.columns import PIXEL_SIZE, PLATE, SITE, WELL

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

INDEX = ("Index.idx.xml", "Index.xml")
IMAGES = "Images"


def recognises(path: Path) -> bool:
    """Whether a path is an index, a measurement, or a folder of measurements."""
    return bool(_indices(path))


def _indices(path: Path) -> list[Path]:
    """Return the index of each measurement at or below a path."""
    found: dict[Path, Path] = {}
    for index in files_below(path, INDEX.__contains__):
        folder = index.parent
        # One measurement may have copies: under both names, or also in its folder of images.
        measurement = folder.parent if folder.name == IMAGES else folder
        known = found.setdefault(measurement, index)
        if known.parent == folder and INDEX.index(index.name) < INDEX.index(known.name):
            found[measurement] = index
    return list(found.values())


def read(path: Path, text: Collection[str]) -> RawTable:
    """List the images of all measurements; their flat-field profiles are illumination functions.

    Raises
    ------
    TableError
        An index is damaged or lists no images, or measurements differ in their channels or are of
        one plate.
    """
    del text
    uneven: list[Path] = []

    def measurement(index: Path) -> pd.DataFrame:
        root = parse(index)
        if any(map(_polynomial, _profiles(root).values())):
            uneven.append(index)
        return _measurement(root, index)

    table = read_plates(_indices(path), measurement)
    if uneven:
        return RawTable(table, path)
    functions = [name for name in table if "_Illum" in str(name)]
    return RawTable(table.drop(columns=functions), path)


def _measurement(root: Element, index: Path) -> pd.DataFrame:
    plate = root.find("Plates/Plate")
    name = None if plate is None else text_of(plate, "Name") or text_of(plate, "PlateID")
    entries = {
        key: entry
        for entry in root.iterfind("Maps/Map/Entry")
        if (key := entry.get("ChannelID")) and text_of(entry, "ChannelName")
    }
    rows = list(_images(root, entries, index))
    if not rows:
        raise TableError(f"{shown(index)}: lists no images")
    images = pd.DataFrame(rows)
    given = {key: text_of(entry, "ChannelName") or "" for key, entry in entries.items()}
    given |= dict(zip(images["id"], images["name"], strict=True))
    used = sorted(set(images["id"]), key=int)
    names = unique_names({key: given[key] for key in used})
    images[CHANNEL] = images["id"].map(names)
    images[PLATE] = name or absolute(index).parent.name
    images["PathName"] = str(absolute(index).parent)
    table = as_sites(images.drop(columns=["id", "name"]), list(names.values()), origin=shown(index))
    for key, channel in names.items():
        table[f"FileName_Illum{channel}"] = index.name
        table[f"PathName_Illum{channel}"] = str(absolute(index).parent)
        table[f"Frame_Illum{channel}"] = int(key)
    return table


def _images(root: Element, entries: dict[str, Element], index: Path) -> Iterator[dict[str, Any]]:
    """List the images that were taken; those in a state of error are said."""
    num_failed = 0
    # From V6 on these are said once for each channel.
    widths = {
        entry.get("ChannelID"): _micrometres(width)
        for entry in root.iterfind("Maps/Map/Entry")
        if (width := entry.find("ImageResolutionX")) is not None
    }
    for image in root.iterfind("Images/Image"):
        width = image.find("ImageResolutionX")
        url, key = text_of(image, "URL"), text_of(image, "ChannelID")
        numbers = [text_of(image, name) for name in ("Row", "Col", "FieldID")]
        if url is None or key is None or None in numbers:
            raise TableError(
                f"{shown(index)}: image {text_of(image, 'id')} lacks a URL, Row, Col, FieldID or "
                "ChannelID"
            )
        if (text_of(image, "State") or "Ok").casefold() != "ok":
            num_failed += 1
            continue
        row, column, field = (int(number) for number in numbers if number)
        yield {
            WELL: f"r{row:02d}c{column:02d}",
            SITE: field,
            PIXEL_SIZE: widths.get(key) if width is None else _micrometres(width),
            Z: int(text_of(image, "PlaneID") or 1),
            TIME: int(text_of(image, "TimepointID") or 0),
            "FileName": url,
            "id": key,
            "name": text_of(image, "ChannelName")
            or (text_of(entries[key], "ChannelName") if key in entries else None)
            or "",
        }
    if num_failed:
        say(f"{shown(index)}: {counted(num_failed, 'image')} left out (marked as failed)")


def _micrometres(width: Element) -> float | None:
    return pixel_size(width.text, width.get("Unit", "m"))


def _profiles(root: Element) -> dict[str, str]:
    """Return the text of each channel's flat-field profile."""
    return {
        key: text
        for entry in root.iterfind("Maps/Map/Entry")
        if (key := entry.get("ChannelID")) and (text := text_of(entry, "FlatfieldProfile"))
    }


_LIST = r"\[[-+\d.eE,\s\[\]]*\]"


def _polynomial(profile: str) -> dict[str, Any] | None:
    """Return coefficients, size, origin and scale of a profile; None if the field was even.

    A profile of the foreground, where there is one, is what the signal was lit by.
    """
    kinds = ("Foreground", "Background")
    places = sorted(
        (match.start(), kind) for kind in kinds for match in re.finditer(rf"\b{kind}:", profile)
    )
    parts = {
        kind: profile[start : places[i + 1][0] if i + 1 < len(places) else len(profile)]
        for i, (start, kind) in enumerate(places)
    }
    for kind in kinds:
        part = parts.get(kind, "")
        values = {
            name: json.loads(match[1])
            for name in ("Coefficients", "Dims", "Origin", "Scale")
            if (match := re.search(rf"\b{name}:\s*({_LIST})", part))
        }
        if re.search(r"\bType:\s*Polynomial\b", part) and len(values) == 4:
            return values
    return None


def flat_field(path: Path, channel: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a channel's illumination function, as Harmony fitted it.

    Parameters
    ----------
    path
        Index of the measurement.
    channel
        Its `ChannelID`.
    shape
        Height and width where Harmony found the light to be even, or fitted nothing.

    Returns
    -------
    ndarray
        (H, W) float32, about 1 on average: images are divided by it. It is a polynomial of x and y,
        relative to its origin and in units of its scale, whose coefficients are listed by degree,
        each from the highest power of x to that of y. Even light is 1.
    """
    seen = path.stat()
    return _function(path, (seen.st_size, seen.st_mtime_ns), channel, tuple(shape))


# Each site asks for the functions of its channels, and an index may list 100,000 images.
@lru_cache(maxsize=2)
def _known_profiles(path: Path, state: tuple[int, int]) -> dict[str, str]:
    del state
    return _profiles(parse(path))


@lru_cache(maxsize=8)
def _function(
    path: Path, state: tuple[int, int], channel: int, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    found = _polynomial(_known_profiles(path, state).get(str(channel), ""))
    if found is None:
        return np.ones(shape, np.float32)
    width, height = (int(side) for side in found["Dims"])
    x, y = (
        (np.arange(side) - origin) * scale
        for side, origin, scale in zip(
            (width, height), found["Origin"], found["Scale"], strict=True
        )
    )
    function = np.zeros((height, width))
    for terms in found["Coefficients"]:
        degree = len(terms) - 1
        for power, coefficient in enumerate(terms):
            function += coefficient * np.outer(y**power, x ** (degree - power))
    return function.astype(np.float32)
