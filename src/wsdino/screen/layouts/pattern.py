r"""Folders of images whose names say what they are, by a regular expression of named groups.

`(?P<plate>[^/]+)/(?P<well>[A-P]\d\d)_f(?P<site>\d+)_c(?P<channel>\d)\.tif` is matched with the
whole path of each image below the folder, with `/` between folders. Groups are `plate` (without it:
the image's folder), `well` (or `row` and `column`), `site` (without it: the images of a file, or
1), `channel` (without it: the channels of a file), `z`, `time`, `acquisition` and `batch`; any
other is metadata, `Metadata_<group>`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from wsdino.errors import InputError, TableError, option
from wsdino.progress import say
from wsdino.remote import absolute, is_remote, shown
from wsdino.screen.choosing import ACQUISITION, TIME, Z
from wsdino.screen.formats import FORMATS
from wsdino.screen.images import contents_of
from wsdino.screen.layouts.listing import CHANNEL, as_sites
from wsdino.screen.layouts.places import all_below, require_listed
from wsdino.screen.readers import RawTable
from wsdino.tables.columns import BATCH, PLATE, PREFIX, SITE, WELL

if TYPE_CHECKING:
    from collections.abc import Iterator

_COLUMNS = {
    "plate": PLATE,
    "well": WELL,
    "site": SITE,
    "z": Z,
    "time": TIME,
    "acquisition": ACQUISITION,
    "batch": BATCH,
    "channel": CHANNEL,
}
_NUMBERS = ("site", "z", "time")


def read_names(folder: Path, pattern: str) -> RawTable:
    """List the images below a folder by their names.

    Parameters
    ----------
    folder
        Where images are, at any depth.
    pattern
        Of their paths relative to it.

    Raises
    ------
    InputError
        The pattern isn't a regular expression, or has no group for wells.
    TableError
        It isn't a folder, or no image's name matches.
    """
    if not folder.is_dir() and not is_remote(folder):
        raise TableError(
            f"{shown(folder)}: not a folder; {option('--pattern')} is for folders of images"
        )
    expression = _compiled(pattern)
    suffixes = tuple(suffix for known in FORMATS for suffix in known.suffixes)
    paths = [
        path
        for path in all_below(folder)
        if path.name.lower().endswith(suffixes) and not path.name.startswith(".")
    ]
    rows, others = [], []
    for path in paths:
        name = path.relative_to(folder).as_posix()
        match = expression.fullmatch(name)
        if match is None:
            others.append(name)
        else:
            rows.append(_row(match, path, folder))
    if not rows:
        require_listed(folder)
        found = f"{len(paths)} images, such as {others[0]}" if others else "no images"
        raise TableError(
            f"{shown(folder)}: {option(f'--pattern {pattern!r}')} matches none of the names of "
            f"{found}; it must match the whole path below the folder"
        )
    if "plate" not in expression.groupindex:
        _require_own_folders(rows, folder)
    if others:
        say(
            f"{shown(folder)}: {len(others)} of {len(paths)} images don't match the pattern and "
            f"are left out, such as {others[0]}"
        )
    images = pd.DataFrame([row for one in rows for row in _within(one)])
    channels = list(dict.fromkeys(images[CHANNEL]))
    if "channel" in expression.groupindex:
        channels = sorted(channels, key=_natural)
    return RawTable(as_sites(images, channels, origin=shown(folder)), folder)


def _require_own_folders(rows: list[dict[str, Any]], folder: Path) -> None:
    """Refuse plates that would be named after folders of one name, such as each plate's `Images`.

    Folders above them may be of batches, channels, planes and the like, if the pattern says so.
    """
    keys = (BATCH, PLATE, CHANNEL, Z, TIME, ACQUISITION)
    places: dict[tuple[Any, ...], str] = {}
    for row in rows:
        place = places.setdefault(tuple(map(row.get, keys)), row["PathName"])
        if place != row["PathName"]:
            raise TableError(
                f"{shown(folder)}: images in {place} and in {row['PathName']} would be of one "
                f"plate, {row[PLATE]}; tell plates apart by a group (?P<plate>...) in "
                f"{option('--pattern')}"
            )


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"{option(f'--pattern {pattern!r}')}: not a regular expression: {error}"
        ) from error
    groups = set(expression.groupindex)
    if "well" not in groups and not {"row", "column"} <= groups:
        has = ", ".join(sorted(groups)) or "none"
        raise InputError(
            f"{option(f'--pattern {pattern!r}')}: its named groups are {has}; one must be "
            "(?P<well>...), or two row and column"
        )
    return expression


def _row(match: re.Match[str], path: Path, folder: Path) -> dict[str, Any]:
    groups = {name: value for name, value in match.groupdict().items() if value is not None}
    if "row" in groups and "column" in groups:
        row, column = groups.pop("row"), groups.pop("column")
        groups.setdefault("well", f"r{row}c{column}" if row.isdecimal() else f"{row}{column}")
    groups.setdefault("plate", path.parent.name if path.parent != folder else absolute(folder).name)
    named: dict[str, Any] = {
        _COLUMNS.get(name, PREFIX + name): int(value)
        if name in _NUMBERS and value.isdecimal()
        else value
        for name, value in groups.items()
    }
    return named | {"FileName": path.name, "PathName": str(absolute(path.parent))}


def _within(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """List the images and channels of a file, as far as its name doesn't tell them apart."""
    if SITE in row and CHANNEL in row:
        yield row
        return
    contents = contents_of(Path(row["PathName"], row["FileName"]))
    sites: list[dict[str, Any]] = [{}]
    if SITE not in row:
        one = contents.num_images == 1
        sites = [{SITE: i + 1} | ({} if one else {"Series": i}) for i in range(contents.num_images)]
    channels: list[dict[str, Any]] = [{}]
    if CHANNEL not in row:
        one = len(contents.channels) == 1
        channels = [
            {CHANNEL: name} | ({} if one else {"Frame": i})
            for i, name in enumerate(contents.channels)
        ]
    for site in sites:
        for channel in channels:
            yield row | site | channel


def _natural(text: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", text)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
