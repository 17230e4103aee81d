"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from wsdino.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def replace_file(path: Path, suffix: str, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then move it there in one step.

    Parameters
    ----------
    path
        Where the file goes; its folder is made where it is missing.
    suffix
        Of the partial file, for writers that go by it.
    write
        Called with the partial file's path.

    Raises
    ------
    OutputError
        If the path can't be written.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        os.replace(partial, path)  # noqa: PTH105
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        msg = f"{path}: can't be written: {error.strerror or error}"
        raise OutputError(msg) from error
