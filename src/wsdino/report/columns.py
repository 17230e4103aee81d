"""What treatments, wells and sites are coloured, listed and sorted by."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.evaluate.confounders import DENSITY
from wsdino.report.words import DASH, number
from wsdino.tables.columns import BATCH, COMPOUND, CONCENTRATION, CONTROL, MOA, PLATE, PREFIX, WELL
from wsdino.tables.lists import labels_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# A label for every second row names rows, and isn't worth a colour.
MAX_LABELS = 400
DOSE = "Concentration, µM"
MECHANISM = "Mechanism"
_OURS = {
    MOA: MECHANISM,
    COMPOUND: "Compound",
    CONCENTRATION: DOSE,
    BATCH: "Batch",
    PLATE: "Plate",
    WELL: "Well",
    CONTROL: "Control",
    DENSITY: "Cell density",
}
_MAX_LISTED = 3


@dataclass(frozen=True)
class Column:
    """One column over treatments, wells or sites.

    Attributes
    ----------
    name
        Its heading.
    values
        A text or None for each row; of a number finite floats or None.
    is_number
        Whether the values are numbers.
    is_log
        Whether a colour scale should be logarithmic.
    digits
        Significant digits shown.
    """

    name: str
    values: Sequence[Any]
    is_number: bool = False
    is_log: bool = False
    digits: int = 3

    def text(self, row: int) -> str:
        """Write one value; a dash where there is none."""
        value = self.values[row]
        if value is None:
            return DASH
        return number(value, self.digits) if self.is_number else str(value)

    def plain(self, row: int, *, digits: int = 4) -> Any:
        """Return one value for JSON; a number with so many digits, or all that are shown."""
        value = self.values[row]
        if not self.is_number or value is None:
            return value
        return float(f"{value:.{max(digits, self.digits)}g}")

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON for the page: texts as labels in order and a code per row."""
        if self.is_number:
            values = [self.plain(row) for row in range(len(self.values))]
            found = {"name": self.name, "values": values, "digits": self.digits}
            return found | ({"log": True} if self.is_log else {})
        labels = sorted({v for v in self.values if v is not None}, key=natural)
        code = {label: n for n, label in enumerate(labels)}
        codes = [-1 if v is None else code[v] for v in self.values]
        return {"name": self.name, "labels": labels, "codes": codes}


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that orders numbers in a text by their value."""
    parts: list[tuple[int, int, str]] = []
    digits = ""
    for letter in f"{text}\0":
        if letter.isdigit() and letter.isascii():
            digits += letter
            continue
        if digits:
            parts.append((0, int(digits), ""))
            digits = ""
        parts.append((1, 0, letter.lower()))
    return parts


def controls_of(frame: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which rows are negative controls; where that isn't known they are not."""
    if CONTROL not in frame:
        return np.zeros(len(frame), dtype=bool)
    known: NDArray[np.bool_] = frame[CONTROL].eq(other=True).to_numpy(dtype=bool, na_value=False)
    return known


def numbers(name: str, values: Sequence[Any], *, is_log: bool = False, digits: int = 3) -> Column:
    """Make a column of numbers; what isn't finite is missing.

    Whole numbers, which may be identifiers or counts, are shown with all their digits.
    """
    finite = [
        float(v) if isinstance(v, int | float | np.number) and math.isfinite(v) else None
        for v in values
    ]
    known = [v for v in finite if v is not None]
    if all(v.is_integer() for v in known):
        longest = max((len(f"{abs(v):.0f}") for v in known), default=0)
        digits = min(max(digits, longest), sys.float_info.dig)
    return Column(name, finite, is_number=True, is_log=is_log, digits=digits)


def metadata_columns(frame: pd.DataFrame) -> list[Column]:
    """Make a column of every `Metadata_*` column that has something to tell.

    Parameters
    ----------
    frame
        n rows of treatments, wells or sites.

    Returns
    -------
    list of Column
        Ours first, in a fixed order, then others in that of the table. A cell with several labels
        (plates of a treatment) names up to three, else counts them. Columns without a value, with
        one label only, or with too many to tell apart are left out, except for compounds.
    """
    ours = [name for name in _OURS if name in frame]
    others = [n for n in map(str, frame) if n.startswith(PREFIX) and n not in _OURS]
    columns = [_column(name, frame[name]) for name in [*ours, *others]]
    return [column for column in columns if column is not None]


def column_label(name: str) -> str:
    """Return the heading of a `Metadata_*` column."""
    return _OURS.get(name, name.removeprefix(PREFIX).replace("_", " "))


def _column(name: str, values: pd.Series[Any]) -> Column | None:
    label = column_label(name)
    if name == CONTROL:
        is_control = controls_of(values.to_frame())
        texts: list[str | None] = ["control" if each else "treated" for each in is_control]
    elif pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        made = numbers(label, values.tolist(), is_log=name == CONCENTRATION, digits=4)
        known = {value for value in made.values if value is not None}
        return made if len(known) > 1 or (known and name == CONCENTRATION) else None
    else:
        texts = [_listed(value) for value in values]
    known_texts = set(texts) - {None}
    if name in (COMPOUND, MOA):
        return Column(label, texts) if known_texts else None
    few = len(known_texts) <= max(_MAX_LISTED, min(MAX_LABELS, len(texts) // 2))
    return Column(label, texts) if few and len(set(texts)) > 1 else None


def _listed(value: Any) -> str | None:
    # In one order, so that the same plates or batches have one colour.
    labels = sorted({label for label in labels_of(value) if label}, key=natural)
    if not labels:
        return None
    return ", ".join(labels) if len(labels) <= _MAX_LISTED else f"{len(labels)} of them"
