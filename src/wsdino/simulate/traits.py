"""What a cell is made of, as numbers: the traits of untreated cells and how they may vary.

Lengths are pixels of the unmagnified field, in which a nucleus is about twelve pixels wide
(BBBC021's 1024x1280 fields at a quarter of their height).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Trait:
    """One property of a cell.

    Parameters
    ----------
    base
        Its value in untreated cells.
    low, high
        The range that is still biology; every value is clipped to it.
    spread
        Standard deviation of its natural variation between wells (times a difficulty factor).
    log
        Whether effects multiply (``value * exp(effect)``) or add (``value + effect``).
    """

    base: float
    low: float
    high: float
    spread: float
    log: bool = False


TRAITS: dict[str, Trait] = {
    # the population
    "density": Trait(46.0, 4.0, 90.0, 0.10, log=True),  # cells per 256 x 256 pixels
    "colony": Trait(0.45, 0.0, 1.0, 0.12),  # how far cells gather in colonies
    # the cell's outline
    "cell_radius": Trait(17.0, 9.0, 30.0, 0.07, log=True),
    "elongation": Trait(1.28, 1.0, 3.2, 0.07, log=True),
    "ruffles": Trait(0.13, 0.02, 0.5, 0.035),  # relative amplitude of the outline's waves
    "tails": Trait(0.10, 0.0, 3.0, 0.06),  # long processes per cell
    # the nucleus
    "nucleus_radius": Trait(6.1, 3.5, 11.0, 0.05, log=True),
    "nucleus_elongation": Trait(1.22, 1.0, 2.2, 0.04, log=True),
    "nucleus_lobes": Trait(0.02, 0.0, 0.3, 0.01),
    "nucleus_offset": Trait(0.12, 0.0, 0.55, 0.04),  # from the cell's centre, in cell radii
    "chromatin_contrast": Trait(0.16, 0.02, 0.7, 0.03),
    "chromatin_grain": Trait(0.30, 0.0, 1.0, 0.12),  # 0: fine, 1: coarse
    "nucleoli": Trait(0.45, 0.0, 0.9, 0.1),  # depth of the nucleoli's shadows
    "dna_content": Trait(1.0, 0.5, 4.0, 0.06, log=True),
    "dna_unevenness": Trait(0.06, 0.0, 0.5, 0.02),  # log deviation of the stain among cells
    # how many cells are in a state (probabilities)
    "copied": Trait(0.25, 0.0, 0.9, 0.08),  # twice the DNA
    "mitotic": Trait(0.04, 0.0, 0.9, 0.025),
    "monopolar": Trait(0.02, 0.0, 1.0, 0.0),  # of the mitotic
    "scattered": Trait(0.05, 0.0, 1.0, 0.0),  # of the mitotic: no spindle, no plate
    "binucleate": Trait(0.03, 0.0, 0.9, 0.012),
    "fragmented": Trait(0.01, 0.0, 0.9, 0.006),
    "micronuclei": Trait(0.03, 0.0, 0.9, 0.012),
    "apoptotic": Trait(0.02, 0.0, 0.6, 0.03),
    # microtubules: share of the tubulin in each component, then how filaments lie (weights)
    "tubulin_filaments": Trait(0.50, 0.03, 0.85, 0.08),
    "tubulin_perinuclear": Trait(0.15, 0.0, 0.6, 0.05),
    "tubulin_radial": Trait(1.0, 0.0, 3.0, 0.15),
    "tubulin_parallel": Trait(0.25, 0.0, 3.0, 0.15),
    "tubulin_ring": Trait(0.20, 0.0, 3.0, 0.12),
    "tubulin_short": Trait(0.10, 0.0, 3.0, 0.08),
    "tubulin_bundling": Trait(0.10, 0.0, 0.95, 0.05),
    "tubulin_unevenness": Trait(0.20, 0.0, 0.8, 0.05),  # log deviation among cells
    # actin: the same
    "actin_fibres": Trait(0.30, 0.01, 0.8, 0.06),
    "actin_cortex": Trait(0.22, 0.02, 0.7, 0.06),
    "actin_junctions": Trait(0.12, 0.0, 0.7, 0.05),
    "actin_clumps": Trait(0.04, 0.0, 0.7, 0.03),
    "actin_unevenness": Trait(0.20, 0.0, 0.8, 0.05),
    "actin_along": Trait(1.0, 0.0, 3.0, 0.12),
    "actin_across": Trait(0.15, 0.0, 3.0, 0.08),
    "actin_arcs": Trait(0.30, 0.0, 3.0, 0.10),
}
NAMES = tuple(TRAITS)
INDEX = {name: index for index, name in enumerate(NAMES)}
POPULATION = ("density", "colony")

BASE = np.array([trait.base for trait in TRAITS.values()])
SPREAD = np.array([trait.spread for trait in TRAITS.values()])
_LOW = np.array([trait.low for trait in TRAITS.values()])
_HIGH = np.array([trait.high for trait in TRAITS.values()])
_LOG = np.array([trait.log for trait in TRAITS.values()])


def as_vector(effects: Mapping[str, float]) -> NDArray[np.float64]:
    """Turn named effects into a vector over all traits (T,), zero where nothing is said."""
    vector = np.zeros(len(NAMES))
    for name, value in effects.items():
        vector[INDEX[name]] = value
    return vector


def apply_effects(values: NDArray[np.float64], effects: NDArray[np.float64]) -> NDArray[np.float64]:
    """Change trait values by effects, each in its own way, and keep them within biology.

    Parameters
    ----------
    values
        Traits, shape (..., T) in the order of :data:`NAMES`.
    effects
        Changes of a shape that broadcasts against it: log ratios where the trait multiplies,
        differences where it adds.

    Returns
    -------
    numpy.ndarray
        Changed traits, float64, clipped to each trait's range.
    """
    return np.clip(
        np.where(_LOG, values * np.exp(np.where(_LOG, effects, 0.0)), values + effects),
        _LOW,
        _HIGH,
    )
