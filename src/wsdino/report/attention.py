"""Where the network looks: self-attention of the class token over one field."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from wsdino.atomic import sweep, writing
from wsdino.errors import InputError, did_you_mean
from wsdino.lock import one_writer
from wsdino.report.attentive import patch_side, site_maps
from wsdino.report.images import composite, stretch
from wsdino.report.scale_bar import draw_bar
from wsdino.report.words import concentration

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from wsdino.report.attentive import Attentive
    from wsdino.report.images import Fields

# Where attention is highest, its colour has this share of the overlay; cells show through.
OVERLAY_SHARE = 0.7
# A map is scaled between these, so that a single patch doesn't darken all others.
QUANTILES = (0.02, 0.98)
COLOURS = "inferno"
FORMATS = ("png", "svg")
DPI = 150
_CELL_INCHES = 1.7


@dataclass(frozen=True)
class Panel:
    """One picture of an attention figure.

    Attributes
    ----------
    label
        Caption.
    picture
        uint8 (H, W, 3).
    ends
        Attention at the ends of a map's colours, relative to even attention (1 is what every patch
        would get if all got the same); None for the field.
    """

    label: str
    picture: np.ndarray
    ends: tuple[float, float] | None = None

    @property
    def caption(self) -> str:
        """The label, and the ends of the colours where there are any."""
        if self.ends is None:
            return self.label
        return f"{self.label}, {self.ends[0]:.2g} to {self.ends[1]:.2g}"


def attention_panels(
    image: np.ndarray,
    maps: np.ndarray,
    *,
    channels: Sequence[str],
    network_names: Sequence[str],
    quantiles: tuple[float, float] = QUANTILES,
) -> list[list[Panel]]:
    """Make the pictures of an attention figure, a row per network.

    Parameters
    ----------
    image
        The field, any real dtype (C, H, W).
    maps
        Float (networks, heads, h, w), attention of the class token to each patch. Patches are
        square; if they don't fill the field, its lower and right margins are cut off.
    channels
        The C channel names.
    network_names
        One name per network. A network named after a channel is shown on that channel in grey,
        any other on the composite.
    quantiles
        Each map is scaled between these two of its own quantiles.

    Returns
    -------
    list of list of Panel
        Per network: the field, the mean over heads laid over it, and each head.

    Raises
    ------
    InputError
        The shapes and names don't fit together.
    """
    if maps.ndim != 4 or image.ndim != 3:
        raise InputError(
            f"attention: maps {maps.shape} and field {image.shape}; "
            "expected (networks, heads, h, w) and (C, H, W)"
        )
    if len(channels) != len(image) or len(network_names) != len(maps):
        raise InputError(
            f"attention: {len(channels)} channel and {len(network_names)} network names for "
            f"{len(image)} channels and {len(maps)} networks; expected one name each"
        )
    height, width = maps.shape[2:]
    patch = patch_side(image, (height, width))
    if not patch:
        raise InputError(
            f"attention: maps of {height} by {width} patches for a field of {image.shape[1]} by "
            f"{image.shape[2]} px; expected at most one patch per pixel"
        )
    rows = []
    for name, heads in zip(network_names, maps, strict=True):
        field = field_picture(image, (height, width), channels, name)
        shares, ends = _scaled(heads.mean(axis=0), quantiles)
        weight = OVERLAY_SHARE * _in_pixels(shares, patch)[..., None]
        overlay = (1 - weight) * field + weight * _in_pixels(_coloured(shares), patch)
        row = [
            Panel(name, field),
            Panel("mean over heads", overlay.round().astype(np.uint8), ends),
        ]
        for number, head in enumerate(heads, start=1):
            shares, ends = _scaled(head, quantiles)
            row.append(Panel(f"head {number}", _in_pixels(_coloured(shares), patch), ends))
        rows.append(row)
    return rows


def attention_figure(
    image: np.ndarray,
    maps: np.ndarray,
    *,
    channels: Sequence[str],
    network_names: Sequence[str],
    quantiles: tuple[float, float] = QUANTILES,
    title: str = "",
    pixel_size: float = float("nan"),
) -> Figure:
    """Draw where each network and head looks in one field.

    Parameters
    ----------
    image, maps, channels, network_names, quantiles
        As in :func:`attention_panels`.
    title
        Put above the figure.
    pixel_size
        Width of a pixel of the field in micrometres, for a scale bar; NaN: unknown.

    Returns
    -------
    matplotlib.figure.Figure
        (networks, 2 + heads) panels, a row per network: the field, the mean over heads laid over
        it, and each head; below them a colour bar.

    Raises
    ------
    InputError
        The shapes and names don't fit together.
    """
    from matplotlib import rc_context
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    rows = attention_panels(
        image, maps, channels=channels, network_names=network_names, quantiles=quantiles
    )
    # A dollar sign in a compound's name must not start a formula.
    with rc_context({"text.parse_math": False}):
        figure = Figure(
            figsize=(_CELL_INCHES * len(rows[0]), (_CELL_INCHES + 0.4) * len(rows) + 0.9),
            layout="constrained",
            facecolor="white",
        )
        for axes_row, panels in zip(
            figure.subplots(len(rows), len(rows[0]), squeeze=False), rows, strict=True
        ):
            for axes, panel in zip(axes_row, panels, strict=True):
                axes.imshow(panel.picture)
                axes.set_title(panel.caption.replace(", ", "\n"), fontsize=8)
                axes.set_axis_off()
            draw_bar(axes_row[0], panels[0].picture, pixel_size)
        bar = figure.colorbar(
            ScalarMappable(cmap=COLOURS),
            ax=figure.axes,
            orientation="horizontal",
            ticks=[0, 1],
            shrink=0.35,
            aspect=30,
        )
        low, high = (f"{100 * quantile:g} % of patches lie below" for quantile in quantiles)
        bar.ax.set_xticklabels([low, high], fontsize=7)
        bar.set_label("attention of [CLS]; numbers: 1 is even over all patches", fontsize=7)
        if title:
            figure.suptitle(title, fontsize=10)
    return figure


def site_title(row: pd.Series[Any]) -> str:
    """Describe the site of a row of the manifest: treatment, mechanism, plate, well and site."""
    parts = [site_treatment(row), row.get("Metadata_MoA"), site_place(row)]
    return ", ".join(part for part in parts if isinstance(part, str) and part)


def site_treatment(row: pd.Series[Any]) -> str:
    """Describe the treatment of a site."""
    dose = concentration(row.get("Metadata_Concentration"))
    return f"{row.get('Metadata_Compound', '')} {dose}".strip()


def site_place(row: pd.Series[Any]) -> str:
    """Describe the position of a site: plate, well and number."""
    well, site = row.get("Metadata_Well", ""), row.get("Metadata_Site", "")
    return f"{row.get('Metadata_Plate', '')} {well} site {site}".strip()


def save_attention(
    model: Attentive,
    store: Fields,
    sites: Sequence[int],
    out: Path,
    *,
    formats: Sequence[str] = FORMATS[:1],
    dpi: int = DPI,
    quantiles: tuple[float, float] = QUANTILES,
) -> list[Path]:
    """Write an attention figure for each of the given sites.

    Parameters
    ----------
    model
        Anything with the methods of :class:`Attentive`.
    store
        An open store.
    sites
        Rows of the manifest.
    out
        Folder; created if missing.
    formats
        Some of :data:`FORMATS`. The pictures in an SVG keep a pixel for each of the field's.
    dpi
        Dots per inch of a PNG.
    quantiles
        See :func:`attention_panels`.

    Returns
    -------
    list of Path
        `<row>_<plate>_<well>_<site>.<format>` of each site.

    Raises
    ------
    InputError
        The store has no such site, or an option is out of range.
    """
    unknown = [each for each in formats if each not in FORMATS]
    if unknown or not formats:
        near = did_you_mean(unknown[0], FORMATS) if unknown else ""
        raise InputError(f"--format {', '.join(unknown)}{near}: expected {' or '.join(FORMATS)}")
    if dpi < 1:
        raise InputError(f"--dpi {dpi}: must be at least 1")
    if not 0 <= quantiles[0] < quantiles[1] <= 1:
        raise InputError(
            f"--quantiles {quantiles[0]:g} {quantiles[1]:g}: expected two from 0 to 1, the lower "
            "one first"
        )
    maps_of = {site: site_maps(model, store, site) for site in sites}
    written = []
    with one_writer(out):
        for site, maps in maps_of.items():
            row = store.manifest.iloc[site]
            figure = attention_figure(
                np.asarray(store[site]),
                maps,
                channels=store.channels,
                network_names=model.network_names,
                quantiles=quantiles,
                title=site_title(row),
                pixel_size=float(store.pixel_sizes[site]),
            )
            # Once for all formats: each drawing would move what was laid out before.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            words = [row.get(f"Metadata_{name}", "") for name in ("Plate", "Well", "Site")]
            name = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(map(str, [f"{site:06d}", *words])))
            written += [_saved(figure, out / f"{name}.{each}", dpi) for each in formats]
    return written


def _saved(figure: Figure, path: Path, dpi: int) -> Path:
    from matplotlib import rc_context

    kind = path.suffix.removeprefix(".")
    sweep(path.parent, name=path.name)
    # The same figure is the same file: no date, no random ids.
    stable: Any = {"metadata": {"Date": None}} if kind == "svg" else {}
    for axes in figure.axes:
        for image in axes.images:
            # A reader of an SVG scales its pictures; those of a PNG are scaled here, smoothly.
            image.set_interpolation("none" if kind == "svg" else "auto")
    with (
        writing(path) as partial,
        rc_context({"svg.hashsalt": "wsdino", "text.parse_math": False}),
    ):
        figure.savefig(partial, format=kind, dpi=DPI if kind == "svg" else dpi, **stable)
    return path


def field_picture(
    image: np.ndarray, grid: tuple[int, ...], channels: Sequence[str], network: str
) -> np.ndarray:
    """Draw what a network sees of a field.

    Parameters
    ----------
    image
        Any real dtype (C, H, W).
    grid
        Rows and columns of patches; what these don't fill is cut off.
    channels
        The C channel names.
    network
        A channel's name, for that channel in grey; any other for the composite.

    Returns
    -------
    numpy.ndarray
        uint8 (h * patch, w * patch, 3).
    """
    patch = patch_side(image, grid)
    image = image[:, : grid[0] * patch, : grid[1] * patch]
    if network not in channels:
        return composite(image, channels)
    grey = stretch(image[[list(channels).index(network)]])[0]
    return np.repeat((255 * grey).round().astype(np.uint8)[..., None], 3, axis=2)


def _scaled(
    attention: np.ndarray, quantiles: tuple[float, float]
) -> tuple[np.ndarray, tuple[float, float]]:
    """Scale a map (h, w) to [0, 1] between two quantiles, and return these relative to even."""
    low, high = (float(end) for end in np.quantile(attention, quantiles))
    shares = np.clip((attention - low) / (high - low if high > low else np.inf), 0.0, 1.0)
    even = float(attention.mean()) or 1.0
    return shares, (low / even, high / even)


def _coloured(shares: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    colours: np.ndarray = colormaps[COLOURS](shares, bytes=True)[..., :3]
    return colours


def _in_pixels(patches: np.ndarray, patch: int) -> np.ndarray:
    """Give each pixel the value of its patch."""
    return patches.repeat(patch, axis=0).repeat(patch, axis=1)
