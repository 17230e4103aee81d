"""Rows of a table that a condition keeps, such as those of sites in focus."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError, did_you_mean
from wsdino.outside import reason_of
from wsdino.progress import say
from wsdino.tables.columns import PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

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

# What pandas writes otherwise than Python does; strings stay as they are.
_SIGNS = re.compile(r"""`[^`]*`|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[&|]""")


def _beyond_comparing(condition: str) -> str | None:
    """Return what a condition would do beside comparing, such as calling a function; or None."""
    plain = _VALUES.sub(" x ", condition)
    if "@" in plain:
        return "a variable (@)"
    names = re.findall(r"\.\s*([^\W\d]\w*)", plain)
    return next((f"the method {name}" for name in names if name not in _METHODS), None)


def _other_kind(condition: str, metadata: pd.DataFrame) -> str | None:
    """Return what a condition compares that can't be equal: text with a number; or None.

    pandas takes them to be different, so that `Metadata_Plate != 22123` would hold for all rows.
    """
    names: dict[str, str] = {}

    def plain(found: re.Match[str]) -> str:
        value = found[0]
        if value[0] == "`":
            return names.setdefault(value[1:-1], f"_{len(names)}")
        return {"&": " and ", "|": " or "}.get(value, value)

    try:
        tree = ast.parse(_SIGNS.sub(plain, condition.strip()), mode="eval")
    except SyntaxError:  # of what pandas alone can read
        return None
    columns = {short: name for name, short in names.items()} | {name: name for name in metadata}
    for left, right in _compared(tree):
        name = columns.get(left.id) if isinstance(left, ast.Name) else None
        values = right.elts if isinstance(right, ast.List | ast.Tuple | ast.Set) else [right]
        given = [value.value for value in values if isinstance(value, ast.Constant)]
        if name is None or not given:
            continue
        is_text = pd.api.types.infer_dtype(metadata[name], skipna=True) == "string"
        if is_text and isinstance(given[0], int | float):
            return f'{name} is text, so compare it with text, as "{given[0]!r}"'
        if pd.api.types.is_numeric_dtype(metadata[name]) and isinstance(given[0], str):
            kind = "true or false" if pd.api.types.is_bool_dtype(metadata[name]) else "a number"
            return f"{name} is {kind}, so compare it with what isn't in quotes"
    return None


def _compared(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """List what a condition compares for equality, each pair in both orders."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for one, how, other in zip(sides, node.ops, sides[1:], strict=False):
                if isinstance(how, ast.Eq | ast.NotEq | ast.In | ast.NotIn):
                    yield from ((one, other), (other, one))
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "isin"
            and node.args
        ):
            yield node.func.value, node.args[0]


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
    if mixed := _other_kind(condition, metadata):
        raise TableError(f"{origin}: keep {condition!r}: {mixed}")
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
