"""Locating a manifest's images: URLs, relative folders, and names in another case."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pandas as pd

from wsdino.errors import ImageError, TableError
from wsdino.outside import reading
from wsdino.remote import absolute, is_remote, joined, shown, states_of
from wsdino.tables.lean import sharing
from wsdino.tables.manifest import KEY, PARTS, channels_of, illuminations_of

if TYPE_CHECKING:
    from collections.abc import Sequence


# Folder and name of an image; None where the table has none.
_Place = tuple[str | None, str | None]


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes
    ----------
    folder
        The folder, as spelled on disk.
    names
        The names in it by themselves, and without case.
    """

    folder: str
    names: dict[str, str]

    def spelled(self, name: str) -> str | None:
        """Return a name as spelled on disk; None if there is no such file."""
        return self.names.get(name) or self.names.get(_folded(name))


class Folders:
    """Folders, each listed once, in which names are found regardless of case.

    Screens are copied between case-sensitive and case-insensitive file systems, so a table may
    name `week4/A.TIF` while the disk has `Week4/A.tif`.
    """

    def __init__(self) -> None:
        self._listings: dict[Path, dict[str, str]] = {}
        self._found: dict[Path, Path | None] = {}

    def find(self, path: Path) -> Path | None:
        """Return the absolute `path` as spelled on disk; None if it doesn't exist."""
        listing = self.listing(path.parent)
        name = listing and listing.spelled(path.name)
        return Path(listing.folder, name) if listing and name else None

    def listing(self, folder: Path) -> Listing | None:
        """Return what a folder holds; None if it doesn't exist."""
        real = self._folder(folder)
        return None if real is None else Listing(str(real), self._names(real))

    def _folder(self, folder: Path) -> Path | None:
        if folder not in self._found:
            # Unlike Path's, this is False for names that no file system allows.
            exact = os.path.isdir(folder) or folder == folder.parent  # noqa: PTH112
            self._found[folder] = folder if exact else self.find(folder)
        return self._found[folder]

    def _names(self, folder: Path) -> dict[str, str]:
        if folder not in self._listings:
            names: list[str] = []
            if folder.is_dir():
                with reading(folder, ImageError, "the folder can't be listed"):
                    names = [path.name for path in folder.iterdir()]
            # An exact match takes precedence over one that differs in case.
            self._listings[folder] = {_folded(name): name for name in names} | {
                name: name for name in names
            }
        return self._listings[folder]


def _folded(name: str) -> str:
    """Normalise a name's case and accents, which file systems encode differently."""
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True)
class MissingImage:
    """An image that a table names and that doesn't exist.

    Attributes
    ----------
    row
        Row of the table, from 0.
    path
        The file.
    text
        The file, its channel and its site, for messages.
    """

    row: int
    path: Path
    text: str


def resolve_files(
    table: pd.DataFrame, folder: Path, *, origin: str, check_files: bool
) -> pd.DataFrame:
    """Make each image's `PathName_` absolute and its `FileName_` a bare name.

    Parameters
    ----------
    table, folder, origin, check_files
        As for :func:`find_files`; with `check_files`, an image that doesn't exist is an error.

    Returns
    -------
    pandas.DataFrame
        As :func:`find_files` returns it.

    Raises
    ------
    TableError
        A URL isn't a local one.
    ImageError
        A file does not exist.
    """
    found, missing = find_files(table, folder, origin=origin, check_files=check_files)
    require_images(missing, found, origin=origin)
    return found


def require_images(missing: Sequence[MissingImage], table: pd.DataFrame, *, origin: str) -> None:
    """Raise ImageError if images are missing."""
    if missing:
        num_files = len(table) * len([*channels_of(table), *illuminations_of(table)])
        raise ImageError(
            f"{origin}: image file {missing[0].text} does not exist; {len(missing)} of {num_files} "
            "are missing"
        )


def find_files(
    table: pd.DataFrame, folder: Path, *, origin: str, check_files: bool
) -> tuple[pd.DataFrame, list[MissingImage]]:
    """Make each image's `PathName_` absolute and its `FileName_` a bare name, spelled as on disk.

    Parameters
    ----------
    table
        With `FileName_<Channel>` and optionally `PathName_<Channel>`, or `URL_<Channel>`.
    folder
        Base of relative folders.
    origin
        Where the table came from, for messages.
    check_files
        Look up each file, ignoring case.

    Returns
    -------
    table : pandas.DataFrame
        With `FileName_` and `PathName_` for each channel and no `URL_`; other columns are shared.
    missing : list of MissingImage
        Files that don't exist, channel by channel; none unless they were looked up.

    Raises
    ------
    TableError
        A URL isn't a local one.
    """
    table = sharing(table)
    finder = _Finder(absolute(folder), origin, Folders() if check_files else None)
    missing: list[MissingImage] = []
    for channel in [*channels_of(table), *illuminations_of(table)]:
        located, absent = finder.locate(table, channel)
        for row, path in absent:
            text = f"{shown(path)} (channel {channel}{_site_of(table, row)})"
            missing.append(MissingImage(row, path, text))
        # Empty names are left to the validation, which reports the row.
        table[f"FileName_{channel}"] = pd.Series([name for _, name in located], dtype=object)
        table[f"PathName_{channel}"] = pd.Series([parent for parent, _ in located], dtype=object)
        if f"URL_{channel}" in table:
            table = table.drop(columns=f"URL_{channel}")
    return table, missing


# A name that is a file in its folder, and nothing else; others are taken apart as paths.
_BARE = re.compile(r"[^/\\|:]*[^/\\|:.][^/\\|:]*")


@dataclass(frozen=True)
class _Finder:
    """Locates images.

    Attributes
    ----------
    folder, origin
        As for :func:`find_files`.
    lookup
        Where files are looked up; None: they aren't.
    """

    folder: Path
    origin: str
    lookup: Folders | None

    def locate(
        self, table: pd.DataFrame, channel: str
    ) -> tuple[list[_Place], list[tuple[int, Path]]]:
        """Return folder and name of the image in each row, and those that are missing."""
        located: list[_Place] = [(None, None)] * len(table)
        absent: list[tuple[int, Path]] = []
        left = list(range(len(table)))
        if _is_by_name(table, channel):
            left = self._locate_bare(table, channel, located, absent)
        if len(left):
            self._locate_paths(table, channel, left, located, absent)
        return located, sorted(absent, key=lambda one: one[0])

    def _locate_bare(
        self,
        table: pd.DataFrame,
        channel: str,
        located: list[_Place],
        absent: list[tuple[int, Path]],
    ) -> list[int]:
        """Locate what has a bare name in a folder that is looked up once; return the other rows.

        A path for each of millions of images would take minutes.
        """
        names, folders = _given(table, channel)
        places: dict[str, tuple[str, Listing | None] | None] = {}
        left: list[int] = []
        for row, (name, given) in enumerate(zip(names, folders, strict=True)):
            if given not in places:
                places[given] = self._place(given, channel)
            place = places[given]
            if place is None or not _BARE.fullmatch(name):
                left.append(row)
                continue
            folder, listing = place
            located[row] = (folder, name)
            if self.lookup is not None:
                found = listing and listing.spelled(name)
                if listing and found:
                    located[row] = (listing.folder, found)
                else:
                    absent.append((row, Path(folder, name)))
        return left

    def _place(self, given: str, channel: str) -> tuple[str, Listing | None] | None:
        """Return a folder and what it holds; None if its files are asked for one by one."""
        path = _path_of_folder(given, f"{self.origin}: PathName_{channel}")
        path = _normal(joined(self.folder, path))
        if self.lookup is None:
            return shown(path), None
        return None if is_remote(path) else (shown(path), self.lookup.listing(path))

    def _locate_paths(
        self,
        table: pd.DataFrame,
        channel: str,
        rows: list[int],
        located: list[_Place],
        absent: list[tuple[int, Path]],
    ) -> None:
        """Locate images in some rows by the paths of their files."""
        images = [
            [_normal(joined(self.folder, path)) for path in paths]
            for paths in _relative_paths(table.iloc[rows], channel, self.origin)
        ]
        if self.lookup is not None:
            remote = states_of(path for paths in images for path in paths if is_remote(path))
            for position, paths in enumerate(images):
                found = [
                    self.lookup.find(path) if path not in remote else path if remote[path] else None
                    for path in paths
                ]
                if None in found:
                    absent.append((rows[position], paths[found.index(None)]))
                images[position] = [one or path for path, one in zip(paths, found, strict=True)]
        for row, paths in zip(rows, images, strict=True):
            located[row] = _located(paths)


def _located(paths: list[Path]) -> tuple[str | None, str | None]:
    """Return the common folder of an image's files, and their names in it."""
    if len(paths) < 2:
        return (shown(paths[0].parent), paths[0].name) if paths else (None, None)
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    return shown(folder), PARTS.join(path.relative_to(folder).as_posix() for path in paths)


def _relative_paths(table: pd.DataFrame, channel: str, origin: str) -> list[list[Path]]:
    """Return the paths of each image's files as given in the table; none if they aren't."""
    if not _is_by_name(table, channel):
        urls = table[f"URL_{channel}"].fillna("").astype(str).str.strip()
        where = f"{origin}: URL_{channel}"
        return [[_path_of_url(one, where) for one in url.split(PARTS) if one] for url in urls]
    where = f"{origin}: PathName_{channel}"
    names, folders = _given(table, channel)
    known = {folder: _path_of_folder(folder, where) for folder in folders.unique()}
    return [
        [joined(known[folder], Path(_slashes(one))) for one in name.split(PARTS) if one]
        for folder, name in zip(folders, names, strict=True)
    ]


def _is_by_name(table: pd.DataFrame, channel: str) -> bool:
    """Whether a table gives images by their names; a name without a folder says less than a URL."""
    has = [f"{prefix}_{channel}" in table for prefix in ("FileName", "PathName", "URL")]
    return has[0] and (has[1] or not has[2])


def _given(table: pd.DataFrame, channel: str) -> tuple[pd.Series, pd.Series]:
    """Return the name and the folder of each image as the table has them, empty where missing."""
    names = table[f"FileName_{channel}"]
    folders = table.get(f"PathName_{channel}", pd.Series("", index=table.index))
    name, folder = (each.fillna("").astype(str).str.strip() for each in (names, folders))
    return name, folder


def _path_of_folder(folder: str, where: str) -> Path:
    return _path_of_url(folder, where) if "://" in folder else Path(_slashes(folder))


def _slashes(path: str) -> str:
    return path.replace("\\", "/")


def _normal(path: Path) -> Path:
    return Path(os.path.normpath(path))


def _path_of_url(url: str, where: str) -> Path:
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"}:
        return Path(url2pathname(parts.path))
    if is_remote(url):
        return Path(url)
    if "://" in url:
        raise TableError(
            f"{where} is '{url}'; only plain paths and addresses that fsspec knows can be read "
            "(file://, s3://, https://, ...), so copy the images to a disk first"
        )
    # CellProfiler also writes `file:relative/path`.
    return Path(_slashes(url.removeprefix("file:")))


def _site_of(table: pd.DataFrame, row: int) -> str:
    known = [column for column in KEY if column in table]
    named = (
        f", {column.removeprefix('Metadata_').lower()} {table[column][row]}" for column in known
    )
    return "".join(named)
