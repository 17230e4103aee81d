"""Screens with randomised biology, optics and stains, for pretraining a backbone on.

Nothing here is one of the twelve mechanisms of :mod:`.phenotypes`: cell lines, phenotypes, stains
and microscopes are drawn at random, wider than one screen varies, so that a network that tells
such phenotypes apart has use for any stain ("domain randomisation", arXiv 1703.06907).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import tifffile
from scipy.ndimage import zoom as resample

from wsdino.atomic import sweep, writing, writing_buffered
from wsdino.device import num_cpus
from wsdino.errors import InputError
from wsdino.lock import one_writer
from wsdino.progress import Meter
from wsdino.tables.parquet import write_parquet

from .cells import draw, seed_cells
from .difficulty import Difficulty
from .keys import generator
from .layouts import CONTROL
from .optics import Optics, expose
from .phenotypes import Compound
from .plates import Site, describe_sites
from .render import add_artefacts
from .traits import INDEX, NAMES, SPREAD, TRAITS, apply_effects
from .workers import drawing, leave_if_starting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Vector = NDArray[np.float64]

CHANNEL, STAINS = "Stain", ("a", "b", "c")
MANIFEST = "manifest.parquet"
FILE = [f"PathName_{CHANNEL}", f"FileName_{CHANNEL}"]
PLATES = ("1", "2")
WELLS_A_ROW = 12
# Traits whose log changes, and others relative to the range that is still biology.
LOG_CHANGE, LINEAR_CHANGE = (0.2, 0.6), (0.3, 0.9)
CHANGED_TRAITS = (6, 16)  # of a phenotype, at least and less than
PENETRANCE = (0.7, 1.0)
# What the screens' own draws are relative to; a test holds it, for the starter was pretrained on
# screens that were drawn so. A phenotype has no batches to respond in: each screen is one.
USUAL = replace(
    Difficulty.of(["hard"]), batch_biology=0.6, batch_response=0.0, compound_staining=1.2
)
NUISANCE = (0.2, 1.0)  # of batches, plates and wells, relative to the usual
CELL_LINE = 1.5  # how far cell lines differ, in units of the traits' natural spread
ZOOM = (0.7, 1.7)
SQUEEZE, SQUEEZED = (0.75, 1.0), 0.3  # of the x axis; share of the screens
MIXED = 0.35  # share of the stains that show two structures
GAMMA = 0.25  # standard deviation of the log exponent of a stain's intensity


@dataclass(frozen=True)
class RandomScreen:
    """One screen: a cell line, a microscope, three stains, and phenotypes nobody has named.

    Parameters
    ----------
    number
        Of the screen.
    seed
        Of all screens.
    size
        Edge of a field, pixels.
    phenotypes
        Effects of each phenotype (P, T), the first is untreated.
    penetrance
        Share of the cells that respond (P,).
    line
        How the cell line differs from the standard one (T,), as effects.
    difficulty
        How its plates and wells differ.
    zoom, squeeze
        Magnification, and by how much fields are narrowed along x.
    mixing
        (3, 3): which structures (DNA, tubulin, actin) each stain shows.
    gamma
        (3,) exponents of the stains' intensities.
    """

    number: int
    seed: int
    size: int
    phenotypes: Vector
    penetrance: Vector
    line: Vector
    difficulty: Difficulty
    zoom: float
    squeeze: float
    mixing: Vector
    gamma: Vector


def draw_screen(number: int, *, seed: int, size: int, num_phenotypes: int) -> RandomScreen:
    """Draw all that belongs to one screen from its number and the seed."""
    rng = generator(seed, "randomised screen", number)
    technical = {
        field.name: getattr(USUAL, field.name) * rng.uniform(*NUISANCE)
        for field in fields(Difficulty)
        if field.name != "batch_response"
        and (field.name.startswith(("batch_", "plate_", "well_")) or field.name.endswith("_rate"))
    }
    mixing = np.eye(3)[rng.permutation(3)]
    for row in range(3):
        if rng.random() < MIXED:
            share = rng.uniform(0.15, 0.5)
            mixing[row] = (1 - share) * mixing[row] + share * np.eye(3)[rng.integers(3)]
    return RandomScreen(
        number=number,
        seed=seed,
        size=size,
        phenotypes=np.stack(
            [np.zeros(len(NAMES)), *(_phenotype(rng) for _ in range(num_phenotypes - 1))]
        ),
        penetrance=rng.uniform(*PENETRANCE, num_phenotypes),
        line=CELL_LINE * SPREAD * rng.standard_normal(len(NAMES)),
        difficulty=replace(USUAL, **technical),
        zoom=float(np.exp(rng.uniform(*np.log(ZOOM)))),
        squeeze=float(rng.uniform(*SQUEEZE)) if rng.random() < SQUEEZED else 1.0,
        mixing=mixing,
        gamma=np.exp(GAMMA * rng.standard_normal(3)),
    )


def _phenotype(rng: np.random.Generator) -> Vector:
    """Draw the effects (T,) of a phenotype: several traits, each up or down."""
    effects = np.zeros(len(NAMES))
    for name in rng.choice(NAMES, rng.integers(*CHANGED_TRAITS), replace=False):
        trait = TRAITS[name]
        change = (
            rng.uniform(*LOG_CHANGE)
            if trait.log
            else rng.uniform(*LINEAR_CHANGE) * (trait.high - trait.low)
        )
        # What is near its lower bound can only rise.
        room = (trait.base - trait.low) / (trait.high - trait.low)
        up = rng.random() < 0.5 or (not trait.log and room < 0.2)
        effects[INDEX[name]] = change if up else -change
    return effects


def screen_sites(screen: RandomScreen, *, fields_per_plate: int) -> list[tuple[int, Site]]:
    """Draw the parameters of all fields of a screen: (phenotype, site), plate by plate."""
    num = len(screen.phenotypes)
    batch = f"R{screen.number:04d}"
    table = pd.DataFrame(
        [
            (batch, f"{batch}_{plate}", _well(k), site, f"P{k:02d}" if k else CONTROL, 1.0, None)
            for plate in PLATES
            for k in range(num)
            for site in range(1, fields_per_plate + 1)
        ],
        columns=["batch", "plate", "well", "site", "compound", "concentration", "moa"],
    )
    described = describe_sites(table, screen.difficulty, seed=screen.seed, size=screen.size)
    phenotypes = np.repeat(np.tile(np.arange(num), len(PLATES)), fields_per_plate)
    return [
        (
            int(k),
            replace(
                site,
                compound=Compound(f"P{k:02d}", None, 1.0, screen.phenotypes[k]),
                penetrance=float(screen.penetrance[k]),
                strength=1.0,
                traits=apply_effects(site.traits, screen.line),
            ),
        )
        for k, site in zip(phenotypes, described, strict=True)
    ]


def _well(number: int) -> str:
    return f"{'ABCDEFGH'[number // WELLS_A_ROW]}{number % WELLS_A_ROW + 1:02d}"


def render_randomised(screen: RandomScreen, site: Site) -> NDArray[np.uint16]:
    """Render one field of a screen: uint16 (3, size, size), its three stains."""
    rng = generator(screen.seed, "randomised site", *site.key)
    assert site.compound is not None
    # A field that is narrowed later is drawn wider, so that it ends up square.
    drawn = round(screen.size / screen.squeeze)
    culture = seed_cells(
        site.traits,
        site.compound.effects,
        penetrance=site.penetrance,
        strength=site.strength,
        size=drawn,
        zoom=screen.zoom,
        rng=rng,
    )
    stains = draw(culture, drawn, rng)
    add_artefacts(stains, site, screen.zoom, rng)
    stains = stains[:, : screen.size]
    if drawn != screen.size:
        stains = resample(
            stains, (1, 1, screen.size / drawn), order=1, grid_mode=True, mode="nearest"
        )
    shown = np.tensordot(screen.mixing, stains, axes=1)
    shown = np.maximum(shown, 0) ** screen.gamma[:, None, None]
    return expose(shown.astype(np.float32), _magnified(site.optics, screen.zoom), rng)


def _magnified(optics: Optics, zoom: float) -> Optics:
    """Spread the point over more pixels where the image is larger."""
    a, b, c = (width * max(zoom, 1.0) ** 0.5 for width in optics.blur)
    return replace(optics, blur=(a, b, c))


def simulate_randomised(
    out: str | Path,
    *,
    num_screens: int,
    num_phenotypes: int = 32,
    fields_per_plate: int = 3,
    size: int = 192,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Write randomised screens: one-channel fields, a manifest that ``wsdino ingest`` reads.

    Every stain of every screen is a batch of its own (`Metadata_Batch`) with two plates, and its
    phenotypes are compounds that occur nowhere else. The same arguments give the same files,
    whatever the number of workers, and a run that was stopped goes on where it was; the manifest is
    written last.

    Parameters
    ----------
    out
        Folder to write: a folder for each plate and stain, with a TIFF for each field.
    num_screens, num_phenotypes, fields_per_plate
        Screens, phenotypes in each (the first is untreated; at most 96), fields of each phenotype
        on each of the two plates.
    size
        Edge of the square fields, pixels.
    seed
        Of everything that is drawn.
    workers
        Processes; None: one for each CPU that may be used.

    Returns
    -------
    pathlib.Path
        The manifest.

    Raises
    ------
    InputError
        A number is out of range.
    """
    leave_if_starting()
    for name, value, low, high in (
        ("num_screens", num_screens, 1, 9999),
        ("num_phenotypes", num_phenotypes, 2, 8 * WELLS_A_ROW),
        ("fields_per_plate", fields_per_plate, 1, 999),
        ("size", size, 32, 4096),
    ):
        if not low <= value <= high:
            raise InputError(f"{name}: {value}; give {low} to {high}")
    folder = Path(out)
    options = {"seed": seed, "size": size, "num_phenotypes": num_phenotypes}
    with one_writer(folder):
        sweep(folder)
        return _write_screens(folder, num_screens, options, fields_per_plate, workers)


def _write_screens(
    folder: Path,
    num_screens: int,
    options: dict[str, int],
    fields_per_plate: int,
    workers: int | None,
) -> Path:
    with (
        Meter("randomised screens", num_screens) as meter,
        drawing(workers or num_cpus()) as pool,
    ):
        jobs = [
            pool.submit(_write_screen, folder, number, options, fields_per_plate)
            for number in range(num_screens)
        ]
        tables = []
        for job in jobs:
            tables.append(job.result())
            meter.advance()
    path = folder / MANIFEST
    with writing(path) as partial:
        write_parquet(pd.concat(tables, ignore_index=True), partial)
    return path


def _write_screen(
    folder: Path, number: int, options: dict[str, int], fields_per_plate: int
) -> pd.DataFrame:
    """Write a screen's files, those that are there already left alone; return its manifest."""
    screen = draw_screen(number, **options)
    sites = screen_sites(screen, fields_per_plate=fields_per_plate)
    tables: list[pd.DataFrame] = []
    for plate in PLATES:
        own = [(k, site) for k, site in sites if site.key[0].endswith(f"_{plate}")]
        for stain in STAINS:
            (folder / f"R{number:04d}{stain}_{plate}").mkdir(exist_ok=True)
        rows = {stain: _rows(number, stain, plate, own) for stain in STAINS}
        for place, (_, site) in enumerate(own):
            paths = [folder.joinpath(*rows[stain].loc[place, FILE]) for stain in STAINS]
            if all(path.exists() for path in paths):
                continue
            for path, image in zip(paths, render_randomised(screen, site), strict=True):
                with writing_buffered(path) as buffer:
                    tifffile.imwrite(buffer, image, photometric="minisblack", metadata=None)
        tables += rows.values()
    return pd.concat(tables)


def _rows(number: int, stain: str, plate: str, own: list[tuple[int, Site]]) -> pd.DataFrame:
    batch = f"R{number:04d}{stain}"
    return pd.DataFrame(
        {
            "Metadata_Plate": f"{batch}_{plate}",
            "Metadata_Well": [site.key[1] for _, site in own],
            "Metadata_Site": [site.key[2] for _, site in own],
            "Metadata_Batch": batch,
            "Metadata_Compound": [f"{batch}_P{k:02d}" for k, _ in own],
            "Metadata_Concentration": 1.0,
            "Metadata_MoA": None,
            "Metadata_Control": False,
            f"PathName_{CHANNEL}": f"{batch}_{plate}",
            f"FileName_{CHANNEL}": [f"{site.key[1]}_s{site.key[2]}.tif" for _, site in own],
        }
    )
