"""Weak positives: choosing the image that the student's local crops come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from wsdino.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsdino.train.labels import WeakLabels

    Runs = tuple[NDArray[np.int64], NDArray[np.int64]]

PartnerFrom = Literal["image", "well", "plate", "batch"]
Fallback = Literal["relax", "drop", "error"]

# The strictest first. A well belongs to its plate, and an image to its well.
_LEVELS: tuple[PartnerFrom, ...] = ("batch", "plate", "well", "image")
_COLUMNS = ("Metadata_Batch", "Metadata_Plate", "Metadata_Well", "Metadata_Site")


@dataclass(frozen=True)
class Segments:
    """Sites ordered so that each label, and each group within it, is a contiguous run.

    Parameters
    ----------
    order
        (N,) sites.
    label_run, group_run
        (N,) the run of its label, and of its group within it, that each site belongs to.
    label_starts, group_starts
        Start of each run, and finally N. All arrays are int32 if N allows.
    """

    order: NDArray[np.integer]
    label_run: NDArray[np.integer]
    group_run: NDArray[np.integer]
    label_starts: NDArray[np.integer]
    group_starts: NDArray[np.integer]

    def label(self, sites: NDArray[np.int64] | slice) -> Runs:
        """Start and size of the run of each site's label."""
        return _runs(self.label_starts, self.label_run[sites])

    def group(self, sites: NDArray[np.int64] | slice) -> Runs:
        """Start and size of the run of each site's group within its label."""
        return _runs(self.group_starts, self.group_run[sites])

    def num_candidates(self, sites: NDArray[np.int64] | slice) -> NDArray[np.int64]:
        """How many partners each site has."""
        return self.label(sites)[1] - self.group(sites)[1]


def _runs(starts: NDArray[np.integer], run: NDArray[np.integer]) -> Runs:
    start = starts[run].astype(np.int64)
    return start, starts[run + 1] - start


def _segments(codes: NDArray[np.int64], groups: NDArray[np.int64]) -> Segments:
    small = np.dtype(np.int32 if len(codes) < np.iinfo(np.int32).max else np.int64)
    order = np.lexsort((groups, codes))
    label, group = codes[order], groups[order]
    new_label = np.r_[True, label[1:] != label[:-1]]
    new_group = new_label | np.r_[True, group[1:] != group[:-1]]
    runs: list[tuple[NDArray[np.integer], NDArray[np.integer]]] = []
    for new in (new_label, new_group):
        run = np.empty(len(codes), dtype=small)
        run[order] = np.cumsum(new) - 1
        runs.append((run, np.r_[np.flatnonzero(new), len(codes)].astype(small)))
    (label_run, label_starts), (group_run, group_starts) = runs
    return Segments(order.astype(small), label_run, group_run, label_starts, group_starts)


def _groups(manifest: pd.DataFrame) -> dict[PartnerFrom, NDArray[np.int64]]:
    """Give each site the number of its batch, plate, well and image."""
    batch, plate, well, image = (pd.factorize(manifest[column])[0] for column in _COLUMNS)
    wells = pd.factorize(plate * (well.max() + 2) + well)[0]
    images = pd.factorize(wells * (image.max() + 2) + image)[0]
    return {"batch": batch, "plate": plate, "well": wells, "image": images}


class Pairing:
    """Draws, for each anchor, another image with the same weak label.

    The partner is never the anchor. Drawing costs the same for any number of sites.

    Parameters
    ----------
    manifest
        N rows.
    labels
        Weak labels of its rows.
    partner_from
        The partner lies in another ``image``, ``well``, ``plate`` or ``batch``.
    fallback
        For an anchor with no such partner: ``relax`` uses the strictest weaker requirement that can
        be met (batch, plate, well, image), or the anchor itself if its label has a single image;
        ``drop`` does not train on it; ``error`` raises an error.

    Raises
    ------
    ConfigError
        If no site has a partner, or, with ``error``, some have none.
    """

    def __init__(
        self,
        manifest: pd.DataFrame,
        labels: WeakLabels,
        *,
        partner_from: PartnerFrom = "image",
        fallback: Fallback = "relax",
    ) -> None:
        if partner_from not in _LEVELS or fallback not in get_args(Fallback):
            raise ConfigError(
                f"pairing: unknown partner_from {partner_from!r} or fallback {fallback!r}"
            )
        self.partner_from, self.fallback = partner_from, fallback
        self.levels = _LEVELS[_LEVELS.index(partner_from) :]
        self._segments = {
            level: _segments(labels.codes, groups) for level, groups in _groups(manifest).items()
        }
        self._labels = labels
        # Index into `levels` of the requirement that each site can meet; len(levels) for none.
        self._level = np.full(len(labels.codes), len(self.levels), dtype=np.int8)
        for index in reversed(range(len(self.levels))):
            possible = self._segments[self.levels[index]].num_candidates(slice(None)) > 0
            self._level[possible] = index
        trained = labels.codes >= 0
        lacking = trained & (self._level > 0)
        if not (trained & (self._level == 0)).any() and fallback != "relax":
            raise ConfigError(
                f"pairing.partner_from {partner_from!r}: no site has a partner in another "
                f"{partner_from}; use a weaker requirement or pairing.fallback relax"
            )
        if lacking.any() and fallback == "error":
            raise ConfigError(
                f"pairing.partner_from {partner_from!r}: {lacking.sum()} of {trained.sum()} sites "
                f"have no partner in another {partner_from}; use pairing.fallback relax or drop"
            )

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(N,) bool: the sites to train on."""
        trained = self._labels.codes >= 0
        return trained & (self._level == 0) if self.fallback == "drop" else trained

    def draw(self, anchors: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Draw partners.

        Parameters
        ----------
        anchors
            (B,) sites.
        uniform
            (P, B) numbers in [0, 1): one for each partner to draw.

        Returns
        -------
        ndarray
            (P, B) int64 sites.
        """
        partners = np.broadcast_to(anchors, uniform.shape).copy()
        for index, level in enumerate(self.levels):
            columns = np.flatnonzero(self._level[anchors] == index)
            segments, sites = self._segments[level], anchors[columns]
            place = segments.label(sites)[0] + np.floor(
                uniform[:, columns] * segments.num_candidates(sites)
            ).astype(np.int64)
            # Candidates are the label's run without the group's: skip the gap.
            start, size = segments.group(sites)
            place += np.where(place >= start, size, 0)
            partners[:, columns] = segments.order[place]
        return partners

    def coverage(self) -> list[dict[str, object]]:
        """Count the sites to train on that have partners, one row per possible requirement.

        Returns
        -------
        list of dict
            ``partner_in``, ``sites_with_partner``, ``fraction``, ``labels_with_partner``,
            ``median_partners``, ``sites_drawn`` (how many use this requirement under the fallback).
        """
        trained = np.flatnonzero(self._labels.codes >= 0)
        drawn = np.bincount(self._level[trained], minlength=len(self.levels) + 1)
        if self.fallback == "drop":
            drawn[1:] = 0
        rows: list[dict[str, object]] = []
        for level, segments in self._segments.items():
            candidates = segments.num_candidates(trained)
            covered = candidates > 0
            at = self.levels.index(level) if level in self.levels else None
            rows.append(
                {
                    "partner_in": f"another {level}",
                    "sites_with_partner": int(covered.sum()),
                    "fraction": round(float(covered.mean()), 4),
                    "labels_with_partner": len(np.unique(self._labels.codes[trained][covered])),
                    "median_partners": float(np.median(candidates)),
                    "sites_drawn": int(drawn[at]) if at is not None else 0,
                }
            )
        if self.fallback == "relax":
            rows.append(
                {
                    "partner_in": "the same image",
                    "sites_with_partner": len(trained),
                    "fraction": 1.0,
                    "labels_with_partner": len(self._labels.names),
                    "median_partners": 1.0,
                    "sites_drawn": int(drawn[-1]),
                }
            )
        return rows
