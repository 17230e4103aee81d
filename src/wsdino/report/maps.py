"""The section with the map of treatments: a drawing, and the explorer where scripts run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsdino.report.explorer import (
    Places,
    explorer_data,
    treatment_level,
    with_fields,
)
from wsdino.report.figures import MAX_TIPS, scatter_svg
from wsdino.report.layout import MIN_FOR_UMAP, lay_out
from wsdino.report.plot import bokeh_script
from wsdino.runrecord import Omitted

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from wsdino.report.pictures import Pictures
    from wsdino.report.style import MoaStyle
    from wsdino.report.treated import Treated


def treatment_map(
    treated: Treated,
    pictures: Pictures | None,
    sites: pd.DataFrame | None,
    styles: Mapping[str, MoaStyle],
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Show the treatments in two dimensions, and wells and sites where scripts run.

    Parameters
    ----------
    treated
        The treatments.
    pictures
        Their pictures, or None.
    sites
        Metadata and normalised features of the screen's sites, or None.
    styles
        Colour and shape by mechanism.
    seed
        Of the layout.

    Raises
    ------
    Omitted
        There is one treatment only.
    """
    if len(treated) < 2:
        raise Omitted(f"profiles.parquet has {len(treated)} treated profiles; a map needs two")
    points, method = lay_out(treated.features, seed=seed)
    wrong = [key in treated.wrong for key in treated.keys]
    places = Places(treated, sites, seed)
    levels = [treatment_level(treated, points, method), *map(places.level, places.names)]
    return {
        "svg": scatter_svg(points, treated.moas, treated.names, wrong, styles, method=method),
        "method": method,
        "min_for_umap": MIN_FOR_UMAP,
        "seed": seed,
        "num": len(treated),
        "any_wrong": any(wrong),
        "has_tips": len(treated) <= MAX_TIPS,
        "legend": [(moa, treated.moas.count(moa)) for moa in styles if moa in treated.moas],
        "num_unknown": treated.moas.count(None),
        "levels": [level.name for level in levels],
        "data": explorer_data(
            [with_fields(level, pictures) for level in levels], treated, pictures, styles
        ),
        "bokeh": bokeh_script(),
    }
