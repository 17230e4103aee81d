"""Addresses beside paths: what lies in a bucket or on a server, through fsspec.

An address is kept as a path whose first part is its protocol. pathlib makes `s3:/bucket/plate` of
`s3://bucket/plate`, and :func:`address_of` turns that back.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import fsspec

from wsdino.errors import ImageError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
NUM_READERS = 16
FIRST_PAUSE_S = 1.0
# A drive of Windows has one letter.
_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
# What tells whether a file is still the same, in the words of HTTP, S3 and others.
_STATE = ("size", "ETag", "etag", "Last-Modified", "LastModified", "mtime", "md5Hash", "updated")
_DESCRIPTIONS = ("zarr.json", ".zattrs")
# Headers of images are a few kB.
_BLOCK_BYTES = 1 << 16
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE")


@cache
def _known() -> frozenset[str]:
    return frozenset(fsspec.available_protocols()) - {"file", "local"}


def address_of(path: str | Path) -> str | None:
    """Return the address that a path stands for; None if it is a path."""
    if str(path)[:1] in {"/", "."}:
        return None
    parts = Path(path).parts
    found = _PROTOCOL.fullmatch(parts[0]) if parts else None
    if found is None or found[1].lower() not in _known():
        return None
    return f"{found[1].lower()}://{'/'.join(parts[1:])}"


def is_remote(path: str | Path) -> bool:
    """Whether a path stands for an address."""
    return address_of(path) is not None


def shown(path: str | Path) -> str:
    """Return a path as its user writes it."""
    return address_of(path) or str(path)


def named(path: Path) -> Path | str:
    """Return what errors call a file: a path, or the address as its user writes it."""
    return address_of(path) or path


def absolute(path: Path) -> Path:
    """Return the absolute path; an address is one."""
    return path if is_remote(path) else path.absolute()


def joined(folder: Path, path: Path) -> Path:
    """Return a path in a folder, unless it is absolute or an address."""
    return path if is_remote(path) else folder / path


def options_of(address: str) -> dict[str, Any]:
    """Return how a protocol is spoken: S3 without an account, unless one is configured."""
    is_s3 = address.startswith(("s3://", "s3a://"))
    return {"anon": not any(map(os.environ.get, _CREDENTIALS))} if is_s3 else {}


def _system(address: str) -> Any:
    """Return fsspec's file system for an address.

    Raises
    ------
    InputError
        What speaks the protocol isn't installed.
    """
    try:
        return fsspec.core.url_to_fs(address, **options_of(address))[0]
    except ImportError as error:
        protocol = address.partition("://")[0]
        raise InputError(
            f"{address}: what reads {protocol}:// is not installed ({error}); pip install "
            "'wsdino[remote]' has it for s3:// and https://"
        ) from error


def _failures() -> tuple[type[Exception], ...]:
    """Return what fsspec and the libraries below it raise where a server fails."""
    found: list[type[Exception]] = [OSError, ValueError, RuntimeError, TypeError, KeyError]
    try:
        from aiohttp import ClientError

        found.append(ClientError)
    except ImportError:
        pass
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.exceptions import ClientError as S3Error

        found += [BotoCoreError, S3Error]
    except ImportError:
        pass
    return tuple(found)


def state_of(path: Path) -> str | None:
    """Return what changes with a remote file's size, time or tag; None if there is none.

    Of a folder it is that of all files in it, where the protocol lists them, and otherwise that of
    Zarr's description of it.

    Raises
    ------
    ImageError
        The server can't be asked.
    """
    address = address_of(path) or ""
    try:
        system = _system(address)
        found = system.info(address)
        if found.get("type") == "directory":
            inside = system.find(address, detail=True)
            return "\n".join(f"{name} {_described(inside[name])}" for name in sorted(inside))
        return _described(found)
    except FileNotFoundError:
        parts = (path / name for name in _DESCRIPTIONS if path.name not in _DESCRIPTIONS)
        return None if path.suffix else next(filter(None, map(state_of, parts)), None)
    except InputError:
        raise
    except _failures() as error:
        raise ImageError(
            f"{address}: can't be looked up: {_reason(error)}; check address and network, or copy "
            "the images to a disk first"
        ) from error


def _described(found: dict[str, Any]) -> str:
    return " ".join(f"{name}={found[name]}" for name in _STATE if found.get(name) is not None)


def listed(path: Path) -> dict[str, bool]:
    """List a remote folder.

    Returns
    -------
    dict
        Name -> whether it is a folder; empty where there is no such folder, and where the server
        doesn't list its folders.

    Raises
    ------
    InputError
        The server fails.
    """
    address = (address_of(path) or "").rstrip("/")
    is_page = address.startswith(("http://", "https://"))

    def ask() -> list[dict[str, Any]]:
        try:
            # What was listed before may have grown.
            again = {} if is_page else {"refresh": True}
            entries: list[dict[str, Any]] = _system(address).ls(f"{address}/", detail=True, **again)
        except _failures() as error:
            if 400 <= getattr(error, "status", 0) < 500:
                raise PermissionError(_reason(error)) from error
            raise
        return entries

    refused = (FileNotFoundError, NotADirectoryError, PermissionError)
    try:
        entries = _persistently(ask, address, "listed", refused)
    except refused:
        return {}
    found = {}
    for entry in entries:
        name, is_folder = str(entry["name"]).rstrip("/"), entry["type"] == "directory"
        if not is_page:
            # A file is listed as what lies in it.
            if not address.endswith(f"://{name}"):
                found[name.rpartition("/")[2]] = is_folder
        # A page of links has others, too: to folders above, and to itself in another order.
        elif unquote(name).startswith(f"{address}/") and not {"?", "#"} & set(name):
            inside = unquote(name).removeprefix(f"{address}/")
            if inside and "/" not in inside:
                found[inside] = is_folder
    return found


def fetched(path: Path, copy: Path) -> Path:
    """Fetch a remote file to a place on this machine, whose folder is made if it is missing.

    Raises
    ------
    FileNotFoundError, InputError
        As for :func:`local_copy`.
    """
    copy.parent.mkdir(parents=True, exist_ok=True)
    _fetch(address_of(path) or "", copy)
    return copy


def states_of(paths: Iterable[Path]) -> dict[Path, str | None]:
    """Return :func:`state_of` of many remote files, several asked for at once."""
    wanted = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(NUM_READERS) as pool:
        return dict(zip(wanted, pool.map(state_of, wanted), strict=True))


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yield a file that can be read here: the file itself, or a copy that is deleted afterwards.

    Raises
    ------
    FileNotFoundError
        There is no such remote file.
    InputError
        It can't be fetched, or arrives incomplete. An error of this kind that names the copy names
        the address instead.
    """
    address = address_of(path)
    if address is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="wsdino-") as folder:
        # A name of its own is not needed, but the suffix tells the format.
        name = hashlib.sha256(address.encode()).hexdigest()[:12] + "".join(path.suffixes[-2:])
        copy = Path(folder, name)
        _fetch(address, copy)
        try:
            yield copy
        except InputError as error:
            raise type(error)(str(error).replace(str(copy), address)) from error


def content_of(path: Path) -> bytes:
    """Return what a file holds, here or at an address.

    Raises
    ------
    FileNotFoundError, InputError
        As for :func:`local_copy`.
    """
    with local_copy(path) as file:
        return file.read_bytes()


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file of which parts are read; of one at an address only these are fetched."""
    address = address_of(path)
    if address is None:
        with path.open("rb") as file:
            yield file
        return
    with _system(address).open(address, "rb", block_size=_BLOCK_BYTES) as file:
        yield file


def copying(path: Path) -> str:
    """Return the command that copies what lies at an address, to be put into a sentence."""
    address = (address_of(path) or "").rstrip("/")
    name = address.rpartition("/")[2]
    if address.startswith("s3://"):
        account = " --no-sign-request" if options_of(address)["anon"] else ""
        return f": aws s3 sync{account} {address} {name}"
    if address.startswith(("http://", "https://")):
        return f": wget -r -np -nH {address}/"
    return ""


def is_file(path: Path) -> bool:
    """Whether there is a file, here or at an address.

    Raises
    ------
    ImageError
        As for :func:`state_of`.
    """
    return state_of(path) is not None if is_remote(path) else path.is_file()


def _fetch(address: str, copy: Path) -> None:
    """Fetch a file, and try again a few times where that fails."""

    def fetch() -> None:
        system = _system(address)
        system.get_file(address, str(copy))
        size = system.info(address).get("size")
        if size not in (None, copy.stat().st_size):
            raise OSError(f"{copy.stat().st_size} bytes arrived instead of {size}")

    _persistently(fetch, address, "fetched", (FileNotFoundError,))


def _persistently(
    ask: Callable[[], T], address: str, done: str, refused: tuple[type[Exception], ...]
) -> T:
    """Ask a server, and again a few times where it fails, but not where it refuses."""
    pauses = iter((FIRST_PAUSE_S, 4 * FIRST_PAUSE_S))
    final: tuple[type[Exception], ...] = (InputError, *refused)
    while True:
        try:
            return ask()
        except final:
            raise
        except _failures() as error:
            pause = next(pauses, None)
            if pause is None:
                raise ImageError(f"{address}: can't be {done}: {_reason(error)}") from error
            time.sleep(pause)


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
