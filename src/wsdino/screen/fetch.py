"""Fetching files over HTTP: resumed where a connection was cut, and compared with what is known."""

from __future__ import annotations

import hashlib
import re
import time
from contextlib import nullcontext
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from wsdino.atomic import write_error
from wsdino.errors import InputError, WsdinoError
from wsdino.progress import Meter, say

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

BLOCK = 2**20
NUM_TRIES = 5
TIMEOUT_S = 60.0
FIRST_PAUSE_S = 1.0
# What an address may contain as it is; "%" begins what is quoted already.
_OF_ADDRESSES = "%/:=&?~#+!$,;'@()*[]"
# An object that Amazon S3 got in one piece is tagged with its MD5.
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


def require_address(source: str) -> str:
    """Return an http or https address without a slash at its end.

    Raises
    ------
    InputError
        It is something else.
    """
    if urlsplit(source).scheme not in {"http", "https"}:
        raise InputError(f"--source {source}: not an http or https address")
    return source.rstrip("/")


def fetch(
    url: str,
    path: Path,
    *,
    advice: str,
    partial: Path | None = None,
    size: int | None = None,
    tag: str | None = None,
    shows: bool = True,
) -> None:
    """Download a file, resuming where an earlier attempt was cut off.

    Parameters
    ----------
    url
        Its address.
    path
        Where it goes, whole or not at all; its folder is created if missing.
    advice
        What to do where the server doesn't have it, for the message.
    partial
        Where data received so far is kept, under a name that stays: it is state, not a leftover.
        None: beside the file.
    size
        Bytes that it must have; None: those that the server announces.
    tag
        Its ETag on Amazon S3, compared with the content where it is an MD5; None: not compared.
    shows
        Whether to show its progress.

    Raises
    ------
    InputError
        The server doesn't have it.
    OutputError
        It can't be written.
    WsdinoError
        The connection keeps failing, or what arrives isn't what was announced.
    """
    partial = partial or path.with_name(f"{path.name}.partial")

    def attempt() -> None:
        _continue(url, partial, size, shows=shows)
        found = partial.stat().st_size
        if size is not None and found != size:
            partial.unlink()
            raise OSError(f"{found} bytes arrived instead of {size}")
        md5 = _MD5.fullmatch(tag or "")
        if md5 and hashlib.md5(partial.read_bytes(), usedforsecurity=False).hexdigest() != md5[1]:
            partial.unlink()
            raise OSError("what arrived differs from its checksum")

    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
    persistently(attempt, url, advice=advice)
    partial.replace(path)


def persistently(work: Callable[[], T], url: str, *, advice: str) -> T:
    """Try what asks a server a few times, with longer and longer pauses.

    Parameters
    ----------
    work
        Asks; an error of the connection makes it run again.
    url
        The address, for messages.
    advice
        As for :func:`fetch`.

    Raises
    ------
    InputError
        The server says that it won't.
    WsdinoError
        It failed every time.
    """
    pause = FIRST_PAUSE_S
    for number in range(1, NUM_TRIES + 1):
        try:
            return work()
        except HTTPError as error:
            if error.code < 500:
                raise InputError(
                    f"{url}: the server answered {error.code} {error.reason}; {advice}"
                ) from error
            reason = f"{error.code} {error.reason}"
        # A connection that is refused, cut or silent.
        except (OSError, HTTPException) as error:
            reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        if number < NUM_TRIES:
            say(f"{url}: {reason}; trying again in {pause:g} s")
            time.sleep(pause)
            pause *= 2
    raise WsdinoError(f"{url}: {reason}; tried {NUM_TRIES} times; the same command resumes")


def read_url(url: str, *, advice: str) -> bytes:
    """Return what a server answers; errors are those of :func:`persistently`."""

    def ask() -> bytes:
        with _ask(url) as answer:
            content: bytes = answer.read()
            length = answer.headers.get("Content-Length")
        if length and len(content) < int(length):
            raise OSError(f"cut off after {len(content)} of {length} bytes")
        return content

    return persistently(ask, url, advice=advice)


def _ask(url: str, headers: dict[str, str] | None = None) -> Any:
    """Open an address; names of files that make it up may have letters that it can't."""
    request = Request(quote(url, safe=_OF_ADDRESSES), headers=headers or {})  # noqa: S310
    return urlopen(request, timeout=TIMEOUT_S)  # noqa: S310 the user names the address


def _continue(url: str, partial: Path, size: int | None, *, shows: bool) -> None:
    have = partial.stat().st_size if partial.is_file() else 0
    if size is not None and have == size:
        return
    try:
        answer = _ask(url, {"Range": f"bytes={have}-"} if have else {})
    except HTTPError as error:
        error.close()
        # There is nothing left to request: start over, rather than trust the file.
        if error.code == 416 and have:
            partial.unlink()
            _continue(url, partial, size, shows=shows)
            return
        raise
    with answer:
        goes_on = answer.status == 206
        have = have if goes_on else 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else 0
        meter = Meter(Path(url).name, total // BLOCK, have // BLOCK, last_line=False)
        with meter if shows else nullcontext():
            _write(partial, b"", is_new=not goes_on)
            while block := answer.read(BLOCK):
                _write(partial, block)
                have += len(block)
                if size is not None and have > size:
                    break  # of another file, of whatever length
                if shows:
                    meter.advance(have // BLOCK - meter.done, "MiB")
    if total and have < total and (size is None or have < size):
        raise OSError(f"cut off after {have} of {total} bytes")


def _write(path: Path, block: bytes, *, is_new: bool = False) -> None:
    """Append to a file; errors of the disk must not be taken for those of the connection."""
    try:
        with path.open("wb" if is_new else "ab") as file:
            file.write(block)
    except OSError as error:
        raise write_error(path, error) from error
