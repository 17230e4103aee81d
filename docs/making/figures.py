"""The figures of the manual, drawn by the package's own code when the manual is built."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

import wsdino
from wsdino.config import load_config
from wsdino.report.images import composite
from wsdino.simulate import Difficulty
from wsdino.simulate.layouts import CHANNELS, layout_table
from wsdino.simulate.plates import describe_sites
from wsdino.simulate.render import render
from wsdino.train.crops import draw_crops

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

INK, SOFT, PAPER = "#1b2733", "#51606e", "#ffffff"
BLUE, ORANGE, TEAL, GREY = "#0077bb", "#ee7733", "#009988", "#9aa5b1"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "wsdino",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
ARROW = {"arrowstyle": "-|>", "mutation_scale": 11, "lw": 1.3, "color": SOFT}
FIELD = 160
"""Side in px of the fields that are drawn."""


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None}, facecolor=PAPER)
    return file.getvalue()


def _box(axes: Axes, x: float, y: float, width: float, text: str, colour: str) -> None:
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            0.5,
            boxstyle="round,pad=0,rounding_size=0.08",
            fc=PAPER,
            ec=colour,
            lw=1.6,
        )
    )
    axes.text(x + width / 2, y + 0.25, text, ha="center", va="center")


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], **options: object
) -> None:
    axes.add_patch(FancyArrowPatch(start, end, **ARROW | options))


def _blank(axes: Axes, width: float, height: float) -> None:
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")


def _fields(compound: str) -> list[np.ndarray]:
    """Draw a field of each of two plates with a compound, uint16 (3, FIELD, FIELD)."""
    layout = layout_table("small", sites=1)
    rows = layout[layout["compound"] == compound].drop_duplicates("plate").head(2)
    sites = describe_sites(layout.loc[rows.index], Difficulty.of(["easy"]), seed=3, size=FIELD)
    return [render(site, seed=3, size=FIELD) for site in sites]


def views() -> str:
    """Draw crops of an anchor and of its partner, and who sees them."""
    crops = load_config("demo").crops
    rng = np.random.default_rng(5)
    figure = Figure(figsize=(8.6, 4.1))
    for row, (field, title) in enumerate(
        zip(_fields("taxol"), ("anchor: plate 1, taxol", "partner: plate 2, taxol"), strict=True)
    ):
        axes = figure.add_axes((0.015, 0.53 - 0.5 * row, 0.21, 0.41))
        axes.imshow(composite(field, CHANNELS), interpolation="nearest")
        axes.set_title(title, fontsize=10, loc="left", pad=4)
        axes.set(xticks=[], yticks=[])
        plan, colour = ((crops.global_views, BLUE), (crops.local_views, ORANGE))[row]
        drawn = draw_crops(plan, 1, field_shape=(FIELD, FIELD), num_channels=3, rng=rng)
        for top, left, side in zip(
            drawn.top[:, 0], drawn.left[:, 0], drawn.side[:, 0], strict=True
        ):
            axes.add_patch(Rectangle((left, top), side, side, fill=False, ec=colour, lw=2.2))
    axes = figure.add_axes((0.24, 0, 0.76, 1))
    _blank(axes, 7.2, 4.5)
    axes.text(0.15, 3.9, "global crops", color=BLUE)
    axes.text(0.15, 0.35, "local crops", color=ORANGE)
    _box(axes, 2.2, 3.1, 1.3, "teacher", BLUE)
    _box(axes, 2.2, 0.9, 1.3, "student", ORANGE)
    _box(axes, 4.35, 3.1, 1.2, "targets", INK)
    _box(axes, 4.35, 0.9, 1.2, "predictions", INK)
    _arrow(axes, (0.1, 3.35), (2.15, 3.35), color=BLUE)
    _arrow(axes, (0.1, 3.2), (2.15, 1.3), color=BLUE)
    _arrow(axes, (0.1, 1.05), (2.15, 1.05), color=ORANGE)
    _arrow(axes, (3.55, 3.35), (4.3, 3.35))
    _arrow(axes, (3.55, 1.15), (4.3, 1.15))
    _arrow(axes, (2.85, 1.45), (2.85, 3.05), linestyle=(0, (4, 3)))
    axes.text(2.95, 2.2, "moving\naverage", color=SOFT, fontsize=9, va="center")
    _arrow(axes, (4.95, 1.45), (4.95, 3.05), arrowstyle="<|-|>")
    axes.text(
        5.1,
        2.25,
        "cross-entropy:\npredict, from other cells,\nwhat the teacher says",
        color=SOFT,
        fontsize=9,
        va="center",
    )
    return _svg(figure)


def channel_modes() -> str:
    """Draw what the networks see in each mode, and what an embedding consists of."""
    figure = Figure(figsize=(8.6, 2.5))
    colours = ("#3f6fd8", "#2f9a57", "#c8403a")
    for column, (mode, networks) in enumerate(
        (
            ("per_channel", ("network 1", "network 2", "network 3")),
            ("shared", ("one network,\none channel\nat a time",)),
            ("joint", ("one network,\nall channels\nat once",)),
        )
    ):
        axes = figure.add_axes((column / 3, 0, 1 / 3, 1))
        _blank(axes, 3.8, 3.3)
        axes.text(0.1, 3.0, mode, family="monospace", weight="bold")
        height = 0.6 if len(networks) == 3 else 1.6
        for row, channel in enumerate(CHANNELS):
            y = 2.2 - 0.8 * row
            axes.add_patch(Rectangle((0.1, y), 0.75, 0.5, fc=colours[row], ec="none"))
            axes.text(0.475, y + 0.25, channel, color="white", fontsize=8, ha="center", va="center")
            target = y + 0.25 if len(networks) == 3 else 1.65
            _arrow(axes, (0.88, y + 0.25), (1.22, target))
        for row, name in enumerate(networks):
            y = 2.15 - 0.8 * row if len(networks) == 3 else 1.65 - height / 2
            axes.add_patch(
                FancyBboxPatch(
                    (1.25, y),
                    1.35,
                    height,
                    boxstyle="round,pad=0,rounding_size=0.08",
                    fc=PAPER,
                    ec=INK,
                    lw=1.3,
                )
            )
            axes.text(1.925, y + height / 2, name, fontsize=8, ha="center", va="center")
        parts = (INK,) if mode == "joint" else colours
        for row, colour in enumerate(parts):
            tall = 2.1 / len(parts)
            axes.add_patch(
                Rectangle(
                    (3.0, 0.6 + tall * (len(parts) - 1 - row)), 0.28, tall, fc=colour, ec=PAPER
                )
            )
        _arrow(axes, (2.65, 1.65), (2.95, 1.65))
        axes.text(
            3.14,
            0.35,
            "D" if mode == "joint" else "3 x D",
            fontsize=8,
            ha="center",
            va="center",
            color=SOFT,
        )
    return _svg(figure)


def _made_up() -> pd.DataFrame:
    """Two features of controls and three compounds, which respond more strongly on some plates."""
    rng = np.random.default_rng(2)
    shift = {"DMSO": (0.0, 0.0), "a": (3.0, 2.2), "b": (-1.0, 2.6), "c": (2.5, -2.0)}
    rows = []
    for plate in range(4):
        response = (0.5, 0.8, 1.2, 1.5)[plate]
        for compound, centre in shift.items():
            for well in range(8 if compound == "DMSO" else 5):
                along, across = rng.normal(0, 0.9), rng.normal(0, 0.4)
                x = centre[0] + along
                y = centre[1] * response + 0.5 * along + across
                rows.append((f"P{plate}", f"{compound}{well}", compound, compound == "DMSO", x, y))
    columns = ["Metadata_Plate", "Metadata_Well", "Metadata_Compound", "Metadata_Control"]
    return pd.DataFrame(rows, columns=[*columns, "emb_joint_000", "emb_joint_001"])


def whitening() -> str:
    """Draw the same wells as they are, whitened on controls, and whitened by weak label."""
    table = _made_up()
    figure = Figure(figsize=(8.6, 3.1), layout="constrained")
    panels = figure.subplots(1, 3)
    colours = {"DMSO": GREY, "a": BLUE, "b": ORANGE, "c": TEAL}
    titles = {
        "none": "as they are",
        "tvn": "tvn: controls are round",
        "weak_label": "weak_label: replicates are",
    }
    for axes, (method, title) in zip(panels, titles.items(), strict=True):
        options = {"regularisation": 0.1} if method == "weak_label" else {}
        white = wsdino.fit_normalisation(table, method=method, **options).transform(table)
        features = white.filter(regex="^(emb|white)").to_numpy()
        for compound, colour in colours.items():
            rows = (table["Metadata_Compound"] == compound).to_numpy()
            label = "controls" if compound == "DMSO" else f"compound {compound}"
            axes.scatter(*features[rows].T, s=14, color=colour, label=label, lw=0)
        axes.axhline(0, color=GREY, lw=0.6, zorder=0)
        axes.axvline(0, color=GREY, lw=0.6, zorder=0)
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xlabel="feature 1", ylabel="feature 2" if method == "none" else None)
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=9,
    )
    return _svg(figure)


def matching() -> str:
    """Draw the nearest neighbour of one treatment under NSC and under NSCB."""
    # Angle in degrees, compound, mechanism, batch.
    treatments = (
        (62, "query", "A", 1),
        (54, "same compound", "A", 2),
        (75, "another compound, same batch", "B", 1),
        (37, "another compound, another batch", "A", 2),
        (12, "", "B", 2),
        (108, "", "B", 1),
    )
    colours, shapes = {"A": BLUE, "B": ORANGE}, {1: "o", 2: "s"}
    figure = Figure(figsize=(7.2, 3.3))
    axes = figure.add_axes((0, 0, 1, 1))
    around = np.radians(np.linspace(-2, 125, 100))
    axes.plot(np.cos(around), np.sin(around), color=GREY, lw=1)
    for angle, text, mechanism, batch in treatments:
        x, y = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        axes.plot([0, x], [0, y], color=GREY, lw=0.6, zorder=0)
        axes.plot(x, y, shapes[batch], color=colours[mechanism], ms=10 if text == "query" else 8)
        axes.text(
            1.07 * x, 1.07 * y, text, va="center", ha="left" if angle < 90 else "right", fontsize=9
        )
    for end, name, radius in ((75, "NSC", 0.86), (37, "NSCB", 0.72)):
        arc = np.radians(np.linspace(62, end, 30))
        axes.plot(radius * np.cos(arc), radius * np.sin(arc), color=INK, lw=1.6)
        middle = np.radians((62 + end) / 2)
        axes.text(
            (radius - 0.07) * np.cos(middle),
            (radius - 0.07) * np.sin(middle),
            name,
            fontsize=9,
            weight="bold",
            ha="center",
            va="center",
        )
    for row, (shape, colour, text) in enumerate(
        (
            ("o", INK, "batch 1"),
            ("s", INK, "batch 2"),
            ("o", BLUE, "mechanism A"),
            ("o", ORANGE, "mechanism B"),
        )
    ):
        axes.plot(-1.05, 0.75 - 0.14 * row, shape, color=colour, ms=7)
        axes.text(-0.97, 0.75 - 0.14 * row, text, va="center", fontsize=9)
    axes.set(xlim=(-1.15, 2.0), ylim=(-0.08, 1.18), aspect="equal")
    axes.axis("off")
    return _svg(figure)


def _styled(draw: Callable[[], str]) -> Callable[[], str]:
    def drawn() -> str:
        with mpl.rc_context(STYLE):
            return draw()

    return drawn


FIGURES = {each.__name__: _styled(each) for each in (views, channel_modes, whitening, matching)}
"""By name, what draws each as SVG."""
