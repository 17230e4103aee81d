"""What a column of a table holds: numbers, booleans, or names that only look like numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd


def inferred(values: pd.Series) -> pd.Series:
    """Return text as numbers or booleans if every value survives the conversion.

    Two that are written differently, such as versions 1.1 and 1.10, must not become one number.
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
    # A number that would be written differently, such as 0042, is a name.
    if len(text) == len(values) and text.str.fullmatch(r"-?(0|[1-9]\d{0,17})").all():
        return pd.to_numeric(text)
    # So is one with more digits than a float has: of a barcode the last must not be lost.
    is_name = text.str.match(r"-?0\d") | text.str.fullmatch(r"-?\d{16,}")
    if is_name.any() or not text.str.fullmatch(r"-?(0|[1-9]\d*)?\.?\d+([eE][+-]?\d+)?").all():
        return stripped
    found = pd.to_numeric(pd.Series(text.unique()), errors="coerce")
    # Of zeros the sign may be lost.
    if found.isna().any() or found[found != 0].duplicated().any():
        return stripped
    return pd.to_numeric(stripped).astype("float64")


def numeric(values: pd.Series) -> pd.Series:
    """Return objects that are all numbers, such as decimals, as float64; others as they are."""
    kind = pd.api.types.infer_dtype(values, skipna=True)
    if kind not in {"floating", "integer", "decimal", "mixed-integer-float"}:
        return values
    return values.astype(np.float64)
