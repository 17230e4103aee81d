"""Variation between batches, plates and wells.

Every effect is drawn from a generator with its own key, so that for a given seed it doesn't depend
on what else is on the plates.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .handling import ROW, SHAPE, STAINING_ROWS, handling_of
from .keys import generator
from .layouts import CHANNELS, CONTROL
from .optics import Optics
from .phenotypes import Compound, hill, make_compound
from .traits import BASE, INDEX, NAMES, SPREAD, apply_effects

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .difficulty import Difficulty

    Vector = NDArray[np.float64]

EDGE_ROWS, EDGE_COLUMNS = "ABGH", (1, 2, 11, 12)  # outermost wells in use, and the unused rim
SHADE = (0.0, 0.0, 0.25)  # slopes along y and x, fall towards the corners
DEFOCUS = (1.5, 3.5)  # additional blur of a field out of focus, pixels


@dataclass(frozen=True)
class Site:
    """All parameters of one field.

    Parameters
    ----------
    key
        Names the site's own random numbers.
    compound
        None for a control.
    activity
        Of the compound at this concentration, in [0, 1].
    penetrance, strength
        Probability that a cell responds, and how strongly.
    traits
        The well's cells before treatment (T,).
    optics
        How the field is imaged.
    debris
        Number of bits of debris.
    precipitate
        Number of crystals of unbound stain in each channel.
    """

    key: tuple[str, str, int]
    compound: Compound | None
    activity: float
    penetrance: float
    strength: float
    traits: Vector
    optics: Optics
    debris: int
    precipitate: tuple[int, int, int] = (0, 0, 0)


def describe_sites(
    layout: pd.DataFrame, difficulty: Difficulty, *, seed: int, size: int
) -> list[Site]:
    """Draw the parameters of every site of a layout, in its order."""
    compounds = _compounds(layout, difficulty, seed)
    batches = {name: _technical(seed, "batch", name) for name in layout["batch"].unique()}
    plates = {name: _technical(seed, "plate", name) for name in layout["plate"].unique()}
    responding = _responding(layout, compounds, difficulty, seed)
    sites = []
    wells: dict[tuple[str, str], _Draws] = {}
    for row in layout.to_dict("records"):
        place = (row["plate"], row["well"])
        if place not in wells:
            wells[place] = _technical(seed, "well", *place)
        levels = (batches[row["batch"]], plates[row["plate"]], wells[place])
        edge = difficulty.edge * _is_edge(place[1])
        compound = responding.get((row["batch"], row["compound"]))
        activity = hill(row["concentration"], compound.ec50) if compound else 0.0
        rng = generator(seed, "artefacts", *place, row["site"])
        defocus = rng.uniform(*DEFOCUS) if rng.random() < difficulty.defocus_rate else 0.0
        area = (size / 256) ** 2
        debris = int(rng.poisson(difficulty.debris_rate * area))
        handling = _well_handling(levels, difficulty)
        if compound:
            handling += activity * compound.handling
        values = handling_of(handling)
        crystals = rng.poisson(values[ROW["precipitate"]] * area * difficulty.precipitate)
        sites.append(
            Site(
                key=(*place, row["site"]),
                compound=compound,
                activity=activity,
                penetrance=difficulty.penetrance * activity,
                strength=0.4 + 0.6 * activity if activity > 0 else 0.0,
                traits=_well_traits(levels, edge, difficulty),
                optics=_well_optics(values, levels[1].shade, edge, defocus, difficulty),
                debris=debris,
                precipitate=(int(crystals[0]), int(crystals[1]), int(crystals[2])),
            )
        )
    return sites


def truth_table(layout: pd.DataFrame, sites: list[Site]) -> pd.DataFrame:
    """Return the ground truth of each site, in the layout's order.

    Returns
    -------
    pandas.DataFrame
        The manifest's ``Metadata_`` columns; ``activity``, ``penetrance``, ``strength``,
        ``ec50`` (null for controls), ``debris``; ``optics_<name>_<channel>``;
        ``trait_<name>``, the well's untreated cells; ``effect_<name>``, what a fully responding
        cell changes by.
    """
    columns: dict[str, object] = {
        f"Metadata_{name}": layout[source].to_numpy()
        for name, source in (
            ("Plate", "plate"), ("Well", "well"), ("Site", "site"), ("Batch", "batch"),
            ("Compound", "compound"), ("Concentration", "concentration"), ("MoA", "moa"),
        )
    }  # fmt: skip
    columns["Metadata_Control"] = [site.compound is None for site in sites]
    for name in ("activity", "penetrance", "strength", "debris"):
        columns[name] = [getattr(site, name) for site in sites]
    columns["ec50"] = [site.compound.ec50 if site.compound else np.nan for site in sites]
    for name in ("blur", "gain", "background", "haze", "saturation"):
        for index, channel in enumerate(CHANNELS):
            columns[f"optics_{name}_{channel}"] = [getattr(s.optics, name)[index] for s in sites]
    for index, channel in enumerate(CHANNELS):
        columns[f"precipitate_{channel}"] = [site.precipitate[index] for site in sites]
        for name in ("mottle", "texture", "bleed", "shade"):
            parts = np.array([getattr(site.optics, name)[index] for site in sites])
            for part, values in enumerate(parts.T):
                columns[f"optics_{name}{part}_{channel}"] = values
    traits = np.stack([site.traits for site in sites])
    none = np.zeros(len(NAMES))
    effects = np.stack([site.compound.effects if site.compound else none for site in sites])
    for name, index in INDEX.items():
        columns[f"trait_{name}"] = traits[:, index]
        columns[f"effect_{name}"] = effects[:, index]
    return pd.DataFrame(columns)


@dataclass(frozen=True)
class _Draws:
    """Standard normal draws that belong to one batch, plate or well."""

    traits: Vector
    density: float
    handling: Vector
    shade: Vector


def _technical(seed: int, *key: str) -> _Draws:
    rng = generator(seed, *key)
    # focus is shared by the channels, but for the lens's colour
    focus = rng.standard_normal()
    draws = _Draws(
        traits=rng.standard_normal(len(NAMES)),
        density=rng.standard_normal(),
        handling=rng.standard_normal(SHAPE),
        shade=rng.standard_normal((3, 3)),
    )
    draws.handling[ROW["blur"]] = 0.85 * focus + 0.5 * draws.handling[ROW["blur"]]
    return draws


def _compounds(layout: pd.DataFrame, difficulty: Difficulty, seed: int) -> dict[str, Compound]:
    compounds = {}
    for name, rows in layout[layout["compound"] != CONTROL].groupby("compound"):
        known = rows[rows["moa"].notna()]
        # a compound without any annotation has no known active concentration: take its highest
        active = known["concentration"] if len(known) else rows["concentration"].nlargest(1)
        compounds[str(name)] = make_compound(
            str(name),
            str(known["moa"].iloc[0]) if len(known) else None,
            sorted(set(active)),
            seed=seed,
            effect=difficulty.effect,
            lean=difficulty.lean,
            signature=difficulty.signature,
            density=difficulty.compound_density,
            staining=difficulty.compound_staining,
        )
    return compounds


def _responding(
    layout: pd.DataFrame, compounds: dict[str, Compound], difficulty: Difficulty, seed: int
) -> dict[tuple[str, str], Compound]:
    """Return the compounds as the cells of each batch respond to them."""
    factors = {}
    for batch in layout["batch"].unique():
        draws = generator(seed, "response", batch).standard_normal(len(NAMES))
        factors[batch] = np.exp(difficulty.batch_response * draws)
    pairs = layout.loc[layout["compound"].isin(compounds), ["batch", "compound"]].drop_duplicates()
    return {
        (batch, name): replace(compounds[name], effects=compounds[name].effects * factors[batch])
        for batch, name in pairs.itertuples(index=False)
    }


def _is_edge(well: str) -> bool:
    return well[0] in EDGE_ROWS or int(well[1:]) in EDGE_COLUMNS


def _well_traits(
    levels: tuple[_Draws, _Draws, _Draws], edge: float, difficulty: Difficulty
) -> Vector:
    batch, plate, well = levels
    d = difficulty
    effects = SPREAD * (
        d.batch_biology * batch.traits
        + d.plate_biology * plate.traits
        + d.well_biology * well.traits
    )
    effects[INDEX["density"]] = (
        d.batch_density * batch.density
        + d.plate_density * plate.density
        + d.well_density * well.density
        - 0.15 * edge
    )
    effects[INDEX["cell_radius"]] -= 0.03 * edge
    return apply_effects(BASE, effects)


def _well_handling(levels: tuple[_Draws, _Draws, _Draws], difficulty: Difficulty) -> Vector:
    """Add up what batch, plate and well do to staining and imaging, of handling's shape."""
    d = difficulty
    weights = np.zeros((len(levels), SHAPE[0], 1))
    weights[:, STAINING_ROWS, 0] = np.array(
        [[d.batch_staining], [d.plate_staining], [d.well_staining]]
    )
    weights[:, ROW["gain"], 0] = d.batch_gain, d.plate_gain, d.well_gain
    weights[:, ROW["blur"], 0] = d.batch_blur, d.plate_blur, d.well_blur
    weights[:, ROW["background"], 0] = d.batch_background, d.plate_background, d.well_background
    total: Vector = (weights * np.stack([level.handling for level in levels])).sum(axis=0)
    return total


def _well_optics(
    values: Vector, shade: Vector, edge: float, defocus: float, difficulty: Difficulty
) -> Optics:
    def of(name: str) -> Vector:
        row: Vector = values[ROW[name]]
        return row

    def rows(*names: str) -> Vector:
        return np.stack([of(name) for name in names], axis=1)

    gain = of("gain") * (1, 1, np.exp(-0.1 * edge))
    shades = np.array(SHADE) + difficulty.plate_shade * shade
    return Optics(
        blur=_three(np.hypot(of("blur"), defocus)),
        gain=_three(gain),
        background=_three(of("background")),
        haze=_three(of("haze")),
        saturation=_three(of("saturation")),
        shade=tuple(_three(row) for row in shades),
        mottle=tuple(
            (float(fine), float(coarse))
            for fine, coarse in difficulty.mottle * rows("mottle_fine", "mottle_coarse")
        ),
        texture=tuple(
            _three(row)
            for row in difficulty.texture * rows("texture_fine", "texture_medium", "texture_coarse")
        ),
        bleed=tuple(
            (float(after), float(last))
            for after, last in difficulty.bleed * rows("bleed_next", "bleed_last")
        ),
    )


def _three(values: Vector) -> tuple[float, float, float]:
    a, b, c = (float(value) for value in values)
    return a, b, c
