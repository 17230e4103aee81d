"""The manifest's contract: one row per site, normalised names, types and values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.errors import ManifestError
from wsdino.progress import say

if TYPE_CHECKING:
    from collections.abc import Sequence

REQUIRED = ("Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_Compound")
METADATA = (
    "Metadata_Plate",
    "Metadata_Well",
    "Metadata_Site",
    "Metadata_Batch",
    "Metadata_Compound",
    "Metadata_Concentration",
    "Metadata_MoA",
    "Metadata_Control",
)
KEY = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]
TREATMENT = ["Metadata_Compound", "Metadata_Concentration"]
ILLUMINATION = "Illum"
DEFAULT_CONTROLS = ("DMSO",)

# 1536-well plates, the largest in use, have rows A to AF and columns 1 to 48.
_WELL = re.compile(r"(A[A-F]|[A-Z])0*([1-9]|[1-3][0-9]|4[0-8])", re.IGNORECASE)
_TRUE, _FALSE = {"true", "1", "1.0", "yes"}, {"false", "0", "0.0", "no"}


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


def _files_of(manifest: pd.DataFrame) -> list[str]:
    prefixed = (str(column).partition("_") for column in manifest.columns)
    return list(
        dict.fromkeys(name for prefix, _, name in prefixed if prefix in {"FileName", "URL"})
    )


def normalise_well(well: str) -> str | None:
    """Return `B04` for `b4`, `B4` or `B04`; None for what names no well."""
    match = _WELL.fullmatch(well.strip())
    return f"{match[1].upper()}{int(match[2]):02d}" if match else None


def validate_manifest(
    manifest: pd.DataFrame, *, origin: str, controls: Sequence[str] | None = None
) -> pd.DataFrame:
    """Check a manifest and bring its columns into the contract's names, types and order.

    Wells become `B04`; plate, batch, compound and MoA text without surrounding blanks; sites
    integers; concentrations floats in micromolar. What is missing is filled in where there is one
    sensible reading, and said on standard error: a manifest without `Metadata_Batch` takes each
    plate as a batch of its own, one without `Metadata_Concentration` has one concentration, 0, per
    compound. A control without a concentration has 0. A negative control has no mechanism, so its
    `Metadata_MoA` is null. Columns that are neither metadata nor files are dropped.

    Parameters
    ----------
    manifest
        One row per site. It is not changed.
    origin
        Where it came from, for messages.
    controls
        Compounds that are negative controls, whatever their case. None: `Metadata_Control` where
        there is such a column, else DMSO.

    Returns
    -------
    pandas.DataFrame
        All `Metadata_*` columns, the contract's first, then `FileName_`, `PathName_` and, where
        given, `Frame_<Channel>` for each channel, then those of illumination functions.

    Raises
    ------
    ManifestError
        A column is missing or empty, a value can't be read, a (plate, well, site) occurs twice,
        or a treatment has two mechanisms.
    """
    channels = _require_columns(manifest, origin)
    table = pd.DataFrame(index=pd.RangeIndex(len(manifest)))
    source = manifest.reset_index(drop=True)

    table["Metadata_Plate"] = _text(source, "Metadata_Plate", origin)
    table["Metadata_Well"] = _wells(source, origin)
    table["Metadata_Site"] = _integers(source, "Metadata_Site", origin)
    if "Metadata_Batch" in source:
        table["Metadata_Batch"] = _text(source, "Metadata_Batch", origin)
    else:
        say(f"{origin}: no column Metadata_Batch, so each plate counts as a batch of its own")
        table["Metadata_Batch"] = table["Metadata_Plate"]
    table["Metadata_Compound"] = _text(source, "Metadata_Compound", origin)
    is_control = _controls(source, table["Metadata_Compound"], controls, origin)
    table["Metadata_Concentration"] = _concentrations(source, is_control, origin)
    table["Metadata_MoA"] = _mechanisms(source, is_control)
    table["Metadata_Control"] = is_control

    for column in source.columns:
        if str(column).startswith("Metadata_") and column not in METADATA:
            table[column] = _storable(source[column])
    for channel in [*channels, *illuminations_of(source)]:
        table[f"FileName_{channel}"] = _text(source, f"FileName_{channel}", origin)
        path = f"PathName_{channel}"
        table[path] = source[path].fillna("").astype(str) if path in source else ""
        frame = f"Frame_{channel}"
        if frame in source and source[frame].notna().any():
            table[frame] = _integers(source, frame, origin)

    _require_unique_sites(table, origin)
    require_one_moa(table, origin=origin)
    return table


def require_one_moa(
    table: pd.DataFrame,
    *,
    origin: str,
    columns: tuple[str, str, str] = (*TREATMENT, "Metadata_MoA"),  # type: ignore[assignment]
) -> None:
    """Raise ManifestError where a treatment has two mechanisms.

    Parameters
    ----------
    table
        Any table with the three `columns`.
    origin
        Where it came from, for the message.
    columns
        Names of the compound, concentration and MoA columns.
    """
    compound, concentration, moa = columns
    pairs = table.dropna(subset=[moa]).drop_duplicates(list(columns))
    double = pairs[pairs.duplicated([compound, concentration], keep=False)]
    if len(double):
        name, dose = double.iloc[0][[compound, concentration]]
        same = double[(double[compound] == name) & (double[concentration] == dose)]
        found = " and ".join(f"'{value}'" for value in same[moa])
        raise ManifestError(
            f"{origin}: {name} at {dose:g} uM has more than one MoA, {found}; a treatment has one"
        )


def _require_columns(manifest: pd.DataFrame, origin: str) -> list[str]:
    has = f"it has {', '.join(map(str, manifest.columns)) or 'none'}"
    for column in REQUIRED:
        if column not in manifest:
            raise ManifestError(f"{origin}: no column {column}; {has}")
    channels = channels_of(manifest)
    if not channels:
        raise ManifestError(
            f"{origin}: no column FileName_<Channel> names an image (PathName_<Channel> is its "
            f"folder, URL_<Channel> does for both); {has}"
        )
    if not len(manifest):
        raise ManifestError(f"{origin}: the table has no rows; a manifest has one for each site")
    return channels


def _row(bad: pd.Series) -> str:
    """Name the first row for which `bad` is true, as a person counts, and how many there are."""
    rows = np.flatnonzero(bad.to_numpy())
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    return f"data row {rows[0] + 1}{more}"


def _text(source: pd.DataFrame, column: str, origin: str) -> pd.Series:
    text = source[column].astype(object).where(source[column].notna(), "").astype(str).str.strip()
    if (text == "").any():
        raise ManifestError(
            f"{origin}: column {column} is empty in {_row(text == '')}; every site needs a value"
        )
    return text


def _wells(source: pd.DataFrame, origin: str) -> pd.Series:
    raw = _text(source, "Metadata_Well", origin)
    known = {well: normalise_well(well) for well in raw.unique()}
    wells = raw.map(known)
    if wells.isna().any():
        wrong = raw[wells.isna()].iloc[0]
        raise ManifestError(
            f"{origin}: Metadata_Well is '{wrong}' in {_row(wells.isna())}; a well is a row letter "
            "and a column number such as B04"
        )
    return wells


def _numbers(source: pd.DataFrame, column: str, origin: str, what: str) -> pd.Series:
    raw = source[column]
    numbers = pd.to_numeric(raw, errors="coerce").astype(float)
    bad = raw.notna() & ~(numbers >= 0) | np.isinf(numbers)
    if bad.any():
        raise ManifestError(
            f"{origin}: {column} is '{raw[bad].iloc[0]}' in {_row(bad)}; it must be {what}"
        )
    return numbers


def _integers(source: pd.DataFrame, column: str, origin: str) -> pd.Series:
    what = "a whole number"
    numbers = _numbers(source, column, origin, what)
    bad = ~(numbers == np.floor(numbers))
    if bad.any():
        found = source[column][bad].iloc[0]
        raise ManifestError(f"{origin}: {column} is '{found}' in {_row(bad)}; it must be {what}")
    return numbers.astype(np.int64)


def _concentrations(source: pd.DataFrame, is_control: pd.Series, origin: str) -> pd.Series:
    column = "Metadata_Concentration"
    if column not in source:
        say(f"{origin}: no column {column}, so each compound counts as one treatment")
        return pd.Series(0.0, index=source.index)
    numbers = _numbers(source, column, origin, "a number of micromolar, at least 0")
    numbers = numbers.where(numbers.notna() | ~is_control, 0.0)
    if numbers.isna().any():
        raise ManifestError(
            f"{origin}: {column} is empty in {_row(numbers.isna())}; only controls may lack one"
        )
    return numbers


def _controls(
    source: pd.DataFrame, compounds: pd.Series, controls: Sequence[str] | None, origin: str
) -> pd.Series:
    column = "Metadata_Control"
    if controls is None and column in source:
        text = source[column].astype(str).str.strip().str.lower()
        bad = ~text.isin(_TRUE | _FALSE)
        if bad.any():
            found = source[column][bad].iloc[0]
            raise ManifestError(f"{origin}: {column} is '{found}' in {_row(bad)}; true or false")
        return text.isin(_TRUE)
    names = {name.casefold() for name in (DEFAULT_CONTROLS if controls is None else controls)}
    is_control = compounds.str.casefold().isin(names)
    if controls and not is_control.any():
        some = ", ".join(sorted(compounds.unique())[:5])
        raise ManifestError(
            f"{origin}: no compound is a control named {', '.join(controls)}; there are {some}, ..."
        )
    return is_control


def _mechanisms(source: pd.DataFrame, is_control: pd.Series) -> pd.Series:
    if "Metadata_MoA" not in source:
        return pd.Series([None] * len(source), index=source.index, dtype=object)
    given = source["Metadata_MoA"].astype(object)
    text = given.astype(str).str.strip()
    known = given.notna() & (text != "") & ~is_control
    return text.astype(object).where(known, None)


def _storable(values: pd.Series) -> pd.Series:
    """Make text of a column that mixes types, which Parquet can't hold."""
    if values.dtype == object and pd.api.types.infer_dtype(values, skipna=True) != "string":
        return values.astype(str).astype(object).where(values.notna(), None)
    return values


def _require_unique_sites(table: pd.DataFrame, origin: str) -> None:
    twice = table.duplicated(KEY)
    if twice.any():
        plate, well, site = table.loc[twice, KEY].iloc[0]
        raise ManifestError(
            f"{origin}: plate {plate}, well {well}, site {site} occurs more than once "
            f"({_row(twice)}); each row must be a site of its own"
        )
