"""Rows of a table that a condition keeps, such as those of sites in focus."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError, did_you_mean
from wsdino.outside import reason_of
from wsdino.progress import say
from wsdino.tables.columns import PREFIX

if TYPE_CHECKING:
    from numpy.typing import NDArray


# Methods of columns that compare and no more: a condition may come with somebody else's config.
_METHODS = frozenset(
    [
        *("abs", "between", "contains", "endswith", "fullmatch", "isin", "isna", "isnull", "len"),
        *("lower", "match", "notna", "notnull", "startswith", "str", "strip", "upper"),
    ]
)
_VALUES = re.compile(
    r"""`[^`]*`|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\b\d[\d_]*\.?\d*(?:[eE][+-]?\d+)?"""
)


def _beyond_comparing(condition: str) -> str | None:
    """Return what a condition would do beside comparing, such as calling a function; or None."""
    plain = _VALUES.sub(" x ", condition)
    if "@" in plain:
        return "a variable (@)"
    names = re.findall(r"\.\s*([^\W\d]\w*)", plain)
    return next((f"the method {name}" for name in names if name not in _METHODS), None)


def rows_to_keep(table: pd.DataFrame, condition: str, *, origin: str) -> NDArray[np.intp]:
    """Return the rows for which a condition holds, and say how many are left out.

    Parameters
    ----------
    table
        n rows; only its metadata may be named.
    condition
        As :meth:`pandas.DataFrame.query` takes it: ``Metadata_QC_Focus_DAPI > 0.1 and
        Metadata_Plate != "P7"``. Names with spaces or the like stand in backticks. A row without a
        value is left out by any comparison but ``!=``.
    origin
        What to call the table in messages.

    Returns
    -------
    numpy.ndarray
        (m,) row numbers, ascending.

    Raises
    ------
    TableError
        The condition can't be read, names a column that isn't there, isn't a condition, or no row
        meets it.
    """
    names = [name for name in map(str, table.columns) if name.startswith(PREFIX)]
    metadata = table[names].reset_index(drop=True)
    advice = 'give one such as Metadata_QC_Focus_DAPI > 0.1 or Metadata_Plate != "P7"'
    if not condition.strip():
        raise TableError(f"{origin}: the condition of what to keep is empty; {advice}")
    if used := _beyond_comparing(condition):
        raise TableError(f"{origin}: keep {condition!r}: {used} is not for conditions; {advice}")
    try:
        found: Any = metadata.eval(condition, engine="python")
    except Exception as error:
        reason = reason_of(error)
        undefined = re.fullmatch(r"name '(.+)' is not defined", reason)
        if undefined:
            near = did_you_mean(undefined[1], names)
            reason = f"there is no column {undefined[1]}{near}; it has {', '.join(names)}"
            raise TableError(f"{origin}: keep {condition!r}: {reason}") from error
        raise TableError(
            f"{origin}: keep {condition!r}: not a condition: {reason}; {advice}"
        ) from error
    is_condition = isinstance(found, pd.Series) and pd.api.types.is_bool_dtype(found)
    if not is_condition or len(found) != len(metadata):
        raise TableError(
            f"{origin}: keep {condition!r}: not a condition that holds for some rows and not for "
            f"others; {advice}"
        )
    kept = np.flatnonzero(found.fillna(value=False).to_numpy(dtype=bool))
    if not len(kept):
        raise TableError(
            f"{origin}: keep {condition!r}: none of the {len(metadata)} rows meets it; relax it"
        )
    say(f"{origin}: {len(kept)} of {len(metadata)} rows are kept ({condition})")
    return kept
