"""A screen to look at in full: any field by channel and contrast, and its neighbours."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import InputError
from wsdino.profile.rows import directions, lengths
from wsdino.report.attention import site_place
from wsdino.report.columns import controls_of
from wsdino.report.images import STRETCH_PERCENTILES, middle
from wsdino.report.pictures import contrast_of, plate_labels
from wsdino.report.scale_bar import ScaleBar, scale_bar
from wsdino.report.style import channel_colours
from wsdino.report.treated import keys_of, moas_of
from wsdino.tables.columns import BATCH, COMPOUND, PLATE, SITE, WELL
from wsdino.tables.features import features_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from wsdino.report.explorer import Level
    from wsdino.report.images import Fields

# How a field is scaled.
CONTRASTS = ("plate", "field")
# Whose sites are no neighbours.
APART = ("none", "compound", "plate")
QUALITY = 90
MAX_FOUND = 200
ROWS_AT_ONCE = 65_536
_PLACE = (BATCH, PLATE, WELL, SITE)


@dataclass(frozen=True)
class Look:
    """How to draw a field.

    Attributes
    ----------
    channels
        Positions of the channels to draw, in any order.
    contrast
        `plate`: scaled by the plate's controls (all its wells where it has none), so that fields of
        a plate can be compared; `field`: by the field itself.
    low, high
        Percentiles of the counts that are drawn black and full.
    max_px
        Longer side of the picture; None: every pixel of the field.
    is_middle
        Whether only the middle is drawn, as in a report (:func:`wsdino.report.images.middle`).
    """

    channels: tuple[int, ...]
    contrast: str = "plate"
    low: float = STRETCH_PERCENTILES[0]
    high: float = STRETCH_PERCENTILES[1]
    max_px: int | None = None
    is_middle: bool = False


class Screen:
    """The sites of a store, with their features where there are any.

    Parameters
    ----------
    store
        An open store.
    sites
        Metadata and normalised features of its sites, or of some, or None.
    maps
        Makes the map of each name, when it is first asked for.
    """

    def __init__(
        self,
        store: Fields,
        sites: pd.DataFrame | None,
        maps: Mapping[str, Callable[[], Level]] | None = None,
    ) -> None:
        self.store = store
        self._maps = maps or {}
        self._laid_out: dict[str, dict[str, Any]] = {}
        self._laying_out = Lock()
        self.manifest = store.manifest.reset_index(drop=True)
        self._sites = sites
        self._contrast = lru_cache(maxsize=4096)(self._contrast_of_plate)

    def __len__(self) -> int:
        return len(self.manifest)

    @cached_property
    def plates(self) -> NDArray[np.object_]:
        """(n,) label of each site's plate; empty where the store has none."""
        known = PLATE in self.manifest
        return np.array(plate_labels(self.manifest) if known else [""] * len(self), dtype=object)

    @cached_property
    def is_control(self) -> NDArray[np.bool_]:
        """(n,) which sites are negative controls."""
        return controls_of(self.manifest)

    @cached_property
    def names(self) -> list[str]:
        """Treatment and place of each site, as displayed."""
        known = COMPOUND in self.manifest
        keys = keys_of(self.manifest) if known else [("", "")] * len(self)
        wells = self.manifest[WELL].astype(str) if WELL in self.manifest else [""] * len(self)
        numbers = self.manifest[SITE] if SITE in self.manifest else range(len(self))
        return [
            f"{' '.join(key).strip()}, {plate} {well} site {number}"
            for key, plate, well, number in zip(keys, self.plates, wells, numbers, strict=True)
        ]

    @cached_property
    def compounds(self) -> NDArray[np.object_]:
        """(n,) compound of each site as text."""
        known = COMPOUND in self.manifest
        names = self.manifest[COMPOUND].astype(str) if known else [""] * len(self)
        return np.array(names, dtype=object)

    def draw(self, site: int, look: Look) -> bytes:
        """Draw a field.

        Parameters
        ----------
        site
            Row of the store's manifest.
        look
            Channels and contrast.

        Returns
        -------
        bytes
            A JPEG.

        Raises
        ------
        InputError
            If there is no such site, channel or contrast.
        """
        from PIL import Image

        self._require(site)
        num = len(self.store.channels)
        if not all(0 <= channel < num for channel in look.channels):
            raise InputError(f"channels {look.channels}: the store has 0 to {num - 1}")
        if look.contrast not in CONTRASTS:
            raise InputError(f"contrast {look.contrast!r}: expected {' or '.join(CONTRASTS)}")
        if not 0 <= look.low < look.high <= 100:
            raise InputError(f"percentiles {look.low:g} and {look.high:g}: expected low below high")
        field = np.asarray(self.store[site])
        if look.is_middle:
            field = middle(field)
        if look.contrast == "field":
            bounds = np.percentile(field, (look.low, look.high), axis=(1, 2), keepdims=True)
            low, high = bounds[0], bounds[1]
        else:
            low, high = self._contrast(str(self.plates[site]), look.low, look.high)
        shares = np.clip((field - low) / np.where(high > low, high - low, np.inf), 0.0, 1.0)
        colours = np.array(channel_colours(self.store.channels))
        chosen = list(look.channels)
        mixed = np.einsum("chw,cr->hwr", shares[chosen], colours[chosen], optimize=True)
        frame = Image.fromarray((255 * np.clip(mixed, 0.0, 1.0)).round().astype(np.uint8))
        if look.max_px is not None:
            frame.thumbnail((look.max_px, look.max_px))
        buffer = io.BytesIO()
        frame.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
        return buffer.getvalue()

    def control_of(self, site: int) -> int | None:
        """Return the first control site on a site's plate that isn't the site itself, if any."""
        self._require(site)
        own = self._controls.get(self.plates[site], ())
        return next((row for row in own if row != site), None)

    @cached_property
    def _controls(self) -> dict[str, tuple[int, ...]]:
        """The first two control sites of each plate that has some."""
        rows = pd.Series(np.flatnonzero(self.is_control))
        groups = rows.groupby(self.plates[rows], sort=False)
        return {str(plate): tuple(map(int, own.iloc[:2])) for plate, own in groups}

    def map_of(self, name: str) -> dict[str, Any]:
        """Return a map as JSON, with the row of the manifest of each of its points in `sites`.

        Raises
        ------
        InputError
            If there is no such map.
        """
        if name not in self._maps:
            raise InputError(f"map {name!r}: expected one of {', '.join(self._maps) or 'none'}")
        # Asked for twice it is laid out once.
        with self._laying_out:
            if name not in self._laid_out:
                level = self._maps[name]()
                found = level.as_dict()
                if level.metadata is not None:
                    found["sites"] = self.rows_of(level.metadata)
                self._laid_out[name] = found
            return self._laid_out[name]

    def prepare(self) -> None:
        """Do now what the first question would have to wait for."""
        _ = self._lower, self._controls, self._embedded, self._groups, self.pixel_sizes

    @cached_property
    def _lower(self) -> list[str]:
        return [name.lower() for name in self.names]

    @cached_property
    def _groups(self) -> dict[str, NDArray[np.intp]]:
        """(n,) number of what a site shares with others, by name in :data:`APART`."""
        shared = {"compound": self.compounds, "plate": self.plates}
        return {name: pd.factorize(values)[0] for name, values in shared.items()}

    @cached_property
    def _width(self) -> int:
        """Of a field, in pixels."""
        return int(np.asarray(self.store[0]).shape[2])

    def bar_of(self, site: int) -> ScaleBar | None:
        """Return the scale bar of a whole field, where the width of a pixel is known."""
        return scale_bar(float(self.pixel_sizes[site]), self._width)

    @cached_property
    def pixel_sizes(self) -> NDArray[np.float64]:
        """(n,) width of a pixel of each site in micrometres; NaN: unknown."""
        return np.asarray(self.store.pixel_sizes, dtype=np.float64)

    def describe(self, site: int) -> dict[str, Any]:
        """Tell what is known of a site.

        Parameters
        ----------
        site
            Row of the store's manifest.

        Returns
        -------
        dict
            `site`, `name`, `place`, `plate`, `moa`; `control`, the site of controls beside it;
            `bar` and `control_bar`, label and width of the scale bars of both, or None.
        """
        self._require(site)
        row = self.manifest.iloc[[site]]
        control = self.control_of(site)
        return {
            "site": site,
            "name": self.names[site],
            "place": site_place(self.manifest.iloc[site]),
            "plate": str(self.plates[site]),
            "moa": moas_of(row)[0],
            "control": control,
            "bar": _drawn(self.bar_of(site)),
            "control_bar": None if control is None else _drawn(self.bar_of(control)),
        }

    def find(self, text: str) -> list[dict[str, Any]]:
        """List up to :data:`MAX_FOUND` sites whose name contains a text, whatever its case."""
        words = text.strip().lower()
        rows = (row for row, name in enumerate(self._lower) if words in name)
        found = [row for row, _ in zip(rows, range(MAX_FOUND), strict=False)] if words else []
        return [{"site": row, "name": self.names[row]} for row in found]

    def neighbours(self, site: int, *, num: int = 10, apart: str = "none") -> list[dict[str, Any]]:
        """List the most similar sites of the whole screen.

        Parameters
        ----------
        site
            Row of the store's manifest.
        num
            How many.
        apart
            `compound` or `plate`: sites that share it are left out; `none`.

        Returns
        -------
        list of dict
            As :meth:`describe`, with `cosine`, the most similar first; of equal ones the earlier.

        Raises
        ------
        InputError
            If there is no such site, or it has no features but zeros.
        """
        self._require(site)
        if apart not in APART:
            raise InputError(f"apart {apart!r}: expected one of {', '.join(APART)}")
        rows, unit = self._embedded
        found = np.flatnonzero(rows == site)
        if not len(found):
            raise InputError(f"site {site} has no features, or all of them are zero")
        query, kept = unit[found[0]], []
        group = self._groups.get(apart)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            own = rows[start : start + ROWS_AT_ONCE]
            similar = unit[start : start + len(own)] @ query
            out = own == site
            if group is not None:
                out |= group[own] == group[site]
            similar[out] = -np.inf
            order = np.argsort(-similar, kind="stable")[:num]
            kept += [
                (-float(similar[at]), int(own[at])) for at in order if np.isfinite(similar[at])
            ]
        return [self.describe(row) | {"cosine": -value} for value, row in sorted(kept)[:num]]

    def rows_of(self, metadata: pd.DataFrame) -> list[int]:
        """Find sites by batch, plate, well and site number.

        Parameters
        ----------
        metadata
            n rows.

        Returns
        -------
        list of int
            Row of the manifest of each; -1 where the store doesn't have it.
        """
        columns = [name for name in _PLACE if name in metadata and name in self.manifest]
        row_of = {
            key: row for row, key in reversed(list(enumerate(_texts(self.manifest, columns))))
        }
        return [row_of.get(key, -1) for key in _texts(metadata, columns)]

    @cached_property
    def _embedded(self) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """Sites with features that aren't all zero, and these at length one."""
        if self._sites is None:
            return np.empty(0, dtype=np.intp), np.empty((0, 0), dtype=np.float32)
        features = features_of(self._sites, dtype=None)
        norms, unit = lengths(features), np.empty(features.shape, dtype=np.float32)
        for start in range(0, len(unit), ROWS_AT_ONCE):
            some = slice(start, start + ROWS_AT_ONCE)
            unit[some] = directions(features[some], norms[some])
        rows = np.array(self.rows_of(self._sites), dtype=np.intp)
        known = (rows >= 0) & (norms > 0)
        return (rows, unit) if known.all() else (rows[known], unit[known])

    def _contrast_of_plate(
        self, plate: str, low: float, high: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        own = np.flatnonzero(self.plates == plate)
        controls = own[self.is_control[own]]
        chosen = controls if len(controls) else own
        return contrast_of(self.store, chosen, percentiles=(low, high))

    def _require(self, site: int) -> None:
        if not 0 <= site < len(self):
            raise InputError(f"site {site}: the store has the sites 0 to {len(self) - 1}")


def _drawn(bar: ScaleBar | None) -> list[str] | None:
    """Label of a scale bar, and its width in a style sheet."""
    return None if bar is None else [bar.label, bar.width]


def _texts(frame: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*(frame[name].astype(str) for name in columns), strict=True))
