"""How wide a pixel of a screen's images is, as far as its tables or the images themselves say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.errors import ImageError, InputError, WsdinoError
from wsdino.outside import reading
from wsdino.progress import say
from wsdino.remote import is_remote
from wsdino.screen.planes import Planes
from wsdino.tables.columns import (
    BATCH,
    MAX_PIXEL_SIZE,
    MIN_PIXEL_SIZE,
    PIXEL_SIZE,
    PLATE,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "MAX_PIXEL_SIZE",
    "MIN_PIXEL_SIZE",
    "pixel_size_of",
    "require_pixel_size",
    "with_pixel_sizes",
]


def require_pixel_size(given: float | None) -> None:
    """Raise InputError if a user's value is no width of a pixel in micrometres."""
    if given is not None and not MIN_PIXEL_SIZE <= given <= MAX_PIXEL_SIZE:
        raise InputError(
            f"pixel size {given:g}: expected the width of a pixel of the images in micrometres, "
            f"from {MIN_PIXEL_SIZE:g} to {MAX_PIXEL_SIZE:g}"
        )


def with_pixel_sizes(manifest: pd.DataFrame, given: float | None, *, origin: str) -> pd.DataFrame:
    """Add `Metadata_PixelSize`, the width of a pixel of each site's images in micrometres.

    Parameters
    ----------
    manifest
        A valid manifest; it may have the column already, from a table or from the files of an
        instrument.
    given
        What the user says of all images; it takes precedence. None: of each plate's first image is
        read what it says of itself, where the column has no value.
    origin
        Name of the manifest in messages.

    Returns
    -------
    DataFrame
        With the column where anything is known, else without.
    """
    missing = pd.Series(np.nan, index=manifest.index)
    sizes = manifest[PIXEL_SIZE].copy() if PIXEL_SIZE in manifest else missing
    if given is not None:
        others = sorted(set(sizes.dropna()) - {given})
        if others:
            say(
                f"{origin}: pixels are taken to be {given:g} µm wide, as given, although the "
                f"screen says {others[0]:g} µm"
            )
        return _with(manifest, missing.fillna(given))
    # An acquisition has one magnification.
    unknown = manifest.loc[sizes.isna(), [BATCH, PLATE]]
    for rows in unknown.groupby([BATCH, PLATE], sort=False).groups.values():
        plane = Planes(manifest.loc[rows[:1]])[0][0]
        found = pixel_size_of(plane.path)
        if found is not None:
            sizes[rows] = found
    if sizes.isna().all():
        return manifest.drop(columns=PIXEL_SIZE, errors="ignore")
    return _with(manifest, sizes)


def _with(manifest: pd.DataFrame, sizes: pd.Series) -> pd.DataFrame:
    """Put the column where it belongs, before those of files."""
    if PIXEL_SIZE in manifest:
        return manifest.assign(**{PIXEL_SIZE: sizes})
    table = manifest.copy()
    first_file = next(n for n, name in enumerate(table) if not str(name).startswith("Metadata_"))
    table.insert(first_file, PIXEL_SIZE, sizes)
    return table


def pixel_size_of(path: Path) -> float | None:
    """Return what an image says of the width of its pixels, in micrometres; None: nothing.

    Parameters
    ----------
    path
        An image of any format that can be read. One that is missing or damaged says nothing here;
        reading its pixels will tell.
    """
    from wsdino.screen.formats import format_of

    known = format_of(path)
    # Those of other formats would be downloaded for it.
    if known is None or known.pixel_size is None or (known.suffixes and is_remote(path)):
        return None
    try:
        with reading(path, ImageError):
            return known.pixel_size(path)
    except WsdinoError:
        return None
