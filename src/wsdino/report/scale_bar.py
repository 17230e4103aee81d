"""Scale bars of pictures, in shares of their width, so that they hold at any resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

# A bar is the longest of 1, 2 and 5 times a power of ten that takes no more of a picture's width.
MAX_SHARE = 0.4


@dataclass(frozen=True)
class ScaleBar:
    """A scale bar.

    Attributes
    ----------
    length
        In micrometres.
    share
        The same, relative to the picture's width.
    """

    length: float
    share: float

    @property
    def label(self) -> str:
        """Length with its unit."""
        nanometres = self.length < 1
        return f"{1000 * self.length:g} nm" if nanometres else f"{self.length:g} µm"

    @property
    def width(self) -> str:
        """Width in a style sheet, relative to the picture's."""
        return f"{100 * self.share:.3f}%"


def scale_bar(pixel_size: float, num_pixels: int) -> ScaleBar | None:
    """Choose the scale bar of a picture.

    Parameters
    ----------
    pixel_size
        Width of a pixel of the field in micrometres; NaN: unknown.
    num_pixels
        How many pixels of the field the picture shows side by side, at whatever resolution.

    Returns
    -------
    ScaleBar or None
        None where the size isn't known.
    """
    width = pixel_size * num_pixels
    if not math.isfinite(width) or width <= 0:
        return None
    power = 10.0 ** math.floor(math.log10(MAX_SHARE * width))
    length = power * max(step for step in (1, 2, 5) if step * power <= MAX_SHARE * width)
    return ScaleBar(length, length / width)


def draw_bar(axes: Axes, picture: np.ndarray, pixel_size: float) -> None:
    """Draw the scale bar of a picture in matplotlib, at its lower right.

    Parameters
    ----------
    axes
        Shows the picture (`imshow`).
    picture
        (H, W, 3), in pixels of the field.
    pixel_size
        Width of one in micrometres; NaN: unknown, and nothing is drawn.
    """
    from matplotlib.patches import Rectangle

    height, width = picture.shape[:2]
    bar = scale_bar(pixel_size, width)
    if bar is None:
        return
    right, bottom = 0.97 * width - 0.5, 0.96 * height - 0.5
    long, thick = bar.share * width, 0.015 * height
    left_above = (right - long, bottom - thick)
    axes.add_patch(Rectangle(left_above, long, thick, fc="white", ec="black", lw=0.3))
    axes.text(
        right, bottom - 2 * thick, bar.label, ha="right", va="bottom", fontsize=6, color="white"
    )
