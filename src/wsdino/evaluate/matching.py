"""Nearest-neighbour matching of mechanisms of action: NSC and NSCB.

Each treatment's nearest neighbour by cosine similarity, among those of another compound (NSC: not
same compound) or of another compound and no shared batch (NSCB: not same compound and batch), is
right if its MoA is the same. Ljosa et al. (2013), doi:10.1177/1087057113503553; NSCB: Ando et al.
(2017), doi:10.1101/161422.

Which queries count. A query without any candidate of its own MoA can't be right; it is left out, by
name. An MoA none of whose treatments is left as a query leaves the gallery too. In BBBC021 that
takes Cholesterol-lowering and Kinase inhibitors out of NSCB: 92 of 103 treatments remain, as
published.

Treatments in several batches (BBBC021: taxol 0.3 uM, on all plates). `strict` (the default) takes
two treatments to share a batch if they have any in common; taxol 0.3 uM then has no candidate and
is no candidate. `first-published` does what WS-DINO's code does: batches are numbered in order of
first appearance in the table, a treatment's batch is the median number over its plates, and only
equal medians count as shared. It depends on the order of the rows, and it lets a query match a
treatment that was in part imaged beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.tables.columns import BATCH, COMPOUND, CONCENTRATION, CONTROL, MOA
from wsdino.tables.features import features_of, metadata_of, require_columns, split_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

MULTI_BATCH = ("strict", "first-published")
# Cosines that differ by less are ties, decided by the treatments' names: rounding must not decide.
_TIE_DECIMALS = 12


@dataclass(frozen=True)
class MatchResult:
    """What :func:`match_moa` found.

    Attributes
    ----------
    num_correct, num_total
        Right queries, and queries in all (without those left out).
    neighbours
        A row per query, in order of compound and concentration: `compound`, `concentration`, `moa`,
        `neighbour_compound`, `neighbour_concentration`, `neighbour_moa`, `similarity` (cosine),
        `correct`.
    left_out
        A row per treatment with an MoA that is no query: `compound`, `concentration`, `moa`,
        `reason`.
    labels
        MoAs of the gallery, sorted.
    confusion
        (labels, labels) counts: row = MoA of the query, column = MoA of its neighbour.
    """

    num_correct: int
    num_total: int
    neighbours: pd.DataFrame
    left_out: pd.DataFrame
    labels: tuple[str, ...]
    confusion: NDArray[np.int64]

    @property
    def accuracy(self) -> float | None:
        """Fraction of right queries; None where there is no query."""
        return self.num_correct / self.num_total if self.num_total else None


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
    similarity
        (n, n) cosines, rounded to 12 decimals.
    admissible
        (n, n) bool: row i may match row j.
    """

    metadata: pd.DataFrame
    compound: NDArray[np.object_]
    moa: NDArray[np.object_]
    features: NDArray[np.float64]
    similarity: NDArray[np.float64]
    admissible: NDArray[np.bool_]


def match_moa(
    profiles: pd.DataFrame, *, exclude_shared_batch: bool = False, multi_batch: str = "strict"
) -> MatchResult:
    """Match each treatment to its nearest neighbour and compare their MoAs.

    Controls and treatments without MoA take no part.

    Parameters
    ----------
    profiles
        One row per treatment: `Metadata_Compound`, `Metadata_MoA`, features; for NSCB also
        `Metadata_Batch` (several batches joined by `;`).
    exclude_shared_batch
        False: NSC. True: NSCB.
    multi_batch
        What a treatment in several batches shares, see the module's text: `strict` or
        `first-published`.

    Returns
    -------
    MatchResult

    Raises
    ------
    TableError
        See :func:`make_gallery`.
    """
    gallery = make_gallery(
        profiles, exclude_shared_batch=exclude_shared_batch, multi_batch=multi_batch
    )
    queries, neighbours = nearest(gallery.similarity, gallery.admissible, gallery.moa)
    metadata, moa = gallery.metadata, gallery.moa
    treatments = pd.DataFrame(
        {"compound": gallery.compound, "concentration": metadata[CONCENTRATION], "moa": moa}
    )
    matched = treatments.take(neighbours).add_prefix("neighbour_").reset_index(drop=True)
    table = pd.concat([treatments.take(queries).reset_index(drop=True), matched], axis=1)
    table["similarity"] = gallery.similarity[queries, neighbours]
    correct = moa[queries] == moa[neighbours]
    table["correct"] = correct
    left = np.setdiff1d(np.arange(len(moa)), queries)
    left_out = treatments.take(left).reset_index(drop=True)
    left_out["reason"] = [_reason(gallery, row, batches=exclude_shared_batch) for row in left]
    labels = tuple(sorted(set(moa[queries])))
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    position = {label: number for number, label in enumerate(labels)}
    for query, neighbour in zip(queries, neighbours, strict=True):
        confusion[position[moa[query]], position[moa[neighbour]]] += 1
    return MatchResult(int(correct.sum()), len(queries), table, left_out, labels, confusion)


def make_gallery(
    profiles: pd.DataFrame, *, exclude_shared_batch: bool = False, multi_batch: str = "strict"
) -> Gallery:
    """Select the annotated treatments and work out who may match whom.

    Parameters
    ----------
    profiles, exclude_shared_batch, multi_batch
        See :func:`match_moa`.

    Returns
    -------
    Gallery

    Raises
    ------
    TableError
        If a needed column is missing, no treatment has an MoA, all are of one compound, a feature
        is missing or infinite, every feature is constant, a profile is zero everywhere, or the
        option is unknown.
    """
    if multi_batch not in MULTI_BATCH:
        msg = f"multi-batch is {multi_batch!r}; expected one of {', '.join(MULTI_BATCH)}"
        raise TableError(msg)
    needed = [COMPOUND, MOA, *([BATCH] if exclude_shared_batch else [])]
    require_columns(profiles, needed, purpose="NSCB" if exclude_shared_batch else "NSC")
    rows = annotated(profiles)
    features = features_of(rows)
    if (features == features[0]).all():
        msg = f"every feature is constant over the {len(rows)} treatments; nothing can be compared"
        raise TableError(msg)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    if (norms == 0).any():
        where = rows[COMPOUND].iloc[int(np.flatnonzero(norms == 0)[0])]
        msg = f"the profile of {where} is zero in every feature; it has no cosine similarity"
        raise TableError(msg)
    features = features / norms
    compound = rows[COMPOUND].to_numpy(dtype=object)
    admissible = compound[:, None] != compound[None, :]
    if exclude_shared_batch:
        batches = [frozenset(split_labels(value)) for value in rows[BATCH]]
        if multi_batch == "strict":
            admissible &= ~_share_any(batches)
        else:
            median = _median_batch(profiles).loc[rows["_row"]].to_numpy()
            admissible &= median[:, None] != median[None, :]
    metadata = metadata_of(rows)
    if CONCENTRATION not in metadata:
        metadata = metadata.assign(**{CONCENTRATION: np.nan})
    similarity = np.round(features @ features.T, _TIE_DECIMALS)
    moa = rows[MOA].to_numpy(dtype=object)
    return Gallery(metadata, compound, moa, features, similarity, admissible)


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
    treated = ~profiles[CONTROL].to_numpy(dtype=bool) if CONTROL in profiles else True
    known = profiles[MOA].notna().to_numpy() & profiles[COMPOUND].notna().to_numpy() & treated
    rows = profiles[known].assign(_row=np.flatnonzero(known).astype(object))
    if rows.empty:
        msg = f"{MOA} is empty in all {len(profiles)} treatments; matching needs annotated ones"
        raise TableError(msg)
    if rows[COMPOUND].nunique() < 2:
        only = rows[COMPOUND].iloc[0]
        msg = f"{only} is the only compound with an MoA; matching needs at least two compounds"
        raise TableError(msg)
    keys = [COMPOUND, *([CONCENTRATION] if CONCENTRATION in rows else [])]
    return rows.sort_values(keys, kind="stable").reset_index(drop=True)


def nearest(
    similarity: NDArray[np.float64], admissible: NDArray[np.bool_], moa: NDArray[Any]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the queries and the nearest neighbour of each.

    Parameters
    ----------
    similarity
        (n, n).
    admissible
        (n, n) bool: row i may match row j.
    moa
        (n,) labels; any dtype with `==`.

    Returns
    -------
    queries : ndarray
        (q,) rows with at least one admissible candidate of the same MoA, ascending.
    neighbours : ndarray
        (q,) the most similar admissible row whose MoA still has a query; the first of ties.
    """
    same = moa[:, None] == moa[None, :]
    is_query = (admissible & same).any(axis=1)
    in_gallery = (same & is_query[None, :]).any(axis=1)
    queries = np.flatnonzero(is_query)
    candidates = np.where(admissible & in_gallery[None, :], similarity, -np.inf)[queries]
    if len(queries) == 0:
        return queries, queries
    return queries, candidates.argmax(axis=1)


def _share_any(batches: list[frozenset[str]]) -> NDArray[np.bool_]:
    """Return (n, n): whether two treatments have a batch in common."""
    names = sorted(frozenset().union(*batches))
    member = np.array([[name in own for name in names] for own in batches], dtype=np.int64)
    shared: NDArray[np.bool_] = (member @ member.T) > 0
    return shared


def _median_batch(profiles: pd.DataFrame) -> pd.Series:
    """Return each row's median batch number over its plates, as the published code has it.

    Batches are numbered in order of first appearance among the rows that take part.
    """
    rows = annotated(profiles)["_row"].astype(int).sort_values()
    labels = {row: split_labels(profiles[BATCH].iloc[row]) for row in rows}
    in_order = dict.fromkeys(name for own in labels.values() for name in own)
    number = {name: i for i, name in enumerate(in_order)}
    medians = {row: np.median([number[name] for name in own]) for row, own in labels.items()}
    return pd.Series(medians, dtype=np.float64)


def _reason(gallery: Gallery, row: int, *, batches: bool) -> str:
    """Say why a treatment is no query."""
    same = gallery.moa == gallery.moa[row]
    if not (same & (gallery.compound != gallery.compound[row])).any():
        return "no other compound has this MoA"
    assert batches
    return "every other compound with this MoA shares a batch with it"
