"""The page of `wsdino explore`: parts of the report, with fields that a server draws."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from wsdino.errors import InputError
from wsdino.report.attention import site_place
from wsdino.report.explorer import (
    Places,
    explorer_data,
    pending_level,
    treatment_level,
)
from wsdino.report.html import templates
from wsdino.report.images import STRETCH_PERCENTILES, middle
from wsdino.report.layout import lay_out
from wsdino.report.parts import Shown, sections_of, shared_values, styles_of
from wsdino.report.pictures import (
    MAX_PX,
    Picture,
    Pictures,
    choose_fields,
    other_wells,
    well_labels,
)
from wsdino.report.plot import bokeh_script
from wsdino.report.scale_bar import scale_bar
from wsdino.report.style import channel_colours, hex_colour
from wsdino.report.treated import treated_of
from wsdino.report.viewing import Screen
from wsdino.report.words import encodable
from wsdino.runrecord import Omitted, read_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pandas as pd

    from wsdino.report.explorer import Level
    from wsdino.report.images import Fields
    from wsdino.report.treated import Treated

# The report's sections that the page has beside its explorer.
PARTS = ("lights", "treatments", "compounds", "plates")
# Points of a map of wells or sites: what a browser draws and moves without a pause.
MAX_SERVED = 50_000


def explore_page(
    run: Path, store: Fields, sites: pd.DataFrame | None, *, seed: int = 0
) -> tuple[Screen, str]:
    """Make the page over a run and its store.

    Parameters
    ----------
    run
        Run folder with `profiles.parquet`.
    store
        An open store.
    sites
        Metadata and normalised features of its sites, or None: no neighbours of fields then.
    seed
        Of the maps.

    Returns
    -------
    screen : Screen
        What the page asks about.
    page : str
        HTML.

    Raises
    ------
    InputError
        If the run has no profiles, or the store none of its treatments.
    """
    record = read_run(run)
    try:
        treated = treated_of(record, sites)
    except Omitted as reason:
        raise InputError(f"{run}: can't be explored: {reason}") from reason
    if len(treated) < 2:
        raise InputError(
            f"{run}: can't be explored: profiles.parquet has {len(treated)} treated profiles; a "
            "map needs two"
        )
    places = Places(treated, sites, seed, most=MAX_SERVED)
    maps: dict[str, Callable[[], Level]] = {
        "treatments": lambda: treatment_level(treated, *lay_out(treated.features, seed=seed)),
        **{name: partial(places.level, name) for name in places.names},
    }
    screen = Screen(store, sites, maps)
    screen.prepare()
    try:
        pictures, of_treatment = _pictures(screen, treated)
    except Omitted as reason:
        raise InputError(f"{run}: can't be explored: {reason}") from reason
    what = Shown(
        record=record,
        store=store,
        sites=sites,
        styles=styles_of(record, store),
        seed=seed,
        served=pictures,
    )
    pending = [pending_level(name, treated if name == "treatments" else None) for name in maps]
    pending[0]["sites"] = [of_treatment.get(row, -1) for row in range(len(treated))]
    page = (
        templates()
        .get_template("explore.html")
        .render(
            **shared_values(what, *sections_of(what, PARTS)),
            levels=list(maps),
            data=explorer_data(pending, treated, pictures, what.styles),
            bokeh=bokeh_script(),
            num_sites=f"{len(screen):,}",
            num_beside=0,
            folder="",
            channels=pictures.channels,
            low=STRETCH_PERCENTILES[0],
            high=STRETCH_PERCENTILES[1],
        )
    )
    return screen, encodable(page)


def _pictures(screen: Screen, treated: Treated) -> tuple[Pictures, Mapping[int, int]]:
    """Return the report's choice of fields, addresses instead of pictures, and their sites."""
    of_treatment, of_plate = choose_fields(screen.manifest, treated)
    of_well = other_wells(screen.manifest, treated, {*of_treatment.values(), *of_plate.values()})
    wells, rows = well_labels(screen.manifest), treated.rows_of(screen.manifest)

    def picture(site: int) -> Picture:
        return Picture(
            f"field/{site}?px={MAX_PX}&middle=1",
            site_place(screen.manifest.iloc[site]),
            str(screen.plates[site]),
            scale_bar(float(screen.pixel_sizes[site]), window_px),
            wells[site],
            rows[site],
        )

    # The same part of each field as in a report.
    window_px = middle(np.asarray(screen.store[0])).shape[2]
    plates = {str(screen.plates[site]) for site in (*of_treatment.values(), *of_well.values())}
    channels = screen.store.channels
    pictures = Pictures(
        of_treatment={row: picture(site) for row, site in of_treatment.items()},
        of_plate={plate: picture(site) for plate, site in of_plate.items() if plate in plates},
        of_well={well: picture(site) for well, site in of_well.items()},
        channels=list(zip(channels, map(hex_colour, channel_colours(channels)), strict=True)),
        has_planes=False,
        window_px=window_px,
        shown_px=MAX_PX,
    )
    return pictures, of_treatment
