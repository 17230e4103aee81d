"""Which images a step trains on: a function of seed and step alone, the same on every rank."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsdino.train.labels import WeakLabels

Balance = Literal["label", "image"]


class Sampler:
    """Endless, stateless sampling without replacement.

    Position p of the run (step * batch + place in the batch) maps to an image. With
    ``balance="label"`` every label comes once per round, in an order drawn anew for each round,
    and the images of a label come once each before any comes again; ``"image"`` gives every image
    once per round. Nothing depends on the order of the manifest's rows but the draw itself, no
    weights need to be aligned with rows, and a resumed run or another rank needs no state.

    Parameters
    ----------
    labels
        Weak labels; sites with code -1 are never drawn.
    balance
        See above.
    seed
        Seed of all permutations.
    """

    def __init__(self, labels: WeakLabels, *, balance: Balance, seed: int) -> None:
        self.seed = seed
        sites = labels.sites
        # A label may have lost all its sites, where those without a partner are dropped.
        given = labels.codes[sites] if balance == "label" else np.arange(len(sites))
        codes = np.unique(given, return_inverse=True)[1]
        order = np.argsort(codes, kind="stable")
        self._sites = sites[order]
        self._counts = np.bincount(codes)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)[:-1]])
        self._permutation = lru_cache(maxsize=4)(self._draw_permutation)

    def batch(self, step: int, size: int) -> NDArray[np.int64]:
        """Return the sites of one global batch, (size,) int64."""
        positions = np.arange(step * size, (step + 1) * size)
        num_labels = len(self._counts)
        rounds, places = np.divmod(positions, num_labels)
        labels = np.empty(size, dtype=np.int64)
        for turn in np.unique(rounds):
            in_round = rounds == turn
            labels[in_round] = self._permutation(int(turn), num_labels)[places[in_round]]
        return self._sites[self._starts[labels] + self._member(labels, rounds)]

    def _member(self, labels: NDArray[np.int64], visits: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of its label's images the visit number `visits` of a label takes."""
        members = np.empty_like(labels)
        for i, (label, visit) in enumerate(zip(labels, visits, strict=True)):
            count = int(self._counts[label])
            turn, place = divmod(int(visit), count)
            rng = np.random.default_rng([self.seed, 1, int(label), turn])
            members[i] = rng.permutation(count)[place] if count > 1 else 0
        return members

    def _draw_permutation(self, turn: int, num: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, 0, turn]).permutation(num)
