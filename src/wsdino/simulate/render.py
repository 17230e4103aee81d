"""One field from its parameters: cells, debris, photograph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import raster
from .cells import draw, seed_cells
from .keys import generator
from .optics import expose
from .traits import NAMES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .plates import Site


def render(site: Site, *, seed: int, size: int, zoom: float = 1.0) -> NDArray[np.uint16]:
    """Render a field: the same pixels for a seed and a site, whatever else is rendered.

    Parameters
    ----------
    site
        Its parameters.
    seed
        Of the screen.
    size
        Edge of the square field, pixels.
    zoom
        Magnification; at 1 a nucleus is about 12 pixels wide.

    Returns
    -------
    numpy.ndarray
        uint16 (3, size, size): DAPI, tubulin, actin.
    """
    rng = generator(seed, "site", *site.key)
    culture = seed_cells(
        site.traits,
        site.compound.effects if site.compound else np.zeros(len(NAMES)),
        penetrance=site.penetrance,
        strength=site.strength,
        size=size,
        zoom=zoom,
        rng=rng,
    )
    stains = draw(culture, size, rng)
    add_artefacts(stains, site, zoom, rng)
    return expose(stains, site.optics, rng)


def add_artefacts(
    stains: NDArray[np.float32], site: Site, zoom: float, rng: np.random.Generator
) -> None:
    """Add debris and precipitate of a site to its stains, float32 (3, H, W), in place."""
    if site.debris:
        stains += _debris(site.debris, stains.shape[1], zoom, rng)
    if any(site.precipitate):
        _precipitate(stains, site.precipitate, zoom, rng)


def _debris(number: int, size: int, zoom: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Out-of-focus bits of dead cells and dust, seen in all channels: float32 (3, H, W)."""
    dots = np.zeros(number, raster.DOT)
    dots["cell"] = -1
    dots["y"], dots["x"] = rng.uniform(0, size, (2, number))
    dots["radius"] = zoom * rng.uniform(3, 9, number)
    nobody, nothing = np.full((size, size), -1, np.int32), np.zeros((size, size), np.float32)
    channels = []
    for _ in range(3):
        dots["weight"] = rng.lognormal(-0.3, 0.7, number)
        channels.append(raster.dab(dots, nobody, nothing))
    return np.stack(channels)


def _precipitate(
    stains: NDArray[np.float32],
    number: tuple[int, int, int],
    zoom: float,
    rng: np.random.Generator,
) -> None:
    """Add crystals of unbound stain, small, bright and sharp, to each channel in place."""
    size = stains.shape[1]
    nobody, nothing = np.full((size, size), -1, np.int32), np.zeros((size, size), np.float32)
    for channel, many in enumerate(number):
        dots = np.zeros(many, raster.DOT)
        dots["cell"] = -1
        dots["y"], dots["x"] = rng.uniform(0, size, (2, many))
        dots["radius"] = zoom * rng.uniform(0.4, 1.6, many)
        dots["weight"] = rng.lognormal(0.0, 0.6, many)
        stains[channel] += raster.dab(dots, nobody, nothing)
