"""Pseudo-random permutations of any size that cost the same for any size: no table, no state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

# With half as many the pairs of neighbours in permutations of 6 are not alike yet.
NUM_ROUNDS = 8
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def keyed(*parts: ArrayLike) -> NDArray[np.uint64]:
    """Hash whole numbers into keys.

    Parameters
    ----------
    parts
        Non-negative integers, or (n,) arrays of them.

    Returns
    -------
    ndarray
        (n,) uint64, n = 1 if there are no arrays; a change in any part changes all bits.
    """
    key = np.zeros(1, dtype=np.uint64)
    for part in parts:
        key = _scrambled(key + _GOLDEN + np.atleast_1d(part).astype(np.uint64))
    return key


def permuted(
    places: NDArray[np.int64], counts: NDArray[np.int64], keys: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Look up places in permutations, without computing these as a whole.

    A Feistel network over the rectangle of a x b >= count cells that is nearest to a square,
    walked until it comes back into the range (Black and Rogaway 2002, doi
    10.1007/3-540-45760-7_9, their generalised Feistel cipher and cycle walking). Less than one cell
    in ten is outside once there are 100, so that a look-up takes little more than one walk.

    Parameters
    ----------
    places
        (n,) int64, 0 <= place < count.
    counts
        (n,) sizes of the permutations, at least 1.
    keys
        (n,) or (1,) uint64: which of the permutations of that size.

    Returns
    -------
    ndarray
        (n,) int64: where each place is sent to; for one count and key a bijection of range(count).
    """
    sizes: NDArray[np.uint64] = np.broadcast_to(counts, places.shape).astype(np.uint64)
    keys = np.broadcast_to(keys, places.shape)
    columns = np.ceil(np.sqrt(sizes.astype(np.float64))).astype(np.uint64)
    rows: NDArray[np.uint64] = (sizes + columns - np.uint64(1)) // columns
    found = places.astype(np.uint64)
    walking = np.arange(len(places))
    while len(walking):
        found[walking] = _walk(found[walking], rows[walking], columns[walking], keys[walking])
        walking = walking[found[walking] >= sizes[walking]]
    return found.astype(np.int64)


def _walk(
    cells: NDArray[np.uint64],
    rows: NDArray[np.uint64],
    columns: NDArray[np.uint64],
    keys: NDArray[np.uint64],
) -> NDArray[np.uint64]:
    """Permute the cells of rectangles."""
    row, column = np.divmod(cells, columns)
    for _ in range(NUM_ROUNDS):
        keys = keys + _GOLDEN
        row = (row + _scrambled(keys ^ column) % rows) % rows
        keys = keys + _GOLDEN
        column = (column + _scrambled(keys ^ row) % columns) % columns
    return row * columns + column


def _scrambled(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all bits: the finaliser of SplitMix64 (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
