"""The inner loops of drawing, compiled by numba and cached on disk.

Arrays of records (:data:`CELL`, :data:`BODY`, :data:`FILAMENT`, :data:`DOT`) describe what is to
be drawn; all lengths are pixels, all angles radians, and y comes before x.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter

from wsdino.compiled import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Ints = NDArray[np.int32]
    Records = NDArray[np.void]

NUM_ANGLES = 64  # samples of a cell's outline
OUTSIDE = 9.0  # relative distance that is beyond every cell
RING_HOLE = 0.62  # its edge, relative to the ring's
TILE = 256  # edge of a noise tile
LOBES_AT_MOST = 2.4  # the sum of the lobes' amplitudes

CELL = np.dtype([
    ("y", "f4"), ("x", "f4"), ("cos", "f4"), ("sin", "f4"),
    ("long", "f4"), ("short", "f4"),  # semi-axes
    ("reach", "f4"),  # the outline's largest relative radius
])  # fmt: skip
BODY = np.dtype([
    ("cell", "i4"), ("y", "f4"), ("x", "f4"), ("cos", "f4"), ("sin", "f4"),
    ("long", "f4"), ("short", "f4"),
    ("ring", "f4"),  # 0: filled; 1: a ring, open in the middle
    ("level", "f4"),  # DNA per pixel
    ("lobes", "f4"), ("phase", "f4"),
    ("contrast", "f4"), ("grain", "f4"), ("nucleoli", "f4"),
    ("tile_y", "i4"), ("tile_x", "i4"),
])  # fmt: skip
FILAMENT = np.dtype([
    ("cell", "i4"), ("y", "f4"), ("x", "f4"), ("heading", "f4"),
    ("curve", "f4"),  # radians per pixel
    ("length", "f4"), ("weight", "f4"),
])  # fmt: skip
DOT = np.dtype([("cell", "i4"), ("y", "f4"), ("x", "f4"), ("radius", "f4"), ("weight", "f4")])


@cache
def noise_tile(sigma: float) -> NDArray[np.float32]:
    """Return one fixed tile of smooth noise (mean 0, variance 1) that wraps, float32."""
    white = np.random.default_rng(20140422).standard_normal((TILE, TILE))
    smooth = gaussian_filter(white, sigma, mode="wrap")
    tile: NDArray[np.float32] = ((smooth - smooth.mean()) / smooth.std()).astype(np.float32)
    return tile


@kernel
def clamp(value: float) -> float:
    """Limit to [0, 1]."""
    return min(max(value, 0.0), 1.0)


@kernel
def bump(distance: float) -> float:
    """Fall smoothly from 1 at distance 0 to 0 at distance 1, like a Gaussian of sd 0.35."""
    rest = max(1.0 - distance * distance, 0.0)
    return rest * rest * rest


@kernel
def angle_of(y: float, x: float) -> float:
    """Approximate ``atan2(y, x)`` to 0.005 radians, several times as fast."""
    ay, ax = abs(y), abs(x)
    ratio = min(ay, ax) / max(ay, ax, 1e-9)
    square = ratio * ratio
    angle = ((-0.0464964749 * square + 0.15931422) * square - 0.327622764) * square * ratio + ratio
    if ay > ax:
        angle = 0.5 * math.pi - angle
    if x < 0:
        angle = math.pi - angle
    return -angle if y < 0 else angle


@kernel
def place(candidates: Floats, radii: Floats, closeness: float) -> Ints:
    """Choose candidate positions one by one so that no two cells lie implausibly close.

    Parameters
    ----------
    candidates
        Positions (m, 2), tried in order.
    radii
        Radius of each cell (n,), placed in order.
    closeness
        Smallest distance of two cells in units of the sum of their radii.

    Returns
    -------
    numpy.ndarray
        int32 (k,), k <= n: the candidate taken by each of the first k cells.
    """
    taken = np.empty(radii.shape[0], np.int32)
    count = 0
    for candidate in range(candidates.shape[0]):
        if count == radii.shape[0]:
            break
        free = True
        for other in range(count):
            gap = closeness * (radii[count] + radii[other])
            dy = candidates[candidate, 0] - candidates[taken[other], 0]
            dx = candidates[candidate, 1] - candidates[taken[other], 1]
            if dy * dy + dx * dx < gap * gap:
                free = False
                break
        if free:
            taken[count] = candidate
            count += 1
    return taken[:count]


@kernel
def claim(cells: Records, outlines: Floats, size: int) -> tuple[Ints, Floats, Floats]:
    """Give each pixel to the cell whose outline lies furthest beyond it.

    Parameters
    ----------
    cells
        CELL records (n,).
    outlines
        float32 (n, NUM_ANGLES): radius of the outline relative to the cell's ellipse, by angle.
    size
        Edge of the square field, pixels.

    Returns
    -------
    owner
        int32 (size, size): index of the nearest cell, -1 far from all.
    near, next
        float32 (size, size): distance relative to the outline (1: on it) of the nearest cell
        and of the one after it.
    """
    owner = np.full((size, size), -1, np.int32)
    near = np.full((size, size), np.float32(OUTSIDE), np.float32)
    second = np.full((size, size), np.float32(OUTSIDE), np.float32)
    per_radian = NUM_ANGLES / (2 * math.pi)
    for index in range(cells.shape[0]):
        cell = cells[index]
        reach = cell.reach * np.float32(1.25)
        extent = cell.long * reach
        top, bottom = max(0, int(cell.y - extent)), min(size, int(cell.y + extent) + 2)
        left, right = max(0, int(cell.x - extent)), min(size, int(cell.x + extent) + 2)
        for y in range(top, bottom):
            dy = np.float32(y) - cell.y
            for x in range(left, right):
                dx = np.float32(x) - cell.x
                u = (cell.cos * dx + cell.sin * dy) / cell.long
                v = (cell.cos * dy - cell.sin * dx) / cell.short
                square = u * u + v * v
                if square > reach * reach:
                    continue
                rho = math.sqrt(square)
                place_on = angle_of(v, u) * per_radian + NUM_ANGLES
                before = int(place_on)
                part = np.float32(place_on - before)
                edge = (1 - part) * outlines[index, before % NUM_ANGLES] + part * outlines[
                    index, (before + 1) % NUM_ANGLES
                ]
                relative = np.float32(rho) / edge
                if relative < near[y, x]:
                    second[y, x] = near[y, x]
                    near[y, x] = relative
                    owner[y, x] = index
                elif relative < second[y, x]:
                    second[y, x] = relative
    return owner, near, second


@kernel
def shape_cells(
    cells: Records, owner: Ints, near: Floats, second: Floats, contact: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """Draw what follows from the outlines: coverage, body, free edge and contacts.

    Parameters
    ----------
    cells, owner, near, second
        As given to and returned by :func:`claim`.
    contact
        Half width of the bands along edge and contacts, pixels.

    Returns
    -------
    cover, body, cortex, junction
        float32 (size, size): 1 inside a cell and 0 outside; thickness of the cytoplasm;
        band along the free edge; band where two cells touch.
    """
    size = owner.shape[0]
    cover = np.zeros((size, size), np.float32)
    body = np.zeros((size, size), np.float32)
    cortex = np.zeros((size, size), np.float32)
    junction = np.zeros((size, size), np.float32)
    for y in range(size):
        for x in range(size):
            index = owner[y, x]
            if index < 0:
                continue
            cell = cells[index]
            radius = math.sqrt(cell.long * cell.short)
            inside = (1 - near[y, x]) * radius
            covered = clamp(inside * 0.8 + 0.5)
            if covered <= 0:
                continue
            apart = (second[y, x] - near[y, x]) * radius * np.float32(0.5)
            touching = clamp((1.35 - second[y, x]) * 4)
            cover[y, x] = covered
            crease = touching * bump(apart / (1.8 * contact))
            thick = math.sqrt(max(1 - near[y, x] * near[y, x], 0))
            body[y, x] = covered * (np.float32(0.25) + thick) * (1 - np.float32(0.35) * crease)
            rim = bump((inside - contact) / (1.8 * contact))
            cortex[y, x] = covered * rim * (1 - 0.7 * touching)
            junction[y, x] = covered * crease
    return cover, body, cortex, junction


@kernel
def trace(filaments: Records, owner: Ints, near: Floats, step: float) -> Floats:
    """Draw filaments as arcs that end where their cell ends: float32 (size, size)."""
    size = owner.shape[0]
    canvas = np.zeros((size, size), np.float32)
    for index in range(filaments.shape[0]):
        filament = filaments[index]
        y, x = filament.y, filament.x
        sin, cos = step * math.sin(filament.heading), step * math.cos(filament.heading)
        turn_sin, turn_cos = math.sin(step * filament.curve), math.cos(step * filament.curve)
        for _ in range(int(filament.length / step) + 1):
            top, left = math.floor(y), math.floor(x)
            if 0 <= top < size - 1 and 0 <= left < size - 1:
                if owner[top, left] != filament.cell or near[top, left] > np.float32(0.97):
                    break
                fy, fx = y - top, x - left
                weight = filament.weight * step
                canvas[top, left] += weight * (1 - fy) * (1 - fx)
                canvas[top, left + 1] += weight * (1 - fy) * fx
                canvas[top + 1, left] += weight * fy * (1 - fx)
                canvas[top + 1, left + 1] += weight * fy * fx
            y += sin
            x += cos
            sin, cos = sin * turn_cos + cos * turn_sin, cos * turn_cos - sin * turn_sin
    return canvas


@kernel
def dab(dots: Records, owner: Ints, cover: Floats) -> Floats:
    """Draw round, soft dots inside their cells (cell -1: anywhere): float32 (size, size)."""
    size = owner.shape[0]
    canvas = np.zeros((size, size), np.float32)
    for index in range(dots.shape[0]):
        dot = dots[index]
        extent = 2.5 * dot.radius
        for y in range(max(0, int(dot.y - extent)), min(size, int(dot.y + extent) + 2)):
            for x in range(max(0, int(dot.x - extent)), min(size, int(dot.x + extent) + 2)):
                if dot.cell >= 0 and owner[y, x] != dot.cell:
                    continue
                value = dot.weight * bump(math.hypot(y - dot.y, x - dot.x) / extent)
                canvas[y, x] += value if dot.cell < 0 else value * cover[y, x]
    return canvas


@kernel
def _lobing(cos: float, sin: float, cos_phase: float, sin_phase: float) -> float:
    """Waves of two, three and five periods around a nucleus, at angle (cos, sin)."""
    cos2, sin2 = cos * cos - sin * sin, 2 * cos * sin
    cos3, sin3 = cos * cos2 - sin * sin2, cos * sin2 + sin * cos2
    cos5, sin5 = cos2 * cos3 - sin2 * sin3, cos2 * sin3 + sin2 * cos3
    return (
        (sin2 * cos_phase + cos2 * sin_phase)
        + 0.9 * (sin3 * cos_phase - cos3 * sin_phase)
        + 0.5 * (sin5 * sin_phase + cos5 * cos_phase)
    )


@kernel
def stain_dna(bodies: Records, owner: Ints, fine: Floats, coarse: Floats) -> Floats:
    """Draw nuclei, chromosome plates, rings and fragments: float32 (size, size).

    `fine` and `coarse` are square noise tiles (mean 0, variance 1, edge a power of two) that wrap;
    each body looks its chromatin up at a place of its own.
    """
    size, wrap = owner.shape[0], fine.shape[0] - 1
    canvas = np.zeros((size, size), np.float32)
    for index in range(bodies.shape[0]):
        body = bodies[index]
        farthest = 1 + LOBES_AT_MOST * body.lobes
        extent = max(body.long, body.short) * farthest + 1
        mean_radius = math.sqrt(body.long * body.short)
        cos_phase, sin_phase = math.cos(body.phase), math.sin(body.phase)
        for y in range(max(0, int(body.y - extent)), min(size, int(body.y + extent) + 2)):
            dy = np.float32(y) - body.y
            for x in range(max(0, int(body.x - extent)), min(size, int(body.x + extent) + 2)):
                if owner[y, x] != body.cell:
                    continue
                dx = np.float32(x) - body.x
                u = (body.cos * dx + body.sin * dy) / body.long
                v = (body.cos * dy - body.sin * dx) / body.short
                rho = math.sqrt(u * u + v * v)
                if (rho - farthest) * mean_radius > 0.5:
                    continue
                edge = 1.0
                if body.lobes > 0 and rho > 1e-3:
                    edge += body.lobes * _lobing(u / rho, v / rho, cos_phase, sin_phase)
                value = clamp((edge - rho) * mean_radius + 0.5)
                if body.ring > 0:
                    value *= 1 - body.ring * clamp((RING_HOLE - rho) * mean_radius + 0.5)
                ty, tx = (y + body.tile_y) & wrap, (x + body.tile_x) & wrap
                noise = (1 - body.grain) * fine[ty, tx] + body.grain * coarse[ty, tx]
                value *= max(1 + body.contrast * noise, 0.2)
                if body.nucleoli > 0:
                    for side in (-0.38, 0.38):
                        far = math.hypot(v - side * sin_phase, u - side * cos_phase)
                        value *= 1 - body.nucleoli * bump(far / 0.55)
                canvas[y, x] = max(canvas[y, x], np.float32(body.level * value))
    return canvas


@kernel
def _component_scale(
    components: tuple[Floats, ...], owner: Ints, shares: Floats, levels: Floats
) -> Floats:
    """Factor (n, K) by which each cell's part of a component gets its share of the cell's stain."""
    num, size = len(components), owner.shape[0]
    sums = np.zeros((shares.shape[0], num), np.float32)
    area = np.zeros(shares.shape[0], np.float32)
    for y in range(size):
        for x in range(size):
            index = owner[y, x]
            if index >= 0 and components[0][y, x] > 0:
                area[index] += 1
                for part in range(num):
                    sums[index, part] += components[part][y, x]
    scale = np.zeros_like(sums)
    for index in range(shares.shape[0]):
        amount = levels[index] * area[index]
        diffuse = shares[index, 0]
        for part in range(1, num):
            if sums[index, part] > np.float32(0.01) * area[index]:
                scale[index, part] = shares[index, part] * amount / sums[index, part]
            else:
                diffuse += shares[index, part]
        scale[index, 0] = diffuse * amount / max(sums[index, 0], np.float32(1e-6))
    return scale


@kernel
def compose(components: tuple[Floats, ...], owner: Ints, shares: Floats, levels: Floats) -> Floats:
    """Mix a channel's components so that every cell holds the same amount, however it lies.

    Parameters
    ----------
    components
        K arrays float32 (size, size); the first is the diffuse one, which takes over the share of a
        component that is (almost) absent from a cell.
    owner
        int32 (size, size), as from :func:`claim`.
    shares
        float32 (n, K): each cell's share of each component, summing to one.
    levels
        float32 (n,): a cell's amount per pixel of its area.

    Returns
    -------
    numpy.ndarray
        float32 (size, size): one channel, before the optics.
    """
    num, size = len(components), owner.shape[0]
    scale = _component_scale(components, owner, shares, levels)
    out = np.zeros((size, size), np.float32)
    for y in range(size):
        for x in range(size):
            index = owner[y, x]
            if index >= 0:
                for part in range(num):
                    out[y, x] += scale[index, part] * components[part][y, x]
    return out
