"""Sections of a report with images of fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

from wsdino.errors import InputError
from wsdino.report.attention import (
    COLOURS,
    QUANTILES,
    attention_panels,
    field_picture,
    site_place,
    site_title,
    site_treatment,
)
from wsdino.report.attentive import Attentive, on_foreground, site_maps, site_patches
from wsdino.report.components import NUM, principal_components
from wsdino.report.images import (
    JPEG_QUALITY,
    THUMBNAIL_PX,
    Fields,
    composite,
    data_uri,
    example_sites,
    middle,
    packed_map,
    uris_within,
)
from wsdino.report.scale_bar import ScaleBar, scale_bar
from wsdino.report.style import MoaStyle, channel_colours, hex_colour, linear_stops
from wsdino.report.treated import moas_of
from wsdino.runrecord import Omitted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_MOAS = 24
# All example fields together, as they stand in the page: many get smaller.
EXAMPLE_BYTES, LEAST_PX = 1_000_000, 96
ATTENTION_SITES = 3


def example_fields(
    store: Fields | None, styles: Mapping[str, MoaStyle], *, num: int
) -> dict[str, Any]:
    """Show composite images of some fields of each mechanism and of the controls."""
    if store is None:
        raise Omitted("no store was given")
    if num < 1:
        raise Omitted("none were asked for")
    manifest = store.manifest.reset_index(drop=True)
    groups: list[tuple[str, MoaStyle | None, pd.DataFrame]] = []
    treated = manifest
    if "Metadata_Control" in manifest:
        control = manifest["Metadata_Control"].astype(bool)
        treated = manifest[~control]
        if control.any():
            groups.append(("Negative control", None, manifest[control]))
    moas = pd.Series(moas_of(treated), index=treated.index, dtype=object)
    present = [moa for moa in styles if (moas == moa).any()]
    groups += [(moa, styles[moa], treated[moas == moa]) for moa in present[:MAX_MOAS]]
    if not groups:
        groups = [("No known mechanism", None, treated)]
    chosen = [
        [int(rows.index[position]) for position in example_sites(rows, num=num)]
        for _, _, rows in groups
    ]
    fields = {site: middle(np.asarray(store[site])) for sites in chosen for site in sites}
    uris, _ = uris_within(
        {site: Image.fromarray(composite(own, store.channels)) for site, own in fields.items()},
        EXAMPLE_BYTES,
        px=(LEAST_PX, THUMBNAIL_PX),
        quality=JPEG_QUALITY,
    )
    cards: list[dict[str, Any]] = []
    rows_of_csv: list[list[Any]] = [["shown as", "treatment", "place", "row of the store"]]
    for (name, style, rows), sites in zip(groups, chosen, strict=True):
        pictures = [
            (
                uris[site],
                site_treatment(manifest.iloc[site]),
                site_place(manifest.iloc[site]),
                scale_bar(store.pixel_sizes[site], fields[site].shape[2]),
            )
            for site in sites
        ]
        rows_of_csv += [
            [name, treatment, place, site]
            for site, (_, treatment, place, _) in zip(sites, pictures, strict=True)
        ]
        cards.append({"name": name, "style": style, "pictures": pictures, "num": len(rows)})
    return {
        "cards": cards,
        "channels": _channel_legend(store.channels),
        "data": rows_of_csv,
        "num_hidden": len(present) - len(present[:MAX_MOAS]),
    }


def _channel_legend(channels: Sequence[str]) -> list[tuple[str, str]]:
    return [
        (name, hex_colour(colour))
        for name, colour in zip(channels, channel_colours(channels), strict=True)
    ]


def attention(
    store: Fields | None, model: Attentive | None, sites: Sequence[int] | None
) -> dict[str, Any]:
    """Show attention maps of some sites."""
    if store is None or model is None:
        raise Omitted("no model was given" if store is not None else "no store was given")
    manifest = store.manifest.reset_index(drop=True)
    if sites is None:
        sites = _spread_over_moas(manifest, ATTENTION_SITES)
    try:
        figures = [_attention_of(store, model, site) for site in sites]
    except InputError as error:
        raise Omitted(str(error)) from error
    if not figures:
        raise Omitted("no sites were asked for")
    return {
        "figures": figures,
        "stops": linear_stops(COLOURS),
        "quantiles": [100 * end for end in QUANTILES],
        "components": _components_of(store, model, sites),
    }


def _components_of(store: Fields, model: Attentive, sites: Sequence[int]) -> dict[str, Any]:
    """Show the first principal components of patches, each network's fitted to all sites.

    Each picture stands beside its field, cut as that is for attention.
    """
    patches = [site_patches(model, store, site) for site in sites]
    titles = [site_title(store.manifest.iloc[site]) for site in sites]
    shown, maps = [], []
    for number, name in enumerate(model.network_names):
        found = principal_components([features[number] for features in patches])
        pictures = [
            {
                "title": title,
                "field": data_uri(
                    field_picture(np.asarray(store[site]), colours.shape, store.channels, name)
                ),
                "uri": data_uri(_enlarged(colours)),
                "bar": _bar_of(store, site, colours.shape),
            }
            for site, title, colours in zip(sites, titles, found.colours(), strict=True)
        ]
        shares = ", ".join(f"{100 * share:.0f}" for share in found.shares)
        shown.append({"name": name, "shares": shares, "pictures": pictures})
        maps += [
            packed_map([name, title], np.moveaxis(scores, 2, 0))
            for title, scores in zip(titles, found.scores, strict=True)
        ]
    heads = ["network", "field", "row", "column", *(f"component {n + 1}" for n in range(NUM))]
    return {"networks": shown, "data": {"heads": heads, "maps": maps}}


def _enlarged(colours: np.ndarray) -> np.ndarray:
    """Give each patch whole pixels of a small picture, so that its edges stay sharp."""
    times = max(1, THUMBNAIL_PX // max(colours.shape[:2]))
    return colours.repeat(times, axis=0).repeat(times, axis=1)


def _bar_of(store: Fields, site: int, grid: tuple[int, ...]) -> ScaleBar | None:
    """Return the scale bar of a picture of whole patches, which leave out a field's margin."""
    height, width = np.asarray(store[site]).shape[1:]
    patch = min(height // grid[0], width // grid[1])
    return scale_bar(store.pixel_sizes[site], grid[1] * patch)


def _attention_of(store: Fields, model: Attentive, site: int) -> dict[str, Any]:
    maps, image = site_maps(model, store, site), np.asarray(store[site])
    rows = attention_panels(image, maps, channels=store.channels, network_names=model.network_names)
    shown = []
    for name, panels, heads in zip(model.network_names, rows, maps, strict=True):
        pictures = [(p.caption, data_uri(p.picture, max_px=200)) for p in panels]
        shown.append(
            {
                "network": name,
                "pictures": pictures,
                "foreground": on_foreground(heads, image, store.channels, name),
            }
        )
    return {
        "site": site,
        "title": site_title(store.manifest.iloc[site]),
        "rows": shown,
        "bar": scale_bar(store.pixel_sizes[site], rows[0][0].picture.shape[1]),
        "data": {
            "heads": ["network", "head", "row", "column", "attention, 1 is even"],
            "maps": [
                packed_map([name, label], [head / (head.mean() or 1.0)])
                for name, heads in zip(model.network_names, maps, strict=True)
                for label, head in zip(
                    ["mean", *range(1, len(heads) + 1)], [heads.mean(axis=0), *heads], strict=True
                )
            ],
        },
    }


def _spread_over_moas(manifest: pd.DataFrame, num: int) -> list[int]:
    """Choose sites of different mechanisms, evenly in alphabetical order."""
    moas = pd.Series(moas_of(manifest), dtype=object)
    first = moas[moas.notna()].drop_duplicates().sort_values()
    if first.empty:
        return example_sites(manifest, num=num)
    chosen = np.linspace(0, len(first) - 1, min(num, len(first))).round().astype(int)
    return [int(site) for site in first.index[chosen]]
