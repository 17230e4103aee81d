"""Weak positives: from which image the student's local crops come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from wsdino.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from wsdino.train.labels import WeakLabels

PartnerFrom = Literal["image", "well", "plate", "batch"]
Fallback = Literal["relax", "drop", "error"]

_KEYS: dict[PartnerFrom, list[str]] = {
    "batch": ["Metadata_Batch"],
    "plate": ["Metadata_Plate"],
    "well": ["Metadata_Plate", "Metadata_Well"],
    "image": ["Metadata_Plate", "Metadata_Well", "Metadata_Site"],
}


@dataclass(frozen=True)
class Segments:
    """Sites in an order in which a label, and within it a group, is one run of places.

    All arrays are (N,) int64; the last four are given per site.
    """

    order: NDArray[np.int64]
    label_start: NDArray[np.int64]
    label_size: NDArray[np.int64]
    group_start: NDArray[np.int64]
    group_size: NDArray[np.int64]

    @property
    def num_candidates(self) -> NDArray[np.int64]:
        """How many partners each site has."""
        return self.label_size - self.group_size


def _segments(codes: NDArray[np.int64], groups: NDArray[np.int64]) -> Segments:
    order = np.lexsort((np.arange(len(codes)), groups, codes))
    arrays = []
    for keys in (codes[order][:, None], np.stack([codes[order], groups[order]], axis=1)):
        new = np.r_[True, (keys[1:] != keys[:-1]).any(axis=1)]
        starts, run = np.flatnonzero(new), np.cumsum(new) - 1
        sizes = np.diff(np.r_[starts, len(codes)])
        for values in (starts[run], sizes[run]):
            per_site = np.empty(len(codes), dtype=np.int64)
            per_site[order] = values
            arrays.append(per_site)
    return Segments(order, *arrays)


class Pairing:
    """Draws, for each anchor, another image with the same weak label.

    The partner is never the anchor. Drawing costs the same for any number of sites.

    Parameters
    ----------
    manifest
        Contract 4.1, N rows.
    labels
        Weak labels of its rows.
    partner_from
        The partner lies in another ``image``, ``well``, ``plate`` or ``batch``.
    fallback
        For an anchor with no such partner: ``relax`` takes the strictest weaker demand that can be
        met (batch, plate, well, image), and the anchor itself where its label has one image only;
        ``drop`` does not train on it; ``error`` refuses.

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
        if partner_from not in _KEYS or fallback not in get_args(Fallback):
            raise ConfigError(f"pairing: unknown demand {partner_from!r} or fallback {fallback!r}")
        self.partner_from, self.fallback = partner_from, fallback
        levels = list(_KEYS)
        self.levels: list[PartnerFrom] = levels[levels.index(partner_from) :]
        self._segments = {
            level: _segments(
                labels.codes,
                manifest.groupby(keys, sort=False, dropna=False)
                .ngroup()
                .to_numpy()
                .astype(np.int64),
            )
            for level, keys in _KEYS.items()
        }
        self._labels = labels
        # The index into `levels` of the demand that each site can meet, len(levels) for none.
        possible = np.stack([self._segments[level].num_candidates > 0 for level in self.levels])
        self._level = np.where(possible.any(axis=0), possible.argmax(axis=0), len(self.levels))
        trained = labels.codes >= 0
        lacking = trained & (self._level > 0)
        if not (trained & (self._level == 0)).any() and fallback != "relax":
            raise ConfigError(
                f"pairing.partner_from {partner_from!r}: no site has a partner in another "
                f"{partner_from}; use a weaker demand or pairing.fallback relax"
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
            start = segments.label_start[sites]
            place = start + np.floor(uniform[:, columns] * segments.num_candidates[sites]).astype(
                np.int64
            )
            # Candidates are the label's run of places without the group's: jump over the gap.
            place += np.where(place >= segments.group_start[sites], segments.group_size[sites], 0)
            partners[:, columns] = segments.order[place]
        return partners

    def coverage(self) -> list[dict[str, object]]:
        """How many of the sites to train on have partners, a row for each possible demand.

        Returns
        -------
        list of dict
            ``partner_in``, ``sites_with_partner``, ``fraction``, ``labels_with_partner``,
            ``median_partners``, ``sites_drawn`` (how many draw at this demand under the fallback).
        """
        trained = np.flatnonzero(self._labels.codes >= 0)
        drawn = np.bincount(self._level[trained], minlength=len(self.levels) + 1)
        if self.fallback == "drop":
            drawn[1:] = 0
        rows: list[dict[str, object]] = []
        for level, segments in self._segments.items():
            candidates = segments.num_candidates[trained]
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
