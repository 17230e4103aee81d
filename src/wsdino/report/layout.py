"""Treatment profiles in two dimensions."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from wsdino.profile.rows import directions, lengths
from wsdino.progress import say
from wsdino.report.treated import nearest_rows
from wsdino.tables.features import ROWS_AT_ONCE, features_of
from wsdino.tables.h5ad import MAP_COLUMNS

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

NUM_NEIGHBOURS = 15
# Of fewer profiles each is a neighbour of more than a third of all, and the graph mostly reflects
# the chosen number of neighbours.
MIN_FOR_UMAP = 3 * NUM_NEIGHBOURS
# Of what columns named after UMAP hold.
MIN_FOR_COLUMNS = 10
# Of more profiles UMAP finds the neighbours itself, approximately.
MAX_EXACT = 20_000
# What isn't laid out itself lies among as many that are.
NUM_NEAREST = 5


def lay_out(
    features: np.ndarray, *, seed: int = 0, fewest: int = MIN_FOR_UMAP
) -> tuple[np.ndarray, str]:
    """Lay profiles out in two dimensions so that similar ones are close together.

    UMAP (arXiv 1802.03426) on cosine distances; for fewer than `fewest` profiles, the first two
    principal components of the length-normalised features.

    Parameters
    ----------
    features
        Float (n, F) without missing values.
    seed
        Seed of UMAP.
    fewest
        Profiles that UMAP is used for.

    Returns
    -------
    tuple
        Coordinates float64 (n, 2), and the method's name, `UMAP` or `PCA`.
    """
    features = directions(features)
    if len(features) < fewest:
        return _principal_components(features), "PCA"
    with warnings.catch_warnings():
        # UMAP warns that TensorFlow is missing, and that a seed limits it to one thread.
        warnings.simplefilter("ignore")
        from umap import UMAP, layouts, umap_

        from wsdino.compiled import keep_compiled

        # Compiling them takes longer than most maps.
        keep_compiled(umap_, layouts)
        num = min(NUM_NEIGHBOURS, len(features) - 1)
        umap = UMAP(
            n_neighbors=num,
            min_dist=0.3,
            metric="cosine",
            random_state=seed,
            precomputed_knn=_neighbours(features, num),
        )
        points = umap.fit_transform(features)
    return np.asarray(points, dtype=np.float64), "UMAP"


def lay_out_many(
    features: NDArray[np.floating], *, seed: int, most: int
) -> tuple[NDArray[np.float64], str]:
    """Lay out some rows, and every other one at the weighted mean of those most like it.

    Parameters
    ----------
    features
        Float (n, F) without missing values.
    seed
        Of UMAP, and of the draw.
    most
        Rows that are laid out by :func:`lay_out`; if there are no more, these are all.

    Returns
    -------
    tuple
        As :func:`lay_out`. The weights of the :data:`NUM_NEAREST` rows of largest cosine are what
        these exceed that of the next by.
    """
    drawn = np.arange(len(features))
    if len(features) > most:
        drawn = np.sort(np.random.default_rng(seed).choice(len(features), most, replace=False))
    known, method = lay_out(np.asarray(features[drawn], dtype=np.float64), seed=seed)
    if len(drawn) == len(features):
        return known, method
    points = np.empty((len(features), 2))
    norms = lengths(features)
    of_drawn = directions(features[drawn], norms[drawn]).astype(np.float32, copy=False)
    for start in range(0, len(features), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        own = directions(features[rows], norms[rows]).astype(np.float32, copy=False)
        cosines = own @ of_drawn.T
        nearest = np.argpartition(cosines, -NUM_NEAREST - 1, axis=1)[:, -NUM_NEAREST - 1 :]
        shares = np.take_along_axis(cosines, nearest, axis=1).astype(np.float64)
        # Where all are alike they count alike.
        weights = shares - shares.min(axis=1, keepdims=True) + 1e-9
        points[rows] = np.einsum("ij,ijk->ik", weights, known[nearest])
        points[rows] /= weights.sum(axis=1, keepdims=True)
    points[drawn] = known
    return points, method


def _neighbours(
    features: np.ndarray, num: int
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None, None]:
    """Find the nearest rows as UMAP wants them: itself first; or leave it to UMAP.

    UMAP takes the distances of few rows from a function that it calls for each pair, which takes a
    minute for 4,000 rows.
    """
    if len(features) > MAX_EXACT:
        return None, None, None
    rows, cosines = nearest_rows(features, num - 1)
    if (rows < 0).any():
        return None, None, None
    itself = np.arange(len(features))[:, None]
    distances = np.concatenate([np.zeros((len(rows), 1)), np.maximum(1 - cosines, 0)], axis=1)
    return np.concatenate([itself, rows], axis=1), distances.astype(np.float32)


def with_map_columns(table: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Add the map of :func:`lay_out` to a table, as two columns of metadata.

    Parameters
    ----------
    table
        Metadata and features of n profiles; at least two.
    seed
        Seed of UMAP.

    Returns
    -------
    DataFrame
        With :data:`wsdino.tables.h5ad.MAP_COLUMNS`; `attrs` are kept.
    """
    points, method = lay_out(features_of(table), seed=seed, fewest=MIN_FOR_COLUMNS)
    if method != "UMAP":
        say(
            f"{' and '.join(MAP_COLUMNS)} hold principal components: {len(table)} profiles are too "
            "few for UMAP"
        )
    mapped = table.assign(**dict(zip(MAP_COLUMNS, points.T, strict=True)))
    mapped.attrs = table.attrs
    return mapped


def _principal_components(unit: np.ndarray) -> np.ndarray:
    left, sizes, _ = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    scores: np.ndarray = (left * sizes)[:, :2]
    return np.pad(scores, ((0, 0), (0, 2 - scores.shape[1])))
