"""The explorer's plot in Bokeh, empty, and Bokeh's script."""

from __future__ import annotations

import base64
import gzip
import json
from functools import cache
from typing import Any


def map_plot(extent: int) -> dict[str, Any]:
    """Make an empty plot; the page's script fills it, and sets the colours of the page.

    Parameters
    ----------
    extent
        Coordinates go from 0 to this.

    Returns
    -------
    dict
        A Bokeh item, ready for JSON.
    """
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
    margin = extent // 25
    plot = figure(
        name="map",
        sizing_mode="stretch_width",
        height=560,
        tools="",
        toolbar_location=None,
        x_range=Range1d(start=-margin, end=extent + margin),
        y_range=Range1d(start=-margin, end=extent + margin),
        background_fill_color=None,
        border_fill_color=None,
        # The page draws it: Bokeh's own strokes the last point of what was shown before, too.
        outline_line_color=None,
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
