"""The table of treatments, and a part for each compound: its doses, curve and fields."""

from __future__ import annotations

import html
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.evaluate.doses import hill
from wsdino.report.columns import DOSE, MECHANISM, Column
from wsdino.report.treated import NEAREST, NEAREST_COSINE, Treated
from wsdino.report.words import DISTANCE, concentration, is_number, number
from wsdino.runrecord import Omitted
from wsdino.tables.columns import CONCENTRATION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsdino.report.pictures import Picture, Pictures
    from wsdino.runrecord import RunRecord

# Rows of the page itself; its script shows all.
MAX_ROWS = 200
_FIRST = (MECHANISM, "Active", "q value", "Activity (mAP)", DISTANCE)
_LAST = (NEAREST, NEAREST_COSINE)
# These are in the name of the treatment.
_NAMED = ("Compound", DOSE)
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 300, 130, 34, 22
# Points of a drawn curve.
_STEPS = 25


def treatments(treated: Treated) -> dict[str, Any]:
    """List the treatments, the most active first, with all that is known of each."""
    columns = _ordered(treated.columns)
    order = treated.by_activity
    return {
        "heads": ["Treatment", *(column.name for column in columns)],
        "is_number": [False, *(column.is_number for column in columns)],
        "rows": [
            [treated.names[row], *(column.text(row) for column in columns)]
            for row in order[:MAX_ROWS]
        ],
        "num": len(treated),
        "data": {
            "heads": [
                {"name": "Treatment"},
                *(
                    {"name": c.name, "digits": c.digits} if c.is_number else {"name": c.name}
                    for c in columns
                ),
            ],
            "rows": [
                [int(row), treated.names[row], *(column.plain(row, digits=6) for column in columns)]
                for row in order
            ],
        },
        "max_rows": MAX_ROWS,
    }


def compounds(
    treated: Treated, pictures: Pictures | None, record: RunRecord, *, reason: str = ""
) -> dict[str, Any]:
    """Show each compound: distance by dose, and a field of each dose.

    Parameters
    ----------
    treated
        The treatments.
    pictures
        Their pictures, or None.
    record
        Contents of the run folder, for curves by dose.
    reason
        Why there are no pictures.
    """
    found = record.results.get("activity", {})
    curves = {curve.get("compound", ""): curve for curve in found.get("doses", [])}
    groups: dict[str, list[int]] = {}
    for row, (compound, _) in enumerate(treated.keys):
        groups.setdefault(compound, []).append(row)
    plates = list(pictures.of_plate) if pictures else []
    shown = []
    for number_, (compound, rows) in enumerate(sorted(groups.items(), key=lambda g: g[0].lower())):
        ordered = sorted(rows, key=lambda row: _dose(treated, row))
        shown.append(
            {
                "id": f"compound-{number_}",
                "name": compound,
                "moa": treated.moas[ordered[0]],
                "rows": ordered,
                "curve": dose_svg(treated, ordered, curves.get(compound), found),
                "data": dose_rows(treated, ordered, curves.get(compound)),
                "doses": [_dose_facts(treated, pictures, plates, row) for row in ordered],
            }
        )
    if not shown:
        raise Omitted("profiles.parquet has no treated profiles")
    return {
        "compounds": shown,
        "reason": reason,
        "has_curves": any(each["curve"] for each in shown),
        "controls": [
            {"id": f"control-{n}", "plate": plate, "picture": pictures.of_plate[plate]}
            for n, plate in enumerate(plates)
        ]
        if pictures
        else [],
        "others": _wells_of(pictures, plates, -1),
        "has_wells": bool(pictures and pictures.of_well),
        "channels": list(pictures.channels) if pictures and pictures.has_planes else [],
        "legend": list(pictures.channels) if pictures else [],
        "window_px": pictures.window_px if pictures else 0,
    }


def _dose_facts(
    treated: Treated, pictures: Pictures | None, plates: Sequence[str], row: int
) -> dict[str, Any]:
    columns = {column.name: column for column in treated.columns}

    def text(name: str) -> str:
        return columns[name].text(row) if name in columns else ""

    facts = []
    if "Active" in columns:
        q = f" (q {text('q value')})" if is_number(treated.rows[row].get("p_value")) else ""
        facts.append(f"{text('Active')}{q}")
    if is_number(treated.rows[row].get("distance")):
        facts.append(f"distance {text(DISTANCE)}")
    if NEAREST in columns and columns[NEAREST].values[row] is not None:
        facts.append(f"nearest {text(NEAREST)} ({text(NEAREST_COSINE)})")
    picture = pictures.of_treatment.get(row) if pictures else None
    return {
        "row": row,
        "dose": treated.keys[row][1] or "no concentration",
        "name": treated.names[row],
        "facts": "; ".join(facts),
        "picture": picture,
        "wells": _wells_of(pictures, plates, row),
        "control": _control_of(picture, plates),
    }


def _wells_of(
    pictures: Pictures | None, plates: Sequence[str], row: int
) -> list[tuple[str, Picture, str]]:
    """Return the further wells of a treatment; -1: of controls.

    Each with the id of its picture, and that of the controls of its plate, which may be empty.
    """
    every = pictures.of_well.values() if pictures else ()
    return [
        (f"well-{n}", picture, _control_of(picture, plates))
        for n, picture in enumerate(every)
        if picture.row == row
    ]


def _control_of(picture: Picture | None, plates: Sequence[str]) -> str:
    """Return the id of the picture of controls on the same plate; empty where there is none."""
    return f"control-{plates.index(picture.plate)}" if picture and picture.plate in plates else ""


def dose_svg(
    treated: Treated,
    rows: Sequence[int],
    curve: Mapping[str, Any] | None,
    activity: Mapping[str, Any],
) -> str:
    """Draw the distance to controls by dose, with the fitted curve and its interval.

    Parameters
    ----------
    treated
        The treatments.
    rows
        Those of one compound, by dose.
    curve
        Fields of :class:`wsdino.evaluate.doses.DoseCurve`, if one was fitted.
    activity
        Of `results.json`, for the controls' 95th percentile.

    Returns
    -------
    str
        SVG; empty with fewer than two doses that have a distance.
    """
    pairs = [(_dose(treated, row), treated.rows[row].get("distance")) for row in rows]
    points = [(dose, float(d)) for dose, d in pairs if dose > 0 and is_number(d)]
    if len({dose for dose, _ in points}) < 2:
        return ""
    bound = activity.get("control_distance_p95")
    tops = [distance for _, distance in points]
    fitted = curve or {}
    bands = [float(v) for v in fitted.get("fitted_high") or [] if is_number(v)]
    top = 1.08 * max([*tops, *bands, float(bound) if is_number(bound) else 0.0, 1.0])
    low, high = (float(np.log10(end(dose for dose, _ in points))) for end in (min, max))

    def place(dose: float, distance: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT - 8) * (np.log10(dose) - low) / (high - low)
        y = (_HEIGHT - _BOTTOM) * (1 - min(max(distance, 0.0), top) / top) + 4
        return f"{x:.1f} {y:.1f}"

    parts = [f'<path class="axis" d="M{_LEFT} 4V{_HEIGHT - _BOTTOM + 4}H{_WIDTH - 8}"/>']
    if is_number(bound):
        y = place(points[0][0], float(bound)).split()[1]
        parts.append(f'<path class="bound" d="M{_LEFT} {y}H{_WIDTH - 8}"/>')
    doses = fitted.get("doses") or []
    if len(doses) > 1 and len(bands) == len(doses):
        there = _above_zero(doses, fitted["fitted_high"])
        back = _above_zero(doses, fitted["fitted_low"])[::-1]
        outline = "L".join(place(*point) for point in there + back)
        parts.append(f'<path class="band" d="M{outline}Z"/>')
        middle = "L".join(place(*point) for point in _drawn(fitted))
        parts.append(f'<path class="fit" d="M{middle}"/>')
    dots = "".join(f"M{place(*point)}h.01" for point in points)
    parts.append(f'<path class="dots" d="{dots}"/>')
    ends = [min(points)[0], max(points)[0]]
    parts += [
        f'<text x="{_LEFT}" y="{_HEIGHT - 4}">{ends[0]:g}</text>',
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 4}" text-anchor="end">{ends[1]:g} µM</text>',
        f'<text x="{_LEFT - 5}" y="14" text-anchor="end">{top:.3g}</text>',
        f'<text x="{_LEFT - 5}" y="{_HEIGHT - _BOTTOM + 4}" text-anchor="end">0</text>',
    ]
    said = ", ".join(f"{concentration(dose)}: {distance:.3g}" for dose, distance in points)
    ec50 = f"; EC50 {number(curve.get('ec50'))} µM" if curve and curve.get("ec50") else ""
    alt = html.escape(f"Distance to controls by dose: {said}{ec50}")
    return (
        f'<svg class="dose" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{alt}">'
        f"{''.join(parts)}</svg>"
    )


def _above_zero(doses: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Add to points of a line those where it crosses 0, below which it isn't drawn."""
    points = list(zip(doses, values, strict=True))
    drawn = points[:1]
    for (dose, value), (next_dose, next_value) in itertools.pairwise(points):
        if value * next_value < 0:
            share = value / (value - next_value)
            drawn.append((float(dose * (next_dose / dose) ** share), 0.0))
        drawn.append((next_dose, next_value))
    return drawn


def _drawn(curve: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Return points of a fitted curve between its first and last dose."""
    if not is_number(curve.get("ec50")) or not is_number(curve.get("slope")):
        return list(zip(curve["doses"], curve["fitted"], strict=True))
    grid = np.geomspace(curve["doses"][0], curve["doses"][-1], _STEPS)
    amplitude = curve["top"] - curve["bottom"]
    shape = np.array([[np.log(curve["ec50"]), curve["slope"], curve["bottom"], amplitude]])
    (drawn,) = hill(np.log(grid), shape)
    return list(zip(grid.tolist(), drawn.tolist(), strict=True))


def dose_rows(
    treated: Treated, rows: Sequence[int], curve: Mapping[str, Any] | None
) -> list[list[float | None]]:
    """Return what :func:`dose_svg` draws: dose, distance, and the fit with its interval's ends.

    A row for each dose above 0, to four digits; None where there is no such value.
    """
    ends = ("fitted", "fitted_low", "fitted_high")
    fitted = curve or {}
    lines = zip(fitted.get("doses") or [], *(fitted.get(end) or [] for end in ends), strict=False)
    fit_of = {f"{dose:.4g}": values for dose, *values in lines}
    found = []
    for row in rows:
        dose = _dose(treated, row)
        if dose > 0:
            values = (
                dose,
                treated.rows[row].get("distance"),
                *fit_of.get(f"{dose:.4g}", [None] * 3),
            )
            found.append([float(f"{value:.4g}") if is_number(value) else None for value in values])
    return found


def _dose(treated: Treated, row: int) -> float:
    """Dose in micromolar; before all others where there is none."""
    if CONCENTRATION not in treated.frame:
        return -1.0
    value = treated.frame[CONCENTRATION].iloc[row]
    return float(value) if is_number(value) else -1.0


def _ordered(columns: Sequence[Column]) -> list[Column]:
    named = {column.name: column for column in columns if column.name not in _NAMED}
    middle = [name for name in named if name not in (*_FIRST, *_LAST)]
    return [named[name] for name in (*_FIRST, *middle, *_LAST) if name in named]
