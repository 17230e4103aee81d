"""Where the pixels of one channel of one site are: a plane of a file, or several planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from wsdino.tables.columns import TIME_POINT, Z_PLANE
from wsdino.tables.manifest import PARTS, channels_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Plane:
    """Location of one channel of one site.

    Parameters
    ----------
    path
        An image file, or the group of an OME-Zarr image.
    frame
        Index along its channel axis; None if the file has a single plane.
    series
        Which of the file's images; None if it has a single one.
    z, time
        Index along these axes, or the maximum over z; None if the file has none.
    others
        Further planes: the channel is the maximum of all of them, pixel by pixel.
    """

    path: Path
    frame: int | None = None
    series: int | None = None
    z: int | Literal["max"] | None = None
    time: int | None = None
    others: tuple[Plane, ...] = ()

    @property
    def parts(self) -> tuple[Plane, ...]:
        """All planes of which this is the maximum, itself first."""
        return (self, *self.others)

    @property
    def name(self) -> str:
        """Say which pixels are meant; different for different ones."""
        further = {"series": self.series, "z": self.z, "time": self.time}
        named = [f"{key} {value}" for key, value in further.items() if value is not None]
        return "\0".join(
            [str(self.path), str(self.frame), *named, *(other.name for other in self.others)]
        )


class Planes(Sequence[list[Plane]]):
    """The planes of each site's channels, in the order of :func:`channels_of`.

    They are made when they are asked for, as a screen has millions.

    Parameters
    ----------
    manifest
        A valid manifest; `Frame_<Channel>`, if given, is the zero-based index of the channel's
        plane in its file, and `Series_<Channel>` that of an image in its file, as in CellProfiler.
    """

    def __init__(self, manifest: pd.DataFrame) -> None:
        nothing = [None] * len(manifest)
        self._num = len(manifest)
        self._channels: list[list[Sequence[Any]]] = []
        for channel in channels_of(manifest):
            prefixes = ("PathName", "FileName", "Frame", "Series", Z_PLANE, TIME_POINT)
            columns = (manifest.get(f"{prefix}_{channel}") for prefix in prefixes)
            self._channels.append(
                [nothing if column is None else column.tolist() for column in columns]
            )

    def __len__(self) -> int:
        return self._num

    @overload
    def __getitem__(self, site: int) -> list[Plane]: ...

    @overload
    def __getitem__(self, site: slice) -> list[list[Plane]]: ...

    def __getitem__(self, site: int | slice) -> list[Plane] | list[list[Plane]]:
        if isinstance(site, slice):
            return [self[number] for number in range(self._num)[site]]
        row = range(self._num)[site]
        return [_plane(*(column[row] for column in columns)) for columns in self._channels]


def _plane(folder: str, name: str, frame: Any, series: Any, z: Any, time: Any) -> Plane:
    names = name.split(PARTS)
    frames, images = (_parts(cell, len(names)) for cell in (frame, series))
    where: Any = {
        "z": z if z in (None, "max") else int(z),
        "time": None if time is None else int(time),
    }
    first, *others = (
        Plane(Path(folder, name), frame, image, **where)
        for name, frame, image in zip(names, frames, images, strict=True)
    )
    return Plane(first.path, first.frame, first.series, **where, others=tuple(others))


def _parts(cell: Any, num: int) -> Sequence[int | None]:
    if cell is None:
        return [None] * num
    numbers = [int(number) for number in str(cell).split(PARTS)]
    return numbers if len(numbers) == num else numbers * num
