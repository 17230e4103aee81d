"""Staining and imaging of a well, as parameters: technical variation that statistics pick up.

Every property has a value for each channel (DNA, tubulin, actin). Batches, plates, wells and
compounds multiply it, each by the exponential of a normal draw times the property's spread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Property:
    """One property of staining or imaging.

    Parameters
    ----------
    base
        Its ordinary value in each channel.
    spread
        Standard deviation of its logarithm at a level of variation of one.
    at_most
        Its largest value.
    """

    base: Triple
    spread: float = 1.0
    at_most: float = float("inf")


HANDLING: dict[str, Property] = {
    "gain": Property((1.0, 0.55, 0.6)),
    "blur": Property((0.85, 0.78, 0.78)),  # pixels
    "background": Property((420.0, 260.0, 240.0)),  # counts
    "haze": Property((0.14, 0.12, 0.12), 0.40, 0.6),
    "saturation": Property((0.25, 0.25, 0.25), 0.60, 3.0),
    # a stain that did not reach everything alike: relative deviation at two scales
    "mottle_fine": Property((0.05, 0.10, 0.10), 0.60, 0.6),
    "mottle_coarse": Property((0.05, 0.10, 0.10), 0.60, 0.6),
    # structure between and above the cells that no cell made: autofluorescence, unbound stain
    "texture_fine": Property((0.012, 0.020, 0.020), 0.80, 0.3),
    "texture_medium": Property((0.012, 0.020, 0.020), 0.80, 0.3),
    "texture_coarse": Property((0.015, 0.025, 0.025), 0.80, 0.3),
    # crystals of unbound stain in a field of 256 x 256 pixels
    "precipitate": Property((1.5, 2.5, 2.5), 1.20, 80.0),
    # light of the next channel, and of the one after it, that passes this channel's filter
    "bleed_next": Property((0.02, 0.03, 0.03), 0.60, 0.3),
    "bleed_last": Property((0.02, 0.03, 0.03), 0.60, 0.3),
}
PROPERTIES = tuple(HANDLING)
ROW = {name: row for row, name in enumerate(PROPERTIES)}
SHAPE = (len(PROPERTIES), 3)
# all but the instrument's, which have measures of variation of their own
STAINING_ROWS = [row for name, row in ROW.items() if name not in ("gain", "blur", "background")]

_BASE = np.array([prop.base for prop in HANDLING.values()])
_SPREAD = np.array([[prop.spread] for prop in HANDLING.values()])
_AT_MOST = np.array([[prop.at_most] for prop in HANDLING.values()])


def handling_of(deviations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn deviations in units of the properties' spread into values.

    Parameters
    ----------
    deviations
        float64 (13, 3): a row per property of :data:`HANDLING`, in its order, a column per
        channel; zeros give the bases.

    Returns
    -------
    numpy.ndarray
        float64 (13, 3): ``base * exp(spread * deviation)``, limited.
    """
    values: NDArray[np.float64] = np.minimum(_BASE * np.exp(_SPREAD * deviations), _AT_MOST)
    return values
