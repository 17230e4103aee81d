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
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.evaluate.gallery import Gallery, make_gallery
from wsdino.tables.columns import CONCENTRATION
from wsdino.tables.features import require_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Nearest = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]


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


def match_moa(
    profiles: pd.DataFrame,
    *,
    exclude_shared_batch: bool = False,
    exclude_shared_plate: bool = False,
    multi_batch: str = "strict",
) -> MatchResult:
    """Match each treatment to its nearest neighbour and compare their MoAs.

    Controls and treatments without MoA take no part.

    Parameters
    ----------
    profiles
        One row per treatment: `Metadata_Compound`, `Metadata_MoA`, features; for NSCB also
        `Metadata_Batch` or `Metadata_Plate` (a list where there are several).
    exclude_shared_batch, exclude_shared_plate
        Neither: NSC. The first: NSCB. The second: not same compound and plate.
    multi_batch
        What a treatment in several batches shares, see the module's text: `strict` or
        `first-published`.

    Returns
    -------
    MatchResult

    Raises
    ------
    TableError
        See :func:`wsdino.evaluate.gallery.make_gallery`.

    Examples
    --------
    >>> import wsdino
    >>> profiles = wsdino.make_profiles(wsdino.read_table("sites.csv"))
    >>> result = wsdino.match_moa(profiles, exclude_shared_batch=True)
    >>> 0 <= result.num_correct <= result.num_total
    True
    """
    require_table(profiles, name="profiles")
    return match_gallery(
        make_gallery(
            profiles,
            exclude_shared_batch=exclude_shared_batch,
            exclude_shared_plate=exclude_shared_plate,
            multi_batch=multi_batch,
        )
    )


def match_gallery(gallery: Gallery, found: Nearest | None = None) -> MatchResult:
    """Match the treatments of a gallery; see :func:`match_moa`.

    Parameters
    ----------
    gallery
        Of n treatments.
    found
        What :func:`nearest` found in it, where that is at hand.

    Returns
    -------
    MatchResult
    """
    queries, ranked, cosines = found or nearest(gallery)
    neighbours, similarity = ranked[:, 0], cosines[:, 0]
    metadata, moa = gallery.metadata, gallery.moa
    treatments = pd.DataFrame(
        {"compound": gallery.compound, "concentration": metadata[CONCENTRATION], "moa": moa}
    )
    matched = treatments.take(neighbours).add_prefix("neighbour_").reset_index(drop=True)
    table = pd.concat([treatments.take(queries).reset_index(drop=True), matched], axis=1)
    table["similarity"] = similarity
    correct = moa[queries] == moa[neighbours]
    table["correct"] = correct
    left = np.setdiff1d(np.arange(len(moa)), queries)
    left_out = treatments.take(left).reset_index(drop=True)
    left_out["reason"] = [_reason(gallery, row) for row in left]
    labels = tuple(sorted(set(moa[queries])))
    num_gallery = int(gallery.is_in_gallery.sum())
    confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
    position = {label: number for number, label in enumerate(labels)}
    for query, neighbour in zip(moa[queries], moa[neighbours], strict=True):
        confusion[position[query], position[neighbour]] += 1
    return MatchResult(
        int(correct.sum()), len(queries), table, left_out, num_gallery, labels, confusion
    )


def nearest(gallery: Gallery, k: int = 1) -> Nearest:
    """Find the queries and the nearest neighbours of each.

    Parameters
    ----------
    gallery
        Of n treatments.
    k
        Neighbours of each query.

    Returns
    -------
    queries : ndarray
        (q,) rows with an admissible candidate of the same MoA, ascending.
    neighbours : ndarray
        (q, k) the most similar admissible rows whose MoA still has a query, the most similar first,
        equal ones by their position; -1 where there are fewer.
    similarity : ndarray
        (q, k) their cosines; -inf where there are fewer.
    """
    found, cosines = [np.zeros((0, k), dtype=np.intp)], [np.zeros((0, k))]
    for rows in gallery.blocks():
        asked = gallery.is_query[rows]
        admissible = gallery.admissible(rows)[asked] & gallery.is_in_gallery
        similarity = np.where(admissible, gallery.similarity(rows)[asked], -np.inf)
        order = np.empty((len(similarity), k), dtype=np.intp)
        values = np.empty((len(similarity), k))
        each = np.arange(len(similarity))
        # A few rounds are cheaper than sorting, and ties go to the first as they should.
        for place in range(k):
            order[:, place] = similarity.argmax(axis=1)
            values[:, place] = similarity[each, order[:, place]]
            similarity[each, order[:, place]] = -np.inf
        order[np.isneginf(values)] = -1
        found.append(order)
        cosines.append(values)
    return np.flatnonzero(gallery.is_query), np.concatenate(found), np.concatenate(cosines)


def vote(gallery: Gallery, ks: Sequence[int], found: Nearest | None = None) -> list[dict[str, int]]:
    """Let the k nearest neighbours of each query vote on its MoA.

    Parameters
    ----------
    gallery
        Of n treatments.
    ks
        Each k.
    found
        What :func:`nearest` found in it for the largest k, where that is at hand.

    Returns
    -------
    list of dict
        For each k: `k`; `correct`, the queries whose MoA has the most of their k neighbours (of
        several MoAs with as many, the one whose nearest is the most similar); `any`, those that
        have their MoA among the k; `total`.
    """
    queries, neighbours, _ = found or nearest(gallery, max(ks))
    # -1, no neighbour, becomes an MoA that no query has.
    codes = np.where(neighbours >= 0, gallery.moa_code[neighbours], -1)
    counts = []
    for k in ks:
        correct = has_any = 0
        for truth, own in zip(gallery.moa_code[queries], codes[:, :k], strict=True):
            moas, first, num = np.unique(own[own >= 0], return_index=True, return_counts=True)
            winner = moas[np.lexsort([first, -num])[0]]
            correct += int(winner == truth)
            has_any += int(truth in own)
        counts.append({"k": k, "correct": correct, "any": has_any, "total": len(queries)})
    return counts


def _reason(gallery: Gallery, row: int) -> str:
    """Explain why a treatment is not a query."""
    same = gallery.moa == gallery.moa[row]
    others = same & (gallery.compound != gallery.compound[row])
    if not others.any():
        return "no other compound has this MoA"
    assert gallery.places is not None
    what, known = gallery.places.what, gallery.places.known
    if not known[row]:
        return f"its {what} is unknown"
    reason = f"every other compound with this MoA shares a {what} with it"
    return reason if known[others].all() else f"{reason}, or is of an unknown {what}"
