"""Choosing among a screen's images by a :class:`~wsdino.screen.selection.Selection`.

Nothing is chosen unsaid: where a site has several z planes, time points or acquisitions, one must
be named. They are told apart by a column of the table where each has files of its own (several rows
for one site then), and by an axis of the file otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.counting import counted
from wsdino.errors import InputError, TableError, did_you_mean, option
from wsdino.progress import say
from wsdino.screen.selection import MAX
from wsdino.tables.columns import (
    BATCH,
    FILE_PREFIXES,
    PLATE,
    SITE,
    TIME_POINT,
    WELL,
    Z_PLANE,
    plain_name,
)
from wsdino.tables.identity import texts
from wsdino.tables.lean import sharing
from wsdino.tables.manifest import (
    PARTS,
    channels_of,
    given_functions,
    illuminations_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from wsdino.screen.selection import Selection

Z, TIME, ACQUISITION = "Metadata_Z", "Metadata_Time", "Metadata_Acquisition"


@dataclass(frozen=True)
class Dimension:
    """What may give one site several images of a channel.

    Parameters
    ----------
    field
        Of :class:`Selection`; as an option with two dashes.
    name
        In messages.
    column
        Ours, which tells rows of one site apart.
    others
        What other tools call it, in the form of :func:`~wsdino.tables.columns.plain_name`.
    in_file
        Prefix of the manifest's column that says what is taken of each file; None: files have no
        such axis.
    projects
        Whether the maximum over all may be taken.
    is_number
        Whether one is chosen by a whole number.
    """

    field: str
    name: str
    column: str
    others: tuple[str, ...]
    in_file: str | None = None
    projects: bool = False
    is_number: bool = True


DIMENSIONS = (
    Dimension(
        "z", "z planes", Z, ("z", "planeid", "zindex", "z_index", "zstep"), Z_PLANE, projects=True
    ),
    Dimension(
        "time", "time points", TIME, ("time", "timepointid", "timepoint", "time_point"), TIME_POINT
    ),
    Dimension("acquisition", "acquisitions", ACQUISITION, ("acquisition",), is_number=False),
)
_PLACE = [PLATE, WELL, SITE]


def _place(table: pd.DataFrame) -> list[str]:
    """Return the columns that tell sites apart: plates of several batches may share a name."""
    return [name for name in (BATCH, *_PLACE) if name in table]


def selected(table: pd.DataFrame, selection: Selection, *, origin: str) -> pd.DataFrame:
    """Return the table of the images that are selected, one row per site.

    Parameters
    ----------
    table
        Tidy. It is not changed.
    selection
        What is wanted.
    origin
        Name of the table in messages.

    Raises
    ------
    TableError
        Sites have several z planes, time points or acquisitions and none is chosen, or the chosen
        one doesn't exist; a channel doesn't exist.
    InputError
        A channel is named twice.
    """
    table = sharing(table)
    wanted = {dimension: getattr(selection, dimension.field) for dimension in DIMENSIONS}
    # A maximum is taken last, when planes are all that a site has several of.
    for dimension in sorted(DIMENSIONS, key=lambda one: wanted[one] == MAX):
        table = _along(table, dimension, wanted[dimension], selection.channels, origin)
    return _with_channels(table, selection.channels, origin)


def _along(
    table: pd.DataFrame,
    dimension: Dimension,
    wanted: int | str | None,
    channels: Sequence[str],
    origin: str,
) -> pd.DataFrame:
    """Choose along one dimension; `channels` are those of the selection."""
    column = _column(table, dimension)
    if column is None or (wanted is None and not _varies(table, column)):
        return table if wanted is None else _in_files(table, dimension, wanted, origin)
    values = texts(table[column])
    known = sorted(set(values.dropna()), key=_natural)
    if wanted is None:
        some = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
        raise TableError(
            f"{origin}: sites have {len(known)} {dimension.name} ({some}); "
            f"{_advice(dimension, known[0], column)}"
        )
    if wanted == MAX and dimension.projects:
        _require_planes(table, list(_renamed(table, channels, origin)), origin)
        return _projected(table, column, origin)
    # Numbers may be padded in names, as 01.
    chosen = values == next((one for one in known if _is(one, wanted)), None)
    if not chosen.any():
        raise TableError(
            f"{origin}: {option(f'--{dimension.field} {wanted}')}: there are only "
            f"{', '.join(known)}"
        )
    places = _place(table)
    num_lost = len(table[places].drop_duplicates()) - len(
        table.loc[chosen, places].drop_duplicates()
    )
    if num_lost:
        say(
            f"{origin}: {counted(num_lost, 'site')} left out "
            f"(no image at {dimension.field} {wanted})"
        )
    found = table[chosen].reset_index(drop=True)
    # Another acquisition may have other channels, and brightfield a single plane.
    absent = [
        channel
        for channel in channels_of(found)
        if f"FileName_{channel}" in found and found[f"FileName_{channel}"].isna().all()
    ]
    if absent:
        num = counted(len(absent), "channel")
        say(
            f"{origin}: {num} left out (no image at {dimension.field} {wanted}): "
            f"{', '.join(absent)}"
        )
    return found.drop(columns=[name for one in absent for name in _files_of(found, one)])


def _is(value: str, wanted: int | str) -> bool:
    return value == wanted or (value.isdecimal() and int(value) == wanted)


def _advice(dimension: Dimension, value: str, column: str) -> str:
    """Say how one of a site's images is chosen."""
    largest = f"--{dimension.field} {MAX}"
    if dimension.is_number and not value.isdecimal():
        alone = f"leave only the rows of one {column} in the table"
        maximum = f", or take the maximum of all by {option(largest)}"
        return f"{alone}{maximum if dimension.projects else ''}"
    maximum = f" or, for the maximum of all, {largest}"
    one = f"--{dimension.field} {value}{maximum if dimension.projects else ''}"
    return f"choose one, as {option(one)}"


def _column(table: pd.DataFrame, dimension: Dimension) -> str | None:
    """Return the column along a dimension; None if there is none with values."""
    if dimension.column in table:
        return dimension.column
    for name in map(str, table.columns):
        is_it = name.startswith("Metadata_") and plain_name(name) in dimension.others
        if is_it and table[name].notna().any() and _varies(table, name):
            return name
    return None


def _varies(table: pd.DataFrame, column: str) -> bool:
    """Whether a column differs within a site."""
    if not set(_PLACE) <= set(table):
        return False
    places = _place(table)
    pairs = table[[*places, column]].drop_duplicates()
    return bool(pairs.duplicated(places).any())


def _natural(text: str) -> tuple[float, str]:
    return (float(text), "") if text.isdecimal() else (float("inf"), text)


def _in_files(
    table: pd.DataFrame, dimension: Dimension, wanted: int | str, origin: str
) -> pd.DataFrame:
    """Note what is to be taken of each file."""
    if dimension.in_file is None:
        raise TableError(
            f"{origin}: {option(f'--{dimension.field} {wanted}')}: this screen doesn't tell "
            f"{dimension.name} apart"
        )
    return table.assign(
        **{f"{dimension.in_file}_{channel}": str(wanted) for channel in channels_of(table)}
    )


def _projected(table: pd.DataFrame, column: str, origin: str) -> pd.DataFrame:
    """Join the files of a site's planes, of which the maximum is taken."""
    keys = _place(table)
    twice = table.duplicated([*keys, column])
    if twice.any():
        plate, well, site, plane = table.loc[twice, [*_PLACE, column]].iloc[0]
        raise TableError(
            f"{origin}: plane {plane} of plate {plate}, well {well}, site {site} occurs more than "
            "once; it must have a single row"
        )
    table = table.drop(columns=column)
    site = _sites(table)
    files = {channel: _files_of(table, channel) for channel in channels_of(table)}
    named = [name for own in files.values() for name in own]
    result = table.drop(columns=named).groupby(site).first()
    for channel, names in files.items():
        there = _is_there(table, channel)
        own, of = table.loc[there, names].copy(), site[there]
        file, path = f"FileName_{channel}", f"PathName_{channel}"
        if {path, file} <= set(names) and (own[path].groupby(of).nunique(dropna=False) > 1).any():
            own[file] = own[path].astype(str).str.rstrip("/\\") + "/" + own[file].astype(str)
            own[path] = ""
        for name in names:
            result[name] = own[name].groupby(of).agg("first" if name == path else _joined)
    return result[[*table.columns]]


def _joined(values: pd.Series) -> object:
    """Join the parts of a cell; None unless all are there."""
    found = list(texts(values))
    return None if None in found else PARTS.join(found)


def _require_planes(table: pd.DataFrame, channels: list[str], origin: str) -> None:
    """Refuse the maximum over planes that a site lacks; say which channels have a single one."""
    channels = channels or channels_of(table)
    there = pd.DataFrame({channel: _is_there(table, channel) for channel in channels})
    site = _sites(table)
    counts = there.groupby(site).sum()
    # As of brightfield: the maximum of one plane is that plane, if all sites have it so.
    single = [channel for channel in channels if (counts[channel] == 1).all()]
    stacked = [channel for channel in channels if channel not in single]
    planes = there[stacked].any(axis=1).groupby(site).sum()
    for channel in stacked:
        lacking = (counts[channel] < planes) | (planes == 0)
        if lacking.any():
            first = int(np.flatnonzero(lacking)[0])
            place = table.loc[site == first, _place(table)].iloc[0]
            where = ", ".join(f"{plain_name(name)} {value}" for name, value in place.items())
            raise TableError(
                f"{origin}: {option(f'--z {MAX}')}: channel {channel} has {counts[channel][first]} "
                f"of {planes[first]} z planes at {where}; a channel needs all of a site's, or a "
                f"single one in every site; choose one by --z NUMBER, or channels without "
                f"{channel} by {option('--channel')}"
            )
    alone = [channel for channel in single if not there[channel].all()]
    if alone:
        say(f"{origin}: {', '.join(alone)}: a single z plane in each site, which is taken")


def _sites(table: pd.DataFrame) -> NDArray[np.intp]:
    """Return the number of each row's site, in order of first appearance."""
    groups = table.groupby(_place(table), sort=False, dropna=False)
    return np.asarray(groups.ngroup(), dtype=np.intp)


def _is_there(table: pd.DataFrame, channel: str) -> pd.Series:
    """Tell which rows have an image of a channel."""
    file = f"FileName_{channel}"
    return texts(table[file if file in table else f"URL_{channel}"]).notna()


def _files_of(table: pd.DataFrame, name: str) -> list[str]:
    """Return the columns that say where a channel's or function's images are."""
    return [column for prefix in FILE_PREFIXES if (column := f"{prefix}_{name}") in table]


def _with_channels(table: pd.DataFrame, settings: Sequence[str], origin: str) -> pd.DataFrame:
    """Choose, rename and order channels; their illumination functions go with them."""
    if not settings:
        return table
    renamed = _renamed(table, settings, origin)
    known, functions = channels_of(table), given_functions(table)
    own = [
        name
        for kind in (known, illuminations_of(table))
        for c in kind
        for name in _files_of(table, c)
    ]
    moved = {name: table[name] for name in table.columns if name not in own}
    for old, new in renamed.items():
        moved |= {_prefix(name, old) + new: table[name] for name in _files_of(table, old)}
    for old, new in renamed.items():
        if function := functions[old]:
            moved |= {
                f"{_prefix(name, function)}Illum{new}": table[name]
                for name in _files_of(table, function)
            }
    return pd.DataFrame(moved, index=table.index)


def _renamed(table: pd.DataFrame, settings: Sequence[str], origin: str) -> dict[str, str]:
    """Return the channels that are chosen, in order, each with its new name."""
    known = channels_of(table)
    renamed: dict[str, str] = {}
    for setting in settings:
        new, equals, old = (part.strip() for part in setting.partition("="))
        asked = option(f"--channel {setting!r}")
        if not new or (equals and not old):
            raise InputError(f"{asked}: use the form NAME, or NEW=NAME to rename it")
        old = _channel(old or new, known, setting, origin)
        if new in renamed.values() or old in renamed:
            raise InputError(
                f"{asked}: {new if new in renamed.values() else old} was named "
                "before; name each channel once"
            )
        renamed[old] = new
    return renamed


def _prefix(column: str, name: str) -> str:
    return column.removesuffix(name)


def _channel(name: str, known: Sequence[str], setting: str, origin: str) -> str:
    """Return which channel a user means, whatever its case and with or without ``Orig``."""
    if name in known:
        return name
    wanted = name.casefold()
    for plain in ("", "Orig"):
        found = [one for one in known if one.removeprefix(plain).casefold() == wanted]
        if len(found) == 1:
            return found[0]
    raise TableError(
        f"{origin}: {option(f'--channel {setting!r}')}: no channel {name}"
        f"{did_you_mean(name, known)}; there are {', '.join(known)}"
    )
