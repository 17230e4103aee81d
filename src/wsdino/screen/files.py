"""Locating a manifest's images: URLs, relative folders, and names in another case."""

from __future__ import annotations

import os
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
from wsdino.tables.manifest import KEY, PARTS, channels_of, illuminations_of

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        folder = self._folder(path.parent)
        if folder is None:
            return None
        names = self._names(folder)
        name = names.get(path.name) or names.get(_folded(path.name))
        return folder / name if name else None

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
        A copy with `FileName_` and `PathName_` for each channel and no `URL_`.
    missing : list of MissingImage
        Files that don't exist, channel by channel; none unless they were looked up.

    Raises
    ------
    TableError
        A URL isn't a local one.
    """
    table = table.reset_index(drop=True).copy()
    folder = absolute(folder)
    lookup = Folders()
    missing: list[MissingImage] = []
    channels = [*channels_of(table), *illuminations_of(table)]
    for channel in channels:
        images = [
            [_normal(joined(folder, path)) for path in paths]
            for paths in _relative_paths(table, channel, origin)
        ]
        if check_files:
            remote = states_of(path for paths in images for path in paths if is_remote(path))
            found = [
                [
                    lookup.find(path) if path not in remote else path if remote[path] else None
                    for path in paths
                ]
                for paths in images
            ]
            for row, (paths, real) in enumerate(zip(images, found, strict=True)):
                if None in real:
                    path = paths[real.index(None)]
                    text = f"{shown(path)} (channel {channel}{_site_of(table, row)})"
                    missing.append(MissingImage(row, path, text))
            images = [
                [one or path for path, one in zip(paths, real, strict=True)]
                for paths, real in zip(images, found, strict=True)
            ]
        # Empty names are left to the validation, which reports the row.
        located = [_located(paths) for paths in images]
        table[f"FileName_{channel}"] = [name for _, name in located]
        table[f"PathName_{channel}"] = [parent for parent, _ in located]
        table = table.drop(columns=f"URL_{channel}", errors="ignore")
    return table, missing


def _located(paths: list[Path]) -> tuple[str | None, str | None]:
    """Return the common folder of an image's files, and their names in it."""
    if len(paths) < 2:
        return (shown(paths[0].parent), paths[0].name) if paths else (None, None)
    folder = Path(os.path.commonpath([path.parent for path in paths]))
    return shown(folder), PARTS.join(path.relative_to(folder).as_posix() for path in paths)


def _relative_paths(table: pd.DataFrame, channel: str, origin: str) -> list[list[Path]]:
    """Return the paths of each image's files as given in the table; none if they aren't."""
    if f"FileName_{channel}" not in table:
        urls = table[f"URL_{channel}"].fillna("").astype(str).str.strip()
        where = f"{origin}: URL_{channel}"
        return [[_path_of_url(one, where) for one in url.split(PARTS) if one] for url in urls]
    names = table[f"FileName_{channel}"].fillna("").astype(str).str.strip()
    path_column = f"PathName_{channel}"
    folders = table.get(path_column, pd.Series("", index=table.index))
    folders = folders.fillna("").astype(str).str.strip()
    where = f"{origin}: {path_column}"
    known = {
        folder: _path_of_url(folder, where) if "://" in folder else Path(_slashes(folder))
        for folder in folders.unique()
    }
    return [
        [joined(known[folder], Path(_slashes(one))) for one in name.split(PARTS) if one]
        for folder, name in zip(folders, names, strict=True)
    ]


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
