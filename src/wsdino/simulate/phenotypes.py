"""Effects of compounds on cells: twelve mechanisms, potency, penetrance and signatures.

The mechanisms are BBBC021's, by its names (Caie et al. 2010; Ljosa et al. 2013). They are meant
to differ by shape and arrangement rather than by brightness: each cell keeps its tubulin and its
actin, and a mechanism moves them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .handling import SHAPE, STAINING_ROWS
from .keys import generator
from .traits import INDEX, SPREAD, as_vector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MECHANISMS: dict[str, dict[str, float]] = {
    # filaments gone, actin in clumps, outline withdrawn into processes, cytokinesis fails
    "Actin disruptors": {
        "actin_fibres": -0.26, "actin_cortex": -0.14, "actin_clumps": 0.50,
        "tails": 1.4, "ruffles": 0.10, "binucleate": 0.40,
    },
    # cells go on without dividing: large, lobed, polyploid nuclei
    "Aurora kinase inhibitors": {
        "nucleus_lobes": 0.26, "nucleus_radius": 0.30, "dna_content": 0.50,
        "cell_radius": 0.15, "density": -0.15, "micronuclei": 0.15, "mitotic": -0.03,
    },
    # elongated, withdrawn cells with long tails
    "Cholesterol-lowering": {
        "elongation": 0.60, "tails": 1.7, "cell_radius": -0.20, "tubulin_parallel": 0.8,
        "colony": -0.30, "actin_along": 0.4,
    },
    # arrested, spread cells; enlarged, round nuclei with prominent nucleoli
    "DNA damage": {
        "nucleus_radius": 0.30, "cell_radius": 0.16, "density": -0.15, "mitotic": -0.04,
        "nucleoli": 0.45, "nucleus_elongation": -0.18, "tubulin_ring": 0.8,
        "tubulin_radial": -0.3,
    },
    # S-phase arrest: enlarged, oval nuclei with coarse chromatin, cells drawn out
    "DNA replication": {
        "nucleus_radius": 0.18, "nucleus_elongation": 0.45, "chromatin_grain": 0.65,
        "chromatin_contrast": 0.28, "nucleoli": -0.40, "elongation": 0.28, "density": -0.15,
        "mitotic": -0.04,
    },
    # mitotic arrest with monoasters: a ring of chromosomes around one pole
    "Eg5 inhibitors": {"mitotic": 0.55, "monopolar": 0.95, "density": -0.10},
    # cobblestone colonies; actin moves into junctions
    "Epithelial": {
        "colony": 0.50, "actin_junctions": 0.42, "actin_fibres": -0.18, "actin_cortex": -0.08,
        "elongation": -0.18, "ruffles": -0.08, "tubulin_ring": 0.4,
    },
    # fibres turn across the cell and into arcs; nuclei pushed to one side
    "Kinase inhibitors": {
        "actin_across": 1.3, "actin_arcs": 0.7, "actin_along": -0.8, "nucleus_offset": 0.26,
        "actin_fibres": 0.10, "ruffles": -0.05,
    },
    # no network: short pieces and free tubulin; fragmented nuclei, arrest without spindle
    "Microtubule destabilizers": {
        "tubulin_filaments": -0.30, "tubulin_short": 1.8, "tubulin_radial": -0.9,
        "fragmented": 0.50, "mitotic": 0.10, "scattered": 0.9,
    },
    # bundles that ignore the centrosome; micronuclei
    "Microtubule stabilizers": {
        "tubulin_bundling": 0.80, "tubulin_parallel": 1.0, "tubulin_ring": 0.8,
        "tubulin_radial": -0.9, "micronuclei": 0.55, "fragmented": 0.10, "mitotic": 0.05,
        "scattered": 0.5,
    },
    # aggresome beside a nucleus pushed aside; shrunken, dying cells
    "Protein degradation": {
        "tubulin_perinuclear": 0.45, "tubulin_filaments": -0.20, "nucleus_offset": 0.20,
        "tubulin_radial": -0.5, "cell_radius": -0.14, "apoptotic": 0.10, "actin_clumps": 0.10,
        "density": -0.10,
    },
    # small, smooth cells: nucleoli dissolve, nuclei shrink and round up
    "Protein synthesis": {
        "nucleoli": -0.45, "nucleus_radius": -0.20, "cell_radius": -0.12, "elongation": -0.12,
        "nucleus_elongation": -0.16, "chromatin_contrast": -0.12, "ruffles": -0.09,
        "tubulin_perinuclear": -0.12, "actin_cortex": 0.14, "actin_arcs": 0.8,
        "actin_along": -0.4,
    },
}  # fmt: skip
HILL_SLOPE = 1.6


@dataclass(frozen=True)
class Compound:
    """The effects of one compound, independent of its concentration.

    Parameters
    ----------
    name, mechanism
        As in the layout; a mechanism that is not in :data:`MECHANISMS` has no common effect.
    ec50
        Concentration of half activity, micromolar.
    effects
        Change of every trait at full activity (T,): the mechanism, leaned a little towards some
        of its parts, plus the compound's own signature.
    handling
        Deviations of :mod:`.handling`'s properties at full activity: a compound that fluoresces,
        falls out or keeps a stain away.
    """

    name: str
    mechanism: str | None
    ec50: float
    effects: NDArray[np.float64]
    handling: NDArray[np.float64] = field(default_factory=lambda: np.zeros(SHAPE))


def hill(concentration: float, ec50: float, slope: float = HILL_SLOPE) -> float:
    """Activity in [0, 1] at a concentration: ``c^n / (c^n + ec50^n)``, 0 at concentration 0."""
    if concentration <= 0:
        return 0.0
    return float(1.0 / (1.0 + (ec50 / concentration) ** slope))


def make_compound(
    name: str,
    mechanism: str | None,
    active: Sequence[float],
    *,
    seed: int,
    effect: float,
    lean: float,
    signature: float,
    density: float = 0.0,
    staining: float = 0.0,
) -> Compound:
    """Draw a compound's potency and signature, the same for a seed wherever it is used.

    Parameters
    ----------
    name, mechanism
        See :class:`Compound`.
    active
        Concentrations at which the compound is known to act, micromolar; its EC50 is drawn
        about the lowest of them (below it where there is only one).
    seed
        Of the screen.
    effect
        Multiplies the mechanism's changes.
    lean
        Standard deviation of the log factor on each of the mechanism's changes.
    signature
        Size of the compound's own changes, in units of the traits' natural spread.
    density
        Standard deviation of the compound's own change of the log number of cells.
    staining
        Size of the compound's own changes of staining, in units of the properties' spread.
    """
    rng = generator(seed, "compound", name)
    potency = rng.uniform(-0.45, 0.15)
    lowest = min((value for value in active if value > 0), default=1.0)
    several = len(set(active)) > 1
    ec50 = lowest * 10.0 ** (potency if several else potency - 0.3)
    common = as_vector(MECHANISMS.get(mechanism or "", {}))
    leaned = common * effect * np.exp(lean * rng.standard_normal(common.size))
    own = signature * SPREAD * rng.standard_normal(common.size)
    own[INDEX["density"]] = density * rng.standard_normal()
    handling = np.zeros(SHAPE)
    handling[STAINING_ROWS] = staining * rng.standard_normal((len(STAINING_ROWS), 3))
    return Compound(name, mechanism, ec50, leaned + own, handling)
