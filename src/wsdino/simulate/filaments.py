"""Microtubules and actin fibres: number, origin and direction.

The kinds below differ in arrangement alone: all filaments of a channel come in the same number
and with the same length per cell, so that a mechanism that turns them leaves the spectrum alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import raster

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .cells import Culture

    Vector = NDArray[np.float64]
    Kinds = NDArray[np.int64]

NUM_MICROTUBULES, NUM_FIBRES = 60, 9  # per cell
BUNDLE = 6  # filaments that can run together
RADIAL, PARALLEL, RING, SHORT = range(4)
ALONG, ACROSS, ARC = range(3)


def _pick(weights: tuple[Vector, ...], per_cell: int, rng: np.random.Generator) -> Kinds:
    """Draw a kind for each of `per_cell` filaments by the cells' weights: int (n, per_cell)."""
    share = np.cumsum(np.stack(weights, axis=1) + 1e-3, axis=1)
    share /= share[:, -1:]
    draws = rng.random((len(share), per_cell, 1))
    kinds: Kinds = (draws > share[:, None, :-1]).sum(axis=2)
    return kinds


def _records(
    y: Vector, x: Vector, heading: Vector, curve: Vector, length: Vector
) -> NDArray[np.void]:
    """Pack (n, k) arrays into FILAMENT records (n * k,)."""
    out = np.zeros(y.size, raster.FILAMENT)
    out["cell"] = np.repeat(np.arange(len(y)), y.shape[1])
    for name, values in (("y", y), ("x", x), ("heading", heading), ("curve", curve)):
        out[name] = values.ravel()
    out["length"], out["weight"] = length.ravel(), 1.0
    return out


def microtubules(
    culture: Culture, nuclei: Vector, rng: np.random.Generator
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Lay out the microtubules and the centre about which tubulin gathers.

    Returns
    -------
    filaments
        FILAMENT records.
    centres
        DOT records, one per cell: the pericentrosomal region (or an aggresome) beside the
        nucleus.
    """
    traits, num, k = culture.traits, len(culture), NUM_MICROTUBULES
    shape = (num, k)
    radius = traits["cell_radius"][:, None]
    side = rng.uniform(0, 2 * np.pi, num)
    beside = 0.85 * traits["nucleus_radius"]
    pole_y, pole_x = nuclei[:, 0] + beside * np.sin(side), nuclei[:, 1] + beside * np.cos(side)

    kind = _pick(
        tuple(traits[f"tubulin_{name}"] for name in ("radial", "parallel", "ring", "short")), k, rng
    )
    bearing = rng.uniform(0, 2 * np.pi, shape)
    reach = radius * np.sqrt(rng.uniform(0.05, 0.95, shape))
    spread_y = culture.y[:, None] + reach * np.sin(bearing)
    spread_x = culture.x[:, None] + reach * np.cos(bearing)
    axis = culture.angle[:, None] + np.pi * (rng.random(shape) < 0.5)
    free = rng.uniform(0, 2 * np.pi, shape)
    heading = np.select(
        [kind == PARALLEL, kind == RING],
        [axis + rng.normal(0, 0.15, shape), bearing + np.pi / 2 + rng.normal(0, 0.1, shape)],
        free,
    )
    # microtubules overlap close to their centre: start each some way out
    begin = rng.uniform(0.05, 0.6, shape) * radius
    y = np.where(kind == RADIAL, pole_y[:, None] + begin * np.sin(free), spread_y)
    x = np.where(kind == RADIAL, pole_x[:, None] + begin * np.cos(free), spread_x)
    wave = rng.normal(0, 0.6, shape) / radius
    curve = np.where(kind == RING, 1 / np.maximum(reach, 3.0), wave)
    length = radius * rng.uniform(0.7, 1.4, shape)
    length[kind == SHORT] *= 0.22

    leader = (np.arange(k) // BUNDLE) * BUNDLE
    bundled = rng.random(shape) < traits["tubulin_bundling"][:, None]
    for values, jitter in ((y, 0.5), (x, 0.5), (heading, 0.06), (curve, 0.0)):
        values[:] = np.where(
            bundled, values[:, leader] + jitter * rng.standard_normal(shape), values
        )

    _spindles(culture, y, x, heading, curve, length, rng)
    centres = np.zeros(num, raster.DOT)
    centres["cell"], centres["y"], centres["x"] = np.arange(num), pole_y, pole_x
    centres["radius"], centres["weight"] = 0.20 * traits["cell_radius"], 1.0
    return _records(y, x, heading, curve, length), centres


def _spindles(
    culture: Culture,
    y: Vector,
    x: Vector,
    heading: Vector,
    curve: Vector,
    length: Vector,
    rng: np.random.Generator,
) -> None:
    """Rearrange, in place, the microtubules of mitotic cells: spindle, monoaster, or nothing."""
    radius = culture.traits["cell_radius"]
    k = y.shape[1]
    two = np.flatnonzero(culture.has("bipolar"))
    end = np.where(rng.random((len(two), k)) < 0.5, 1.0, -1.0)
    fan = rng.uniform(-0.75, 0.75, (len(two), k))
    axis = culture.angle[two, None]
    y[two] = culture.y[two, None] - end * 0.62 * radius[two, None] * np.sin(axis)
    x[two] = culture.x[two, None] - end * 0.62 * radius[two, None] * np.cos(axis)
    heading[two] = axis + np.where(end > 0, 0, np.pi) + fan
    curve[two] = -1.5 * fan / radius[two, None]
    length[two] = 0.62 * radius[two, None] * rng.uniform(0.7, 1.1, (len(two), k))

    one = np.flatnonzero(culture.has("monopolar"))
    y[one], x[one] = culture.y[one, None], culture.x[one, None]
    heading[one] = rng.uniform(0, 2 * np.pi, (len(one), k))
    length[one] = 0.8 * radius[one, None] * rng.uniform(0.6, 1.1, (len(one), k))

    none = np.flatnonzero(culture.has("scattered"))
    length[none] = 2.0


def actin_fibres(
    culture: Culture, rng: np.random.Generator
) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Lay out stress fibres (FILAMENT records) and clumps of actin (DOT records)."""
    traits, num, k = culture.traits, len(culture), NUM_FIBRES
    shape = (num, k)
    radius = traits["cell_radius"][:, None]
    stretch = np.sqrt(traits["elongation"])[:, None]
    kind = _pick(tuple(traits[f"actin_{name}"] for name in ("along", "across", "arcs")), k, rng)
    # straight fibres: side by side across the cell
    along = culture.angle[:, None] + np.where(kind == ACROSS, np.pi / 2, 0)
    along += rng.normal(0, 0.08, shape)
    aside = (
        rng.uniform(-0.75, 0.75, shape) * radius * np.where(kind == ACROSS, stretch, 1 / stretch)
    )
    ahead = rng.uniform(-0.25, 0.25, shape) * radius
    # arcs: follow the outline a little inside it
    bearing = rng.uniform(0, 2 * np.pi, shape)
    ring = radius * rng.uniform(0.55, 0.85, shape)
    arc = kind == ARC
    dy = np.where(arc, ring * np.sin(bearing), ahead * np.sin(along) + aside * np.cos(along))
    dx = np.where(arc, ring * np.cos(bearing), ahead * np.cos(along) - aside * np.sin(along))
    heading = np.where(arc, bearing + np.pi / 2, along)
    curve = np.where(arc, 1 / ring, rng.normal(0, 0.1, shape) / radius)
    half = radius * rng.uniform(0.45, 0.75, shape)
    y, x = culture.y[:, None] + dy, culture.x[:, None] + dx
    fibres = np.concatenate(
        [
            _records(y, x, heading, curve, half),
            _records(y, x, heading + np.pi, -curve, half),
        ]
    )

    per_cell = 7
    clumps = np.zeros(num * per_cell, raster.DOT)
    at, far = rng.uniform(0, 2 * np.pi, (num, per_cell)), rng.uniform(0.15, 0.85, (num, per_cell))
    clumps["cell"] = np.repeat(np.arange(num), per_cell)
    clumps["y"] = (culture.y[:, None] + radius * far * np.sin(at)).ravel()
    clumps["x"] = (culture.x[:, None] + radius * far * np.cos(at)).ravel()
    clumps["radius"] = (radius * rng.uniform(0.06, 0.13, (num, per_cell))).ravel()
    clumps["weight"] = rng.uniform(0.4, 1.0, num * per_cell)
    return fibres, clumps
