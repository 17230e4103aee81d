"""What a column of a table holds: numbers, booleans, or names that only look like numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from wsdino.tables.identity import MISSING

_NUMBER = r"-?(0|[1-9]\d*)?\.?\d+([eE][+-]?\d+)?"


def inferred(values: pd.Series) -> pd.Series:
    """Return text as numbers or booleans if every value survives the conversion.

    Two that are written differently, such as versions 1.1 and 1.10, must not become one number.
    Beside numbers `NA` and the like are missing; beside other text they are labels.
    """
    if values.dtype != object:
        return values.astype(object) if isinstance(values.dtype, pd.CategoricalDtype) else values
    filled = values.dropna()
    if not all(isinstance(value, str) for value in filled):
        return values
    text = filled.str.strip()
    text = text[text != ""]
    stripped = text.reindex(values.index).astype(object)
    stripped = stripped.where(stripped.notna(), None)
    if text.empty:
        return stripped
    if text.isin(["True", "False"]).all() and len(text) == len(values):
        return text == "True"
    known = text[~text.str.casefold().isin(MISSING) | text.str.fullmatch(_NUMBER)]
    if not known.str.fullmatch(_NUMBER).all() or known.empty:
        return stripped
    # A number that would be written differently, such as 0042, is a name.
    if len(known) == len(values) and known.str.fullmatch(r"-?(0|[1-9]\d{0,17})").all():
        return pd.to_numeric(known)
    # So is one with more digits than a float has: of a barcode the last must not be lost.
    is_name = known.str.match(r"-?0\d") | known.str.fullmatch(r"-?\d{16,}")
    if is_name.any():
        return stripped
    found = pd.to_numeric(pd.Series(known.unique()), errors="coerce")
    # Of zeros the sign may be lost.
    if found.isna().any() or found[found != 0].duplicated().any():
        return stripped
    return pd.to_numeric(known).astype("float64").reindex(values.index)


def numeric(values: pd.Series) -> pd.Series:
    """Return objects that are all numbers, such as decimals, as float64; others as they are."""
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind not in {"floating", "integer", "decimal", "mixed-integer-float"}:
        return values
    return values.astype(np.float64)
