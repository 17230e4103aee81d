"""Plates of ImageXpress (MetaXpress): an HTD file, or a JDCE file with tables of images.

With an HTD file images are `TimePoint_1/ZStep_1/<plate>_<well>_s1_w1<GUID>.tif`, in which any
folder, the site and the wavelength may be missing. Source: MetaXpress' export of BBBC021 and
others, and https://github.com/bioio-devs/bioio-imagexpress for JDCE.
"""

from __future__ import annotations

import csv
import json
import re
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import pandas as pd

from wsdino.counting import counted
from wsdino.errors import TableError
from wsdino.outside import reading
from wsdino.progress import say
from wsdino.remote import absolute, content_of, named, shown
from wsdino.screen.choosing import TIME, Z
from wsdino.screen.layouts.listing import CHANNEL, as_sites, read_plates, unique_names
from wsdino.screen.layouts.places import files_below, folders_below, names_in, require_listed
from wsdino.screen.lengths import pixel_size
from wsdino.screen.readers import RawTable
from wsdino.tables.columns import PIXEL_SIZE, PLATE, SITE, WELL
from wsdino.tables.files import read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

_GUID = r"[0-9A-F]{8}(?:-[0-9A-F]{4}){3}-[0-9A-F]{12}"
_NAME = re.compile(
    rf".*_(?P<well>[A-Z]{{1,2}}\d{{2}})(?:_s(?P<site>\d+))?(?:_w(?P<wave>\d+))?(?P<thumb>_thumb)?"
    rf"(?:{_GUID})?\.tiff?",
    re.IGNORECASE,
)
_FOLDER = re.compile(r"(TimePoint|ZStep)_(\d+)", re.IGNORECASE)
_TABLES = "image_metadata_*.csv"


def recognises(path: Path) -> bool:
    """Whether a path is a plate, its HTD or JDCE file, or a folder of plates."""
    return bool(_plates(path))


def _plates(path: Path) -> list[Path]:
    """Return the file that describes each plate at or below a path."""
    found = files_below(path, lambda name: name.lower().endswith(tuple(_READERS)))
    # A plate's folder may have a copy of its file further down.
    return [
        file
        for file in found
        if not any(
            other.name == file.name and other.parent in file.parents and other != file
            for other in found
        )
    ]


def read(path: Path, text: Collection[str]) -> RawTable:
    """List the images of all plates.

    Raises
    ------
    TableError
        A plate's description is damaged, there are no images, or two plates have one name.
    """
    del text
    return RawTable(read_plates(_plates(path), lambda f: _READERS[f.suffix.lower()](f)), path)


def _htd(file: Path) -> pd.DataFrame:
    settings = _settings(file)
    rows: list[dict[str, Any]] = []
    derived: list[dict[str, Any]] = []
    for row in _htd_images(file):
        (derived if row.pop("derived") else rows).append(row)
    if derived:
        say(
            f"{shown(file)}: {counted(len(derived), 'image')} left out (the instrument's "
            f"projections of z steps), such as {derived[0]['FileName']}"
        )
    if not rows:
        require_listed(file.parent)
        raise TableError(
            f"{shown(file)}: there are no images beside it that are named as its plate's"
        )
    images = pd.DataFrame(rows)
    used = sorted(set(images["wave"]), key=int)
    names = unique_names({wave: settings.get(f"WaveName{wave}", "") for wave in used})
    images[CHANNEL] = images.pop("wave").map(names)
    images[PLATE] = file.stem
    images["PathName"] = str(absolute(file).parent)
    return as_sites(images, list(names.values()), origin=shown(file))


def _settings(file: Path) -> dict[str, str]:
    """Read an HTD file: lines of a quoted name, and one or more values."""
    with reading(named(file), TableError):
        content = content_of(file).decode("utf-8-sig", errors="replace").splitlines()
        lines = csv.reader(content, skipinitialspace=True)
        return {line[0].strip(): line[1].strip() for line in lines if len(line) > 1}


def _htd_images(file: Path) -> Iterator[dict[str, Any]]:
    folder = file.parent
    beside = {
        f"{name[:-4]}_".casefold() for name in names_in(folder) if name.lower().endswith(".htd")
    }
    found = []
    for below in folders_below(folder):
        between = below.path.relative_to(folder)
        places = [_FOLDER.fullmatch(part) for part in between.parts]
        if not all(places):
            continue
        numbers = {place[1].casefold(): int(place[2]) for place in places if place}
        for name in below.files:
            match = _NAME.fullmatch(name)
            if match is None or match["thumb"]:
                continue
            # Images of several plates in one folder are told apart by the plates' names.
            plates = [plate for plate in beside if name.casefold().startswith(plate)]
            if len(beside) < 2 or max(plates, key=len, default="") == f"{file.stem}_".casefold():
                found.append(((between / name).as_posix(), match, numbers))
    has_steps = any(numbers.get("zstep") for _, _, numbers in found)
    for name, match, numbers in found:
        yield {
            WELL: match["well"],
            SITE: int(match["site"] or 1),
            Z: numbers.get("zstep", 0) or 1,
            TIME: numbers.get("timepoint", 1),
            "FileName": name,
            "wave": str(int(match["wave"] or 1)),
            # With steps, images outside of their folders, or in ZStep_0, are projections.
            "derived": has_steps and not numbers.get("zstep"),
        }


def _jdce(file: Path) -> pd.DataFrame:
    with reading(named(file), TableError, "can't be read as JSON"):
        stack = json.loads(content_of(file).decode("utf-8-sig")).get("ImageStack", {})
    listed = [str(name) for name in stack.get("ImageMetadataFiles") or ()]
    beside = (name for name in names_in(file.parent) if fnmatch(name, _TABLES))
    paths = [file.parent / name for name in listed or beside]
    if not paths:
        raise TableError(f"{shown(file)}: there is no {_TABLES} beside it, which lists the images")
    files = ("ImageSubFolderPath", "ImageFileName")
    table = pd.concat([read_file(path, text=files) for path in paths], ignore_index=True)
    needed = ("Well", "Field", "Wavelength", "ImageFileName")
    for name in needed:
        if name not in table:
            raise TableError(
                f"{shown(paths[0])}: no column {name}; it has {', '.join(table.columns)}"
            )
    table = table[table["ImageFileName"].notna()]
    waves = [str(int(wave)) for wave in table["Wavelength"]]
    names = unique_names(_wavelengths(stack, table, waves))
    folders = table.get("ImageSubFolderPath", pd.Series("", index=table.index)).fillna("")
    images = pd.DataFrame(
        {
            PLATE: str((stack.get("SpecimenHolder") or {}).get("Barcode") or "").strip()
            or file.stem,
            WELL: table["Well"].astype(str).str.replace(r"\s*-\s*", "", regex=True),
            SITE: table["Field"],
            PIXEL_SIZE: _calibrated(stack),
            Z: table.get("ZIndex", 0),
            TIME: table.get("Timepoint", 0),
            "FileName": [
                f"{folder}/{name}".replace("\\", "/").lstrip("/")
                for folder, name in zip(folders, table["ImageFileName"], strict=True)
            ],
            "PathName": str(absolute(file).parent),
            CHANNEL: [names[wave] for wave in waves],
        }
    )
    return as_sites(images, list(names.values()), origin=shown(file))


def _wavelengths(stack: dict[str, Any], table: pd.DataFrame, waves: list[str]) -> dict[str, str]:
    """Return the name of each wavelength that has images: its emission filter's."""
    protocol = stack.get("AutoLeadAcquisitionProtocol") or {}
    described = {
        str(wave.get("Index", i)): str((wave.get("EmissionFilter") or {}).get("Name") or "")
        for i, wave in enumerate(protocol.get("Wavelengths") or ())
    }
    filters = table.get("ExcitationEmissionFilter", pd.Series(None, index=table.index))
    listed = dict(zip(waves, filters.fillna("").astype(str), strict=True))
    used = sorted(set(waves), key=int)
    return {wave: described.get(wave) or listed[wave].strip() for wave in used}


def _calibrated(stack: dict[str, Any]) -> float | None:
    """Return the width of a pixel in micrometres; of binned ones the calibration doesn't tell."""
    protocol = stack.get("AutoLeadAcquisitionProtocol") or {}
    binning = str((protocol.get("Camera") or {}).get("Binning") or 1)
    found = (protocol.get("ObjectiveCalibration") or {}).get("PixelWidth")
    return pixel_size(found, "um") if set(re.findall(r"\d+", binning)) <= {"1"} else None


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {".htd": _htd, ".jdce": _jdce}
