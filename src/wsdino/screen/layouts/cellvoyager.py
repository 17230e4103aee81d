"""Measurements of CellVoyager (Yokogawa CV7000, CV8000): `MeasurementData.mlf`.

It lists the images; `MeasurementDetail.mrf` names the plate and the settings (`.mes`), which name
the channels by their targets, those that were not acquired among them. Source: files of
https://github.com/fmi-faim/cellvoyager-types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from wsdino.counting import counted
from wsdino.errors import TableError
from wsdino.progress import say
from wsdino.remote import absolute, is_file, shown
from wsdino.screen.choosing import TIME, Z
from wsdino.screen.layouts.listing import CHANNEL, as_sites, read_plates, unique_names
from wsdino.screen.layouts.places import files_below, folders_below
from wsdino.screen.layouts.xml import Element, parse
from wsdino.screen.lengths import pixel_size
from wsdino.screen.readers import RawTable
from wsdino.tables.columns import PIXEL_SIZE, PLATE, SITE, WELL

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

DATA, DETAIL = "MeasurementData.mlf", "MeasurementDetail.mrf"
_NUMBERS = {"Row": "row", "Column": "column", "FieldIndex": SITE, "Ch": "id"}
_FURTHER = {"ZIndex": Z, "TimePoint": TIME}


def recognises(path: Path) -> bool:
    """Whether a path is a measurement, its list of images, or a folder of measurements."""
    return bool(_lists(path))


def _lists(path: Path) -> list[Path]:
    """Return the list of images of each measurement at or below a path."""
    return files_below(path, DATA.__eq__)


def read(path: Path, text: Collection[str]) -> RawTable:
    """List the images of all measurements.

    Raises
    ------
    TableError
        A file is damaged, there are no images, or two measurements are of one plate.
    """
    del text
    return RawTable(read_plates(_lists(path), _measurement), path)


def _measurement(file: Path) -> pd.DataFrame:
    records = list(parse(file).iterfind("MeasurementRecord"))
    images = [record for record in records if record.get("Type") == "IMG"]
    if len(images) < len(records):
        num_errors = len(records) - len(images)
        say(f"{shown(file)}: {counted(num_errors, 'record')} left out (of errors)")
    if not images:
        raise TableError(f"{shown(file)}: lists no images")
    folders = folders_below(file.parent)
    present = {
        (folder.path / name).relative_to(file.parent).as_posix()
        for folder in folders
        for name in folder.files
    }
    table = pd.DataFrame([_row(record, file, present) for record in images])
    plate, targets, width = _described(file.parent)
    used = sorted(set(table["id"]))
    names = unique_names({str(ch): targets.get(str(ch), "") for ch in used})
    table[CHANNEL] = [names[str(ch)] for ch in table.pop("id")]
    table[PLATE] = plate or absolute(file).parent.name
    table[PIXEL_SIZE] = width
    table["PathName"] = str(absolute(file).parent)
    return as_sites(table, list(names.values()), origin=shown(file))


def _row(record: Element, file: Path, present: set[str]) -> dict[str, Any]:
    name = (record.text or "").strip().replace("\\", "/")
    values = {name: record.get(name, "") for name in (*_NUMBERS, *_FURTHER)}
    bad = [key for key in _NUMBERS if not values[key].isdecimal()]
    if bad or not name:
        raise TableError(
            f"{shown(file)}: the record of {name or 'an unnamed image'} lacks "
            f"{', '.join(bad) or 'a file'}"
        )
    numbers = {ours: int(values[theirs]) for theirs, ours in _NUMBERS.items()}
    numbers |= {ours: int(values[theirs] or 1) for theirs, ours in _FURTHER.items()}
    well = f"r{numbers.pop('row'):02d}c{numbers.pop('column'):02d}"
    return {WELL: well, **numbers, "FileName": _as_present(name, present)}


def _as_present(name: str, present: set[str]) -> str:
    """Return the file's name: images may have been converted to PNG, which the list doesn't say."""
    stem = name.rpartition(".")[0] or name
    others = (f"{stem}{suffix}" for suffix in (".png", ".tif", ".tiff"))
    return next((one for one in (name, *others) if one in present), name)


def _described(folder: Path) -> tuple[str, dict[str, str], float | None]:
    """Return the plate's name, channels' targets and pixels' width, as far as files beside say."""
    if not is_file(folder / DETAIL):
        return "", {}, None
    root = parse(folder / DETAIL)
    sample = root.find("MeasurementSamplePlate")
    plate = "" if sample is None else (sample.get("Name") or "").strip()
    # Some versions give targets in the measurement's own list of channels.
    channels = list(root.iterfind("MeasurementChannel"))
    settings = root.get("MeasurementSettingFileName")
    if settings and is_file(folder / settings):
        channels += list(parse(folder / settings).iterfind("ChannelList/Channel"))
    targets = {
        channel.get("Ch", ""): target
        for channel in channels
        if (target := (channel.get("Target") or "").strip())
    }
    widths = {channel.get("HorizontalPixelDimension") for channel in channels} - {None}
    return plate, targets, pixel_size(widths.pop(), "um") if len(widths) == 1 else None
