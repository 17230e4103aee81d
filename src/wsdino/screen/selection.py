"""Which of a screen's images a user wants: channels, z planes, time points, acquisitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsdino.errors import InputError

MAX: Literal["max"] = "max"
"""The maximum over all z planes."""


@dataclass(frozen=True)
class Selection:
    """Which of a screen's images are read.

    Parameters
    ----------
    channels
        Channels in the order wanted, each as ``NAME``, or as ``NEW=NAME`` to rename it. Empty: all,
        as they are named.
    z
        Number of a z plane, as the screen's files or tables number them and from 0 within a file,
        or `MAX`.
    time
        Number of a time point, likewise.
    acquisition
        One of several acquisitions of a plate.
    pattern
        Regular expression with named groups for the names of images in a folder, see
        :mod:`wsdino.screen.layouts.pattern`.

    Examples
    --------
    >>> import wsdino
    >>> selection = wsdino.Selection(channels=("DNA=DAPI",))
    >>> manifest = wsdino.read_manifest("PLATES", selection=selection)
    >>> [name for name in manifest if name.startswith("FileName_")]
    ['FileName_DNA']
    """

    channels: tuple[str, ...] = ()
    z: int | Literal["max"] | None = None
    time: int | None = None
    acquisition: str | None = None
    pattern: str | None = None

    def __post_init__(self) -> None:
        for name in ("z", "time"):
            number = getattr(self, name)
            if isinstance(number, int) and number < 0:
                raise InputError(f"{name} {number}: planes and time points count from 0 or 1")


def parse_z(text: str | None) -> int | Literal["max"] | None:
    """Parse the value of ``--z``.

    Raises
    ------
    InputError
        It is neither a whole number nor `MAX`.
    """
    if text is None or text == MAX:
        return MAX if text == MAX else None
    if not text.isdecimal():
        raise InputError(f"--z {text!r}: give the number of a plane, or {MAX}")
    return int(text)
