"""A picture of each treatment and of each plate's controls, at one contrast per plate.

With up to three channels a picture keeps them apart, as the three planes of a JPEG, and the page
colours them with an SVG filter: one file serves every choice of channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
from PIL import Image

from wsdino.report.attention import site_place
from wsdino.report.columns import controls_of
from wsdino.report.images import STRETCH_PERCENTILES, Fields, jpeg, middle, uris_within
from wsdino.report.scale_bar import ScaleBar, scale_bar
from wsdino.report.style import channel_colours, hex_colour
from wsdino.report.treated import keys_of
from wsdino.runrecord import Omitted
from wsdino.tables.columns import BATCH, COMPOUND, CONCENTRATION, PLATE, WELL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from wsdino.report.treated import Treated

# All pictures together, as they stand in the page: more treatments get smaller pictures, down to a
# size at which cells can still be told apart. Those that don't fit then lie beside the page.
BASE_BYTES, BYTES_PER_TREATMENT, MANY = 4_000_000, 1_400, 500
MAX_TREATMENTS = 5_000
# Every well has a picture where there are no more of them.
MAX_WELLS = 500
MAX_PX, MIN_PX = 224, 96
QUALITY = 75
FIELDS_FOR_CONTRAST = 3
MAX_PLANES = 3


@dataclass(frozen=True)
class Picture:
    """One field.

    Attributes
    ----------
    uri
        `data:image/jpeg;base64,...`, or where it lies, relative to the page.
    place
        Plate, well and site.
    plate
        The plate's label, key of :attr:`Pictures.of_plate`.
    bar
        Scale bar, where the width of a pixel is known.
    well
        Label of the well (:func:`well_labels`); empty where wells aren't known.
    row
        Treatment, a row of :class:`wsdino.report.treated.Treated`; -1 for controls.
    """

    uri: str
    place: str
    plate: str
    bar: ScaleBar | None = None
    well: str = ""
    row: int = -1


@dataclass(frozen=True)
class Pictures:
    """Pictures of treatments, and of controls to lay beside them.

    Attributes
    ----------
    of_treatment
        By row of :class:`wsdino.report.treated.Treated`.
    of_plate
        A control's field by plate's label.
    of_well
        By :func:`well_labels`; of small screens the wells that the others don't show, else empty.
    channels
        Name and colour (hexadecimal) of each channel, in the order of the planes.
    has_planes
        Whether the planes of a picture are channels, which the page colours.
    window_px, shown_px
        Side of the middle of the field that is shown, and of the picture in the page.
    beside
        JPEGs that lie beside the page, by name of the file; of treatments that are less active than
        those whose pictures are in the page.
    """

    of_treatment: Mapping[int, Picture]
    of_plate: Mapping[str, Picture]
    channels: Sequence[tuple[str, str]]
    has_planes: bool
    window_px: int
    shown_px: int
    of_well: Mapping[str, Picture] = field(default_factory=dict)
    beside: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def num_beside(self) -> int:
        """Number of treatments whose picture isn't in the page; some may have the same one."""
        return sum(not own.uri.startswith("data:") for own in self.of_treatment.values())


def plate_labels(frame: pd.DataFrame) -> list[str]:
    """Name the plate of each row; with its batch where several have a plate of that name."""
    plates = frame[PLATE].astype(str)
    if BATCH not in frame:
        return plates.tolist()
    batches = frame[BATCH].astype(str)
    repeated = batches.groupby(plates).nunique() > 1
    return [
        f"{plate} ({batch})" if again else plate
        for plate, batch, again in zip(plates, batches, plates.map(repeated), strict=True)
    ]


def well_labels(frame: pd.DataFrame) -> list[str]:
    """Name the well of each row, with its plate; empty where wells aren't known."""
    if not {PLATE, WELL} <= set(frame):
        return [""] * len(frame)
    return [f"{plate} {well}" for plate, well in zip(plate_labels(frame), frame[WELL], strict=True)]


def colour_matrix(pictures: Pictures | None) -> str:
    """Return the values of the SVG filter (feColorMatrix) that colours the planes of pictures.

    Parameters
    ----------
    pictures
        Their planes and colours.

    Returns
    -------
    str
        Four rows of five numbers; empty if the pictures have no planes.
    """
    if pictures is None or not pictures.has_planes:
        return ""
    colours = [[int(c[at : at + 2], 16) / 255 for at in (1, 3, 5)] for _, c in pictures.channels]
    colours += [[0.0, 0.0, 0.0]] * (MAX_PLANES - len(colours))
    rows = [" ".join(f"{colour[part]:.4f}" for colour in colours) + " 0 0" for part in range(3)]
    return " ".join([*rows, "0 0 0 1 0"])


def take_pictures(treated: Treated, store: Fields | None, *, folder: str = "") -> Pictures:
    """Take a field of each treatment, and one of the controls of each plate among these.

    Parameters
    ----------
    treated
        The treatments.
    store
        An open store.
    folder
        Beside the page, where pictures lie that don't fit into it.

    Returns
    -------
    Pictures
        Of each treatment the first field on a plate with controls, else the first one, and of
        each other well of them and of controls its first one, where there are at most
        :data:`MAX_WELLS` and all fit into the page. A plate's contrast is that of its controls, for
        each channel between two percentiles of a few fields.

    Raises
    ------
    Omitted
        There is no store, it has no plates, or none of the treatments.
    """
    if store is None:
        raise Omitted("no store was given")
    manifest = store.manifest.reset_index(drop=True)
    chosen, of_plate = choose_fields(manifest, treated)
    plates = np.array(plate_labels(manifest), dtype=object)
    wells = well_labels(manifest)
    rows = treated.rows_of(manifest)
    is_control = controls_of(manifest)
    of_well = other_wells(manifest, treated, {*chosen.values(), *of_plate.values()})
    frames: dict[tuple[str, object], Image.Image] = {}
    places: dict[tuple[str, object], tuple[str, str, ScaleBar | None, str, int]] = {}
    window_px = middle(np.asarray(store[next(iter(chosen.values()))])).shape[2]
    sizes = store.pixel_sizes
    for plate in dict.fromkeys(plates[[*chosen.values(), *of_well.values()]]):
        own = np.flatnonzero(plates == plate)
        controls = own[is_control[own]]
        low, high = contrast_of(store, controls if len(controls) else own)
        sites: list[tuple[tuple[str, object], int]] = [
            (("treatment", row), site) for row, site in chosen.items() if plates[site] == plate
        ]
        if plate in of_plate:
            sites.append((("plate", plate), of_plate[plate]))
        sites += [(("well", well), site) for well, site in of_well.items() if plates[site] == plate]
        for key, site in sites:
            frames[key] = _image(store, site, low, high)
            bar = scale_bar(sizes[site], window_px)
            place = site_place(manifest.iloc[site])
            places[key] = (place, str(plate), bar, wells[site], rows[site])
    # In the page rather those of controls, which all others are laid beside, and of the active.
    ranks = {row: rank for rank, row in enumerate(treated.by_activity)}
    last = len(ranks)
    ordered = sorted(
        frames,
        key=lambda key: (
            ranks[int(str(key[1]))]
            if key[0] == "treatment"
            else {"plate": -1, "well": last}[key[0]]
        ),
    )
    num = len(chosen) + len(of_well)
    uris, shown_px, beside = _placed({key: frames[key] for key in ordered}, num, folder)
    if beside and of_well:
        # Further wells are worth no picture that would then lie beside the page.
        ordered = [key for key in ordered if key[0] != "well"]
        uris, shown_px, beside = _placed({key: frames[key] for key in ordered}, len(chosen), folder)
    pictures = {key: Picture(uris[key], *places[key]) for key in uris}
    colours = map(hex_colour, channel_colours(store.channels))
    return Pictures(
        of_treatment={int(str(k)): p for (kind, k), p in pictures.items() if kind == "treatment"},
        of_plate={str(k): p for (kind, k), p in pictures.items() if kind == "plate"},
        of_well={str(k): p for (kind, k), p in pictures.items() if kind == "well"},
        channels=list(zip(store.channels, colours, strict=True)),
        has_planes=len(store.channels) <= MAX_PLANES,
        window_px=window_px,
        shown_px=shown_px,
        beside=beside,
    )


def choose_fields(
    manifest: pd.DataFrame, treated: Treated
) -> tuple[dict[int, int], dict[str, int]]:
    """Choose a site of each treatment, and one of the controls of each plate.

    Parameters
    ----------
    manifest
        A row for each site of the store, with a fresh index.
    treated
        The treatments.

    Returns
    -------
    of_treatment : dict
        Site by row of `treated`: the first on a plate with controls, else the first.
    of_plate : dict
        The first site of controls by plate's label.

    Raises
    ------
    Omitted
        The manifest lacks compounds or plates, or has none of the treatments.
    """
    if not {COMPOUND, PLATE} <= set(manifest):
        raise Omitted(f"the store's manifest lacks {COMPOUND} or {PLATE}")
    plates = np.array(plate_labels(manifest), dtype=object)
    is_control = controls_of(manifest)
    chosen = _first_fields(manifest, plates, is_control, treated)
    if not chosen:
        raise Omitted("the store has none of the treatments in profiles.parquet")
    of_plate: dict[str, int] = {}
    for row in np.flatnonzero(is_control).tolist():
        of_plate.setdefault(str(plates[row]), row)
    return chosen, of_plate


def other_wells(manifest: pd.DataFrame, treated: Treated, shown: set[int]) -> dict[str, int]:
    """Choose the first site of each well that isn't shown yet; none where there are many wells.

    Parameters
    ----------
    manifest, treated
        As for :func:`choose_fields`.
    shown
        The sites that are.

    Returns
    -------
    dict
        Site by label of its well.
    """
    wells = well_labels(manifest)
    # What isn't in the profiles is neither a treatment here nor a control.
    is_shown = controls_of(manifest) | (np.array(treated.rows_of(manifest)) >= 0)
    first: dict[str, int] = {}
    for site in np.flatnonzero(is_shown).tolist():
        if well := wells[site]:
            first.setdefault(well, site)
    if len(first) > MAX_WELLS:
        return {}
    known = {wells[site] for site in shown}
    return {well: site for well, site in first.items() if well not in known}


def _first_fields(
    manifest: pd.DataFrame,
    plates: NDArray[np.object_],
    is_control: NDArray[np.bool_],
    treated: Treated,
) -> dict[int, int]:
    """Choose a site of each treatment."""
    with_controls = set(plates[is_control])
    has = np.array([plate in with_controls for plate in plates], dtype=bool)
    keys = [name for name in (COMPOUND, CONCENTRATION) if name in manifest]
    ordered = manifest[keys].iloc[np.argsort(~has, kind="stable")]
    first = ordered[~is_control[ordered.index]].drop_duplicates()
    site_of = dict(zip(keys_of(first), first.index.tolist(), strict=True))
    return {
        row: site_of[key] for row, key in enumerate(treated.keys[:MAX_TREATMENTS]) if key in site_of
    }


def contrast_of(
    store: Fields,
    sites: NDArray[np.intp],
    *,
    percentiles: tuple[float, float] = STRETCH_PERCENTILES,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Take the bounds of each channel, from a few fields taken together.

    Parameters
    ----------
    store
        An open store.
    sites
        Rows of its manifest; at most :data:`FIELDS_FOR_CONTRAST` of them are read.
    percentiles
        Of the counts, for the lower and the upper bound.

    Returns
    -------
    low, high : ndarray
        (C, 1, 1) each.
    """
    spread = np.linspace(0, len(sites) - 1, min(FIELDS_FOR_CONTRAST, len(sites)))
    several = [middle(np.asarray(store[int(sites[n])])) for n in spread.astype(int)]
    flat = np.concatenate([each.reshape(len(each), -1) for each in several], axis=1)
    low, high = np.percentile(flat, percentiles, axis=1)
    return low[:, None, None], high[:, None, None]


def _image(
    store: Fields, site: int, low: NDArray[np.float64], high: NDArray[np.float64]
) -> Image.Image:
    pixels = middle(np.asarray(store[site]))
    shares = np.clip((pixels - low) / np.where(high > low, high - low, np.inf), 0.0, 1.0)
    if len(pixels) > MAX_PLANES:
        colours = np.array(channel_colours(store.channels))
        planes = np.einsum("chw,cr->hwr", shares, colours)
    else:
        planes = np.zeros((*pixels.shape[1:], MAX_PLANES))
        planes[..., : len(pixels)] = np.moveaxis(shares, 0, -1)
    frame = Image.fromarray((255 * np.clip(planes, 0.0, 1.0)).round().astype(np.uint8))
    frame.thumbnail((MAX_PX, MAX_PX))
    return frame


def _placed(
    frames: Mapping[tuple[str, object], Image.Image], num: int, folder: str
) -> tuple[dict[tuple[str, object], str], int, dict[str, bytes]]:
    """Put pictures into the page, the first ones first, and the rest into a folder beside it."""
    allowed = BASE_BYTES + BYTES_PER_TREATMENT * max(0, num - MANY)
    uris, px = uris_within(frames, allowed, px=(MIN_PX, MAX_PX), quality=QUALITY, are_planes=True)
    beside: dict[str, bytes] = {}
    sizes = np.cumsum([len(uri) for uri in uris.values()])
    for key in list(uris)[int(np.searchsorted(sizes, allowed, side="right")) :]:
        content = jpeg(frames[key], MAX_PX, quality=QUALITY, are_planes=True)
        # Named by content: a page never shows the pictures of another one.
        name = f"{sha256(content).hexdigest()[:16]}.jpg"
        beside[name] = content
        uris[key] = f"{quote(folder)}/{name}"
    return uris, px, beside
