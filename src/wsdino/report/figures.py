"""Figures of a report as inline SVG that takes its colours from the page.

Text, axes and grids are drawn in reserved colours that :func:`to_svg` replaces by the page's own,
so that one drawing serves the light and the dark page.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.evaluate.measures import MEASURES, Measure
from wsdino.report.style import (
    COLOURS,
    UNKNOWN_STYLE,
    MoaStyle,
)
from wsdino.report.words import DASH, display_name, interval, is_number, measure_text, number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Reserved colours and their replacements on the page.
INK, MUTED, GRID, PAPER = "#010203", "#040506", "#070809", "#0a0b0c"
_THEME = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--rule)", PAPER: "var(--paper)"}

# One user unit of the SVG is one CSS pixel at the figure's natural width.
_UNITS_PER_INCH = 72
MAX_POINTS_PER_LINE = 300
# More points are drawn as one picture, without tooltips.
MAX_TIPS = 300

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "wsdino",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 12.5,
    # By name: matplotlib 3.10 writes no SVG with a number.
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "figure.facecolor": "none",
}


def to_svg(figure: Figure, prefix: str, alt: str, tips: Mapping[str, str] | None = None) -> str:
    """Turn a figure into an inline SVG element.

    Parameters
    ----------
    figure
        What to draw.
    prefix
        Prefix of every id, because ids must be unique on the page.
    alt
        Text alternative of the figure.
    tips
        Tooltip by the `gid` of an artist.

    Returns
    -------
    str
        One self-contained `<svg>` element without width, height or fonts.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context(_STYLE), warnings.catch_warnings():
        # The browser has glyphs that Matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    head, body = text.split(">", 1)
    view_box = re.search(r'viewBox="([^"]*)"', head)
    assert view_box, "Matplotlib writes a view box"
    for reserved, themed in _THEME.items():
        body = body.replace(reserved, themed)
    # Matplotlib names its own fonts; the page has better ones.
    body = re.sub(r"font: ([^;'\"]*?)'[^\"]*?(?=[;\"])", r"font: \1 inherit", body)
    body = re.sub(r'\bid="', f'id="{prefix}-', body)
    body = re.sub(r'(xlink:href="|url\()#', rf"\1#{prefix}-", body)
    body = body.replace("xlink:href", "href")
    for gid, tip in (tips or {}).items():
        mark = f'<g id="{prefix}-{gid}">'
        body = body.replace(mark, f"{mark}<title>{html.escape(tip)}</title>")
    width = view_box[1].split()[2]
    return (
        f'<svg viewBox="{view_box[1]}" role="img" aria-label="{html.escape(alt)}" '
        f'style="max-width:{float(width):.0f}px">{body.strip()}'
    )


def _figure(width_px: float, height_px: float) -> Figure:
    from matplotlib.figure import Figure

    size = (width_px / _UNITS_PER_INCH, height_px / _UNITS_PER_INCH)
    return Figure(figsize=size, dpi=_UNITS_PER_INCH, layout="constrained")


def forest_svg(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Draw the measures of a run and its baselines as points with their intervals.

    Parameters
    ----------
    results
        Results (see :func:`wsdino.evaluate.results.evaluate`) by name, the run first.

    Returns
    -------
    str
        SVG with one panel per measure that any of them has.
    """
    from matplotlib import rc_context

    measures = [m for m in MEASURES if any(is_number(r.get(m.key)) for r in results.values())]
    names = list(results)
    with rc_context(_STYLE):
        figure = _figure(1060, 74 + 40 * len(names))
        panels = figure.subplots(
            1, len(measures), sharey=True, squeeze=False, gridspec_kw={"wspace": 0.12}
        )[0]
        for panel, measure in zip(panels, measures, strict=True):
            _forest_panel(panel, measure, results)
        panels[0].set_yticks(range(len(names)), [display_name(name) for name in names])
        panels[0].set_ylim(len(names) - 0.4, -0.6)
        for label, name in zip(panels[0].get_yticklabels(), names, strict=True):
            label.set(color=INK, fontsize=12, fontweight="bold" if name == names[0] else "normal")
    alt = "; ".join(
        f"{display_name(name)}: "
        + ", ".join(f"{m.name} {measure_text(result, m.key)}" for m in measures)
        for name, result in results.items()
    )
    return to_svg(figure, "forest", f"Forest plot of the numbers in the table. {alt}")


def _forest_panel(axes: Axes, measure: Measure, results: Mapping[str, Mapping[str, Any]]) -> None:
    scale = 100.0 if measure.is_share else 1.0
    axes.set(title=measure.name, xlabel="%" if measure.is_share else "")
    axes.set_xlim(0, scale)
    axes.set_xticks(np.linspace(0, scale, 6))
    axes.tick_params(axis="both", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(visible=False, axis="y")
    null = next(iter(results.values())).get(f"{measure.key}_null")
    if null and is_number(null.get("p95")):
        axes.axvspan(0, scale * null["p95"], color=GRID, alpha=0.55, linewidth=0)
    for row, (name, result) in enumerate(results.items()):
        value: Any = result.get(measure.key)
        if not is_number(value):
            axes.text(0.02 * scale, row, DASH, va="center", color=MUTED)
            continue
        first = name == next(iter(results))
        colour, x = (COLOURS[0] if first else MUTED), scale * float(value)
        pair = interval(result, measure.key)
        if pair:
            ends = [scale * pair[0], scale * pair[1]]
            axes.plot(
                ends,
                [row, row],
                color=colour,
                linewidth=3 if first else 2,
                solid_capstyle="round",
                alpha=0.55,
            )
        axes.plot(
            [x],
            [row],
            marker="o" if first else "D",
            markersize=9 if first else 6.5,
            color=colour,
            markeredgecolor=PAPER,
            markeredgewidth=1,
        )
        text = measure_text(result, measure.key)
        axes.annotate(text, (x, row), (0, 9), textcoords="offset points",
                      ha="right" if x > 0.93 * scale else "center", va="bottom", fontsize=10.5,
                      color=INK if first else MUTED,
                      fontweight="bold" if first else "normal")  # fmt: skip


def scatter_svg(
    points: np.ndarray,
    moas: Sequence[str | None],
    labels: Sequence[str],
    wrong: Sequence[bool],
    styles: Mapping[str, MoaStyle],
    *,
    method: str,
) -> str:
    """Draw treatments in two dimensions, coloured by mechanism.

    Parameters
    ----------
    points
        Coordinates, float (n, 2).
    moas
        Mechanism of each treatment, or None.
    labels
        Name of each treatment, shown as a tooltip.
    wrong
        True for the treatments whose nearest neighbour has another mechanism: drawn hollow.
    styles
        Colour and shape by mechanism.
    method
        Method that made the coordinates, for the axes' names.

    Returns
    -------
    str
        SVG.
    """
    from matplotlib import rc_context

    tips: dict[str, str] = {}
    has_tips = len(points) <= MAX_TIPS
    with rc_context(_STYLE):
        figure = _figure(640, 540)
        axes = figure.subplots()
        axes.set_rasterization_zorder(0 if has_tips else 3)
        for index, (x, y) in enumerate(points):
            moa = moas[index]
            style = styles[moa] if moa else UNKNOWN_STYLE
            axes.plot(
                [x], [y], linestyle="none", marker=style.marker, markersize=9 if has_tips else 6,
                markerfacecolor=PAPER if wrong[index] else style.colour,
                markeredgecolor=style.colour if wrong[index] else PAPER,
                markeredgewidth=2 if wrong[index] else 0.9, gid=f"tip-{index}",
            )  # fmt: skip
            if has_tips:
                tips[f"tip-{index}"] = f"{labels[index]}: {moa or 'no known mechanism'}"
        axes.set(xlabel=f"{method} 1", ylabel=f"{method} 2", xticks=[], yticks=[])
        axes.margins(0.06)
    alt = f"{method} of {len(points)} treatments, coloured by mechanism of action"
    return to_svg(figure, "map", alt, tips)


def curve_svg(
    curves: Mapping[str, pd.DataFrame],
    column: str,
    title: str,
    colours: Mapping[str, str],
    *,
    ceiling: str | None = None,
) -> str:
    """Draw one training curve of each run that has it.

    Long curves are averaged in equal intervals to :data:`MAX_POINTS_PER_LINE` points, which keeps
    the report small and removes the noise of single batches.

    Parameters
    ----------
    curves
        Training curves by name.
    column
        The column to draw.
    title
        What the column is.
    colours
        Line colour by name.
    ceiling
        Column with the largest possible value, drawn as a dashed line.

    Returns
    -------
    str
        SVG.
    """
    from matplotlib import rc_context
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    shown = {name: frame for name, frame in curves.items() if column in frame}
    unit = "samples" if all("samples" in frame for frame in shown.values()) else "step"
    with rc_context(_STYLE):
        figure = _figure(320, 200)
        # Fixed margins: the panels of the grid line up, and it takes half the time.
        figure.set_layout_engine("none")
        axes = figure.add_axes((0.15, 0.23, 0.81, 0.62))
        # The run comes first in the list and is drawn last, on top.
        for name, frame in reversed(shown.items()):
            x = frame.get(unit, frame.index.to_series()).to_numpy(dtype=np.float64)
            drawn = thin(x, frame[column].to_numpy())
            marker = "o" if len(drawn[0]) == 1 else None
            axes.plot(*drawn, color=colours[name], linewidth=1.8, marker=marker)
            if ceiling and ceiling in frame:
                axes.plot(*thin(x, frame[ceiling].to_numpy()), color=colours[name],
                          linewidth=1.2, linestyle=(0, (4, 3)))  # fmt: skip
        axes.set(title=title, xlabel=unit)
        axes.tick_params(length=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.4g}"))
        axes.spines["left"].set_visible(False)
    ends = ", ".join(
        f"{display_name(name)} ends at {number(float(frame[column].iloc[-1]))}"
        for name, frame in shown.items()
    )
    return to_svg(figure, f"curve-{column}", f"{title} over {unit}: {ends}")


def curve_rows(
    curves: Mapping[str, pd.DataFrame], column: str, title: str, *, ceiling: str | None = None
) -> list[list[Any]]:
    """Return what :func:`curve_svg` draws as a table: names in the first row, then the points."""
    shown = {name: frame for name, frame in curves.items() if column in frame}
    unit = "samples" if all("samples" in frame for frame in shown.values()) else "step"
    rows: list[list[Any]] = [["of", "curve", unit, "value"]]
    for name, frame in shown.items():
        x = frame.get(unit, frame.index.to_series()).to_numpy(dtype=np.float64)
        drawn = {title: column}
        if ceiling and ceiling in frame:
            drawn["largest possible"] = ceiling
        for curve, own in drawn.items():
            points = zip(*thin(x, frame[own].to_numpy()), strict=True)
            rows += [[display_name(name), curve, round(a, 1), float(f"{b:.6g}")] for a, b in points]
    return rows


def thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average a curve in equal intervals down to :data:`MAX_POINTS_PER_LINE` points.

    Parameters
    ----------
    x, y
        Float (n,). Points with a `y` that isn't finite are dropped first.

    Returns
    -------
    tuple
        The thinned `x` and `y`, both float of the same length.
    """
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) <= MAX_POINTS_PER_LINE:
        return x, y
    parts = np.array_split(np.arange(len(x)), MAX_POINTS_PER_LINE)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])
