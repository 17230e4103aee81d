"""What carries DNA in each cell: nuclei, micronuclei, fragments, and chromosomes in mitosis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import raster

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cells import Culture

# enough DNA that a nucleus of the untreated radius has intensity one
CONTENT = 6.1**2
MITOTIC_PLATE = (1.15, 0.36)  # semi-axes of a metaphase plate, in nuclear radii


def chromatin(
    culture: Culture, rng: np.random.Generator
) -> tuple[NDArray[np.void], NDArray[np.float64]]:
    """Lay out all bodies that hold DNA.

    Returns
    -------
    bodies
        BODY records (m,); a cell's DNA is shared among its bodies by area.
    poles
        float64 (n, 2): centre (y, x) of each cell's main nucleus, pixels.
    """
    num, traits = len(culture), culture.traits
    away = rng.uniform(0, 2 * np.pi, num)
    offset = traits["nucleus_offset"] * traits["cell_radius"]
    offset[culture.has("bipolar", "monopolar", "scattered", "apoptotic")] = 0
    centre = np.stack([culture.y + offset * np.sin(away), culture.x + offset * np.cos(away)], 1)
    radius = traits["nucleus_radius"]
    stretch = np.sqrt(traits["nucleus_elongation"])
    tilt = culture.angle + rng.normal(0, 0.35, num)
    everyone = np.arange(num)

    def bodies(
        which: NDArray[np.bool_],
        *,
        around: float | NDArray[np.float64] = 0.0,
        bearing: NDArray[np.float64] | float = 0.0,
        long: NDArray[np.float64] | float = 1.0,
        short: NDArray[np.float64] | float = 1.0,
        turn: NDArray[np.float64] | float = 0.0,
        density: float = 1.0,
        ring: float = 0.0,
        plain: bool = False,
    ) -> NDArray[np.void]:
        """One body in each cell of `which`; lengths in nuclear radii, one value per cell."""
        cell = everyone[which]
        out = np.zeros(len(cell), raster.BODY)
        r = radius[cell]
        distance, direction = (np.broadcast_to(v, num)[cell] for v in (around, bearing))
        out["cell"] = cell
        out["y"] = centre[cell, 0] + distance * r * np.sin(direction)
        out["x"] = centre[cell, 1] + distance * r * np.cos(direction)
        angle = np.broadcast_to(turn, num)[cell]
        out["cos"], out["sin"] = np.cos(angle), np.sin(angle)
        out["long"] = np.broadcast_to(long, num)[cell] * r
        out["short"] = np.broadcast_to(short, num)[cell] * r
        out["ring"] = ring
        out["content"] = (
            density * CONTENT * traits["dna_content"][cell] * out["long"] * out["short"] / r**2
        )
        # magnified nuclei are not dimmer: content follows the square of the zoom
        out["content"] *= culture.zoom**2
        out["phase"] = rng.uniform(0, 2 * np.pi, len(cell))
        out["contrast"] = traits["chromatin_contrast"][cell]
        out["grain"] = traits["chromatin_grain"][cell]
        if not plain:
            out["lobes"] = traits["nucleus_lobes"][cell]
            out["nucleoli"] = traits["nucleoli"][cell]
        out["tile_y"], out["tile_x"] = rng.integers(0, 256, (2, len(cell)))
        return out

    whole = culture.has("interphase", "micronucleated")
    parts = [bodies(whole, long=stretch, short=1 / stretch, turn=tilt)]
    parts.extend(
        bodies(culture.has("binucleate"), around=0.85, bearing=tilt + side, long=0.82, short=0.72)
        for side in (0.0, np.pi)
    )
    for small in range(3):
        present = culture.has("micronucleated") & (rng.random(num) < (1.0, 0.6, 0.35)[small])
        parts.append(
            bodies(
                present,
                around=rng.uniform(1.2, 1.6, num),
                bearing=rng.uniform(0, 2 * np.pi, num),
                long=rng.uniform(0.22, 0.36, num),
                short=rng.uniform(0.22, 0.36, num),
                plain=True,
            )
        )
    for piece in range(5):
        bearing = tilt + 2 * np.pi * piece / 5 + rng.normal(0, 0.3, num)
        parts.append(
            bodies(
                culture.has("fragmented"),
                around=rng.uniform(0.5, 1.0, num),
                bearing=bearing,
                long=rng.uniform(0.3, 0.6, num),
                short=rng.uniform(0.3, 0.5, num),
                turn=bearing,
                plain=True,
            )
        )
        parts.append(
            bodies(
                culture.has("apoptotic"),
                around=rng.uniform(0.2, 0.7, num),
                bearing=bearing,
                long=rng.uniform(0.2, 0.38, num),
                short=rng.uniform(0.2, 0.38, num),
                density=1.9,
                plain=True,
            )
        )
    # the plate stands across the spindle, which follows the cell's long axis
    parts.append(
        bodies(
            culture.has("bipolar"),
            long=MITOTIC_PLATE[0],
            short=MITOTIC_PLATE[1],
            turn=culture.angle + np.pi / 2,
            density=1.9,
            plain=True,
        )
    )
    parts.append(bodies(culture.has("monopolar"), long=0.95, short=0.9, ring=1.0,
                        turn=tilt, density=1.3, plain=True))  # fmt: skip
    parts.extend(
        bodies(
            culture.has("scattered"),
            around=rng.uniform(0.0, 0.9, num),
            bearing=rng.uniform(0, 2 * np.pi, num),
            long=0.5,
            short=0.22,
            turn=rng.uniform(0, np.pi, num),
            density=1.7,
            plain=True,
        )
        for _ in range(7)
    )
    return np.concatenate(parts), centre
