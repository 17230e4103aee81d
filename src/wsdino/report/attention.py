"""Where the network looks: self-attention of the class token over one field."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wsdino.atomic import sweep, writing
from wsdino.errors import InputError
from wsdino.lock import one_writer
from wsdino.report.images import Fields, composite, stretch
from wsdino.report.words import concentration

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

OVERLAY_SHARE = 0.6
_CELL_INCHES = 1.7


class Attentive(Protocol):
    """The part of a model's interface that attention maps use."""

    @property
    def network_names(self) -> Sequence[str]:
        """Name of each network, such as its channel."""

    def attention(self, images: Any, /, *, offset: Any = ..., gain: Any = ...) -> Any:
        """(B, C, H, W) integers -> (B, networks, heads, h, w), softmax attention of [CLS]."""


@dataclass(frozen=True)
class Panel:
    """One picture of an attention figure.

    Attributes
    ----------
    label
        Caption.
    picture
        uint8 (H, W, 3).
    """

    label: str
    picture: np.ndarray


def attention_panels(
    image: np.ndarray, maps: np.ndarray, *, channels: Sequence[str], network_names: Sequence[str]
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

    Returns
    -------
    list of list of Panel
        Per network: the field, the mean over heads laid over it, and each head. Each map is
        scaled to its own maximum.

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
    patch = min(image.shape[1] // height, image.shape[2] // width)
    if not patch:
        raise InputError(
            f"attention: maps of {height} by {width} patches for a field of {image.shape[1]} by "
            f"{image.shape[2]} px; expected at most one patch per pixel"
        )
    image = image[:, : height * patch, : width * patch]
    rows = []
    for name, heads in zip(network_names, maps, strict=True):
        field = _background(image, channels, name)
        mean = _heat(heads.mean(axis=0), patch)
        overlay = (1 - OVERLAY_SHARE) * field + OVERLAY_SHARE * mean
        rows.append(
            [
                Panel(name, field),
                Panel("mean over heads", overlay.round().astype(np.uint8)),
                *(Panel(f"head {n}", _heat(head, patch)) for n, head in enumerate(heads, start=1)),
            ]
        )
    return rows


def attention_figure(
    image: np.ndarray,
    maps: np.ndarray,
    *,
    channels: Sequence[str],
    network_names: Sequence[str],
    title: str = "",
) -> Figure:
    """Draw where each network and head looks in one field.

    Parameters
    ----------
    image, maps, channels, network_names
        As in :func:`attention_panels`.
    title
        Put above the figure.

    Returns
    -------
    matplotlib.figure.Figure
        (networks, 2 + heads) panels, a row per network: the field, the mean over heads laid over
        it, and each head.

    Raises
    ------
    InputError
        The shapes and names don't fit together.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = attention_panels(image, maps, channels=channels, network_names=network_names)
    # A dollar sign in a compound's name must not start a formula.
    with rc_context({"text.parse_math": False}):
        figure = Figure(
            figsize=(_CELL_INCHES * len(rows[0]), (_CELL_INCHES + 0.2) * len(rows) + 0.3),
            layout="constrained",
            facecolor="white",
        )
        for axes_row, panels in zip(
            figure.subplots(len(rows), len(rows[0]), squeeze=False), rows, strict=True
        ):
            for axes, panel in zip(axes_row, panels, strict=True):
                axes.imshow(panel.picture)
                axes.set_title(panel.label, fontsize=9)
                axes.set_axis_off()
        if title:
            figure.suptitle(title, fontsize=10)
    return figure


def site_maps(model: Attentive, store: Fields, site: int) -> np.ndarray:
    """Compute the attention maps of one site.

    Parameters
    ----------
    model
        Anything with the methods of :class:`Attentive`.
    store
        An open store.
    site
        Row of the manifest.

    Returns
    -------
    numpy.ndarray
        float32 (networks, heads, h, w).

    Raises
    ------
    InputError
        The store has no such site.
    """
    if not 0 <= site < len(store):
        raise InputError(f"site {site}: the store has the sites 0 to {len(store) - 1}")
    images = np.asarray(store[site])[None]
    # Our models scale a site as for its embedding, which may need its whole plate.
    spec = getattr(model, "spec", None)
    if spec is None:
        maps = model.attention(images)
    else:
        import torch

        offset, gain = (torch.from_numpy(x[[site]]) for x in spec.scaling.for_store(store))
        maps = model.attention(images, offset=offset, gain=gain)
    # A tensor may be on a GPU; the method `cpu` distinguishes it from an array.
    maps = maps.detach().cpu().float().numpy() if hasattr(maps, "cpu") else maps
    first: np.ndarray = np.asarray(maps, dtype=np.float32)[0]
    return first


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


def save_attention(model: Attentive, store: Fields, sites: Sequence[int], out: Path) -> list[Path]:
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

    Returns
    -------
    list of Path
        One PNG per site: `<row>_<plate>_<well>_<site>.png`.

    Raises
    ------
    InputError
        The store has no such site.
    """
    with one_writer(out):
        return _save_attention(model, store, sites, out)


def _save_attention(model: Attentive, store: Fields, sites: Sequence[int], out: Path) -> list[Path]:
    maps_of = {site: site_maps(model, store, site) for site in sites}
    written = []
    for site, maps in maps_of.items():
        row = store.manifest.iloc[site]
        figure = attention_figure(
            np.asarray(store[site]),
            maps,
            channels=store.channels,
            network_names=model.network_names,
            title=site_title(row),
        )
        words = [row.get(f"Metadata_{name}", "") for name in ("Plate", "Well", "Site")]
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", "_".join(map(str, [f"{site:06d}", *words])))
        path = out / f"{name}.png"
        sweep(out, name=path.name)
        with writing(path) as partial:
            figure.savefig(partial, dpi=150)
        written.append(path)
    return written


def _background(image: np.ndarray, channels: Sequence[str], network: str) -> np.ndarray:
    if network not in channels:
        return composite(image, channels)
    grey = stretch(image[[list(channels).index(network)]])[0]
    return np.repeat((255 * grey).round().astype(np.uint8)[..., None], 3, axis=2)


def _heat(attention: np.ndarray, patch: int) -> np.ndarray:
    """Colour a map (h, w), scaled to its maximum, and give each pixel its patch's colour."""
    from matplotlib import colormaps

    top = float(attention.max())
    colours = colormaps["inferno"](attention / top if top > 0 else attention, bytes=True)[..., :3]
    heat: np.ndarray = colours.repeat(patch, axis=0).repeat(patch, axis=1)
    return heat
