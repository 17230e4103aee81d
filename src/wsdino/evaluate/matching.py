"""Nearest-neighbour matching of mechanisms of action: NSC and NSCB.

Each treatment's nearest neighbour by cosine similarity, among those of another compound (NSC: not
same compound) or of another compound and no shared batch (NSCB: not same compound and batch), is
right if its MoA is the same. Ljosa et al. (2013), doi:10.1177/1087057113503553; NSCB: Ando et al.
(2017), doi:10.1101/161422.

Queries and gallery, one rule for every measure. The treatments that take part have an MoA and are
no controls. One of them is a query if it has a candidate of its own MoA; without any it can't be
right, and is left out, by name. An MoA none of whose treatments is a query leaves the gallery too.
NSC and mAP (:mod:`wsdino.evaluate.intervals`) have the same candidates, so their queries and their
gallery are the same. NSCB has fewer candidates: in BBBC021 that takes Cholesterol-lowering and
Kinase inhibitors out of it, and 92 of 103 treatments remain, as published. A treatment whose batch
isn't known may share one with any other: in NSCB it is no query and no candidate.

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
from wsdino.evaluate.level import is_control, require_treatments
from wsdino.tables.columns import BATCH, COMPOUND, CONCENTRATION, MOA
from wsdino.tables.features import features_of, metadata_of, require_columns
from wsdino.tables.lists import labels_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

MULTI_BATCH = ("strict", "first-published")
# Cosines that differ by less are ties, decided by the treatments' names: rounding must not decide.
_TIE_DECIMALS = 12
NO_MOA, NO_COMPOUND = "it has no MoA", "it has no compound"


@dataclass(frozen=True)
class MatchResult:
    """Result of :func:`match_moa`.

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
    num_gallery
        Number of treatments in the gallery: those whose MoA has a query.
    labels
        MoAs of the gallery, sorted.
    confusion
        (labels, labels) counts: row = MoA of the query, column = MoA of its neighbour.
    """

    num_correct: int
    num_total: int
    neighbours: pd.DataFrame
    left_out: pd.DataFrame
    num_gallery: int
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
    batch_known
        (n,) bool; None where batches play no part.
    """

    metadata: pd.DataFrame
    compound: NDArray[np.object_]
    moa: NDArray[np.object_]
    features: NDArray[np.float64]
    similarity: NDArray[np.float64]
    admissible: NDArray[np.bool_]
    batch_known: NDArray[np.bool_] | None = None


def match_moa(
    profiles: pd.DataFrame, *, exclude_shared_batch: bool = False, multi_batch: str = "strict"
) -> MatchResult:
    """Match each treatment to its nearest neighbour and compare their MoAs.

    Controls and treatments without MoA take no part.

    Parameters
    ----------
    profiles
        One row per treatment: `Metadata_Compound`, `Metadata_MoA`, features; for NSCB also
        `Metadata_Batch` (a list where there are several).
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
    return match_gallery(
        make_gallery(profiles, exclude_shared_batch=exclude_shared_batch, multi_batch=multi_batch)
    )


def match_gallery(gallery: Gallery) -> MatchResult:
    """Match the treatments of a gallery; see :func:`match_moa`."""
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
    left_out["reason"] = [_reason(gallery, row) for row in left]
    labels = tuple(sorted(set(moa[queries])))
    num_gallery = int(np.isin(moa.astype(str), labels).sum()) if labels else 0
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    position = {label: number for number, label in enumerate(labels)}
    for query, neighbour in zip(queries, neighbours, strict=True):
        confusion[position[moa[query]], position[moa[neighbour]]] += 1
    return MatchResult(
        int(correct.sum()), len(queries), table, left_out, num_gallery, labels, confusion
    )


def make_gallery(
    profiles: pd.DataFrame,
    *,
    exclude_shared_batch: bool = False,
    multi_batch: str = "strict",
    purpose: str | None = None,
) -> Gallery:
    """Select the annotated treatments and work out who may match whom.

    Parameters
    ----------
    profiles, exclude_shared_batch, multi_batch
        See :func:`match_moa`.
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
        msg = f"multi-batch is {multi_batch!r}; expected one of {', '.join(MULTI_BATCH)}"
        raise TableError(msg)
    needed = [COMPOUND, MOA, *([BATCH] if exclude_shared_batch else [])]
    require_columns(
        profiles, needed, purpose=purpose or ("NSCB" if exclude_shared_batch else "NSC")
    )
    rows = annotated(profiles)
    require_treatments(profiles)
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
    known = None
    if exclude_shared_batch:
        batches = [labels_of(value) for value in rows[BATCH]]
        known = np.array([bool(own) and None not in own for own in batches])
        admissible &= known[:, None] & known[None, :]
        if multi_batch == "strict":
            admissible &= ~_share_any(batches)
        else:
            median = _median_batch(batches, rows["_row"].to_numpy(dtype=np.intp))
            admissible &= median[:, None] != median[None, :]
    metadata = metadata_of(rows)
    if CONCENTRATION not in metadata:
        metadata = metadata.assign(**{CONCENTRATION: np.nan})
    similarity = np.round(features @ features.T, _TIE_DECIMALS)
    moa = rows[MOA].to_numpy(dtype=object)
    return Gallery(metadata, compound, moa, features, similarity, admissible, known)


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


def _share_any(batches: list[list[str | None]]) -> NDArray[np.bool_]:
    """Return (n, n): whether two treatments have a batch in common."""
    number = {name: i for i, name in enumerate(dict.fromkeys(n for own in batches for n in own))}
    member = np.zeros((len(batches), len(number)), dtype=np.float32)
    for row, own in enumerate(batches):
        member[row, [number[name] for name in own]] = 1
    shared: NDArray[np.bool_] = (member @ member.T) > 0
    return shared


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


def _reason(gallery: Gallery, row: int) -> str:
    """Explain why a treatment is not a query."""
    same = gallery.moa == gallery.moa[row]
    others = same & (gallery.compound != gallery.compound[row])
    if not others.any():
        return "no other compound has this MoA"
    assert gallery.batch_known is not None
    if not gallery.batch_known[row]:
        return "its batch is unknown"
    reason = "every other compound with this MoA shares a batch with it"
    return reason if gallery.batch_known[others].all() else f"{reason}, or is of an unknown batch"
