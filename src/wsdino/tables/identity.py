"""Plates, wells, controls and compounds: one parser for each.

Identifiers are text without surrounding spaces. Wells are written `B04`. Compounds that differ only
by case or spaces are reported. A plate is identified within its batch. For doses see
:mod:`wsdino.tables.doses`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.counting import counted
from wsdino.errors import TableError, did_you_mean, option
from wsdino.progress import say
from wsdino.tables.columns import (
    BATCH,
    COMPOUND,
    CONTROL,
    MOA,
    PLATE,
)
from wsdino.tables.control_words import control_of
from wsdino.tables.lean import with_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DEFAULT_CONTROLS = ("DMSO",)
# How other tools write a missing number, flag or mechanism. This does not apply to identifiers: a
# compound may be called NA.
# CMap writes -666 where there is no value.
_CMAP_MISSING = -666
MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "none", "null", "<na>", "-666", "-666.0"})

# 1536-well plates, the largest in use, have rows A to AF and columns 1 to 48.
_WELL = re.compile(r"(A[A-F]|[A-Z])0*([1-9]|[1-3][0-9]|4[0-8])", re.IGNORECASE)
_ROW_COLUMN = re.compile(r"r0*([1-9]|[12][0-9]|3[0-2])c0*([1-9]|[1-3][0-9]|4[0-8])", re.IGNORECASE)
_QUARTER = re.compile(r"([A-P])0*([1-9]|1[0-9]|2[0-4])\.([ab])([12])", re.IGNORECASE)
_SITE = re.compile(r"(?:site|field|fov|s|f)?[ _]?0*(\d{1,9})(?:\.0+)?", re.IGNORECASE)
_FLOAT_PLATE = re.compile(r"\d+\.0")


def text_of(value: Any) -> Any:
    """Return an identifier as text without surrounding spaces; None if it is missing.

    Whole numbers stored as floats lose their `.0`; a list becomes a list of text.
    """
    if isinstance(value, str):
        text = value.strip()
        return (text if text.isascii() else unicodedata.normalize("NFC", text)) or None
    if isinstance(value, (list, tuple, np.ndarray)):
        return [text_of(entry) for entry in value]
    if value is None or pd.isna(value):
        return None
    if isinstance(value, bytes):
        return text_of(value.decode("utf-8", "replace"))
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    return str(value).strip() or None


def texts(values: pd.Series) -> pd.Series:
    """Return identifiers as text (object, None where missing).

    A text column that holds only values such as `22123.0` holds whole numbers that were stored as
    floats.
    """
    if pd.api.types.infer_dtype(values, skipna=True) in {"string", "integer", "floating"}:
        # Of millions of rows with few values each value is looked at once, and kept once.
        codes, unique = pd.factorize(values)
        known = [text_of(value) for value in unique]
        found = pd.Series(np.array([*known, None], dtype=object)[codes], index=values.index)
    else:
        found = pd.Series([text_of(value) for value in values], index=values.index, dtype=object)
        known = list(found)
    known = [value for value in known if value is not None]
    if known and all(isinstance(value, str) and _FLOAT_PLATE.fullmatch(value) for value in known):
        found = found.map(lambda value: value and value.removesuffix(".0"))
    return found.astype(object).where(found.notna(), None)


def known_texts(values: pd.Series) -> pd.Series:
    """Return text as :func:`texts` does, None also where plate maps write NA or the like."""
    found = texts(values)
    return found.where(~found.map(lambda one: str(one).casefold() in MISSING).astype(bool), None)


def normalise_well(well: str) -> str | None:
    """Return `B04` for `b4`, `B4`, `B004` or `r02c04`; None if it is not a well.

    `A01.b2` is a quarter of `A01`: `B02` of a plate with 1536 wells.
    """
    text = well.strip()
    if match := _QUARTER.fullmatch(text):
        row = 2 * (ord(match[1].upper()) - ord("A")) + "ab".index(match[3].lower())
        text = f"r{row + 1}c{2 * int(match[2]) - 2 + int(match[4])}"
    if match := _WELL.fullmatch(text):
        return f"{match[1].upper()}{int(match[2]):02d}"
    if match := _ROW_COLUMN.fullmatch(text):
        high, low = divmod(int(match[1]) - 1, 26)
        return f"{'A' * high}{chr(ord('A') + low)}{int(match[2]):02d}"
    return None


def wells(values: pd.Series, *, origin: str) -> pd.Series:
    """Return wells as `B04`, None where missing.

    Raises
    ------
    TableError
        A value is not a well.
    """
    found = texts(values)
    known = {
        well: normalise_well(well) for well in found if isinstance(well, str)
    }  # a list is not a well: a profile of several wells has none
    bad = found.map(lambda well: isinstance(well, str) and known[well] is None).astype(bool)
    if bad.any():
        raise TableError(
            f"{origin}: {values.name} is '{found[bad].iloc[0]}' in {row_of(bad)}; a well is a row "
            "letter and a column number such as B04"
        )
    return found.map(lambda well: known[well] if isinstance(well, str) else well)


def sites(values: pd.Series) -> pd.Series | None:
    """Return sites as whole numbers (`3`, `f03`, `s3` are 3); None if any can't be read."""
    codes, unique = pd.factorize(texts(values).map(str))
    matches = [_SITE.fullmatch(value) for value in unique]
    if not all(matches):
        return None
    found = np.array([int(match[1]) for match in matches if match], dtype=np.int64)
    return pd.Series(found[codes], index=values.index)


def numbers(values: pd.Series, *, origin: str, what: str) -> pd.Series:
    """Return numbers of at least 0 as float64, NaN where missing.

    Raises
    ------
    TableError
        A value is not such a number; `what` describes the expected one.
    """
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        found = values.astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
        is_missing = np.isnan(found) | (found == _CMAP_MISSING)
        found[is_missing] = np.nan
    else:
        raw = values.astype(object).where(values.notna(), "").astype(str).str.strip()
        is_missing = raw.str.casefold().isin(MISSING).to_numpy()
        found = pd.to_numeric(raw.where(~is_missing), errors="coerce").to_numpy(dtype=np.float64)
    bad = pd.Series(~is_missing & ~((found >= 0) & np.isfinite(found)))
    if bad.any():
        wrong = values.reset_index(drop=True)[bad].iloc[0]
        raise TableError(
            f"{origin}: {values.name} is '{wrong}' in {row_of(bad)}; it must be {what}"
        )
    return pd.Series(found, index=values.index)


def control_flags(values: pd.Series, *, origin: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Parse flags of negative controls.

    Returns
    -------
    is_control, is_missing
        (n,) bool each. A row without a flag is not a control.

    Raises
    ------
    TableError
        A word is unknown.
    """
    words = values.astype(object).where(values.notna(), "").astype(str).str.strip()
    known = {word: control_of(word) for word in words.unique()}
    is_missing = words.str.casefold().isin(MISSING)
    bad = words.map(known).isna() & ~is_missing
    if bad.any():
        raise TableError(
            f"{origin}: {values.name} is '{words[bad].iloc[0]}' in {row_of(bad)}; it must be true "
            "or false, or a word such as negcon, poscon or trt"
        )
    is_control = words.map(lambda word: known[word] is True).astype(bool)
    return is_control.to_numpy() & ~is_missing.to_numpy(), is_missing.to_numpy()


def has_flags(table: pd.DataFrame) -> bool:
    """Whether `Metadata_Control` says of any row whether it is a control."""
    if CONTROL not in table:
        return False
    words = table[CONTROL].dropna().astype(str).unique()
    return any(word.strip().casefold() not in MISSING for word in words)


def with_controls(
    table: pd.DataFrame, controls: Sequence[str] | None, *, origin: str
) -> pd.DataFrame:
    """Decide which rows are negative controls.

    Their mechanism is removed, as is that of rows without a compound, which can't be matched.

    Parameters
    ----------
    table
        With compounds as text.
    controls
        Compounds that are negative controls, in any case. None: `Metadata_Control` if it has any
        value, else DMSO.
    origin
        Where it came from, for messages.

    Returns
    -------
    DataFrame
        With `Metadata_Control` as bool.

    Raises
    ------
    TableError
        A flag can't be read, or no compound has the names given.
    """
    if controls is None and has_flags(table):
        is_control, is_missing = control_flags(table[CONTROL], origin=origin)
        if is_missing.any():
            say(
                f"{origin}: {CONTROL} is empty in {int(is_missing.sum())} of {len(table)} rows, "
                "which are therefore not controls"
            )
    elif COMPOUND in table:
        names = {name.strip().casefold() for name in controls or DEFAULT_CONTROLS}
        names = set() if controls is not None and not controls else names
        compounds = table[COMPOUND].map(lambda name: str(name).casefold())
        is_control = compounds.isin(names).to_numpy() & table[COMPOUND].notna().to_numpy()
        if controls and not is_control.any():
            known = sorted(table[COMPOUND].dropna().astype(str).unique())
            near, some = did_you_mean(controls[0], known), ", ".join(known[:5])
            raise TableError(
                f"{origin}: no compound is named {', '.join(controls)}, given as control{near}; "
                f"the compounds are {some}, ..."
            )
    else:
        return table.drop(columns=CONTROL, errors="ignore")
    table = with_columns(table, {CONTROL: is_control})
    if MOA in table:
        table[MOA] = table[MOA].where(~is_control, None)
    if COMPOUND not in table:
        return table
    if MOA in table:
        table[MOA] = table[MOA].where(table[COMPOUND].notna(), None)
    table = _one_name_for_each_control(table, is_control, origin)
    if controls is None:
        _report_several(table, is_control, origin)
    return table


def _report_several(table: pd.DataFrame, is_control: NDArray[np.bool_], origin: str) -> None:
    """Report flagged controls of several compounds: a column may flag positive ones as well."""
    names = sorted(table.loc[is_control, COMPOUND].dropna().astype(str).unique())
    if len(names) > 1:
        some = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        say(
            f"{origin}: {len(names)} compounds are flagged as negative controls ({some}); if some "
            f"are positive ones, name the negative one by {option('--control NAME')}"
        )


def _one_name_for_each_control(
    table: pd.DataFrame, is_control: NDArray[np.bool_], origin: str
) -> pd.DataFrame:
    """Give controls whose names differ only by case (`DMSO`, `dmso`) the first of these names."""
    first: dict[str, str] = {}
    names = [name for name in table.loc[is_control, COMPOUND].unique() if isinstance(name, str)]
    for name in names:
        first.setdefault(name.casefold(), name)
    others = [name for name in names if first[name.casefold()] != name]
    if not others:
        return table
    say(f"{origin}: controls named {', '.join(others)} are taken as {first[others[0].casefold()]}")
    renamed = table[COMPOUND].where(
        ~is_control,
        table[COMPOUND].map(
            dict.fromkeys(names) | {name: first[name.casefold()] for name in names}
        ),
    )
    return with_columns(table, {COMPOUND: renamed})


def report_spellings(table: pd.DataFrame, *, origin: str) -> None:
    """Report compounds, mechanisms, plates and batches that differ only by case or spaces."""
    for column in (COMPOUND, MOA, PLATE, BATCH):
        if column not in table:
            continue
        names = dict.fromkeys(name for name in table[column].dropna() if isinstance(name, str))
        spellings: dict[str, list[str]] = {}
        for name in names:
            spellings.setdefault(" ".join(name.casefold().split()), []).append(name)
        several = [same for same in spellings.values() if len(same) > 1]
        if several:
            shown = "; ".join(", ".join(same) for same in several[:3])
            more = f"; and {len(several) - 3} more" if len(several) > 3 else ""
            say(
                f"{origin}: {column} has names that differ only by case or spaces, and are treated "
                f"as different: {shown}{more}"
            )
        odd = [name for name in names if name.casefold() in MISSING]
        if odd:
            say(f"{origin}: {column} holds {', '.join(odd)}, which is taken as a name")


def with_plates_of_batches(table: pd.DataFrame, *, origin: str) -> pd.DataFrame:
    """Prefix plate names with the batch if plates of several batches share a name."""
    if PLATE not in table or BATCH not in table:
        return table
    is_one = [
        isinstance(plate, str) and isinstance(batch, str)
        for plate, batch in zip(table[PLATE], table[BATCH], strict=True)
    ]
    pairs = table.loc[is_one, [PLATE, BATCH]].drop_duplicates()
    shared = set(pairs.loc[pairs.duplicated(PLATE), PLATE])
    if not shared:
        return table
    first = min(shared)
    batches = pairs.loc[pairs[PLATE] == first, BATCH].tolist()
    say(
        f"{origin}: {counted(len(shared), 'plate name')} in several batches; these are different "
        f"plates, now named {batches[0]}/{first}, {batches[1]}/{first} and so on"
    )
    names = [
        f"{batch}/{plate}" if one and plate in shared else plate
        for plate, batch, one in zip(table[PLATE], table[BATCH], is_one, strict=True)
    ]
    return with_columns(table, {PLATE: names})


def row_of(bad: pd.Series) -> str:
    """Name the first row for which `bad` is true, counted from 1, and how many more there are."""
    rows = np.flatnonzero(bad.to_numpy())
    more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    return f"data row {rows[0] + 1}{more}"
