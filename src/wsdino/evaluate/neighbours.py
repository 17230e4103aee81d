"""The treatments that look most like those of a compound."""

from __future__ import annotations

import difflib

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.evaluate.level import is_control
from wsdino.profile.aggregate import pair_plates
from wsdino.profile.rows import directions, lengths
from wsdino.tables.columns import BATCH, COMPOUND, CONCENTRATION, MOA, PLATE
from wsdino.tables.doses import same_dose
from wsdino.tables.features import features_of, require_columns, require_table
from wsdino.tables.lists import labels_of

NUM_NEIGHBOURS = 10


def neighbours(
    profiles: pd.DataFrame,
    compound: str,
    *,
    concentration: float | None = None,
    num: int = NUM_NEIGHBOURS,
) -> pd.DataFrame:
    """Find the treatments of other compounds that are most similar to those of one.

    Parameters
    ----------
    profiles
        One row per treatment: `Metadata_Compound`, features. Controls are candidates, too: a
        treatment whose nearest one is a control may do nothing. A profile that is zero is none.
    compound
        Its name; upper and lower case don't matter where that is unambiguous.
    concentration
        In micromolar; default: each of the compound's.
    num
        Neighbours of each treatment.

    Returns
    -------
    DataFrame
        A row for each neighbour, the most similar first: `compound`, `concentration`, `rank`,
        `neighbour_compound`, `neighbour_concentration`, `neighbour_moa`, `similarity` (cosine),
        `is_control`, `shares_plate`, `shares_batch` (None where the table doesn't say); a plate is
        one within its batch.

    Raises
    ------
    TableError
        If a column is missing, the table has no such compound or concentration, there is nothing
        else in it, or as in :func:`wsdino.tables.features.features_of`.

    Examples
    --------
    >>> import wsdino
    >>> profiles = wsdino.make_profiles(wsdino.read_table("sites.csv"))
    >>> compound = profiles["Metadata_Compound"].iloc[-1]
    >>> wsdino.neighbours(profiles, compound, num=3)["rank"].max()
    np.int64(3)
    """
    require_table(profiles, name="profiles")
    require_columns(profiles, [COMPOUND], purpose="neighbours")
    if num < 1:
        raise TableError(f"the number of neighbours is {num}; expected at least 1")
    name = _found(compound, profiles[COMPOUND])
    names = profiles[COMPOUND].astype(str).to_numpy(dtype=object)
    doses = (
        profiles[CONCENTRATION].to_numpy(dtype=np.float64)
        if CONCENTRATION in profiles
        else np.full(len(profiles), np.nan)
    )
    asked = np.flatnonzero((names == name) & profiles[COMPOUND].notna().to_numpy())
    if concentration is not None:
        own = doses[asked]
        asked = asked[same_dose(own, concentration)]
        if not len(asked):
            has = ", ".join(f"{dose:g}" for dose in np.unique(own[np.isfinite(own)]))
            raise TableError(
                f"{name} has no concentration {concentration:g} uM; it has {has or 'none'}"
            )
    asked = asked[np.argsort(doses[asked], kind="stable")]
    others = np.flatnonzero((names != name) & profiles[COMPOUND].notna().to_numpy())
    if not len(others):
        raise TableError(f"{name} is the only compound; it has no neighbours")
    features = features_of(profiles)
    norms = lengths(features)
    if (norms[asked] == 0).any():
        raise TableError(f"the profile of {name} is zero in every feature; nothing is similar")
    others = others[norms[others] > 0]
    unit = directions(features, norms)
    controls = is_control(profiles)
    rows = []
    for row in asked:
        similarity = unit[others] @ unit[row]
        # Equal ones by name and dose.
        keys = [doses[others], names[others].astype(str), -np.round(similarity, 12)]
        order = np.lexsort(keys)[:num]
        for rank, place in enumerate(order, start=1):
            other = others[place]
            rows.append(
                {
                    "compound": name,
                    "concentration": doses[row],
                    "rank": rank,
                    "neighbour_compound": names[other],
                    "neighbour_concentration": doses[other],
                    "neighbour_moa": profiles[MOA].iloc[other] if MOA in profiles else None,
                    "similarity": float(similarity[place]),
                    "is_control": bool(controls[other]),
                    "shares_plate": _shares(profiles, PLATE, int(row), int(other)),
                    "shares_batch": _shares(profiles, BATCH, int(row), int(other)),
                }
            )
    return pd.DataFrame(rows)


def _found(compound: str, names: pd.Series) -> str:
    """Return the name in the table that is meant."""
    known = sorted(set(names.dropna().astype(str)))
    if compound in known:
        return compound
    alike = [name for name in known if name.casefold() == compound.strip().casefold()]
    if len(alike) == 1:
        return alike[0]
    close = alike or difflib.get_close_matches(compound, known, n=3)
    hint = f", did you mean {' or '.join(close)}?" if close else ""
    raise TableError(f"no compound {compound!r} among {len(known)}{hint}")


def _places(profiles: pd.DataFrame, column: str, row: int) -> list[tuple[str | None, str | None]]:
    """Plates (each with its batch) or batches of a treatment; None stands for an unknown one."""
    batches = labels_of(profiles[BATCH].iloc[row]) if BATCH in profiles else []
    if column == BATCH:
        return [(batch, batch) for batch in batches]
    return pair_plates(labels_of(profiles[column].iloc[row]), batches)


def _shares(profiles: pd.DataFrame, column: str, one: int, other: int) -> bool | None:
    """Whether two treatments have a plate or batch in common; None where that isn't known."""
    if column not in profiles:
        return None
    first, second = (_places(profiles, column, row) for row in (one, other))
    if any(name is not None and (name, batch) in second for name, batch in first):
        return True
    is_known = first and second and all(name is not None for name, _ in (*first, *second))
    return False if is_known else None
