"""What carries DNA in each cell: nuclei, micronuclei, fragments, and chromosomes in mitosis."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from math import pi
from typing import TYPE_CHECKING

import numpy as np

from . import raster

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cells import Culture

# enough DNA that a nucleus of the untreated radius has intensity one
CONTENT = 6.1**2

STATES = (
    "interphase", "binucleate", "micronucleated", "fragmented", "apoptotic",
    "bipolar", "monopolar", "scattered",
)  # fmt: skip
MITOTIC = ("bipolar", "monopolar", "scattered")


@dataclass(frozen=True)
class Piece:
    """One body in a cell of some state; lengths in nuclear radii, drawn between two bounds."""

    around: tuple[float, float] = (0.0, 0.0)  # distance from the nucleus's centre
    long: tuple[float, float] = (1.0, 1.0)
    short: tuple[float, float] = (1.0, 1.0)
    bearing: tuple[float, float] = (0.0, 0.0)  # from the cell's axis, and its deviation
    turn: tuple[float, float] = (0.0, 0.0)  # the same for the body's own long axis
    chance: float = 1.0  # of being there
    density: float = 1.0  # of the DNA
    ring: float = 0.0
    nucleus: float = 0.0  # 1: with lobes, nucleoli and elongation


_WHOLE = Piece(nucleus=1.0)
_ANYWHERE = (0.0, pi)
PIECES: dict[str, tuple[Piece, ...]] = {
    "interphase": (_WHOLE,),
    "binucleate": tuple(
        Piece(around=(0.8, 0.9), long=(0.75, 0.85), short=(0.75, 0.85), bearing=(side, 0.1),
              nucleus=1.0)
        for side in (0.0, pi)
    ),
    "micronucleated": (
        _WHOLE,
        *(
            Piece(around=(1.2, 1.6), long=(0.22, 0.36), short=(0.22, 0.36), bearing=_ANYWHERE,
                  chance=chance)
            for chance in (1.0, 0.6, 0.35)
        ),
    ),
    "fragmented": tuple(
        Piece(around=(0.5, 1.0), long=(0.3, 0.6), short=(0.3, 0.5),
              bearing=(2 * pi * part / 5, 0.3), turn=_ANYWHERE)
        for part in range(5)
    ),
    "apoptotic": tuple(
        Piece(around=(0.2, 0.7), long=(0.2, 0.38), short=(0.2, 0.38),
              bearing=(2 * pi * part / 5, 0.4), density=1.9)
        for part in range(5)
    ),
    # the plate stands across the spindle, which follows the cell's axis
    "bipolar": (Piece(long=(1.05, 1.25), short=(0.32, 0.4), turn=(pi / 2, 0.05), density=1.9),),
    "monopolar": (Piece(long=(0.9, 1.0), short=(0.85, 0.95), ring=1.0, density=1.3),),
    "scattered": tuple(
        Piece(around=(0.0, 0.9), long=(0.45, 0.55), short=(0.2, 0.25), bearing=_ANYWHERE,
              turn=_ANYWHERE, density=1.7)
        for _ in range(7)
    ),
}  # fmt: skip


def _table() -> NDArray[np.float64]:
    """PIECES as an array (state, slot, number), in the order of Piece's fields; chance 0: none."""
    slots = max(map(len, PIECES.values()))
    missing = Piece(chance=0.0)
    return np.array([
        [np.hstack(astuple(piece)) for piece in (*PIECES[s], *[missing] * (slots - len(PIECES[s])))]
        for s in STATES
    ])  # fmt: skip


_TABLE = _table()


def chromatin(
    culture: Culture, rng: np.random.Generator
) -> tuple[NDArray[np.void], NDArray[np.float64]]:
    """Lay out all bodies that hold DNA.

    Returns
    -------
    bodies
        BODY records (m,); a cell's DNA is shared among its bodies by area.
    centres
        float64 (n, 2): centre (y, x) of each cell's main nucleus, pixels.
    """
    num, traits = len(culture), culture.traits
    away = rng.uniform(0, 2 * pi, num)
    offset = np.where(
        culture.has(*MITOTIC, "apoptotic"), 0, traits["nucleus_offset"] * traits["cell_radius"]
    )
    centres = np.stack([culture.y + offset * np.sin(away), culture.x + offset * np.cos(away)], 1)

    numbers = _TABLE[culture.state]
    cell, slot = np.nonzero(rng.random(numbers.shape[:2]) < numbers[..., -4])
    chosen = numbers[cell, slot].T
    around, long, short = (
        rng.uniform(chosen[low], chosen[low + 1]) * traits["nucleus_radius"][cell]
        for low in (0, 2, 4)
    )
    axis = culture.angle + np.where(culture.has(*MITOTIC), 0, rng.normal(0, 0.35, num))
    bearing, turn = (
        axis[cell] + chosen[base] + chosen[base + 1] * rng.normal(0, 1, len(cell))
        for base in (6, 8)
    )
    density, ring, nucleus = chosen[-3:]
    stretch = np.where(nucleus > 0, np.sqrt(traits["nucleus_elongation"][cell]), 1)

    bodies = np.zeros(len(cell), raster.BODY)
    bodies["cell"] = cell
    bodies["y"] = centres[cell, 0] + around * np.sin(bearing)
    bodies["x"] = centres[cell, 1] + around * np.cos(bearing)
    bodies["cos"], bodies["sin"] = np.cos(turn), np.sin(turn)
    bodies["long"], bodies["short"] = long * stretch, short / stretch
    bodies["ring"] = ring
    # magnified nuclei are not dimmer: what a pixel holds follows the unmagnified radius
    content = CONTENT * culture.zoom**2 * traits["dna_content"] / traits["nucleus_radius"] ** 2
    bodies["level"] = density * content[cell]
    bodies["phase"] = rng.uniform(0, 2 * pi, len(cell))
    bodies["contrast"] = traits["chromatin_contrast"][cell]
    bodies["grain"] = traits["chromatin_grain"][cell]
    bodies["lobes"] = nucleus * traits["nucleus_lobes"][cell]
    bodies["nucleoli"] = nucleus * traits["nucleoli"][cell]
    bodies["tile_y"], bodies["tile_x"] = rng.integers(0, 256, (2, len(cell)))
    return bodies, centres
