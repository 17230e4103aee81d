"""Bytes from outside: whatever is wrong with a file becomes one typed line that names it.

Decoders raise nearly any exception for damaged bytes, so none are listed here: what is raised while
a file is being parsed is the file's fault. Blocks under :func:`reading` therefore hold nothing but
parsing. What no bytes can cause, such as a name that doesn't exist, stays what it is.
"""

from __future__ import annotations

import gzip
import io
import json
import traceback
import zipfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsdino.errors import WsdinoError
from wsdino.stopping import signal_received

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import TypeAdapter

    from wsdino.errors import InputError

_LONGEST_REASON = 200
# The problem is in the bytes, and the name of the exception says more than its text.
_NAMED = (LookupError, AttributeError, TypeError, AssertionError, ArithmeticError)


@contextmanager
def reading(
    path: Path | str,
    error: type[Exception],
    problem: str = "can't be read",
    *,
    advice: str = "",
) -> Iterator[None]:
    """Turn whatever is raised while something is parsed into an error that names it.

    Errors of wsdino, signals, and mistakes in wsdino's own code pass unchanged.

    Parameters
    ----------
    path
        What is read. If it is a Path that exists, it must be a regular file or a folder: reading a
        pipe or device could wait forever or never end.
    error
        The type to raise.
    problem
        What to say of it; the reason follows.
    advice
        What would be right, where the reader can tell.

    Raises
    ------
    Exception
        Of the given type.
    """
    advice = f"; {advice}" if advice else ""
    if isinstance(path, Path) and path.exists() and not (path.is_file() or path.is_dir()):
        raise error(f"{path}: neither a file nor a folder, but a pipe, socket or device{advice}")
    try:
        yield
    except Exception as cause:
        # Compiled code may turn a signal into an error of its own.
        if isinstance(cause, (WsdinoError, error)) or signal_received() or _is_own(cause):
            raise
        # Errors derived from it, such as that of a hub that can't be reached, say more.
        is_absent = (
            not path.exists() if isinstance(path, Path) else type(cause) is FileNotFoundError
        )
        if is_absent:
            raise error(f"{path}: no such file{advice}") from cause
        raise error(f"{path}: {problem}: {reason_of(cause)}{advice}") from cause


# Whatever the bytes, these are mistakes of the code that raises them.
_MISTAKES = (NameError, ImportError, AssertionError, NotImplementedError)


def _is_own(error: Exception) -> bool:
    """Whether an error is a mistake in wsdino's own code, rather than in what it reads."""
    if not isinstance(error, _MISTAKES):
        return False
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = frames[-1].f_globals.get("__name__", "") if frames else ""
    return str(module).partition(".")[0] == __package__


def reason_of(error: Exception) -> str:
    """Return an error's text on one line, or what it means where it has none."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    text = getattr(error, "strerror", None) or " ".join(str(error).split())
    if not text or isinstance(error, _NAMED):
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def read_json(path: Path, error: type[InputError], shape: Any = dict[str, Any]) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    path
        The file, in UTF-8.
    error
        The type to raise.
    shape
        What it must hold: any type that pydantic can check, such as a TypedDict.

    Returns
    -------
    Any
        A value of that shape.

    Raises
    ------
    InputError
        Of the given type, if the file is missing, is not JSON, or holds something else.
    """
    with reading(path, error, "can't be read as JSON"):
        return parse_json(path.read_text(encoding="utf-8"), shape)


def parse_json(text: str | bytes, shape: Any = dict[str, Any]) -> Any:
    """Parse JSON, and check its shape; see :func:`read_json`.

    Raises
    ------
    ValueError
        It is not JSON, or something else; the message is one line.
    RecursionError
        It is nested too deeply.
    """
    return require_shape(json.loads(text), shape)


def require_shape(value: Any, shape: Any) -> Any:
    """Return a value if it has a shape, see :func:`read_json`.

    Raises
    ------
    ValueError
        It hasn't; the message names the first place.
    """
    for problem in misfits(value, shape, strict=False).values():
        raise ValueError(problem)
    return value


def misfits(value: Any, shape: Any, *, strict: bool = True) -> dict[str, str]:
    """Find what of a JSON value has another shape than it must have.

    Parameters
    ----------
    value
        A value as JSON has them.
    shape
        See :func:`read_json`.
    strict
        Whether text that could be read as a number is none.

    Returns
    -------
    dict
        For each key of an object with such a place (of other values: for ``""``) the first place,
        what is there, and what should be.
    """
    from pydantic import ValidationError

    found: dict[str, str] = {}
    try:
        _checker(shape).validate_python(value, strict=strict)
    except ValidationError as error:
        for each in error.errors(include_url=False, include_context=False):
            key, *_ = *map(str, each["loc"]), ""
            if key not in found:
                where = ".".join(map(str, each["loc"]))
                message = each["msg"][:1].lower() + each["msg"][1:]
                there = f"found {str(each['input'])[:60]!r}: {message}"
                found[key] = f"{where}: {there}" if where else there
    return found


@cache
def _checker(shape: Any) -> TypeAdapter[Any]:
    """Return what checks a shape; to make it takes longer than to check a line of metrics."""
    from pydantic import TypeAdapter

    return TypeAdapter(shape)


# No table or image is packed more tightly: what is refused here grows from kB to GB.
_MAX_RATIO, _SMALL_BYTES = 300, 1 << 28


def require_ratio(packed: int, plain: int) -> None:
    """Refuse bytes that unpack to far more than data do; see :func:`require_bounded`."""
    if plain > max(_SMALL_BYTES, _MAX_RATIO * packed):
        raise ValueError(
            f"its {packed} bytes unpack to {plain} or more, which no table or image does"
        )


def unzipped(data: bytes) -> bytes:
    """Unpack gzip, unless it grows beyond what data do.

    Raises
    ------
    ValueError
        It does.
    OSError, EOFError, zlib.error
        It is damaged.
    """
    limit = max(_SMALL_BYTES, _MAX_RATIO * len(data))
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        found = file.read(limit + 1)
    require_ratio(len(data), len(found))
    return found


def require_bounded(archive: Path) -> None:
    """Refuse a zip archive whose members grow beyond what data do.

    Raises
    ------
    ValueError
        They do.
    OSError, zipfile.BadZipFile
        It can't be read.
    """
    with zipfile.ZipFile(archive) as file:
        require_ratio(archive.stat().st_size, sum(one.file_size for one in file.infolist()))
