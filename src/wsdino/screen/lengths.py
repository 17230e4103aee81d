"""Lengths with the units that files of instruments and microscopes give."""

from __future__ import annotations

from typing import Any

from wsdino.tables.columns import MAX_PIXEL_SIZE, MIN_PIXEL_SIZE

# Micrometres per unit, in lower case.
_UNITS = {
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("um", "micrometer", "micrometre", "micron", "microns"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
}
_MU = str.maketrans({"\N{GREEK SMALL LETTER MU}": "u", "\N{MICRO SIGN}": "u"})


def pixel_size(length: Any, unit: Any) -> float | None:
    """Return the width of a pixel in micrometres.

    Parameters
    ----------
    length
        A number, or its text, in this unit.
    unit
        Name or sign of the unit, such as `um`, `\u00b5m`, `micrometer` or `m`.

    Returns
    -------
    float or None
        None if the unit is unknown, or if no microscope has pixels of this width: files often hold
        a value that stands for none.
    """
    factor = _UNITS.get(str(unit).strip().replace(r"\u00B5", "u").translate(_MU).casefold())
    try:
        found = float(length) * (factor or 0.0)
    except (TypeError, ValueError):
        return None
    return found if MIN_PIXEL_SIZE <= found <= MAX_PIXEL_SIZE else None
