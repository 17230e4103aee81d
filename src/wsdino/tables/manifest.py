"""The manifest: one row per site, with normalised names, types and values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.errors import TableError, option
from wsdino.progress import say
from wsdino.tables.columns import (
    BATCH,
    COMPOUND,
    CONCENTRATION,
    CONTROL,
    MAX_PIXEL_SIZE,
    METADATA,
    MIN_PIXEL_SIZE,
    MOA,
    PIXEL_SIZE,
    PLATE,
    PREFIX,
    SITE,
    TIME_POINT,
    WELL,
    Z_PLANE,
)
from wsdino.tables.doses import require_one_moa
from wsdino.tables.identity import numbers, row_of
from wsdino.tables.tidy import identify, tidy

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REQUIRED = (PLATE, WELL, SITE, COMPOUND)
KEY = [PLATE, WELL, SITE]
ILLUMINATION = "Illum"
PARTS = "|"
"""Between the files of one image that is the maximum of several, and between their frames."""


def channels_of(manifest: pd.DataFrame) -> list[str]:
    """Return the names of a manifest's channels.

    Parameters
    ----------
    manifest
        Table with `FileName_<Channel>` (or `URL_<Channel>`) columns. `FileName_Illum<Channel>` is
        no channel (:func:`illuminations_of`).

    Returns
    -------
    list of str
        In order of first appearance.
    """
    return [name for name in _files_of(manifest) if not name.startswith(ILLUMINATION)]


def illuminations_of(manifest: pd.DataFrame) -> list[str]:
    """Return the names of a manifest's illumination functions, `Illum<Channel>`, in their order."""
    return [name for name in _files_of(manifest) if name.startswith(ILLUMINATION)]


def given_functions(manifest: pd.DataFrame) -> dict[str, str | None]:
    """Return for each channel the illumination function's name in the manifest, None: it has none.

    ``IllumDNA`` belongs to the channel ``DNA`` or ``OrigDNA``.
    """
    named = set(illuminations_of(manifest))
    return {
        channel: next(
            (
                name
                for name in (f"Illum{channel}", f"Illum{channel.removeprefix('Orig')}")
                if name in named
            ),
            None,
        )
        for channel in channels_of(manifest)
    }


def _files_of(manifest: pd.DataFrame) -> list[str]:
    prefixed = (str(column).partition("_") for column in manifest.columns)
    return list(
        dict.fromkeys(name for prefix, _, name in prefixed if prefix in {"FileName", "URL"})
    )


def validate_manifest(
    manifest: pd.DataFrame,
    *,
    origin: str,
    controls: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Check a manifest and bring its columns into our names, types and order.

    Names and values are converted by :mod:`wsdino.tables.tidy`. What is missing is filled in if
    there is a single sensible reading, and reported on standard error: without `Metadata_Batch`,
    each plate counts as a batch of its own. A missing concentration stays missing: a compound
    without any is one treatment. A negative control has no mechanism, so its `Metadata_MoA` is
    null. Columns that are neither metadata nor files are dropped.

    Parameters
    ----------
    manifest
        One row per site. It is not changed.
    origin
        Where it came from, for messages.
    controls
        Compounds that are negative controls, in any case. None: `Metadata_Control` if it has any
        value, else DMSO.
    columns
        Our name -> the table's, as given by the user.

    Returns
    -------
    pandas.DataFrame
        All `Metadata_*` columns, the contract's first, then `FileName_`, `PathName_` and, where
        given, `Frame_`, `Series_`, `ZPlane_` and `TimePoint_<Channel>` for each channel, then those
        of illumination functions.

    Raises
    ------
    TableError
        A column is missing or empty, a value can't be read, a (plate, well, site) occurs twice,
        or a treatment has two mechanisms.
    """
    source = tidy(manifest, origin=origin, columns=columns)
    channels = _require_columns(source, origin)
    for column in (PLATE, WELL, COMPOUND):
        _require_filled(source[column], origin)
    if BATCH not in source or source[BATCH].isna().all():
        say(f"{origin}: no column {BATCH}, so each plate counts as a batch of its own")
        source[BATCH] = source[PLATE]
    _require_filled(source[BATCH], origin)
    source[SITE] = _whole_numbers(source[SITE], origin)
    if MOA not in source:
        source[MOA] = None
    source[MOA] = source[MOA].astype(object)
    source = identify(source, origin=origin, controls=controls)
    _say_missing_doses(source, origin)

    table = source[[*METADATA]].copy()
    for name in map(str, source.columns):
        if name.startswith(PREFIX) and name not in METADATA:
            table[name] = _storable(source[name])
    if PIXEL_SIZE in table:
        table[PIXEL_SIZE] = _pixel_sizes(table[PIXEL_SIZE], origin)
    for channel in [*channels, *illuminations_of(source)]:
        _require_filled(source[f"FileName_{channel}"], origin)
        table[f"FileName_{channel}"] = source[f"FileName_{channel}"].astype(str).str.strip()
        path = f"PathName_{channel}"
        table[path] = source[path].fillna("").astype(str) if path in source else ""
        for name in (f"Frame_{channel}", f"Series_{channel}"):
            if name in source and source[name].notna().any():
                table[name] = _numbers_of_parts(source[name], origin)
        for name in (f"{Z_PLANE}_{channel}", f"{TIME_POINT}_{channel}"):
            if name in source and source[name].notna().any():
                table[name] = source[name].astype(str)

    _require_unique_sites(table, origin)
    _require_own_images(table, channels, origin)
    require_one_moa(table, origin=origin)
    return table


def _require_columns(manifest: pd.DataFrame, origin: str) -> list[str]:
    has = f"it has {', '.join(map(str, manifest.columns)) or 'none'}"
    for column in REQUIRED:
        if column not in manifest:
            raise TableError(
                f"{origin}: no column {column}; {has}; to read it from a column with another name, "
                f"use {option(f'--column {column}=NAME')}"
            )
    channels = channels_of(manifest)
    if not channels:
        raise TableError(
            f"{origin}: no column FileName_<Channel> with image names (PathName_<Channel> is the "
            f"folder; URL_<Channel> can replace both); {has}"
        )
    if not len(manifest):
        raise TableError(f"{origin}: the table has no rows; a manifest has one row per site")
    return channels


def _require_own_images(table: pd.DataFrame, channels: list[str], origin: str) -> None:
    """Refuse an image that several channels or sites name."""
    if _are_unique(table, channels):
        return
    named = pd.concat(
        [
            pd.DataFrame(
                {
                    "folder": table[f"PathName_{channel}"],
                    "file": table[f"FileName_{channel}"],
                    "series": table.get(f"Series_{channel}", -1),
                    "plane": table.get(f"Frame_{channel}", -1),
                    "channel": channel,
                }
            )
            for channel in channels
        ]
    )
    image = ["folder", "file", "series", "plane"]
    twice = named[named.duplicated(image, keep=False)]
    if twice.empty:
        return
    first = twice.iloc[0]
    same = twice[(twice[image] == first[image]).all(axis=1)]
    where = [
        "{} of plate {}, well {}, site {}".format(channel, *table.loc[row, [PLATE, WELL, SITE]])
        for row, channel in zip(same.index[:2], same["channel"].iloc[:2], strict=True)
    ]
    raise TableError(
        f"{origin}: {first['file']} is the image of {where[0]}, and of {where[1]}; every channel "
        "of every site needs an image of its own (planes of one file are told apart by "
        "Frame_<Channel>, its images by Series_<Channel>)"
    )


def _are_unique(table: pd.DataFrame, channels: list[str]) -> bool:
    """Whether no two images are named alike for sure, in a fraction of the memory of the names."""
    found = np.empty(len(table) * len(channels), dtype=np.uint64)
    for position, channel in enumerate(channels):
        columns = [table[f"PathName_{channel}"], table[f"FileName_{channel}"]]
        for prefix, at in (("Series", 2), ("Frame", 3)):
            columns.append(table.get(f"{prefix}_{channel}", pd.Series(-1, table.index, name=at)))
        one = pd.concat([each.rename(name) for name, each in enumerate(columns)], axis=1)
        start = position * len(table)
        try:
            hashes = pd.util.hash_pandas_object(one, index=False, categorize=False)
        except UnicodeEncodeError:  # names that are no text, as some file systems have
            return False
        found[start : start + len(table)] = hashes
    found.sort()
    return not (found[1:] == found[:-1]).any()


def _require_filled(values: pd.Series, origin: str) -> None:
    empty = values.isna() | (values.astype(str).str.strip() == "")
    if empty.any():
        raise TableError(
            f"{origin}: column {values.name} is empty in {row_of(empty)}; every site needs a value"
        )


def _whole_numbers(values: pd.Series, origin: str) -> pd.Series:
    what = "a whole number"
    found = numbers(values, origin=origin, what=what)
    bad = ~(found == np.floor(found))
    if bad.any():
        raise TableError(
            f"{origin}: {values.name} is '{values[bad].iloc[0]}' in {row_of(bad)}; it must be "
            f"{what}"
        )
    return found.astype(np.int64)


def _pixel_sizes(values: pd.Series, origin: str) -> pd.Series:
    """Return widths of pixels in micrometres, float64; NaN where there is none."""
    known = values.notna()
    what = f"the width of a pixel in micrometres, {MIN_PIXEL_SIZE:g} to {MAX_PIXEL_SIZE:g}"
    found = pd.Series(np.nan, index=values.index, name=values.name)
    found[known] = numbers(values[known], origin=origin, what=what)
    bad = known & ~found.between(MIN_PIXEL_SIZE, MAX_PIXEL_SIZE)
    if bad.any():
        raise TableError(
            f"{origin}: {values.name} is '{values[bad].iloc[0]}' in {row_of(bad)}; it must be "
            f"{what}, or empty"
        )
    return found


def _numbers_of_parts(values: pd.Series, origin: str) -> pd.Series:
    """Return numbers of planes: int64, or text with a number for each file of an image."""
    text = values.astype(str)
    several = text.str.contains(PARTS, regex=False)
    if not several.any():
        return _whole_numbers(values, origin)
    bad = ~text.str.fullmatch(r"\d+(\|\d+)*")
    if bad.any():
        raise TableError(
            f"{origin}: {values.name} is '{text[bad].iloc[0]}' in {row_of(bad)}; it must be a "
            f"whole number, or several with {PARTS} between them"
        )
    return text


def _say_missing_doses(table: pd.DataFrame, origin: str) -> None:
    missing = table[CONCENTRATION].isna() & ~table[CONTROL]
    if missing.any() and not table[CONCENTRATION].isna().all():
        names = ", ".join(list(dict.fromkeys(table.loc[missing, COMPOUND]))[:3])
        say(
            f"{origin}: {CONCENTRATION} is empty in {int(missing.sum())} of {len(table)} rows "
            f"({names}); these are treatments of unknown concentration"
        )


def _storable(values: pd.Series) -> pd.Series:
    """Convert a column of mixed types to text, because Parquet can't hold mixed types."""
    if values.dtype == object and pd.api.types.infer_dtype(values, skipna=True) != "string":
        return values.astype(str).astype(object).where(values.notna(), None)
    return values


def _require_unique_sites(table: pd.DataFrame, origin: str) -> None:
    twice = table.duplicated(KEY)
    if twice.any():
        plate, well, site = table.loc[twice, KEY].iloc[0]
        raise TableError(
            f"{origin}: plate {plate}, well {well}, site {site} occurs more than once "
            f"({row_of(twice)}); each site must have a single row"
        )
