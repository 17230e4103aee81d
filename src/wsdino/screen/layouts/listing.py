"""What layouts share: tables of several plates, and sites of lists of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from wsdino.errors import TableError
from wsdino.remote import shown
from wsdino.screen.choosing import ACQUISITION, TIME, Z
from wsdino.tables.columns import BATCH, FILE_PREFIXES, PLATE, SITE, WELL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

CHANNEL = "channel"
# Plates of several batches may share a name.
_KEYS = (PLATE, BATCH, WELL, SITE, Z, TIME, ACQUISITION)


def read_plates(files: Iterable[Path], read: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    """Read the table of each file, and put them below each other.

    Raises
    ------
    TableError
        Two files are of one plate.
    """
    plates: dict[str, Path] = {}
    tables = []
    for file in files:
        tables.append(read(file))
        for plate in tables[-1][PLATE].unique():
            if plate in plates:
                raise TableError(
                    f"{shown(file)}: is of plate {plate}, as {shown(plates[plate])} is; read one "
                    "of them alone"
                )
            plates[plate] = file
    return pd.concat(tables, ignore_index=True)


def as_sites(images: pd.DataFrame, channels: Sequence[str], *, origin: str) -> pd.DataFrame:
    """Turn a list of images into a table of sites.

    Parameters
    ----------
    images
        A row per image: `Metadata_Plate`, `Metadata_Well`, `Metadata_Site`; `Metadata_Batch`,
        `Metadata_Z`, `Metadata_Time` and `Metadata_Acquisition` where the layout has them;
        ``channel``; `FileName`, and `PathName`, `Frame` and `Series` where needed; and metadata of
        the site.
    channels
        Names of the channels, in their order.
    origin
        Name of the list in messages.

    Returns
    -------
    DataFrame
        A row per site, z plane, time point and acquisition; `FileName_<Channel>` and so on are
        missing where there is no image.

    Raises
    ------
    TableError
        There are no images, or two for one place.
    """
    if images.empty:
        raise TableError(f"{origin}: lists no images")
    keys = [name for name in _KEYS if name in images]
    twice = images.duplicated([*keys, CHANNEL])
    if twice.any():
        second = images[twice].iloc[0]
        same = (images[[*keys, CHANNEL]] == second[[*keys, CHANNEL]]).all(axis=1)
        place = ", ".join(f"{key.removeprefix('Metadata_').lower()} {second[key]}" for key in keys)
        raise TableError(
            f"{origin}: {images[same].iloc[0]['FileName']} and {second['FileName']} are both the "
            f"image of channel {second[CHANNEL]} of {place}; an image must be the only one of its "
            "place"
        )
    files = [name for name in FILE_PREFIXES if name in images]
    metadata = [name for name in images.columns if name not in (*files, CHANNEL)]
    table = images.drop_duplicates(keys)[metadata]
    for channel in channels:
        own = images.loc[images[CHANNEL] == channel, [*keys, *files]]
        own = own.rename(columns={name: f"{name}_{channel}" for name in files})
        table = table.merge(own, on=keys, how="left", sort=False)
    return table.sort_values(keys, kind="stable").reset_index(drop=True)


def unique_names(names: Mapping[str, str]) -> dict[str, str]:
    """Return a name for each channel's identifier, with the identifier added where names clash.

    Spaces around names are removed. An empty name becomes `channel_<identifier>`.
    """
    names = {key: name.strip() for key, name in names.items()}
    given = list(names.values())
    return {
        key: name if name and given.count(name) == 1 else f"{name or 'channel'}_{key}"
        for key, name in names.items()
    }
