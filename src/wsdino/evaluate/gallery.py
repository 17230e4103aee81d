"""Queries and gallery of matching: which treatments take part, and who may match whom.

The rule is in :mod:`wsdino.evaluate.matching`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError, did_you_mean
from wsdino.evaluate.level import is_control, require_treatments
from wsdino.profile.aggregate import pair_plates
from wsdino.profile.rows import lengths
from wsdino.tables.columns import BATCH, COMPOUND, CONCENTRATION, MOA, PLATE
from wsdino.tables.features import features_of, metadata_of, require_columns
from wsdino.tables.lists import labels_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

MULTI_BATCH = ("strict", "first-published")
# Cosines that differ by less are ties, decided by the treatments' names: rounding must not decide.
_TIE_DECIMALS = 12
_ROWS_AT_ONCE = 512
NO_MOA, NO_COMPOUND = "it has no MoA", "it has no compound"


@dataclass(frozen=True)
class Places:
    """Batches or plates of n treatments, and which treatments share one.

    Attributes
    ----------
    what
        `batch` or `plate`, for people.
    known
        (n,) bool: a treatment of which none, or not all, are known may share one with any other.
    number
        (n,) the one that counts for each treatment, with the published rule; else None.
    member
        (n, places) float32: 1 where a treatment lies; empty with the published rule.
    """

    what: str
    known: NDArray[np.bool_]
    number: NDArray[np.float64] | None
    member: NDArray[np.float32]

    def apart(self, rows: slice) -> NDArray[np.bool_]:
        """Tell which treatments share none with some of them.

        Parameters
        ----------
        rows
            Which treatments.

        Returns
        -------
        ndarray
            (rows, n) bool.
        """
        if self.number is not None:
            apart = self.number[rows, None] != self.number[None, :]
        else:
            apart = (self.member[rows] @ self.member.T) == 0
        known: NDArray[np.bool_] = apart & self.known[rows, None] & self.known[None, :]
        return known


@dataclass(frozen=True)
class Gallery:
    """Annotated treatments, ready for matching; see :func:`make_gallery`.

    Attributes
    ----------
    metadata
        n rows, sorted by compound and concentration.
    compound, moa
        (n,) text.
    features
        (n, F) of norm 1.
    places
        Batches or plates that a match must not share; None where they play no part.
    """

    metadata: pd.DataFrame
    compound: NDArray[np.object_]
    moa: NDArray[np.object_]
    features: NDArray[np.float64]
    places: Places | None = None

    def __len__(self) -> int:
        return len(self.metadata)

    @cached_property
    def compound_code(self) -> NDArray[np.int32]:
        """(n,) number of each treatment's compound."""
        return np.unique(self.compound.astype(str), return_inverse=True)[1].astype(np.int32)

    @cached_property
    def moa_code(self) -> NDArray[np.int32]:
        """(n,) number of each treatment's MoA."""
        return np.unique(self.moa.astype(str), return_inverse=True)[1].astype(np.int32)

    def similarity(self, rows: slice) -> NDArray[np.float64]:
        """Cosines of some treatments with all.

        Parameters
        ----------
        rows
            Which treatments.

        Returns
        -------
        ndarray
            (rows, n), rounded to 12 decimals.
        """
        return np.round(self.features[rows] @ self.features.T, _TIE_DECIMALS)

    def admissible(self, rows: slice) -> NDArray[np.bool_]:
        """Tell whom some treatments may match; as :meth:`Places.apart`."""
        other: NDArray[np.bool_] = self.compound_code[rows, None] != self.compound_code[None, :]
        return other if self.places is None else other & self.places.apart(rows)

    def blocks(self) -> Iterator[slice]:
        """Yield the treatments, some at a time, so that memory doesn't grow with their square."""
        for start in range(0, len(self), _ROWS_AT_ONCE):
            yield slice(start, min(start + _ROWS_AT_ONCE, len(self)))

    @cached_property
    def is_query(self) -> NDArray[np.bool_]:
        """(n,) whether a treatment has a candidate of its own MoA."""
        found = np.zeros(len(self), dtype=bool)
        for rows in self.blocks():
            same = self.moa_code[rows, None] == self.moa_code[None, :]
            found[rows] = (self.admissible(rows) & same).any(axis=1)
        return found

    @cached_property
    def is_in_gallery(self) -> NDArray[np.bool_]:
        """(n,) whether the MoA of a treatment has a query."""
        has_query = np.zeros(int(self.moa_code.max(initial=0)) + 1, dtype=bool)
        has_query[self.moa_code[self.is_query]] = True
        return has_query[self.moa_code]

    def take(self, rows: NDArray[np.intp]) -> Gallery:
        """Return some of the treatments.

        Parameters
        ----------
        rows
            (k,) which, ascending.

        Returns
        -------
        Gallery
        """
        places = self.places
        if places is not None:
            number = None if places.number is None else places.number[rows]
            places = Places(places.what, places.known[rows], number, places.member[rows])
        return Gallery(
            self.metadata.take(rows).reset_index(drop=True),
            self.compound[rows],
            self.moa[rows],
            self.features[rows],
            places,
        )


def make_gallery(
    profiles: pd.DataFrame,
    *,
    exclude_shared_batch: bool = False,
    exclude_shared_plate: bool = False,
    multi_batch: str = "strict",
    purpose: str | None = None,
) -> Gallery:
    """Select the annotated treatments and work out who may match whom.

    Parameters
    ----------
    profiles, exclude_shared_batch, exclude_shared_plate, multi_batch
        See :func:`wsdino.evaluate.matching.match_moa`.
    purpose
        What to call the measure in an error; default NSC or NSCB.

    Returns
    -------
    Gallery

    Raises
    ------
    TableError
        If a needed column is missing, no treatment has an MoA, all are of one compound, the rows
        are no treatments (:func:`wsdino.evaluate.level.require_treatments`), a feature is missing
        or infinite, every feature is constant, a profile is zero everywhere, or the option is
        unknown.
    """
    if multi_batch not in MULTI_BATCH:
        near = did_you_mean(multi_batch, MULTI_BATCH)
        msg = f"multi-batch is {multi_batch!r}{near}; expected one of {', '.join(MULTI_BATCH)}"
        raise TableError(msg)
    if exclude_shared_batch and exclude_shared_plate:
        raise TableError("a plate lies in a batch: exclude shared batches or shared plates")
    place = BATCH if exclude_shared_batch else PLATE if exclude_shared_plate else None
    measure = {BATCH: "NSCB", PLATE: "not same plate", None: "NSC"}[place]
    needed = [COMPOUND, MOA, *([place] if place else [])]
    require_columns(profiles, needed, purpose=purpose or measure)
    rows = annotated(profiles)
    require_treatments(profiles)
    features = features_of(rows)
    if (features == features[0]).all():
        msg = f"every feature is constant over the {len(rows)} treatments; nothing can be compared"
        raise TableError(msg)
    norms = lengths(features)
    if (norms == 0).any():
        where = rows[COMPOUND].iloc[int(np.flatnonzero(norms == 0)[0])]
        msg = f"the profile of {where} is zero in every feature; it has no cosine similarity"
        raise TableError(msg)
    features = features / norms[:, None]
    compound = rows[COMPOUND].to_numpy(dtype=object)
    places = _places(rows, place, multi_batch) if place else None
    metadata = metadata_of(rows)
    if CONCENTRATION not in metadata:
        metadata = metadata.assign(**{CONCENTRATION: np.nan})
    moa = rows[MOA].to_numpy(dtype=object)
    return Gallery(metadata, compound, moa, features, places)


def annotated(profiles: pd.DataFrame) -> pd.DataFrame:
    """Return the treatments that take part in matching, sorted by compound and concentration.

    Parameters
    ----------
    profiles
        With `Metadata_Compound` and `Metadata_MoA`.

    Returns
    -------
    DataFrame
        Rows that are no controls and have an MoA, with a fresh index; their position in `profiles`
        as `_row` (object, so that it is no feature).

    Raises
    ------
    TableError
        If no row has an MoA, or all that have one are of one compound.
    """
    treated = ~is_control(profiles)
    known = profiles[MOA].notna().to_numpy() & profiles[COMPOUND].notna().to_numpy() & treated
    rows = profiles[known].assign(_row=np.flatnonzero(known).astype(object))
    problem = why_unmatched(profiles)
    if problem:
        raise TableError(f"{problem}; matching needs at least two compounds with an MoA")
    keys = [COMPOUND, *([CONCENTRATION] if CONCENTRATION in rows else [])]
    return rows.sort_values(keys, kind="stable").reset_index(drop=True)


def why_unmatched(profiles: pd.DataFrame) -> str | None:
    """Say why nothing can be matched by MoA.

    Parameters
    ----------
    profiles
        With `Metadata_Compound`; sites, wells or treatments.

    Returns
    -------
    str or None
        None where at least two compounds have an MoA.
    """
    if MOA not in profiles:
        return f"there is no {MOA}"
    known = profiles[MOA].notna() & profiles[COMPOUND].notna() & ~is_control(profiles)
    names = profiles.loc[known, COMPOUND].unique()
    if not len(names):
        if profiles[MOA].notna().any():
            return f"{MOA} is empty in all rows but those of controls or without a compound"
        return f"{MOA} is empty in all {len(profiles)} rows"
    if len(names) < 2:
        return f"{names[0]} is the only compound with an MoA"
    return None


def unannotated(profiles: pd.DataFrame) -> pd.DataFrame:
    """Return the treatments that take part in no measure, because compound or MoA is not known.

    Parameters
    ----------
    profiles
        With `Metadata_Compound` and `Metadata_MoA`.

    Returns
    -------
    DataFrame
        A row each, in the order of `profiles`: `compound`, `concentration`, `moa`, `reason`.
    """
    no_moa, no_compound = (profiles[name].isna().to_numpy() for name in (MOA, COMPOUND))
    rows = profiles[(no_moa | no_compound) & ~is_control(profiles)]
    return pd.DataFrame(
        {
            "compound": rows[COMPOUND].to_numpy(dtype=object),
            "concentration": rows[CONCENTRATION].to_numpy() if CONCENTRATION in rows else np.nan,
            "moa": rows[MOA].to_numpy(dtype=object),
            "reason": np.where(rows[COMPOUND].isna(), NO_COMPOUND, NO_MOA),
        }
    )


def _places(rows: pd.DataFrame, column: str, multi_batch: str) -> Places:
    """Read the batches or plates of the treatments that take part."""
    batches = [labels_of(value) for value in rows[BATCH]] if BATCH in rows else [[]] * len(rows)
    own: list[list[Any]] = [[*each] for each in batches]
    known = np.array([bool(each) and None not in each for each in own])
    if column == PLATE:
        plates = [labels_of(value) for value in rows[PLATE]]
        # A plate is a plate within its batch.
        own = [[*pair_plates(*each)] for each in zip(plates, batches, strict=True)]
        known = np.array([bool(each) and all(plate for plate, _ in each) for each in own])
    if column == BATCH and multi_batch == "first-published":
        position = rows["_row"].to_numpy(dtype=np.intp)
        nothing = np.zeros((len(rows), 0), dtype=np.float32)
        return Places("batch", known, _median_batch(batches, position), nothing)
    number = {name: i for i, name in enumerate(dict.fromkeys(n for each in own for n in each))}
    member = np.zeros((len(own), len(number)), dtype=np.float32)
    for row, each in enumerate(own):
        member[row, [number[name] for name in each]] = 1
    return Places("batch" if column == BATCH else "plate", known, None, member)


def _median_batch(
    batches: list[list[str | None]], position: NDArray[np.intp]
) -> NDArray[np.float64]:
    """Return each treatment's median batch number over its plates, as the published code has it.

    Batches are numbered in order of first appearance among the treatments that take part;
    `position` is where each of them stands in the table.
    """
    in_order = dict.fromkeys(name for row in np.argsort(position) for name in batches[row])
    number = {name: i for i, name in enumerate(in_order)}
    # Without a batch there is no median, and no match either.
    return np.array([np.median([number[name] for name in own]) if own else -1.0 for own in batches])
