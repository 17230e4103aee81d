"""Whether an embedding sorts images by plate rather than by weak label, watched while it trains."""

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
    """How often the plate is stronger than the weak label.

    Asked of each image: is an image of the same plate and another label closer to it than an image
    of the same label on another plate? Neither answer needs to be right (images of one label may
    differ, plates may hold alike compounds), but where the plate wins nearly always, plates are
    what the embedding tells apart. Images whose label lies on one plate alone have nothing to
    compare, so that compounds which are confounded with plates raise no alarm.

    Parameters
    ----------
    features
        (n, F) embedding of n images; compared by cosine around their mean.
    plates, labels
        (n,) plate and weak label of each.

    Returns
    -------
    float
        Share of the triplets that the plate wins, less the share that the label wins, averaged over
        images: 1 plates alone, 0 as good as chance, -1 labels alone. NaN where fewer than 32 images
        have both kinds of neighbour.
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
    """Share of the pairs of similarities that the plate wins, less that which the label wins."""
    difference = by_plate[:, None] - by_label
    # Equal images are as similar, but for rounding.
    return float((difference > TIE).mean() - (difference < -TIE).mean())


class PlateWatch:
    """Keeps the embedding of the last few hundred images, and says how they cluster.

    The same on every process, and part of a checkpoint, so that a run that goes on measures what
    it would have measured.

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
            ``plate_clustering`` (:func:`plate_clustering`), or nothing as long as it can't be told.
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
        """Go on from what another one has seen."""
        self._sites, self._features = state["sites"], state["features"]
