"""The map of treatments, wells and sites: its data, and its plot in Bokeh."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from wsdino.errors import TableError
from wsdino.evaluate.confounders import DENSITY, cells_of
from wsdino.evaluate.doses import distances_to_controls
from wsdino.evaluate.wells import Wells, well_keys, wells_of
from wsdino.report.columns import Column, metadata_columns, numbers
from wsdino.report.layout import lay_out_many
from wsdino.report.pictures import plate_labels, well_labels
from wsdino.report.plot import map_plot
from wsdino.report.style import COLOURS, MARKERS, ramp
from wsdino.report.treated import keys_of
from wsdino.tables.columns import COMPOUND, PLATE, SITE, WELL
from wsdino.tables.features import features_of, metadata_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wsdino.report.pictures import Picture, Pictures
    from wsdino.report.style import MoaStyle
    from wsdino.report.treated import Treated

# Of more wells or sites some are drawn: laying them out takes minutes, and a file megabytes.
MAX_POINTS = 4_000
# Coordinates are whole numbers from 0 to this.
EXTENT = 10_000


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
    wells
        Label of each one's well (:func:`wsdino.report.pictures.well_labels`); empty for treatments.
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
    wells: Sequence[str] = ()
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
        known = self.sites
        if self._num_known < len(known):
            known = known[known[COMPOUND].notna()]
        measured = _with_density(metadata_of(known))
        if name == "wells":
            own, distance = self._wells, _with_distance(self._wells)
            return self._level(name, own.metadata, _of_wells(measured), own.features, distance)
        return self._level(name, measured, measured, features_of(known, dtype=None), None)

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
        described: pd.DataFrame,
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
        columns = metadata_columns(described.iloc[rows].reset_index(drop=True))
        if distance is not None:
            columns.append(numbers(self.treated.well_distance, distance[rows].tolist()))
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
            self.treated.rows_of(shown),
            columns,
            " ".join(notes),
            well_labels(shown),
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


def _with_density(sites: pd.DataFrame) -> pd.DataFrame:
    """Add each row's number of cells, or how much of its field is foreground, if known."""
    density = cells_of(sites)
    return sites if density is None else sites.assign(**{DENSITY: density})


def _of_wells(sites: pd.DataFrame) -> pd.DataFrame:
    """Describe each well by its sites, in order of first appearance.

    Of numbers that differ from site to site it has the mean; of anything else that does, nothing.
    """
    groups = sites.groupby(well_keys(sites), sort=False, dropna=False)
    found = groups.head(1).reset_index(drop=True)
    for name in map(str, sites.columns.difference([*well_keys(sites), SITE], sort=False)):
        own = sites[name]
        if pd.api.types.is_numeric_dtype(own) and not pd.api.types.is_bool_dtype(own):
            found[name] = groups[name].mean().to_numpy()
            continue
        try:
            is_one = bool((groups[name].nunique() <= 1).all())
        except TypeError:  # cells that can't be compared, such as lists
            is_one = False
        # Whoever knows it of one site knows it of the well.
        found[name] = groups[name].first().to_numpy() if is_one else None
    return found.drop(columns=SITE, errors="ignore")


def _with_distance(wells: Wells) -> NDArray[np.float64] | None:
    distance, _ = distances_to_controls(wells)
    return distance if np.isfinite(distance).any() else None


def with_fields(level: Level, pictures: Pictures | None) -> dict[str, Any]:
    """Return a map as JSON for the page, with the picture of each point's own well.

    Its `fields` are the ids of elements of the page, null where the well has no picture.
    """
    found = level.as_dict()
    if pictures is None or not pictures.of_well:
        return found
    id_of = {well: id_ for id_, _, well in _fields(pictures)}
    return found | {"fields": [id_of.get(well) for well in level.wells]}


def _fields(pictures: Pictures) -> list[tuple[str, Picture, str]]:
    """List the pictures of the page with their ids, the same as in its compounds, and wells."""
    found = [(f"well-{n}", picture) for n, picture in enumerate(pictures.of_well.values())]
    found += [(f"control-{n}", picture) for n, picture in enumerate(pictures.of_plate.values())]
    found += [(f"picture-{row}", picture) for row, picture in pictures.of_treatment.items()]
    return [(id_, picture, picture.well) for id_, picture in found]


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
        Their pictures; the page has them as elements `picture-<row>`, `control-<number>` and
        `well-<number>`.
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
        "plot": map_plot(EXTENT),
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
        "fields": {
            id_: [picture.place, number_of.get(picture.plate, -1)]
            for id_, picture, _ in (_fields(pictures) if pictures and pictures.of_well else [])
        },
        "plates": plates,
        "palette": COLOURS,
        "shapes": list(MARKERS.values()),
        "ramp": ramp(),
    }  # fmt: skip
