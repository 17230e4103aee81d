"""What profiles may tell of where and how wells were made, and what to say when they do."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.tables.columns import BATCH, PREFIX, WELL
from wsdino.tables.features import plate_keys
from wsdino.tables.places import at_edge, places_of, plate_format

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

DENSITY = f"{PREFIX}density_of_cells"
# Counts of cells, what is preferred first: an object's number, averaged, is about half of a count.
_COUNTS = [
    re.compile(rf"(?:Metadata_|Image_)*(?:{form})", re.IGNORECASE)
    for form in (
        r"Count_Cells|Cells?_?(?:Counts?|Number)|Num(?:ber_?of)?_?Cells",
        r"Count_Nuclei|Nuclei_?(?:Counts?|Number)|Num(?:ber_?of)?_?Nuclei",
        r"Cells_Number_Object_Number",
        r"Nuclei_Number_Object_Number",
    )
]
_FOREGROUND = f"{PREFIX}QC_Foreground_"
# More than chance by that many standard errors, and by that factor or that share of what is left
# above chance: worth a warning.
NUM_ERRORS = 2.0
LIFT_WARNING, LIFT_BAD = 1.5, 3.0
EXCESS_WARNING = 0.25


@dataclass(frozen=True)
class Confounder:
    """Something technical that profiles may tell, as one entry of :data:`CONFOUNDERS`.

    Attributes
    ----------
    name
        Key of the results.
    noun
        What wells have in common that share it.
    shared
        What a neighbour is that shares it.
    told
        What a linear probe tells.
    classes
        Called with the metadata of wells; returns their classes, missing where not known, or None
        where the table doesn't say.
    """

    name: str
    noun: str
    shared: str
    told: str
    classes: Callable[[pd.DataFrame], pd.Series[Any] | None]


def _batch(wells: pd.DataFrame) -> pd.Series[Any] | None:
    return wells.get(BATCH)


def plate_numbers(wells: pd.DataFrame) -> pd.Series[Any]:
    """Return the number of each row's plate; a plate is a plate within its batch."""
    return wells.groupby(plate_keys(wells), sort=False, dropna=False).ngroup()


def _row(wells: pd.DataFrame) -> pd.Series[Any]:
    return _known(places_of(wells[WELL])[0], wells)


def _column(wells: pd.DataFrame) -> pd.Series[Any]:
    return _known(places_of(wells[WELL])[1], wells)


def _known(places: NDArray[np.intp], wells: pd.DataFrame) -> pd.Series[Any]:
    found = pd.Series(places, index=wells.index)
    return found.where(found >= 0)


def _edge(wells: pd.DataFrame) -> pd.Series[Any] | None:
    """Return whether wells lie at the edge; see :func:`wsdino.tables.places.at_edge`."""
    rows, columns = places_of(wells[WELL])
    known = rows >= 0
    if not known.any():
        return None
    shape = plate_format(int(rows.max()) + 1, int(columns.max()) + 1)
    found = pd.Series(None, index=wells.index, dtype=object)
    found[known] = at_edge(rows[known], columns[known], shape)[0]
    return found


def _density(wells: pd.DataFrame) -> pd.Series[Any] | None:
    """Return the third of all wells by cell count, or by the share of a field that is foreground.

    Thirds, because neighbours share a class or don't.
    """
    if DENSITY not in wells or wells[DENSITY].nunique() < 3:
        return None
    return pd.qcut(wells[DENSITY].rank(method="average"), 3, labels=False, duplicates="drop")


CONFOUNDERS = (
    Confounder("batch", "batch", "of the same batch", "the batch", _batch),
    Confounder("plate", "plate", "of the same plate", "the plate", plate_numbers),
    Confounder("row", "row", "in the same row", "the row", _row),
    Confounder("column", "column", "in the same column", "the column", _column),
    Confounder(
        "edge", "a place at the edge or inside", "alike at the edge or inside", "the edge", _edge
    ),
    Confounder(
        "density",
        "cell density",
        "in the same third by cell density",
        "the third by cell density",
        _density,
    ),
)


def cells_of(table: pd.DataFrame) -> NDArray[np.float64] | None:
    """Return each row's number of cells, else of nuclei, else how much of its field is foreground.

    Of several such counts the first by name is taken, so that the order of columns plays no part;
    CellProfiler's number of an object stands in where nothing was counted.

    Parameters
    ----------
    table
        n sites or wells.

    Returns
    -------
    ndarray or None
        (n,); None where the table has neither.
    """
    numeric = table.select_dtypes(include="number").columns
    counts = [
        name
        for form in _COUNTS
        for name in sorted(numeric, key=str)
        if form.fullmatch(str(name)) and table[name].notna().any()
    ][:1]
    chosen = counts or [name for name in numeric if str(name).startswith(_FOREGROUND)]
    if not chosen:
        return None
    values = table[chosen].to_numpy(dtype=np.float64, na_value=np.nan)
    return np.asarray(values.mean(axis=1), dtype=np.float64)


def leakage_sentences(leakage: Mapping[str, Any] | None) -> list[str]:
    """Say which results may be technical effects.

    Parameters
    ----------
    leakage
        What :func:`leakage_of` returned, or None.

    Returns
    -------
    list of str
        One sentence on all that is found beyond chance (:func:`leakage_level`); else none.
    """
    found = {name: own for name, own in (leakage or {}).items() if own}
    told = [
        (each, found[each.name])
        for each in CONFOUNDERS
        if each.name in found and leakage_level(found[each.name]) != "good"
    ]
    if not told:
        return []
    shared = listed(f"{each.shared} in {_found(own)}" for each, own in told)
    text = (
        f"{shared_beyond_chance([each for each, _ in told])}, so similarity may in part be "
        f"technical: the most similar well of another compound is {shared}"
    )
    probes = [f"{each.told} of {_found(own['probe'])}" for each, own in told if own.get("probe")]
    if probes:
        text += "; a linear probe tells, of wells whose compound it hasn't seen, "
        text += listed(probes)
    return [f"{text}."]


def shared_beyond_chance(confounders: Sequence[Confounder]) -> str:
    """Say that neighbours share these more often than chance would have it."""
    nouns = listed(each.noun for each in confounders)
    return f"Similar wells share {nouns} more often than by chance"


def _found(own: Mapping[str, Any]) -> str:
    return f"{100 * own['accuracy']:.1f} % (by chance {100 * own['chance']:.1f} %)"


def listed(texts: Iterable[str]) -> str:
    """Put one or more texts into a sentence: `a`, `a and b`, `a, b and c`."""
    *first, last = texts
    return f"{', '.join(first)} and {last}" if first else last


def leakage_level(own: Mapping[str, Any]) -> str:
    """Judge one confounder: `good`, `warning`, or `bad` where neighbours share it often.

    Parameters
    ----------
    own
        One entry of what :func:`leakage_of` returned.

    Returns
    -------
    str
    """
    accuracy, chance = float(own["accuracy"]), float(own["chance"])
    lift = accuracy / chance if chance > 0 else math.inf
    probe = own.get("probe")
    if _is_beyond(own) and lift > LIFT_BAD:
        return "bad"
    near = _is_beyond(own) and (lift > LIFT_WARNING or _excess(own) > EXCESS_WARNING)
    # What only a probe finds bears on neighbours where these are beyond chance, too.
    far = (
        probe is not None
        and _is_beyond(own)
        and _is_beyond(probe)
        and _excess(probe) > EXCESS_WARNING
    )
    return "warning" if near or far else "good"


def _is_beyond(own: Mapping[str, Any]) -> bool:
    accuracy, num = float(own["accuracy"]), own.get("num_wells")
    error = math.sqrt(accuracy * (1 - accuracy) / num) if num else 0.0
    return accuracy - float(own["chance"]) > NUM_ERRORS * error


def _excess(own: Mapping[str, Any]) -> float:
    """Return what is found above chance, as a share of what could be."""
    chance = float(own["chance"])
    return (float(own["accuracy"]) - chance) / (1 - chance) if chance < 1 else 0.0
