"""The weak label of each row of a table, for normalisations that use one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.errors import did_you_mean
from wsdino.profile.rows import control_rows
from wsdino.tables.columns import COMPOUND, PREFIX, TREATMENT

if TYPE_CHECKING:
    from numpy.typing import NDArray


def label_columns(label: str) -> list[str]:
    """Columns that make up a weak label.

    Parameters
    ----------
    label
        `compound`, `treatment` (compound and concentration), or the name of any metadata column,
        with or without `Metadata_`.

    Returns
    -------
    list of str
        Names of columns, which a table may lack.
    """
    named = {"compound": [COMPOUND], "treatment": list(TREATMENT)}
    return named.get(label, [label if label.startswith(PREFIX) else PREFIX + label])


def label_names(table: pd.DataFrame, label: str) -> NDArray[np.object_]:
    """Weak label of each row as text.

    Parameters
    ----------
    table
        n rows with the columns of the label.
    label
        See :func:`label_columns`.

    Returns
    -------
    ndarray
        (n,) text, the same for rows with the same label; None where a row has none. A concentration
        may be missing: a compound without one is a treatment too. Controls are named as they are.
    """
    columns = label_columns(label)
    known = table[columns[0]].notna()
    if len(columns) == 1:
        names = table[columns[0]].astype(str)
    else:
        rows = table[columns].astype(object).itertuples(index=False, name=None)
        names = pd.Series([str(row) for row in rows], index=table.index)
    result: NDArray[np.object_] = names.astype(object).where(known, None).to_numpy(dtype=object)
    return result


def label_codes(table: pd.DataFrame, label: str) -> NDArray[np.int64]:
    """Weak label of each row as a number; the controls are a label of their own.

    Parameters
    ----------
    table
        n rows with the columns of the label.
    label
        See :func:`label_columns`.

    Returns
    -------
    ndarray
        (n,) int64, the same for rows with the same label; -1 where a treated row has none.
    """
    codes = pd.factorize(label_names(table, label))[0].astype(np.int64)
    codes[control_rows(table)] = codes.max(initial=-1) + 1
    return codes


def label_problem(table: pd.DataFrame, label: str) -> str:
    """Say why a weak label can't be used on a table.

    Parameters
    ----------
    table
        Metadata of sites or wells.
    label
        See :func:`label_columns`.

    Returns
    -------
    str
        Such as `needs the column Metadata_Compound for label compound`; empty where it can.
    """
    missing = [name for name in label_columns(label) if name not in table]
    if missing:
        columns = [str(name) for name in table.columns if str(name).startswith(PREFIX)]
        near = did_you_mean(label, ("compound", "treatment", *columns))
        near = near or did_you_mean(missing[0], columns)
        return (
            f"needs the column {missing[0]} for label {label!r}, which the table doesn't have{near}"
        )
    codes = label_codes(table, label)
    known = codes[(codes >= 0) & ~control_rows(table)]
    num_labels = len(np.unique(known))
    if num_labels < 2:
        return f"needs two labels or more, found {num_labels} for label {label!r}"
    if len(known) == num_labels:
        return (
            f"needs rows that share a label, found {num_labels} values of label {label!r} in as "
            "many rows"
        )
    return ""
