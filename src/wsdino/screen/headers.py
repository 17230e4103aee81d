"""Size and type of every image of a screen, by their headers alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsdino.errors import ImageError
from wsdino.progress import Meter
from wsdino.screen.convert import in_threads
from wsdino.screen.images import Plane, read_header, require_alike

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def read_headers(
    planes: Sequence[Sequence[Plane]], *, num_threads: int
) -> Iterator[tuple[Path, str | ImageError | None]]:
    """Yield each image file with its description, or with the error that its header gives.

    The description is None where only reading the pixels tells. A file with several images is
    yielded for each of them.

    Parameters
    ----------
    planes
        Of N sites.
    num_threads
        Threads that read.
    """
    images = list(
        dict.fromkeys(
            (part.path, part.series) for site in planes for plane in site for part in plane.parts
        )
    )

    def look(path: Path, series: int | None) -> tuple[Path, str | ImageError | None]:
        try:
            return path, read_header(path, series)
        except ImageError as error:
            return path, error

    with Meter("check images", len(images), last_line=False) as meter:
        for found in in_threads(look, images, num_threads=num_threads):
            yield found
            meter.advance()


def require_one_kind(
    planes: Sequence[Sequence[Plane]], expected: str, example: Path, *, num_threads: int
) -> None:
    """Refuse images whose size or type isn't as expected.

    Parameters
    ----------
    planes, num_threads
        As for :func:`read_headers`.
    expected
        Size and type of every image, see :func:`~wsdino.screen.images.describe`.
    example
        The image that says so, for messages.

    Raises
    ------
    ImageError
        A header can't be read, or says something else.
    """
    problems: dict[Path, ImageError] = {}
    for path, found in read_headers(planes, num_threads=num_threads):
        try:
            if isinstance(found, ImageError):
                raise found
            if found is not None:
                require_alike(found, path, expected, example)
        except ImageError as error:
            problems[path] = error
    if not problems:
        return
    # The first in the table's order is named, whichever was read first.
    for part in (part for site in planes for plane in site for part in plane.parts):
        if part.path in problems:
            raise problems[part.path]
