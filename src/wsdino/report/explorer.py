"""The map of treatments, wells and sites: its data, and its plot in Bokeh."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.errors import TableError
from wsdino.evaluate.doses import distances_to_controls
from wsdino.evaluate.wells import Wells, wells_of
from wsdino.report.columns import Column, metadata_columns, numbers
from wsdino.report.layout import lay_out_many
from wsdino.report.pictures import plate_labels
from wsdino.report.style import COLOURS, MARKERS, ramp
from wsdino.report.treated import keys_of
from wsdino.tables.columns import COMPOUND, PLATE, SITE, WELL
from wsdino.tables.features import features_of, metadata_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from wsdino.report.pictures import Pictures
    from wsdino.report.style import MoaStyle
    from wsdino.report.treated import Treated

# Of more wells or sites some are drawn: laying them out takes minutes, and a file megabytes.
MAX_POINTS = 4_000
# Coordinates are whole numbers from 0 to this.
EXTENT = 10_000
DISTANCE = "Distance to controls"


@dataclass(frozen=True)
class Level:
    """The points of one map.

    Attributes
    ----------
    name
        `treatments`, `wells` or `sites`.
    points
        int (n, 2), from 0 to :data:`EXTENT`.
    method
        `UMAP` or `PCA`.
    names
        Name of each point.
    of
        (n,) row of :class:`wsdino.report.treated.Treated` of each, -1 for controls and others.
    columns
        What points are coloured by and searched in.
    note
        Which are shown, where not all are.
    metadata
        Of each point, for what is looked up about it; None for treatments.
    """

    name: str
    points: NDArray[np.intp]
    method: str
    names: Sequence[str]
    of: Sequence[int]
    columns: Sequence[Column]
    note: str = ""
    metadata: pd.DataFrame | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON for the page."""
        return {
            "name": self.name,
            "x": self.points[:, 0].tolist(),
            "y": self.points[:, 1].tolist(),
            "method": self.method,
            "names": list(self.names),
            "of": [int(row) for row in self.of],
            "columns": [column.as_dict() for column in self.columns],
            "note": self.note,
        }


def scaled(points: NDArray[np.float64]) -> NDArray[np.intp]:
    """Scale coordinates (n, 2) to whole numbers from 0 to :data:`EXTENT`, each axis by itself."""
    low = points.min(axis=0)
    span = points.max(axis=0) - low
    shares = (points - low) / np.where(span > 0, span, 1.0)
    return np.where(span > 0, np.rint(EXTENT * shares), EXTENT // 2).astype(np.intp)


def treatment_level(treated: Treated, points: NDArray[np.float64], method: str) -> Level:
    """Make the map of treatments from its coordinates, float (n, 2)."""
    return Level(
        "treatments",
        scaled(points),
        method,
        treated.names,
        range(len(treated)),
        treated.columns,
    )


@dataclass(frozen=True)
class Places:
    """The maps of wells and of sites, each made when it is asked for.

    Attributes
    ----------
    treated
        The treatments.
    sites
        Metadata and normalised features of the screen's sites (or wells), or None.
    seed
        Of the layout, and of the draw where there are more than `most`.
    most
        Points of a map.
    """

    treated: Treated
    sites: pd.DataFrame | None
    seed: int
    most: int = MAX_POINTS

    @cached_property
    def names(self) -> list[str]:
        """`wells`, and `sites` if a well has several; empty without plates and wells."""
        if self._wells is None:
            return []
        return ["wells", *(["sites"] if self._num_known > len(self._wells) else [])]

    def level(self, name: str) -> Level:
        """Make the map of one of :attr:`names`."""
        assert self._wells is not None
        assert self.sites is not None
        if name == "wells":
            distance = _with_distance(self._wells)
            return self._level(name, self._wells.metadata, self._wells.features, distance)
        known = self.sites
        if self._num_known < len(known):
            known = known[known[COMPOUND].notna()]
        return self._level(name, metadata_of(known), features_of(known, dtype=None), None)

    @cached_property
    def _wells(self) -> Wells | None:
        if self.sites is None:
            return None
        try:
            return wells_of(self.sites, purpose="a map of wells")
        except TableError:
            return None

    @cached_property
    def _num_known(self) -> int:
        return 0 if self.sites is None else int(self.sites[COMPOUND].notna().sum())

    def _level(
        self,
        name: str,
        metadata: pd.DataFrame,
        features: NDArray[np.floating],
        distance: NDArray[np.float64] | None,
    ) -> Level:
        rows, notes = np.arange(len(metadata)), []
        if len(rows) > self.most:
            generator = np.random.default_rng(self.seed)
            rows = np.sort(generator.choice(len(rows), self.most, replace=False))
            notes.append(f"{self.most:,} of {len(metadata):,} {name}, drawn with seed {self.seed}.")
        shown = metadata.iloc[rows].reset_index(drop=True)
        points, method = lay_out_many(features[rows], seed=self.seed, most=MAX_POINTS)
        if len(rows) > MAX_POINTS:
            notes.append(
                f"{MAX_POINTS:,} of them were laid out by {method}; each other one lies among the "
                "most similar of these."
            )
        columns = metadata_columns(shown)
        if distance is not None:
            columns.append(numbers(DISTANCE, distance[rows].tolist()))
        row_of = {key: row for row, key in enumerate(self.treated.keys)}
        keys = keys_of(shown)
        plates = plate_labels(shown) if PLATE in shown else [""] * len(shown)
        wells = shown[WELL].astype(str).tolist() if WELL in shown else [""] * len(shown)
        numbered = name == "sites" and SITE in shown
        ends = [f" site {site}" for site in shown[SITE]] if numbered else [""] * len(shown)
        return Level(
            name,
            scaled(points),
            method,
            [
                f"{' '.join(key).strip()}, {plate} {well}{end}"
                for key, plate, well, end in zip(keys, plates, wells, ends, strict=True)
            ],
            [row_of.get(key, -1) for key in keys],
            columns,
            " ".join(notes),
            shown,
        )


def pending_level(name: str, treated: Treated | None = None) -> dict[str, Any]:
    """Return what the page knows of a map that it has yet to ask for, as JSON."""
    known = {"names": [], "of": [], "columns": []} if treated is None else {
        "names": list(treated.names),
        "of": list(range(len(treated))),
        "columns": [column.as_dict() for column in treated.columns],
    }  # fmt: skip
    return {"name": name, "pending": True, "x": [], "y": [], "method": "", "note": "", **known}


def _with_distance(wells: Wells) -> NDArray[np.float64] | None:
    distance, _ = distances_to_controls(wells)
    return distance if np.isfinite(distance).any() else None


def explorer_data(
    levels: Sequence[Mapping[str, Any]],
    treated: Treated,
    pictures: Pictures | None,
    styles: Mapping[str, MoaStyle],
) -> dict[str, Any]:
    """Gather what the page's script reads.

    Parameters
    ----------
    levels
        The maps as JSON, treatments first.
    treated
        The treatments.
    pictures
        Their pictures; the page has them as elements `picture-<row>` and `control-<number>`.
    styles
        Colour and shape by mechanism.

    Returns
    -------
    dict
        Ready for JSON.
    """
    rows, cosines = treated.neighbours
    plates = list(pictures.of_plate) if pictures else []
    number_of = {plate: number for number, plate in enumerate(plates)}
    shown = pictures.of_treatment if pictures else {}
    return {
        "plot": _plot(),
        "extent": EXTENT,
        "levels": list(levels),
        "styles": {name: [style.colour, MARKERS[style.marker]] for name, style in styles.items()},
        "neighbours": [
            [[int(row), round(float(cosine), 3)] for row, cosine in zip(*own, strict=True)
             if row >= 0]
            for own in zip(rows, cosines, strict=True)
        ],
        "pictures": {
            str(row): [picture.place, number_of.get(picture.plate, -1)]
            for row, picture in shown.items()
        },
        "plates": plates,
        "palette": COLOURS,
        "shapes": list(MARKERS.values()),
        "ramp": ramp(),
    }  # fmt: skip


def _plot() -> dict[str, Any]:
    """Make an empty plot; the page's script fills it, and sets the colours of the page."""
    from bokeh.core.types import ID
    from bokeh.embed import json_item
    from bokeh.models import (
        BooleanFilter,
        BoxZoomTool,
        CDSView,
        ColumnDataSource,
        HoverTool,
        LassoSelectTool,
        PanTool,
        Range1d,
        TapTool,
    )
    from bokeh.plotting import figure

    names = ("x", "y", "colour", "line", "shape", "size", "alpha")
    source = ColumnDataSource({name: [] for name in names}, name="points")
    margin = EXTENT // 25
    plot = figure(
        name="map",
        sizing_mode="stretch_width",
        height=560,
        tools="",
        toolbar_location=None,
        x_range=Range1d(start=-margin, end=EXTENT + margin),
        y_range=Range1d(start=-margin, end=EXTENT + margin),
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color="#8a939c",
        outline_line_alpha=0.5,
        min_border=2,
    )
    plot.axis.visible = False
    plot.grid.visible = False
    glyphs = plot.scatter(
        "x",
        "y",
        source=source,
        view=CDSView(filter=BooleanFilter(name="visible")),
        name="glyphs",
        fill_color="colour",
        line_color="line",
        marker="shape",
        size="size",
        alpha="alpha",
    )
    glyphs.selection_glyph = glyphs.glyph.clone()
    glyphs.selection_glyph.line_width = 3
    glyphs.nonselection_glyph = None
    glyphs.muted_glyph = None
    plot.add_tools(
        PanTool(name="move"),
        LassoSelectTool(name="lasso", continuous=False),
        BoxZoomTool(name="zoom"),
        TapTool(mode="replace"),
        HoverTool(name="hover", tooltips=None),
    )
    item = json_item(plot, ID("explorer-plot"))
    found: dict[str, Any] = json.loads(json.dumps(item))
    return _renumbered(found)


def _renumbered(item: dict[str, Any]) -> dict[str, Any]:
    """Give the models of a Bokeh item numbers from 1, instead of the process's next ones."""
    known: dict[str, str] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, list):
            return [walk(each) for each in value]
        if not isinstance(value, dict):
            return value
        return {
            key: known.setdefault(each, f"p{len(known) + 1}")
            if key in ("id", "root_id") and isinstance(each, str)
            else walk(each)
            for key, each in value.items()
        }

    renumbered: dict[str, Any] = walk(item)
    return renumbered


@cache
def bokeh_script() -> str:
    """Return Bokeh's own script for a page, which unpacks it: gzip, in base64."""
    from bokeh.resources import Resources

    (script, *_) = Resources(mode="inline", components=["bokeh"], minified=True).js_raw
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode("ascii")
