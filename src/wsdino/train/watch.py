"""Monitoring during training whether an embedding clusters by plate rather than by weak label."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wsdino.job import gather

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_RECENT = 512
MIN_ANCHORS = 32
TIE = 1e-12


def plate_clustering(
    features: NDArray[np.float32], plates: NDArray[np.int64], labels: NDArray[np.int64]
) -> float:
    """Measure how often the plate dominates the weak label.

    For each image: is an image of the same plate and another label closer than an image of the
    same label on another plate? Either answer may be right (images of one label may differ, plates
    may hold similar compounds), but if the plate nearly always wins, the embedding distinguishes
    plates. Images with a label that is on a single plate are not compared, so compounds confounded
    with plates don't raise a warning.

    Parameters
    ----------
    features
        (n, F) embedding of n images; compared by cosine around their mean.
    plates, labels
        (n,) plate and weak label of each.

    Returns
    -------
    float
        Share of the triplets won by the plate minus the share won by the label, averaged over
        images: 1 only plates, 0 chance, -1 only labels. NaN if fewer than 32 images have both kinds
        of neighbour.
    """
    same_plate = plates[:, None] == plates
    same_label = labels[:, None] == labels
    by_plate, by_label = same_plate & ~same_label, same_label & ~same_plate
    asked = by_plate.any(axis=1) & by_label.any(axis=1)
    if asked.sum() < MIN_ANCHORS:
        return math.nan
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    shares = [
        _plate_less_label(row[plate], row[label])
        for row, plate, label in zip(
            unit[asked] @ unit.T, by_plate[asked], by_label[asked], strict=True
        )
    ]
    return float(np.mean(shares))


def _plate_less_label(by_plate: NDArray[np.float64], by_label: NDArray[np.float64]) -> float:
    """Share of the pairs of similarities won by the plate minus the share won by the label."""
    difference = by_plate[:, None] - by_label
    # Equal images have the same similarity, apart from rounding.
    return float((difference > TIE).mean() - (difference < -TIE).mean())


class PlateWatch:
    """Keeps the embedding of the last few hundred images, and measures how they cluster.

    It is the same on every process, and part of a checkpoint, so that a resumed run measures the
    same values.

    Parameters
    ----------
    plates, labels
        (N,) plate and weak label of every site.
    """

    def __init__(self, plates: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        self._plates, self._labels = plates, labels
        self._sites = torch.empty(0, dtype=torch.int64)
        self._features = torch.empty(0, 0)

    def measure(self, sites: NDArray[np.int64], features: Tensor) -> dict[str, float]:
        """Add what this process has just embedded; measure over all processes.

        Parameters
        ----------
        sites
            (V, n) sites of the last n of the process's images.
        features
            (V, n, F) their embedding.

        Returns
        -------
        dict
            ``plate_clustering`` (:func:`plate_clustering`); empty while it can't be determined.
        """
        features = gather(features.detach().float().flatten(0, 1)).cpu()
        if features.isfinite().all():
            known = gather(torch.from_numpy(sites.reshape(-1).copy()))
            self._sites = torch.cat([self._sites, known])[-NUM_RECENT:]
            before = self._features.reshape(-1, features.shape[1])
            self._features = torch.cat([before, features])[-NUM_RECENT:]
        recent = self._sites.numpy()
        found = plate_clustering(self._features.numpy(), self._plates[recent], self._labels[recent])
        return {} if math.isnan(found) else {"plate_clustering": found}

    def state_dict(self) -> dict[str, Tensor]:
        """Return what :meth:`load_state_dict` needs."""
        return {"sites": self._sites.clone(), "features": self._features.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the state of another instance."""
        self._sites, self._features = state["sites"], state["features"]
