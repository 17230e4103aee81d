"""Pictures of the illumination functions that a store's images were divided by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.errors import InputError
from wsdino.report.images import data_uri
from wsdino.report.pictures import plate_labels
from wsdino.screen.correction import load_function
from wsdino.screen.shading import plate_shadings
from wsdino.screen.store import Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsdino.report.images import Fields

MAX_PICTURES = 120
SIDE_PX = 96
# Of a function's mean: what is drawn black and white.
DARK, BRIGHT = 0.5, 1.5
EDGE, CENTRE = 0.1, 0.2


def illumination(store: Fields | None) -> dict[str, Any] | None:
    """Show the function of each plate and channel, and how much darker its edge is.

    Parameters
    ----------
    store
        An open store.

    Returns
    -------
    dict or None
        None where nothing was divided by a function, or none is on disk any more.
    """
    if not isinstance(store, Store):
        return None
    labels = plate_labels(store.manifest)
    method, found = plate_shadings(store)
    pictures: list[tuple[str, str, str, str]] = []
    data, num_lost = [["plate", "channel", "edge / centre"]], 0
    for row, channel, shading in found:
        try:
            function = load_function(shading.function, store.image_shape, frame=shading.frame)
        except InputError:
            num_lost += 1
            continue
        ratio, plate = edge_to_centre(function), labels[row]
        data.append([plate, channel, f"{ratio:.3f}"])
        if len(pictures) < MAX_PICTURES:
            pictures.append((plate, channel, f"{ratio:.2f}", data_uri(drawn(function))))
    if not pictures:
        return None
    return {
        "method": method,
        "pictures": pictures,
        "dark": DARK,
        "bright": BRIGHT,
        "num_hidden": len(data) - 1 - len(pictures),
        "num_lost": num_lost,
        "data": data,
    }


def edge_to_centre(function: NDArray[np.floating]) -> float:
    """Return the mean of the outermost tenth of a function (H, W), over that of its middle fifth.

    Along each side; 1 where the light is even, and less where corners and edges are darker.
    """
    height, width = function.shape
    inner = np.ones(function.shape, bool)
    rows, columns = (max(1, round(EDGE * side)) for side in (height, width))
    inner[rows : height - rows, columns : width - columns] = False
    middle = tuple(
        slice((side - size) // 2, (side - size) // 2 + size)
        for side in (height, width)
        for size in [max(1, round(CENTRE * side))]
    )
    return float(function[inner].mean() / function[middle].mean())


def drawn(function: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Draw a function (H, W) in grey, (h, w, 3) with at most SIDE_PX a side, :data:`DARK` black."""
    step = max(1, -(-max(function.shape) // SIDE_PX))
    small = function[::step, ::step] / function.mean()
    grey = 255 * np.clip((small - DARK) / (BRIGHT - DARK), 0, 1)
    return np.repeat(grey.round().astype(np.uint8)[..., None], 3, axis=-1)
