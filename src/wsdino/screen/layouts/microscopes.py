"""CZI, ND2 and LIF files, by the readers of bioio (`pip install 'wsdino[bioio]'`).

A position (scene) is a site. Which well it is in is read from its name, such as `B04` or `P2-B04`,
or from the file's; other names are read by `--pattern`, with each position a site.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import InputError, TableError, option
from wsdino.remote import copying, is_remote, shown
from wsdino.screen.formats import MICROSCOPES, which_image
from wsdino.screen.layouts.listing import CHANNEL, as_sites, unique_names
from wsdino.screen.layouts.places import files_below
from wsdino.screen.lengths import pixel_size
from wsdino.screen.readers import RawTable
from wsdino.tables.columns import PLATE, SITE, WELL
from wsdino.tables.identity import normalise_well

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from numpy.typing import NDArray

    from wsdino.screen.formats import Taken

INSTALL = "pip install 'wsdino[bioio]'"
_WELL = re.compile(r"(?<![A-Za-z0-9])([A-P](?:0?[1-9]|1[0-9]|2[0-4]))(?![A-Za-z0-9])")


def recognises(path: Path) -> bool:
    """Whether a path is such a file, or a folder of them."""
    return bool(_files(path))


def _files(path: Path) -> list[Path]:
    return files_below(path, lambda name: name.lower().endswith(MICROSCOPES))


def read(path: Path, text: Collection[str]) -> RawTable:
    """List the positions of all files.

    Raises
    ------
    InputError
        bioio or its reader of this format isn't installed.
    TableError
        The well of a position can't be told.
    """
    del text
    if is_remote(path):
        raise TableError(
            f"{shown(path)}: CZI, ND2 and LIF files aren't read at an address, since each of their "
            f"many images would need the whole file; copy them to a disk first{copying(path)}"
        )
    rows: list[dict[str, Any]] = []
    channels: list[str] = []
    for file in _files(path):
        scenes, names = scenes_and_channels(file)
        channels = channels or names
        for number, scene in enumerate(scenes):
            well = _well_of(scene) or _well_of(file.stem)
            if well is None:
                raise TableError(
                    f"{file}: neither its name nor that of its position {scene!r} names a well; "
                    f"give {option('--pattern')} of the files' names, with (?P<well>...)"
                )
            place = {
                PLATE: file.parent.name if _well_of(file.stem) == well else file.stem,
                WELL: well,
                "FileName": file.name,
                "PathName": str(file.absolute().parent),
                "Series": number,
            }
            rows += [place | {CHANNEL: n, "Frame": i} for i, n in enumerate(names)]
    seen: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        image = (row[PLATE], row[WELL], row[CHANNEL])
        seen[image] += 1
        row[SITE] = seen[image]
    return RawTable(as_sites(pd.DataFrame(rows), channels, origin=str(path)), path)


def _well_of(name: str) -> str | None:
    """Return the only well in a name; None if there are several or none."""
    found = {normalise_well(match) for match in _WELL.findall(name)}
    return found.pop() if len(found) == 1 else None


def scenes_and_channels(path: Path) -> tuple[list[str], list[str]]:
    """Return the names of a file's positions and channels."""
    image = _opened(path)
    given = [str(name or "").strip() for name in image.channel_names or [""] * image.dims.C]
    names = unique_names({str(i): name for i, name in enumerate(given)})
    return list(map(str, image.scenes)), list(names.values())


def read_scene(path: Path, series: int | None, taken: Taken) -> tuple[NDArray[Any], str]:
    """Read part of a position, see :class:`~wsdino.screen.formats.ImageFormat`.

    Raises
    ------
    ImageError
        There is no such position, or several and none is named.
    """
    image = _opened(path)
    image.set_scene(which_image(path, series, len(image.scenes)))
    axes = str(image.dims.order)
    part = taken(axes, tuple(int(size) for size in image.shape))
    return np.asarray(image.dask_data[part].compute(scheduler="synchronous")), axes


def pixel_size_of_scene(path: Path) -> float | None:
    """Return the width of a pixel in micrometres, which is bioio's unit; None: unknown."""
    return pixel_size(_opened(path).physical_pixel_sizes.X, "um")


def _opened(path: Path) -> Any:
    try:
        from bioio import BioImage
        from bioio_base.exceptions import UnsupportedFileFormatError
    except ImportError as error:
        raise InputError(f"{path}: reading {path.suffix} files needs bioio: {INSTALL}") from error
    try:
        return BioImage(path)
    except UnsupportedFileFormatError as error:
        raise InputError(
            f"{path}: bioio has no reader of {path.suffix} files, or the file is damaged: {INSTALL}"
        ) from error
