"""Finding the folders of a published screen where its archives were unpacked."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from wsdino.counting import counted
from wsdino.errors import TableError
from wsdino.progress import say
from wsdino.screen.files import Folders
from wsdino.tables.manifest import channels_of

if TYPE_CHECKING:
    import pandas as pd

MAX_DEPTH = 4
"""How many folders deep a plate's folder is looked for."""


def relocated(table: pd.DataFrame, root: Path, *, origin: str) -> pd.DataFrame:
    """Point each folder that is not where a table says to where it lies below `root` instead.

    BBBC021's tables say ``Week1/Week1_22123``; its archives unpack to ``Week1_22123``, beside the
    tables or in a folder of their own. A plate's folder is the one of the same name that holds the
    table's first file of it; failing that, any that holds this file. What is found nowhere stays as
    it is.

    Parameters
    ----------
    table
        With `FileName_<Channel>` and `PathName_<Channel>`.
    root
        What the table's folders are relative to.
    origin
        Where the table came from, for messages.

    Raises
    ------
    TableError
        Several folders fit.
    """
    root, lookup = root.absolute(), Folders()
    examples = _examples(table)
    lost = [folder for folder in examples if not _holds_anything(lookup.find(root / folder))]
    if not lost:
        return table
    below = _folders_below(root)
    found: dict[str, str] = {}
    for folder in lost:
        name = PurePosixPath(folder).name.casefold()
        named = [path for path in below if path.name.casefold() == name]
        for candidates in (named, below):
            holding = [path for path in candidates if lookup.find(path / examples[folder])]
            if len(holding) > 1:
                raise TableError(
                    f"{origin}: {folder} is not where the table says, and {examples[folder]} lies "
                    f"in both {holding[0]} and {holding[1]}; keep one of them, or name it {folder}"
                )
            if holding:
                found[folder] = str(holding[0])
                break
    if not found:
        return table
    some = next(iter(found))
    say(
        f"{origin}: {len(found)} of {counted(len(examples), 'folder')} found elsewhere, "
        f"such as {some} at {os.path.relpath(found[some], root)}"
    )
    table = table.copy()
    for channel in channels_of(table):
        column = f"PathName_{channel}"
        if column in table:
            table[column] = [found.get(folder, folder) for folder in _plain(table[column])]
    return table


def _examples(table: pd.DataFrame) -> dict[str, str]:
    """Return each folder that the table names, with the first file that it has there."""
    examples: dict[str, str] = {}
    for channel in channels_of(table):
        if f"PathName_{channel}" in table and f"FileName_{channel}" in table:
            folders = _plain(table[f"PathName_{channel}"])
            for folder, file in zip(folders, _plain(table[f"FileName_{channel}"]), strict=True):
                if folder and file:
                    examples.setdefault(folder, file)
    return examples


def _plain(column: pd.Series) -> list[str]:
    return list(column.fillna("").astype(str).str.strip().str.replace("\\", "/"))


def _holds_anything(folder: Path | None) -> bool:
    return folder is not None and folder.is_dir() and any(folder.iterdir())


def _folders_below(root: Path) -> list[Path]:
    """All folders up to MAX_DEPTH deep that aren't hidden, in a fixed order."""
    found: list[Path] = []
    level = [root]
    for _ in range(MAX_DEPTH):
        level = [
            entry
            for folder in level
            for entry in sorted(folder.iterdir())
            if entry.is_dir() and not entry.name.startswith(".")
        ]
        found += level
    return [root, *found]
