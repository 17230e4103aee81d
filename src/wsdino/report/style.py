"""Colours and marker shapes shared by all figures and tables of a report."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsdino import baselines
from wsdino.runrecord import RUN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Paul Tol's "vibrant" scheme with two of his "muted" colours: distinguishable with any of the
# common colour vision deficiencies, and of medium lightness, so that they work on white and black.
COLOURS = (
    "#0077bb",
    "#ee7733",
    "#009988",
    "#ee3377",
    "#33bbee",
    "#cc3311",
    "#999933",
    "#aa4499",
)
UNKNOWN_COLOUR = "#8a939c"

# Matplotlib marker and the same shape in a 12 by 12 box.
_SHAPES = (
    ("o", '<circle cx="6" cy="6" r="4.6"/>'),
    ("s", '<rect x="2" y="2" width="8" height="8"/>'),
    ("^", '<path d="M6 1.2 11 10.2H1z"/>'),
    ("D", '<path d="M6 .8 11.2 6 6 11.2 .8 6z"/>'),
    ("v", '<path d="M6 10.8 11 1.8H1z"/>'),
)

# Bokeh's names of the same shapes.
MARKERS = {
    "o": "circle",
    "s": "square",
    "^": "triangle",
    "D": "diamond",
    "v": "inverted_triangle",
}

# What a light says, and its shape, in a 16 by 16 box: colour alone doesn't tell.
LEVELS = {
    "good": "good",
    "warning": "with caution",
    "bad": "not good",
    "unknown": "not known",
}
LAMPS = {
    "good": '<circle cx="8" cy="8" r="7"/><path class="sign" d="M4.5 8.3 7 10.8 11.5 5.6"/>',
    "warning": '<path d="M8 1 15.5 14.5H.5z"/><path class="sign" d="M8 6v4M8 12v.6"/>',
    "bad": '<path d="M5 1h6l4 4v6l-4 4H5l-4-4V5z"/><path class="sign" d="m5.4 5.4 5.2 5.2m0-5.2'
    '-5.2 5.2"/>',
    "unknown": '<circle class="ring" cx="8" cy="8" r="6"/><path class="sign grey" d="M5 8h6"/>',
}

# Red, green and blue shares of stains: blue, yellow and rose stay apart with each of the common
# colour vision deficiencies, as green and red don't.
BLUE, YELLOW, ROSE = (0.0, 0.4, 1.0), (1.0, 0.95, 0.0), (0.95, 0.2, 0.4)
_STAINS = {
    ("dapi", "dna", "hoechst", "nuclei", "nucleus"): BLUE,
    ("tubulin", "microtubules", "er", "gfp"): YELLOW,
    ("actin", "agp", "phalloidin", "rfp"): ROSE,
}
_SPARE_STAINS = ((0.7, 0.7, 0.7), (0.0, 0.85, 0.75), (0.75, 0.45, 1.0), (0.5, 0.6, 0.2))
_PRIMARY = (ROSE, YELLOW, BLUE)


@dataclass(frozen=True)
class MoaStyle:
    """Appearance of a mechanism in every figure.

    Attributes
    ----------
    colour
        Hexadecimal RGB.
    marker
        Matplotlib's name of the shape.
    svg
        The shape as an SVG element in a 12 by 12 box.
    """

    colour: str
    marker: str
    svg: str


UNKNOWN_STYLE = MoaStyle(UNKNOWN_COLOUR, *_SHAPES[0])


def moa_styles(moas: Iterable[str]) -> dict[str, MoaStyle]:
    """Give each mechanism a colour and a shape.

    Colours and shapes advance together, so that neighbours in the list differ in both and the
    pair is unique for 40 mechanisms.

    Parameters
    ----------
    moas
        Names, in any order, possibly repeated.

    Returns
    -------
    dict
        Style by name, in alphabetical order.
    """
    return {
        name: MoaStyle(COLOURS[index % len(COLOURS)], *_SHAPES[index % len(_SHAPES)])
        for index, name in enumerate(sorted(set(moas)))
    }


def ramp(num: int = 256) -> list[str]:
    """Return the colours of a scale from low to high, `#rrggbb`.

    Matplotlib's cividis: it looks much the same with each of the common colour vision deficiencies,
    and its lightness rises evenly.
    """
    return linear_stops("cividis", num)


def linear_stops(name: str, num: int = 9) -> list[str]:
    """Return evenly spaced colours of one of Matplotlib's colour maps, `#rrggbb`."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return list(map(to_hex, colormaps[name](np.arange(num) / (num - 1))))


def series_colours(names: Sequence[str]) -> dict[str, str]:
    """Give each run or baseline a colour; the same names always get the same ones."""
    known = {RUN: COLOURS[0]} | {entry.name: entry.colour for entry in baselines.BASELINES}
    spare = itertools.cycle([colour for colour in COLOURS if colour not in known.values()])
    known |= dict(zip(sorted(set(names) - set(known)), spare, strict=False))
    return {name: known[name] for name in names}


def channel_colours(channels: Sequence[str]) -> tuple[tuple[float, float, float], ...]:
    """Choose the display colour of each channel by its name.

    DNA stains are blue, tubulin yellow and actin rose; a channel of another name, or a second one
    of the same colour, gets one that is left over. Where no name is known, three channels are
    rose, yellow and blue.

    Parameters
    ----------
    channels
        Channel names.

    Returns
    -------
    tuple
        Red, green and blue share in [0, 1] of each channel.
    """
    known: list[tuple[float, float, float] | None] = []
    for stain in map(_stain, channels):
        known.append(None if stain in known else stain)
    spare = _SPARE_STAINS if any(known) else (*_PRIMARY, *_SPARE_STAINS)
    left_over = itertools.cycle(spare)
    return tuple(colour or next(left_over) for colour in known)


def hex_colour(shares: Sequence[float]) -> str:
    """Write red, green and blue shares in [0, 1] as `#rrggbb`."""
    return "#" + "".join(f"{round(255 * share):02x}" for share in shares)


def _stain(channel: str) -> tuple[float, float, float] | None:
    words = channel.lower().replace("-", " ").replace("_", " ").split()
    for names, colour in _STAINS.items():
        if any(
            word.startswith(name) if len(name) > 3 else word == name
            for word in words
            for name in names
        ):
            return colour
    return None
