"""Which images a step trains on: a function of seed and step alone, the same on every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from wsdino.train.permutation import keyed, permuted

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
    weights need to be aligned with rows, a resumed run or another rank needs no state, and a batch
    costs the same for any number of images and labels.

    Parameters
    ----------
    labels
        Weak labels; sites with code -1 are never drawn.
    balance
        See above.
    seed
        Seed of all permutations.
    sites
        Rows to draw from, each with a label; by default all that have one.
    """

    def __init__(
        self,
        labels: WeakLabels,
        *,
        balance: Balance,
        seed: int,
        sites: NDArray[np.int64] | None = None,
    ) -> None:
        self.seed = seed
        self._sites = labels.sites if sites is None else sites
        # Without labels all images are those of one.
        self._counts = np.array([len(self._sites)])
        if balance == "label":
            codes = labels.codes[self._sites]
            self._sites = self._sites[np.argsort(codes, kind="stable")]
            counts = np.bincount(codes)
            # A label may have lost all its sites, where those without a partner are dropped.
            self._counts = counts[counts > 0]
        self._starts = np.cumsum(self._counts) - self._counts

    def batch(self, step: int, size: int) -> NDArray[np.int64]:
        """Return the sites of one global batch, (size,) int64."""
        positions = np.arange(step * size, (step + 1) * size)
        num_labels = np.array(len(self._counts))
        rounds, places = np.divmod(positions, num_labels)
        labels = permuted(places, num_labels, keyed(self.seed, 0, rounds))
        # Each round is a visit to every label.
        counts = self._counts[labels]
        turns, places = np.divmod(rounds, counts)
        members = permuted(places, counts, keyed(self.seed, 1, labels, turns))
        sites: NDArray[np.int64] = self._sites[self._starts[labels] + members]
        return sites


class BatchwiseSampler:
    """Draws every step from one batch of the screen, each batch once per round.

    Where batches differ in ways that a network reads off at a glance (stain, microscope, cell
    line), a step of mixed batches can be solved by distinguishing batches; within one batch only
    the weak labels remain to be learned.

    Parameters
    ----------
    labels
        Weak labels of N sites.
    batches
        (N,) int64: the batch of each site.
    balance, seed
        See :class:`Sampler`.
    """

    def __init__(
        self,
        labels: WeakLabels,
        batches: NDArray[np.int64],
        *,
        balance: Balance,
        seed: int,
    ) -> None:
        self.seed = seed
        sites = labels.sites
        by_batch = sites[np.argsort(batches[sites], kind="stable")]
        ends = np.flatnonzero(np.diff(batches[by_batch])) + 1
        self._samplers = [
            Sampler(labels, balance=balance, seed=seed, sites=own)
            for own in np.split(by_batch, ends)
        ]

    def batch(self, step: int, size: int) -> NDArray[np.int64]:
        """Return the sites of one step, (size,) int64, all of one batch of the screen."""
        num = len(self._samplers)
        turn, place = divmod(step, num)
        (chosen,) = permuted(np.array([place]), np.array([num]), keyed(self.seed, 2, turn))
        return self._samplers[int(chosen)].batch(turn, size)
