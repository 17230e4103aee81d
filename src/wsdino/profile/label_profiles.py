"""The profiles of weak labels, as something to train towards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.profile.normalise import normalise
from wsdino.tables.columns import PREFIX
from wsdino.tables.features import features_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LABEL = "WeakLabel"


def label_profiles(
    table: pd.DataFrame, codes: NDArray[np.int64], *, num_components: int
) -> NDArray[np.float32]:
    """Whiten a table of sites by weak label, and average the sites of each label.

    Parameters
    ----------
    table
        n sites: metadata and features.
    codes
        (n,) weak label of each, 0 to L - 1; -1: none.
    num_components
        Principal components of the L profiles that are kept, at most L - 1.

    Returns
    -------
    ndarray
        (L, num_components) float32 of unit length: of the labels' mean directions, less the mean
        over labels, the first principal components. A label that has nothing in them is zero.

    Raises
    ------
    TableError
        See :func:`wsdino.profile.normalise.fit_normalisation`.
    """
    names = pd.Series(codes, index=table.index).astype(str).where(codes >= 0, None)
    labelled = table.assign(**{PREFIX + _LABEL: names})
    whitened, _ = normalise(labelled, method="weak_label", label=_LABEL)
    features = features_of(whitened)
    known = codes >= 0
    sums = np.zeros((codes.max() + 1, features.shape[1]))
    np.add.at(sums, codes[known], features[known])
    directions = _unit(sums)
    centred = directions - directions.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    found: NDArray[np.float32] = _unit(centred @ axes[:num_components].T).astype(np.float32)
    return found


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    # Rounding leaves something of what is zero.
    return np.where(lengths > 1e-9, rows / np.maximum(lengths, 1e-9), 0.0)
