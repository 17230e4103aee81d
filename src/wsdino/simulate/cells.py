"""From traits to a field of cells: positions, contents, and the three stains.

Vectorised over the cells of a field; the pixels are done by :mod:`.raster`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import raster
from .filaments import actin_fibres, microtubules
from .nuclei import MITOTIC, STATES, chromatin
from .traits import INDEX, NAMES, POPULATION, SPREAD, apply_effects

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]

FIELD_OF_DENSITY = 256.0  # the `density` trait counts cells in a square of this edge
CELL_TO_CELL = 1.3  # cells of a well differ by this many times the traits' natural spread
GROWN = 2 ** (1 / 3)  # of the nuclear radius where DNA has doubled
MITOTIC_RADIUS, APOPTOTIC_RADIUS = 0.62, 0.48  # of rounded cells, relative to spread ones


@dataclass(frozen=True)
class Culture:
    """The cells of one field before anything is drawn.

    Parameters
    ----------
    traits
        Every cell's value of each trait by name, float64 (n,), lengths in pixels.
    y, x, angle
        Centre in pixels, and direction of the long axis in radians, float64 (n,).
    state
        Exactly one of :data:`.nuclei.STATES` for each cell, as its index, int (n,).
    zoom
        Magnification with which lengths became pixels.
    """

    traits: dict[str, Vector]
    y: Vector
    x: Vector
    angle: Vector
    state: NDArray[np.int64]
    zoom: float

    def __len__(self) -> int:
        return len(self.y)

    def has(self, *names: str) -> NDArray[np.bool_]:
        """Whether the state of each cell is one of `names`, bool (n,)."""
        return np.array([state in names for state in STATES])[self.state]


def seed_cells(
    traits: Vector,
    effects: Vector,
    *,
    penetrance: float,
    strength: float,
    size: int,
    zoom: float,
    rng: np.random.Generator,
) -> Culture:
    """Draw the cells of one field.

    Parameters
    ----------
    traits
        The well's untreated traits (T,).
    effects
        Change of the traits in a cell that responds fully (T,).
    penetrance
        Probability that a cell responds.
    strength
        How strongly a responding cell changes (1: by `effects`).
    size
        Edge of the field, pixels.
    zoom
        Magnification: pixels per pixel of the traits' lengths.
    rng
        Source of all randomness.
    """
    field = apply_effects(traits, effects * penetrance * strength)
    edge, margin = size / zoom, 20.0
    expected = field[INDEX["density"]] * ((edge + 2 * margin) / FIELD_OF_DENSITY) ** 2
    num = max(int(rng.poisson(expected)), 1)
    responds = rng.random(num) < penetrance
    response = responds * strength * np.exp(0.25 * rng.standard_normal(num))
    own = CELL_TO_CELL * SPREAD * rng.standard_normal((num, len(NAMES)))
    values = apply_effects(apply_effects(traits, own), response[:, None] * effects)
    state = _states(values, rng)
    _grow(values, rng)
    radius = values[:, INDEX["cell_radius"]]
    radius[state >= STATES.index("bipolar")] *= MITOTIC_RADIUS
    radius[state == STATES.index("apoptotic")] *= APOPTOTIC_RADIUS
    rounded = state >= STATES.index("apoptotic")
    for name, value in (("elongation", 1.06), ("ruffles", 0.03), ("tails", 0.0)):
        values[rounded, INDEX[name]] = value
    position = _settle(radius, field[INDEX["colony"]], edge, margin, rng)
    num = len(position)
    columns = {
        name: values[:num, index] * (zoom if name.endswith("_radius") else 1.0)
        for name, index in INDEX.items()
        if name not in POPULATION
    }
    angle = rng.uniform(0, 2 * np.pi, num)
    return Culture(columns, position[:, 0] * zoom, position[:, 1] * zoom, angle, state[:num], zoom)


def _grow(values: Vector, rng: np.random.Generator) -> None:
    """Double, in place, the DNA of some cells, and vary the uptake of the stain in all."""
    num = len(values)
    copied = rng.random(num) < values[:, INDEX["copied"]]
    uneven = values[:, INDEX["dna_unevenness"]] * rng.standard_normal(num)
    values[:, INDEX["dna_content"]] *= np.where(copied, 2.0, 1.0) * np.exp(uneven)
    values[copied, INDEX["nucleus_radius"]] *= GROWN


def _states(values: Vector, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw each cell's state (n,): mitotic first, then the interphase ones one after another."""
    num = len(values)
    state = np.zeros(num, dtype=np.int64)
    for name, trait in (
        ("binucleate", "binucleate"),
        ("micronucleated", "micronuclei"),
        ("fragmented", "fragmented"),
        ("apoptotic", "apoptotic"),
    ):
        state[rng.random(num) < values[:, INDEX[trait]]] = STATES.index(name)
    mitotic = rng.random(num) < values[:, INDEX["mitotic"]]
    scattered = rng.random(num) < values[:, INDEX["scattered"]]
    monopolar = rng.random(num) < values[:, INDEX["monopolar"]]
    state[mitotic] = STATES.index("bipolar")
    state[mitotic & scattered] = STATES.index("scattered")
    state[mitotic & monopolar] = STATES.index("monopolar")
    return state


def _settle(
    radius: Vector, colony: float, edge: float, margin: float, rng: np.random.Generator
) -> Vector:
    """Place cells, some of them in colonies: positions (k, 2), k < n if there is no more room."""
    num = len(radius)
    tries = 25 * num
    centres = rng.uniform(-margin, edge + margin, (max(round(num / 9), 1), 2))
    around = centres[rng.integers(len(centres), size=tries)]
    grouped = around + rng.normal(0, 2.0 * radius.mean(), (tries, 2))
    alone = rng.uniform(-margin, edge + margin, (tries, 2))
    spots = np.where(rng.random((tries, 1)) < colony, grouped, alone)
    spots = spots[((spots > -margin) & (spots < edge + margin)).all(axis=1)].astype(np.float32)
    taken = raster.place(spots, radius.astype(np.float32), 0.60 - 0.06 * colony)
    return spots[taken].astype(np.float64)


def _outlines(culture: Culture, rng: np.random.Generator) -> NDArray[np.float32]:
    """Radius of each cell's outline relative to its ellipse, float32 (n, NUM_ANGLES)."""
    num = len(culture)
    angles = np.linspace(0, 2 * np.pi, raster.NUM_ANGLES, endpoint=False)
    outline = np.ones((num, raster.NUM_ANGLES))
    for order in (2, 3, 4, 5, 7, 9):
        amplitude = culture.traits["ruffles"] * rng.normal(0, 0.9, num) / (order / 2) ** 0.8
        phase = rng.uniform(0, 2 * np.pi, num)
        outline += amplitude[:, None] * np.sin(order * angles + phase[:, None])
    outline = np.clip(outline, 0.55, 1.5)
    for tail in range(3):
        # a process prefers the ends of the long axis, where the angle is near 0 or pi
        at = (tail % 2) * np.pi + rng.normal(0, 0.45 + 0.5 * (tail == 2), num)
        present = np.clip(culture.traits["tails"] - tail, 0, 1) > rng.random(num)
        length = present * rng.uniform(0.5, 1.3, num)
        turn = np.abs((angles - at[:, None] + np.pi) % (2 * np.pi) - np.pi)
        outline += length[:, None] * np.exp(-turn / 0.14)
    return outline.astype(np.float32)


def draw(culture: Culture, size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Draw a field's three stains without optics or noise.

    Returns
    -------
    numpy.ndarray
        float32 (3, size, size): DNA, tubulin, actin; about 1 in the middle of a nucleus.
    """
    traits, num = culture.traits, len(culture)
    outlines = _outlines(culture, rng)
    cells = np.zeros(num, raster.CELL)
    stretch = np.sqrt(traits["elongation"])
    cells["y"], cells["x"] = culture.y, culture.x
    cells["cos"], cells["sin"] = np.cos(culture.angle), np.sin(culture.angle)
    cells["long"] = traits["cell_radius"] * stretch
    cells["short"] = traits["cell_radius"] / stretch
    cells["reach"] = outlines.max(axis=1)
    owner, near, second = raster.claim(cells, outlines, size)
    cover, body, cortex, junction = raster.shape_cells(cells, owner, near, second, 1.15)

    nuclei, poles = chromatin(culture, rng)
    dna = raster.stain_dna(nuclei, owner, raster.noise_tile(0.9), raster.noise_tile(2.0))

    body *= 1 - 0.5 * np.minimum(dna, 1)
    rounded = culture.has(*MITOTIC, "apoptotic")
    uneven = np.stack([traits["tubulin_unevenness"], traits["actin_unevenness"]])
    levels = np.exp(uneven * rng.standard_normal((2, num))) * np.where(rounded, 1.5, 1.0)
    tubes, centres = microtubules(culture, poles, rng)
    tubulin = _mix(
        (body, raster.trace(tubes, owner, near, 0.7), raster.dab(centres, owner, cover)),
        (traits["tubulin_filaments"], traits["tubulin_perinuclear"]),
        owner,
        levels[0],
    )
    fibres, clumps = actin_fibres(culture, rng)
    actin = _mix(
        (
            body,
            raster.trace(fibres, owner, near, 0.7),
            cortex,
            junction,
            raster.dab(clumps, owner, cover),
        ),
        (
            traits["actin_fibres"] * ~rounded,
            traits["actin_cortex"],
            traits["actin_junctions"],
            traits["actin_clumps"],
        ),
        owner,
        levels[1],
    )
    return np.stack([dna, tubulin, actin])


def _mix(
    components: tuple[NDArray[np.float32], ...],
    shares: tuple[Vector, ...],
    owner: NDArray[np.int32],
    levels: Vector,
) -> NDArray[np.float32]:
    """Mix components by their shares; the first, diffuse one gets what is left (at least 0.1)."""
    wanted = np.stack(shares, axis=1)
    wanted = wanted * np.minimum(1.0, 0.9 / np.maximum(wanted.sum(axis=1, keepdims=True), 1e-9))
    full = np.concatenate([1 - wanted.sum(axis=1, keepdims=True), wanted], axis=1)
    return raster.compose(components, owner, full.astype(np.float32), levels.astype(np.float32))
