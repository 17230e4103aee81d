"""Which parts of fields a network represents alike: principal components of its patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

NUM = 3
"""Components that are shown: as red, green and blue."""
# A component's colour is scaled between these of its values, so that few patches don't set it.
QUANTILES = (0.02, 0.98)


@dataclass(frozen=True)
class Components:
    """The first principal components of the patches of several pictures.

    Attributes
    ----------
    scores
        Float64 (h, w, 3) of each picture; 0 where there are fewer components.
    shares
        Share of the variance that each of the three has.
    """

    scores: Sequence[NDArray[np.float64]]
    shares: NDArray[np.float64]

    def colours(self) -> list[NDArray[np.uint8]]:
        """Return the scores of each picture as red, green and blue, (h, w, 3).

        All pictures share one scale for each component, so that equal colours are equal scores.
        """
        together = np.concatenate([scores.reshape(-1, NUM) for scores in self.scores])
        low, high = np.quantile(together, QUANTILES, axis=0)
        width = np.where(high > low, high - low, np.inf)
        return [
            (255 * np.clip((scores - low) / width, 0, 1)).round().astype(np.uint8)
            for scores in self.scores
        ]


def principal_components(pictures: Sequence[NDArray[np.floating]]) -> Components:
    """Fit principal components to the patches of all pictures together.

    Parameters
    ----------
    pictures
        Features (h, w, D) of the patches of each picture.

    Returns
    -------
    Components
        Without whitening. A component's sign is that of its largest loading, made positive, so
        that the same patches always give the same colours.
    """
    num_features = pictures[0].shape[-1]
    rows = np.concatenate([each.reshape(-1, num_features) for each in pictures]).astype(np.float64)
    centred = rows - rows.mean(axis=0)
    # Fields have far more patches than a patch has features.
    values, vectors = np.linalg.eigh(centred.T @ centred)
    first = vectors[:, ::-1][:, :NUM]
    largest = np.abs(first).argmax(axis=0)
    first = first * np.where(first[largest, np.arange(first.shape[1])] < 0, -1.0, 1.0)
    missing = NUM - first.shape[1]
    scores = np.pad(centred @ first, ((0, 0), (0, missing)))
    total = values.clip(min=0).sum()
    shares = np.pad(values.clip(min=0)[::-1][:NUM] / (total or 1.0), (0, missing))
    ends = np.cumsum([each.shape[0] * each.shape[1] for each in pictures])[:-1]
    return Components(
        [
            part.reshape(*each.shape[:2], NUM)
            for part, each in zip(np.split(scores, ends), pictures, strict=True)
        ],
        shares,
    )
