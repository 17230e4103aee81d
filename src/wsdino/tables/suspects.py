"""Numbers that are no measurements: labels that must not become features.

Columns that may be labels are detected on reading (:func:`without_labels`), so that labels never
enter the feature matrix.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.counting import counted
from wsdino.errors import TableError, did_you_mean
from wsdino.progress import say
from wsdino.tables.columns import (
    BATCH,
    COMPOUND,
    CONTROL,
    METADATA,
    MOA,
    PLATE,
    PREFIX,
    QUALITY,
    TREATMENT,
    WELL,
    our_column,
    plain_name,
)
from wsdino.tables.features import feature_columns, metadata_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

# Columns that differ between the wells of any treatment and are meant to be averaged over.
_PLACE = re.compile(
    r"(?:^|.*_)(?:plates?|barcodes?|wells?|sites?|fields?|rows?|cols?|columns?|batch|batches"
    r"|replicates?|rep|images?|objects?|position|abstime|timestamp|date|week|run|files?|paths?|id"
    r"|index|number)(?:_.*|$)|(?:plate|well|image|object|table|abspos).*"
)


def report_averaged(table: pd.DataFrame, by: Sequence[str]) -> None:
    """Report metadata that varies within groups and is averaged over, such as the cell line.

    Parameters
    ----------
    table
        Metadata of sites or wells, with the columns of `by`.
    by
        The columns that define a group. Controls are ignored.
    """
    treated = ~table[CONTROL].to_numpy(dtype=bool) if CONTROL in table else slice(None)
    metadata = metadata_of(table)[treated]
    found = []
    for name in metadata.columns:
        values = metadata[name]
        plain = name.removeprefix(PREFIX)
        if (
            name in METADATA
            or name.startswith(QUALITY)
            or _is_no_measurement(plain)
            or _PLACE.fullmatch(plain_name(plain))
        ):
            continue
        try:
            num = values.nunique()
        except TypeError:  # another tool's cells that can't be compared, such as lists
            continue
        if num < 2 or (pd.api.types.is_float_dtype(values) and num > 8):
            continue
        num_values = metadata.groupby(list(by), dropna=False)[name].nunique()
        if (num_values > 1).any():
            some = ", ".join(map(str, values.dropna().unique()[:4]))
            found.append(f"{name} ({some}{', ...' if values.nunique() > 4 else ''})")
    if found:
        say(
            f"{'; '.join(found)}: {'varies' if len(found) == 1 else 'vary'} within treatments and "
            f"{'is' if len(found) == 1 else 'are'} averaged over"
        )


# Columns that CellProfiler and similar tools write beside their measurements, after any `Image_`.
_BOOKKEEPING = re.compile(
    r"(?:ImageNumber|ObjectNumber|TableNumber|ImageSet_.+|Group_(?:Index|Number|Length)"
    r"|(?:ExecutionTime|ModuleError|Frame|Series|Height|Width|MD5Digest|Scaling|FileName|PathName"
    r"|URL)_.+|ProcessingStatus)"
)
# Common names of numeric codes, in the form of `plain_name`.
_LABEL = re.compile(
    r"index|level_\d|id|.+_id|.+_idx|row|col|column|rep|replicate|replicates|week|day|date"
    r"|label|labels|.+_label|target|class|class_id|cluster|fold|split|treatment|unique_.+|.+_code|.+_codes|.+_encoded"
)
# Names that only measurements have; such a column is never taken as a label.
_MEASUREMENT = re.compile(
    r"(?:emb|classical|white)_.+|(?:Image_)?ImageQuality_.+|(?:Image_)?Count_.+|[A-Za-z0-9]+_"
    r"(?:AreaShape|AreaOccupied|Children|Correlation|Granularity|Intensity|Location|Neighbors"
    r"|Number|ObjectSkeleton|Parent|RadialDistribution|Texture|Threshold)_.+"
)


def without_labels(table: pd.DataFrame, *, origin: str, keep: Collection[str] = ()) -> pd.DataFrame:
    """Turn numbers that are not measurements into metadata, and report which.

    These are columns with the name of a tool's book-keeping or of a label (`ImageNumber`,
    `Replicate`, `Unique_MoA`), and columns whose values look like labels: whole numbers that are
    constant within each plate, batch, well, compound, treatment or mechanism, or that number the
    rows; and any numbers that are constant over all wells of each plate or batch. Columns with a
    name that only measurements have (`Cells_Children_Count`, `emb_DNA_0`) are left alone.

    Parameters
    ----------
    table
        Tidy, with all its metadata.
    origin
        Where it came from, for messages.
    keep
        Columns to keep as features regardless.

    Returns
    -------
    DataFrame
        The same rows. Such a column `X` becomes `Metadata_X`, or is dropped if there is already a
        `Metadata_X`.

    Raises
    ------
    TableError
        If a column of `keep` is not a numeric column, or no feature is left.
    """
    numeric = feature_columns(table)
    for name in keep:
        if name not in numeric:
            raise TableError(
                f"{origin}: --feature {name}: no such numeric column{did_you_mean(name, numeric)}; "
                "the table has "
                f"{', '.join(numeric[:8]) or 'none'}{', ...' if len(numeric) > 8 else ''}"
            )
    open_ = [name for name in numeric if name not in keep]
    known = [name for name in open_ if _is_no_measurement(name)]
    unsure = [name for name in open_ if name not in known and not _MEASUREMENT.fullmatch(name)]
    suspects = _suspects(table, unsure)
    if known:
        say(f"{origin}: taken as metadata, not as features: {_listed(known)}")
    if suspects:
        reasons = ", ".join(f"{name} ({why})" for name, why in list(suspects.items())[:5])
        more = f" and {len(suspects) - 5} more" if len(suspects) > 5 else ""
        say(
            f"{origin}: {reasons}{more} may be labels, so they are not used as features; "
            "--feature NAME keeps one as a feature"
        )
    gone = [*known, *suspects]
    if gone and len(gone) == len(numeric):
        raise TableError(
            f"{origin}: all numeric columns ({_listed(gone)}) look like labels, so no feature is "
            "left; --feature NAME keeps one as a feature"
        )
    _name_others(table, origin)
    attributes = table.attrs
    taken = [name for name in gone if PREFIX + name in table]
    table = table.drop(columns=taken).rename(
        columns={name: PREFIX + name for name in gone if name not in taken}
    )
    table.attrs = attributes
    return table


def _is_no_measurement(name: str) -> bool:
    plain = name.removeprefix("Image_")
    if _BOOKKEEPING.fullmatch(plain):
        return True
    return our_column(name) is not None or _LABEL.fullmatch(plain_name(name)) is not None


def _suspects(table: pd.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """Return the columns whose values look like labels, each with the reason."""
    groups = _groups(table)
    suspects: dict[str, str] = {}
    for name in names:
        values = table[name].to_numpy(dtype=np.float64, na_value=np.nan)
        finite = values[np.isfinite(values)]
        if len(finite) < 3 or (finite == finite[0]).all():
            continue
        is_whole = bool((finite == np.round(finite)).all())
        if is_whole and len(finite) == len(values) and _numbers_rows(values):
            suspects[name] = "it numbers the rows"
            continue
        for what, codes, of_any in groups:
            if (is_whole or of_any) and _is_constant_within(values, codes):
                suspects[name] = f"it has one value in each {what}"
                break
    return suspects


def _numbers_rows(values: NDArray[np.float64]) -> bool:
    """Whether the values are n consecutive numbers in any order."""
    ordered = np.sort(values)
    return len(values) > 3 and bool((np.diff(ordered) == 1).all())


def _groups(table: pd.DataFrame) -> list[tuple[str, NDArray[Any], bool]]:
    """Return the groupings of a table: name, (n,) codes (-1: missing), whether any number counts.

    Within plates and batches with several compounds, no measurement is constant, integer or not.
    """
    groups = []
    for what, columns in _LABELLED.items():
        if not set(columns) <= set(table.columns):
            continue
        keys = table[list(columns)]
        if any(isinstance(value, (list, np.ndarray)) for name in columns for value in keys[name]):
            continue
        # Groups of missing keys are NaN, which makes floats of all numbers.
        found = keys.groupby(list(columns), dropna=True, sort=False).ngroup()
        codes = found.where(~keys.isna().any(axis=1), -1).to_numpy(dtype=np.int64)
        of_any = what in ("plate", "batch") and COMPOUND in table
        if of_any:
            used = codes >= 0
            compounds = pd.Series(table[COMPOUND].astype(str).to_numpy()[used])
            of_any = bool((compounds.groupby(codes[used]).nunique() > 1).all())
        groups.append((what, codes, of_any))
    return groups


_LABELLED = {
    "mechanism": (MOA,),
    "compound": (COMPOUND,),
    "treatment": TREATMENT,
    "plate": (PLATE,),
    "batch": (BATCH,),
    "well": (WELL,),
}


def _is_constant_within(values: NDArray[np.float64], codes: NDArray[Any]) -> bool:
    """Whether values differ between groups but not within any, given enough evidence.

    Only rows beyond the first of each group are evidence.
    """
    used = (codes >= 0) & np.isfinite(values)
    values, codes = values[used], codes[used]
    if len(codes) == 0:
        return False
    first = np.full(codes.max() + 1, np.nan)
    first[codes[::-1]] = values[::-1]
    counts = np.bincount(codes, minlength=len(first))
    repeated = np.unique(values[counts[codes] > 1])
    extra = len(codes) - int((counts > 0).sum())
    return extra >= 3 and len(repeated) > 1 and bool((values == first[codes]).all())


# What columns hold that is neither a number nor text, by the kinds that pandas tells apart.
_NO_NUMBERS = {"boolean": "true or false"} | dict.fromkeys(
    ("datetime", "datetime64", "date", "time", "period", "timedelta", "timedelta64"),
    "dates or times",
)


def _name_others(table: pd.DataFrame, origin: str) -> None:
    """Report columns that might be taken for features, but are text, in part or all, or flags."""
    mixed, written, others = [], [], []
    numbers = set(feature_columns(table))
    for name in table.columns:
        if str(name).startswith(PREFIX) or name in numbers:
            continue
        kind = pd.api.types.infer_dtype(table[name], skipna=True)
        if kind in _NO_NUMBERS:
            others.append(f"{name} ({_NO_NUMBERS[kind]})")
            continue
        cells = table[name].dropna().astype(object)
        if not cells.map(lambda cell: isinstance(cell, int | float | str)).all():
            continue
        wrong = cells[pd.to_numeric(cells, errors="coerce").isna()]
        if len(cells) and not len(wrong):
            written.append(str(name))
        elif len(wrong) < len(cells) / 2:
            mixed.append(f"{name} ({len(wrong)} cells such as {str(wrong.iloc[0])!r})")
    if mixed:
        say(f"{origin}: {_listed(mixed)} mix text and numbers, so they are not used as features")
    if written:
        say(
            f"{origin}: {_listed(written)} hold numbers as text or categories, so they are not "
            "used as features"
        )
    if others:
        say(
            f"{origin}: {counted(len(others), 'column')} without numbers not used as features: "
            f"{_listed(others)}"
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more
