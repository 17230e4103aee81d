"""Heat maps of plates, and whether wells at the edge differ."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.evaluate.confounders import cells_of
from wsdino.evaluate.doses import distances_to_controls
from wsdino.evaluate.wells import wells_of
from wsdino.report.columns import controls_of
from wsdino.report.illumination import illumination
from wsdino.report.pictures import plate_labels
from wsdino.report.treated import treatment_names
from wsdino.report.words import DISTANCE, number
from wsdino.runrecord import Omitted
from wsdino.tables.columns import PLATE, QUALITY, WELL
from wsdino.tables.places import at_edge, places_of, plate_format

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsdino.report.images import Fields

MAX_PLATES = 120
NUM_STEPS = 8
# Fewer wells at the edge, or inside, than this say nothing of an edge effect.
MIN_WELLS = 4
SIGNIFICANT = 0.01
_PLACE = ["plate", "row", "column"]


@dataclass(frozen=True)
class Measured:
    """One measure of wells.

    Attributes
    ----------
    name
        Its heading.
    table
        `plate` (label), `row` and `column` (from 0), `value`, `is_control`, `treatment` (as
        displayed; empty: not known); a row for each well.
    """

    name: str
    table: pd.DataFrame


def plates(
    sites: pd.DataFrame | None, store: Fields | None, *, distance: str = DISTANCE
) -> dict[str, Any]:
    """Show each measure of the wells on each plate.

    Parameters
    ----------
    sites
        Metadata and normalised features of the screen's sites, or None.
    store
        An open store, for intensities, or None.
    distance
        What the distance of a well is called; see :func:`wsdino.report.words.well_distance`.

    Raises
    ------
    Omitted
        There are no wells with anything measured.
    """
    measures = [*_distances(sites, distance), *_of_store(store)]
    if not measures:
        raise Omitted(
            "there are neither normalised sites nor a store with plates and wells (Metadata_Plate, "
            "Metadata_Well)"
        )
    num_rows, num_columns = (
        1 + max(int(measure.table[side].max()) for measure in measures)
        for side in ("row", "column")
    )
    shape = plate_format(num_rows, num_columns)
    places = pd.concat([m.table[[*_PLACE, "treatment"]] for m in measures]).drop_duplicates(_PLACE)
    # By plate in order of first appearance, and within as one reads.
    order = np.lexsort(
        [places["column"].to_numpy(), places["row"].to_numpy(), pd.factorize(places["plate"])[0]]
    )
    places = places.iloc[order].reset_index(drop=True)
    codes, named_plates = pd.factorize(places["plate"])
    treatment, treatments = pd.factorize(places["treatment"])
    shown = []
    for measure in measures:
        low, high = np.percentile(measure.table["value"], [2, 98])
        named = list(dict.fromkeys(measure.table["plate"]))
        shown.append(
            {
                "name": measure.name,
                "low": number(float(low)),
                "high": number(float(high)),
                "edge": edge_effect(measure, shape),
                "plates": [
                    (plate, plate_svg(own, shape, (float(low), float(high)), measure.name))
                    for plate, own in measure.table.groupby("plate", sort=False)
                    if plate in named[:MAX_PLATES]
                ],
                "num_hidden": max(0, len(named) - MAX_PLATES),
                "data": {"name": measure.name, "values": _values_at(measure.table, places)},
                "slug": re.sub(r"\W+", "-", measure.name.lower()).strip("-"),
            }
        )
    return {
        "measures": shown,
        "has_own_label": distance != DISTANCE,
        "num_wells": shape[0] * shape[1],
        "shape": shape,
        "steps": NUM_STEPS,
        "wells": {
            "plates": named_plates.tolist(),
            "plate": codes.tolist(),
            "well": list(map(_well_name, places["row"], places["column"])),
            "treatments": treatments.tolist(),
            "treatment": treatment.tolist(),
        },
        "illumination": illumination(store),
    }


def _places(frame: pd.DataFrame) -> pd.DataFrame:
    """Return where each row's well is, as :attr:`Measured.table`; row -1: no name of a well."""
    rows, columns = places_of(frame[WELL])
    return pd.DataFrame(
        {
            "plate": plate_labels(frame),
            "row": rows,
            "column": columns,
            "is_control": controls_of(frame),
            "treatment": treatment_names(frame),
        }
    )


def _well_name(row: int, column: int) -> str:
    letters = (chr(ord("A") + row // 26 - 1) if row >= 26 else "") + chr(ord("A") + row % 26)
    return f"{letters}{column + 1:02d}"


def _values_at(table: pd.DataFrame, places: pd.DataFrame) -> list[float | None]:
    """Return the value in each of the wells, to five digits; None where there is none."""
    found = places[_PLACE].merge(table, on=_PLACE, how="left")["value"]
    return [None if np.isnan(value) else float(f"{value:.5g}") for value in found]


def _measured(name: str, places: pd.DataFrame, values: NDArray[np.floating]) -> Measured | None:
    """Gather a measure of sites or wells by well; None if there is none."""
    known = (places["row"] >= 0) & np.isfinite(values)
    table = places.assign(value=np.asarray(values, dtype=np.float64))[known]
    if table.empty:
        return None
    wells = table.groupby(_PLACE, sort=False, as_index=False).agg(
        value=("value", "mean"),
        is_control=("is_control", "first"),
        treatment=("treatment", "first"),
    )
    return Measured(name, wells)


def _distances(sites: pd.DataFrame | None, name: str) -> list[Measured]:
    if sites is None:
        return []
    try:
        wells = wells_of(sites, purpose="plates")
    except TableError:
        return []
    distance, _ = distances_to_controls(wells)
    found = _measured(name, _places(wells.metadata), distance)
    return [found] if found else []


def _of_store(store: Fields | None) -> list[Measured]:
    """Return cell density and quality measures, else the mean intensity of each channel."""
    if store is None or not {PLATE, WELL} <= set(store.manifest):
        return []
    manifest = store.manifest.reset_index(drop=True)
    values = {
        name.removeprefix(QUALITY).replace("_", " "): manifest[name].to_numpy(dtype=np.float64)
        for name in map(str, manifest)
        if name.startswith(QUALITY) and pd.api.types.is_numeric_dtype(manifest[name])
    }
    means = getattr(store, "statistics", {}).get("mean")
    if not values and means is not None:
        values = {f"Mean intensity, {name}": means[:, n] for n, name in enumerate(store.channels)}
    if (density := cells_of(manifest)) is not None:
        values = {"Cell density": density, **values}
    if not values:
        return []
    places = _places(manifest)
    found = (_measured(name, places, own) for name, own in values.items())
    return [measure for measure in found if measure]


def edge_effect(measure: Measured, shape: tuple[int, int]) -> dict[str, Any]:
    """Compare wells at the plate's edge with those inside.

    The edge is that of :func:`wsdino.tables.places.at_edge`. Values are taken relative to the
    median of their plate, of controls alone where enough of these lie at the edge and inside, else
    of all wells, which mixes in what was put there; Mann and Whitney's test.

    Parameters
    ----------
    measure
        The measure.
    shape
        Rows and columns of the plate.

    Returns
    -------
    dict
        `text`, and `is_seen`: whether the difference is significant at :data:`SIGNIFICANT`.
    """
    from scipy.stats import mannwhitneyu

    table = measure.table
    is_edge, of_plate = at_edge(table["row"].to_numpy(), table["column"].to_numpy(), shape)
    where = "at the edge" if of_plate else "at the edge of the wells in use"
    who = "control wells"
    chosen = table["is_control"]
    if min((chosen & is_edge).sum(), (chosen & ~is_edge).sum()) < MIN_WELLS:
        who, chosen = "wells, whatever they got", pd.Series(data=True, index=table.index)
    edge, inside = (table[chosen & side] for side in (is_edge, ~is_edge))
    if min(len(edge), len(inside)) < MIN_WELLS:
        few = f"{len(edge)} of {int(chosen.sum())} wells {where}"
        return {"text": f"{few}, so an edge effect can't be told", "is_seen": False}
    centre = table[chosen].groupby("plate")["value"].median()
    parts = [
        (own["value"] - own["plate"].map(centre)).to_numpy(dtype=np.float64)
        for own in (edge, inside)
    ]
    p_value = float(mannwhitneyu(parts[0], parts[1]).pvalue)
    medians = [float(np.median(own)) for own in parts]
    order = "higher" if medians[0] > medians[1] else "lower"
    is_seen = p_value < SIGNIFICANT and medians[0] != medians[1]
    what = f"{len(edge)} {who} {where}, {len(inside)} inside"
    if not is_seen:
        return {
            "text": f"no edge effect seen ({what}; p = {number(p_value, 2)})",
            "is_seen": False,
        }
    change = number(abs(medians[0] - medians[1]))
    return {
        "text": f"edge effect: {where} {order} by {change} in the median ({what}; "
        f"p = {number(p_value, 2)})",
        "is_seen": True,
    }


def plate_svg(
    own: pd.DataFrame, shape: tuple[int, int], bounds: tuple[float, float], name: str
) -> str:
    """Draw a plate, each step of the colour scale as one path of lines as high as a well.

    Parameters
    ----------
    own
        Wells of one plate, as :attr:`Measured.table`.
    shape
        Rows and columns.
    bounds
        Values at the ends of the scale; what is beyond has the colour of the end.
    name
        The measure, for the text alternative.

    Returns
    -------
    str
        SVG of which a well is one unit wide, and the first row lies at 0; controls have a dot.
    """
    low, high = bounds
    values = own["value"].to_numpy(dtype=np.float64)
    share = (values - low) / (high - low) if high > low else np.full(len(values), 0.5)
    steps = np.clip((share * NUM_STEPS).astype(int), 0, NUM_STEPS - 1)
    rows, columns = (own[name].to_numpy() for name in ("row", "column"))
    parts = [
        f'<path class="step-{step}" d="{path}"/>'
        for step in range(NUM_STEPS)
        if (path := _lines(rows[steps == step], columns[steps == step]))
    ]
    dots = "".join(
        f"M{column}.5 {row}h.01"
        for row, column, is_control in zip(
            own["row"], own["column"], own["is_control"], strict=True
        )
        if is_control
    )
    if dots:
        parts.append(f'<path class="control" d="{dots}"/>')
    plate = str(own["plate"].iloc[0])
    at = int(values.argmax())
    top = _well_name(int(own["row"].iloc[at]), int(own["column"].iloc[at]))
    alt = html.escape(
        f"{name} on plate {plate}: {len(own)} wells, median {np.median(values):.3g}, highest "
        f"{values[at]:.3g} in {top}"
    )
    height, width = shape
    return (
        f'<svg class="plate" viewBox="0 -.5 {width} {height}" role="img" aria-label="{alt}" '
        f'data-plate="{html.escape(plate)}"><rect class="field" y="-.5" width="{width}" '
        f'height="{height}"/>{"".join(parts)}</svg>'
    )


def _lines(rows: NDArray[np.intp], columns: NDArray[np.intp]) -> str:
    """Draw wells as lines from left to right, those next to each other as one."""
    order = np.lexsort([columns, rows])
    rows, columns = rows[order], columns[order]
    starts = np.flatnonzero(np.diff(rows, prepend=-1) | (np.diff(columns, prepend=-1) != 1))
    lengths = np.diff([*starts, len(rows)])
    drawn = zip(columns[starts], rows[starts], lengths, strict=True)
    return "".join(f"M{column} {row}h{length}" for column, row, length in drawn)
