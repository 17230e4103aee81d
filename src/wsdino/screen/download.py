"""Downloading BBBC021 from its publisher: resumable, verified, plate by plate.

Source: https://bbbc.broadinstitute.org/BBBC021 (tables, and one ZIP archive per plate).
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from wsdino.atomic import sweep, visible, write_error, write_text, writing
from wsdino.errors import InputError, OutputError, WsdinoError
from wsdino.lock import one_writer
from wsdino.outside import reading, require_bounded
from wsdino.progress import say
from wsdino.screen.bbbc021 import IMAGE_TABLE, MOA_TABLE
from wsdino.screen.fetch import BLOCK, fetch, require_address
from wsdino.tables.files import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

BBBC021 = "https://data.broadinstitute.org/bbbc/BBBC021"
ARCHIVE = "BBBC021_v1_images_{}.zip"
UNFINISHED = ".download"
_ARCHIVE = "the archive is damaged"
ADVICE = "--source must be the folder with the tables and archives"


class _DamagedError(InputError):
    """An archive can't be unpacked."""


def download_bbbc021(
    out: Path, *, plates: Sequence[str] | None = None, source: str = BBBC021
) -> None:
    """Download tables and plates into BBBC021's own layout, or resume a stopped download.

    A plate is finished once all its images are there. After each plate, `out` holds a screen that
    can be ingested: its image table lists the finished plates.

    Parameters
    ----------
    out
        Folder to write: new, empty, or an earlier download.
    plates
        Names such as ``Week1_22123``; None: all 55, about 45 GB while they are unpacked.
    source
        Address of the folder with the tables and archives.

    Raises
    ------
    InputError
        The address is wrong, or the image table has no such plate.
    OutputError
        `out` holds something else, or can't be written.
    WsdinoError
        The connection keeps failing, or an archive is damaged at its source.
    """
    source = require_address(source)
    with downloading(out, "bbbc021"):
        _download(out, plates, source)


@contextmanager
def downloading(out: Path, dataset: str) -> Iterator[Path]:
    """Hold the lock of a folder for a download; yield the folder of what is unfinished.

    Parameters
    ----------
    out
        New, empty, or an earlier download of the same.
    dataset
        What is downloaded, which is noted.

    Raises
    ------
    OutputError
        `out` holds something else, or can't be written.
    """
    hidden = out / UNFINISHED
    if out.exists() and not (out.is_dir() and (hidden.is_dir() or not visible(out))):
        raise OutputError(f"{out}: exists and is not a download; give --out a new or empty folder")
    with one_writer(out):
        sweep(out)
        try:
            hidden.mkdir(parents=True, exist_ok=True)
            note = hidden / "dataset"
            earlier = note.read_text().strip() if note.is_file() else dataset
            if earlier != dataset:
                raise OutputError(
                    f"{out}: holds a download of {earlier}; give --out another folder"
                )
            write_text(note, dataset + "\n")
            yield hidden
        except OSError as error:
            raise write_error(out, error) from error


def _download(out: Path, plates: Sequence[str] | None, source: str) -> None:
    hidden = out / UNFINISHED
    for name in (IMAGE_TABLE, MOA_TABLE):
        _fetch_table(f"{source}/{name}", hidden / name)
    with writing(out / MOA_TABLE) as partial:
        shutil.copyfile(hidden / MOA_TABLE, partial)
    table = read_file(hidden / IMAGE_TABLE)
    with reading(hidden / IMAGE_TABLE, InputError, "not BBBC021's image table"):
        folders = _folders(table, hidden / IMAGE_TABLE)
    wanted = list(folders) if plates is None else list(dict.fromkeys(plates))
    for plate in wanted:
        if plate not in folders:
            raise InputError(
                f"--plate {plate}: {IMAGE_TABLE} has no such plate; it has "
                f"{', '.join(sorted(folders)[:3])}, ..."
            )
    for plate in wanted:
        _fetch_plate(plate, out, folders[plate], source)
        _list_finished(table, out, folders)


def _fetch_table(url: str, path: Path) -> None:
    """Fetch a table, unless it is there as it was fetched: a flipped bit may be another label."""
    note = path.with_name(f"{path.name}.sha256")
    if path.is_file() and note.is_file() and note.read_text().strip() != _digest(path):
        say(f"warning: {path}: differs from what was downloaded; downloading it again")
        path.unlink()
    if not path.is_file():
        fetch(url, path, advice=ADVICE)
    write_text(note, _digest(path) + "\n")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _folders(table: pd.DataFrame, path: Path) -> dict[str, dict[Path, str]]:
    """Map each plate to its images: path of each in the layout, and its name in the table."""
    channels = [name for name in table.columns if name.startswith("Image_FileName_")]
    if not channels:
        raise InputError(f"{path}: no column Image_FileName_<Channel>: not BBBC021's image table")
    found: dict[str, dict[Path, str]] = {}
    for column in channels:
        folders = table[column.replace("FileName", "PathName")]
        for folder, name in zip(folders, table[column], strict=True):
            place = PurePosixPath(folder)
            # A downloaded table must not name paths outside of the folder.
            if place.is_absolute() or ".." in place.parts or PurePosixPath(name).name != name:
                raise InputError(f"{path}: {folder}/{name} lies outside the folder")
            found.setdefault(place.name, {})[Path(place, name)] = name
    return found


def _missing(out: Path, images: dict[Path, str]) -> list[Path]:
    return [place for place in images if not (out / place).is_file()]


def _fetch_plate(plate: str, out: Path, images: dict[Path, str], source: str) -> None:
    if not _missing(out, images):
        say(f"{plate}: already there")
        return
    url, archive = f"{source}/{ARCHIVE.format(plate)}", out / UNFINISHED / f"{plate}.zip"
    for is_last in (False, True):
        # A complete archive, left there by a process that was killed while unpacking it.
        if not archive.is_file():
            fetch(url, archive, advice=ADVICE)
        damage = _unpack(archive, out, images)
        archive.unlink()
        if damage is None:
            return
        if is_last:
            raise WsdinoError(f"{url}: {damage}, twice")
        say(f"warning: {url}: {damage}; downloading it again")


class _DamageError(InputError):
    """What is wrong with an archive; not of the disk that it is unpacked to."""


def _damage() -> AbstractContextManager[None]:
    """Take whatever an archive makes its reader raise for damage: its bytes are anyone's."""
    return reading(_ARCHIVE, _DamageError)


def _unpack(archive: Path, out: Path, images: dict[Path, str]) -> str | None:
    """Move the images of an archive into place; return what is wrong with it, or None.

    Reading a member to its end verifies its CRC-32.
    """
    places = {name: place for place, name in images.items()}
    try:
        with _damage():
            require_bounded(archive)
            file = zipfile.ZipFile(archive)
        with file:
            for member in file.infolist():
                place = places.get(PurePosixPath(member.filename).name)
                if place is None or member.is_dir():
                    continue
                with writing(out / place) as partial, partial.open("wb") as plain:
                    for block in _blocks(file, member):
                        plain.write(block)
    except _DamageError as error:
        return str(error)
    missing = _missing(out, images)
    if missing:
        return f"the archive lacks {len(missing)} of {len(images)} images, first {missing[0].name}"
    return None


def _blocks(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    with _damage():
        compressed = file.open(member)
    with compressed:
        while True:
            with _damage():
                block = compressed.read(BLOCK)
            if not block:
                return
            yield block


def _list_finished(table: pd.DataFrame, out: Path, folders: dict[str, dict[Path, str]]) -> None:
    """Write the image table of the finished plates."""
    finished = {plate for plate, images in folders.items() if not _missing(out, images)}
    column = next(name for name in table.columns if name.startswith("Image_PathName_"))
    names = table[column].map(lambda folder: PurePosixPath(folder).name)
    with writing(out / IMAGE_TABLE) as partial:
        table[names.isin(finished)].to_csv(partial, index=False)
