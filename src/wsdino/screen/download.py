"""Fetching BBBC021 from where it is published: resumable, checked, plate by plate.

Source: https://bbbc.broadinstitute.org/BBBC021 (tables, and a ZIP archive for each plate).
"""

from __future__ import annotations

import shutil
import time
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from wsdino.atomic import write_error, sweep, visible, writing
from wsdino.errors import InputError, OutputError, WsdinoError
from wsdino.lock import one_writer
from wsdino.progress import Meter, say
from wsdino.screen.bbbc021 import IMAGE_TABLE, MOA_TABLE
from wsdino.tables.files import read_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

BBBC021 = "https://data.broadinstitute.org/bbbc/BBBC021"
ARCHIVE = "BBBC021_v1_images_{}.zip"
UNFINISHED = ".download"
BLOCK = 2**20
NUM_TRIES = 5
TIMEOUT_S = 60.0
FIRST_PAUSE_S = 1.0


def download_bbbc021(
    out: Path, *, plates: Sequence[str] | None = None, source: str = BBBC021
) -> None:
    """Fetch tables and plates into BBBC021's own layout, or go on where that was stopped.

    A plate counts once all its images are there. `out` holds a screen that can be ingested after
    each of them: its image table lists the plates that are there.

    Parameters
    ----------
    out
        Folder to write: new, empty, or of an earlier download.
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
        The connection fails over and over, or an archive is damaged where it is published.
    """
    hidden = out / UNFINISHED
    if out.exists() and not (out.is_dir() and (hidden.is_dir() or not visible(out))):
        raise OutputError(f"{out}: is there and is no download; give --out a new or empty folder")
    source = source.rstrip("/")
    if urlsplit(source).scheme not in {"http", "https"}:
        raise InputError(f"--source {source}: no http or https address")
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
    """For each plate its images: where each belongs, and its name."""
    channels = [name for name in table.columns if name.startswith("Image_FileName_")]
    if not channels:
        raise InputError(f"{path}: no column Image_FileName_<Channel>: not BBBC021's image table")
    found: dict[str, dict[Path, str]] = {}
    for column in channels:
        folders = table[column.replace("FileName", "PathName")]
        for folder, name in zip(folders, table[column], strict=True):
            place = PurePosixPath(folder)
            # What comes from the net may name no place outside.
            if place.is_absolute() or ".." in place.parts or PurePosixPath(name).name != name:
                raise InputError(f"{path}: {folder}/{name} lies outside of the folder")
            found.setdefault(place.name, {})[Path(place, name)] = name
    return found


def _missing(out: Path, images: dict[Path, str]) -> list[Path]:
    return [place for place in images if not (out / place).is_file()]


def _fetch_plate(plate: str, out: Path, images: dict[Path, str], source: str) -> None:
    if not _missing(out, images):
        say(f"{plate}: is there already")
        return
    url, archive = f"{source}/{ARCHIVE.format(plate)}", out / UNFINISHED / f"{plate}.zip"
    for is_last in (False, True):
        # One that a kill left there, whole, while it was unpacked.
        if not archive.is_file():
            _fetch(url, archive)
        damage = _unpack(archive, out, images)
        archive.unlink()
        if damage is None:
            return
        if is_last:
            raise WsdinoError(f"{url}: {damage}, twice")
        say(f"warning: {url}: {damage}; fetching it once more")


def _unpack(archive: Path, out: Path, images: dict[Path, str]) -> str | None:
    """Put the images of an archive in their places; return what is wrong with it, or None.

    Reading a member to its end compares its CRC-32.
    """
    places = {name: place for place, name in images.items()}
    try:
        with zipfile.ZipFile(archive) as file:
            for member in file.infolist():
                place = places.get(PurePosixPath(member.filename).name)
                if place is None or member.is_dir():
                    continue
                with (
                    file.open(member) as compressed,
                    writing(out / place) as partial,
                    partial.open("wb") as plain,
                ):
                    shutil.copyfileobj(compressed, plain, BLOCK)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        return f"the archive is damaged ({error})"
    missing = _missing(out, images)
    if missing:
        return f"the archive lacks {len(missing)} of {len(images)} images, first {missing[0].name}"
    return None


def _list_finished(table: pd.DataFrame, out: Path, folders: dict[str, dict[Path, str]]) -> None:
    """Write the image table of the plates that are there."""
    finished = {plate for plate, images in folders.items() if not _missing(out, images)}
    column = next(name for name in table.columns if name.startswith("Image_PathName_"))
    names = table[column].map(lambda folder: PurePosixPath(folder).name)
    with writing(out / IMAGE_TABLE) as partial:
        table[names.isin(finished)].to_csv(partial, index=False)


def _fetch(url: str, path: Path) -> None:
    """Fetch a file, going on where an earlier try was cut off.

    What has come so far is kept under a name of its own: it is no remnant, but the state.
    """
    partial, pause = path.with_name(f"{path.name}.partial"), FIRST_PAUSE_S
    for number in range(1, NUM_TRIES + 1):
        try:
            _continue(url, partial)
        except HTTPError as error:
            if error.code < 500:
                raise InputError(
                    f"{url}: the server says {error.code} {error.reason}; --source must be the "
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
    raise WsdinoError(f"{url}: {reason}; tried {NUM_TRIES} times; the same command goes on")


def _continue(url: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.is_file() else 0
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        answer = urlopen(request, timeout=TIMEOUT_S)  # noqa: S310 the user names the address
    except HTTPError as error:
        error.close()
        # The rest of a file that is whole already: begin anew, rather than trust it.
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
    """Append to a file; what the disk refuses is no matter of the connection."""
    try:
        with path.open("wb" if is_new else "ab") as file:
            file.write(block)
    except OSError as error:
        raise write_error(path, error) from error
