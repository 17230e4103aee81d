"""Downloading BBBC021 from its publisher: resumable, verified, plate by plate.

Source: https://bbbc.broadinstitute.org/BBBC021 (tables, and one ZIP archive per plate).
"""

from __future__ import annotations

import shutil
import time
import zipfile
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from wsdino.atomic import sweep, visible, write_error, writing
from wsdino.errors import InputError, OutputError, WsdinoError
from wsdino.lock import one_writer
from wsdino.outside import reading, require_bounded
from wsdino.progress import Meter, say
from wsdino.screen.bbbc021 import IMAGE_TABLE, MOA_TABLE
from wsdino.tables.files import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pandas as pd

BBBC021 = "https://data.broadinstitute.org/bbbc/BBBC021"
ARCHIVE = "BBBC021_v1_images_{}.zip"
UNFINISHED = ".download"
_ARCHIVE = "the archive is damaged"
BLOCK = 2**20
NUM_TRIES = 5
TIMEOUT_S = 60.0
FIRST_PAUSE_S = 1.0


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
    hidden = out / UNFINISHED
    if out.exists() and not (out.is_dir() and (hidden.is_dir() or not visible(out))):
        raise OutputError(f"{out}: exists and is not a download; give --out a new or empty folder")
    source = source.rstrip("/")
    if urlsplit(source).scheme not in {"http", "https"}:
        raise InputError(f"--source {source}: not an http or https address")
    with one_writer(out):
        sweep(out)
        _download(out, plates, source)


def _download(out: Path, plates: Sequence[str] | None, source: str) -> None:
    hidden = out / UNFINISHED
    try:
        hidden.mkdir(parents=True, exist_ok=True)
        for name in (IMAGE_TABLE, MOA_TABLE):
            if not (hidden / name).is_file():
                _fetch(f"{source}/{name}", hidden / name)
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
    except OSError as error:
        raise write_error(out, error) from error


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
            _fetch(url, archive)
        damage = _unpack(archive, out, images)
        archive.unlink()
        if damage is None:
            return
        if is_last:
            raise WsdinoError(f"{url}: {damage}, twice")
        say(f"warning: {url}: {damage}; downloading it again")


def _unpack(archive: Path, out: Path, images: dict[Path, str]) -> str | None:
    """Move the images of an archive into place; return what is wrong with it, or None.

    Reading a member to its end verifies its CRC-32.
    """
    places = {name: place for place, name in images.items()}
    try:
        with reading(_ARCHIVE, _DamagedError):
            require_bounded(archive)
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                place = places.get(PurePosixPath(member.filename).name)
                if place is None or member.is_dir():
                    continue
                with writing(out / place) as partial, partial.open("wb") as plain:
                    plain.writelines(_blocks(file, member))
    except _DamagedError as error:
        return str(error)
    missing = _missing(out, images)
    if missing:
        return f"the archive lacks {len(missing)} of {len(images)} images, first {missing[0].name}"
    return None


def _blocks(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """Unpack a member; its damage is told from errors of the disk that it is written to."""
    with reading(_ARCHIVE, _DamagedError):
        packed = archive.open(member)
    with packed:
        while True:
            with reading(_ARCHIVE, _DamagedError):
                block = packed.read(BLOCK)
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


def _fetch(url: str, path: Path) -> None:
    """Download a file, resuming where an earlier attempt was cut off.

    Data received so far is kept under a separate name: it is state, not a leftover.
    """
    partial, pause = path.with_name(f"{path.name}.partial"), FIRST_PAUSE_S
    for number in range(1, NUM_TRIES + 1):
        try:
            _continue(url, partial)
        except HTTPError as error:
            if error.code < 500:
                raise InputError(
                    f"{url}: the server answered {error.code} {error.reason}; --source must be the "
                    "folder with the tables and archives"
                ) from error
            reason = f"{error.code} {error.reason}"
        # A connection that is refused, cut or silent.
        except (OSError, HTTPException) as error:
            reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        else:
            partial.replace(path)
            return
        if number < NUM_TRIES:
            say(f"{url}: {reason}; trying again in {pause:g} s")
            time.sleep(pause)
            pause *= 2
    raise WsdinoError(f"{url}: {reason}; tried {NUM_TRIES} times; the same command resumes")


def _continue(url: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.is_file() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        answer = urlopen(request, timeout=TIMEOUT_S)  # noqa: S310 the user names the address
    except HTTPError as error:
        error.close()
        # There is nothing left to request: start over, rather than trust the file.
        if error.code == 416:
            partial.unlink()
            _continue(url, partial)
            return
        raise
    with answer:
        goes_on = answer.status == 206
        have = have if goes_on else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else 0
        with Meter(Path(url).name, total // BLOCK, have // BLOCK, last_line=False) as meter:
            _write(partial, b"", is_new=not goes_on)
            while block := answer.read(BLOCK):
                _write(partial, block)
                have += len(block)
                meter.advance(have // BLOCK - meter.done, "MiB")
    if total and have < total:
        raise OSError(f"cut off after {have} of {total} bytes")


def _write(path: Path, block: bytes, *, is_new: bool = False) -> None:
    """Append to a file; errors of the disk must not be taken for those of the connection."""
    try:
        with path.open("wb" if is_new else "ab") as file:
            file.write(block)
    except OSError as error:
        raise write_error(path, error) from error
