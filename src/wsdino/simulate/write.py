"""A simulated screen as a folder in BBBC021's own layout."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
import tifffile

from wsdino.atomic import sweep, visible, write_text, writing, writing_buffered
from wsdino.device import num_cpus
from wsdino.errors import InputError, OutputError
from wsdino.lock import one_writer
from wsdino.outside import read_json
from wsdino.progress import Meter
from wsdino.screen.bbbc021 import IMAGE_TABLE, MOA_TABLE
from wsdino.tables.parquet import write_parquet

from .difficulty import DEFAULT, Difficulty
from .layouts import CHANNELS, layout_table, treatments_of
from .plates import Site, describe_sites, truth_table
from .render import render
from .workers import drawing, leave_if_starting

SPEC, TRUTH = "spec.json", "truth.parquet"
SCHEMA = 3  # changes whenever the same spec would give other pixels
MIN_SIZE = 32
# Micrometres at zoom 1: an untreated nucleus is about 15 um wide, as those of MCF-7 are.
PIXEL_SIZE = 1.2
CHUNK = 8  # sites handed to a worker at a time

Job = tuple[Site, tuple[Path, ...]]


def simulate(
    out: str | Path,
    *,
    layout: str | Path = "small",
    size: int = 256,
    height: int | None = None,
    seed: int = 0,
    sites: int | None = None,
    zoom: float = 1.0,
    difficulty: Difficulty | str = DEFAULT,
    workers: int | None = None,
) -> Path:
    """Write a simulated screen: three 16-bit TIFFs per site, tables as BBBC021's, and the truth.

    The same arguments give the same files, whatever the number of workers. A run that was stopped
    goes on where it was; the image table is written last, so that an unfinished screen has none.

    Parameters
    ----------
    out
        Folder to write: `BBBC021_v1_image.csv`, `BBBC021_v1_moa.csv`, the images below
        `<batch>/<plate>/`, `truth.parquet` (all parameters of each site) and `spec.json`.
    layout, sites
        See :func:`wsdino.simulate.layouts.layout_table`.
    size
        Edge of the square fields, pixels.
    height
        Rows in the middle of each that are kept, pixels; None: all.
    seed
        Of everything that is drawn.
    zoom
        Magnification; at 1 a nucleus is about 12 pixels wide.
    difficulty
        How hard the screen is: the name of a difficulty, or its numbers.
    workers
        Processes; None: one for each CPU that may be used.

    Returns
    -------
    pathlib.Path
        `out`.

    Raises
    ------
    InputError
        An argument is out of range, or the layout's table can't be used (`TableError`).
    OutputError
        `out` holds another screen, or something else.

    Examples
    --------
    >>> import wsdino
    >>> wsdino.simulate_screen("SCREEN", size=64, sites=1, workers=1).name
    'SCREEN'
    """
    leave_if_starting()
    _check(size, height, zoom, workers)
    folder = Path(out)
    hardness = Difficulty.of([difficulty]) if isinstance(difficulty, str) else difficulty
    table = layout_table(layout, sites=sites)
    spec = {
        "schema": SCHEMA,
        "layout": _digest(table),
        "num_sites": len(table),
        "size": size,
        "height": height,
        "seed": seed,
        "zoom": zoom,
        "difficulty": asdict(hardness),
    }
    _require_room(folder, spec)
    described = describe_sites(table, hardness, seed=seed, size=size)
    with one_writer(folder):
        sweep(folder)
        _require_room(folder, spec)
        write_text(folder / SPEC, json.dumps(spec, indent=2) + "\n")
        _write(folder, table, described, seed, (height or size, size), zoom, workers)
    return folder


def _write(
    folder: Path,
    table: pd.DataFrame,
    described: list[Site],
    seed: int,
    shape: tuple[int, int],
    zoom: float,
    workers: int | None,
) -> None:
    paths = [
        tuple(folder / str(row["folder"]) / str(row[f"file_{channel}"]) for channel in CHANNELS)
        for row in table.to_dict("records")
    ]
    jobs = [
        (site, files)
        for site, files in zip(described, paths, strict=True)
        if not all(file.exists() for file in files)
    ]
    for parent in {files[0].parent for _, files in jobs}:
        parent.mkdir(parents=True, exist_ok=True)
    _render_all(jobs, len(table), seed, shape, zoom, workers)
    with writing(folder / TRUTH) as partial:
        write_parquet(truth_table(table, described), partial)
    with writing(folder / MOA_TABLE) as partial:
        treatments_of(table).to_csv(partial, index=False)
    with writing(folder / IMAGE_TABLE) as partial:
        _image_table(table).to_csv(partial, index=False)


def _check(size: int, height: int | None, zoom: float, workers: int | None) -> None:
    if size < MIN_SIZE:
        raise InputError(f"size: {size} px; give at least {MIN_SIZE}")
    if height is not None and not MIN_SIZE <= height <= size:
        raise InputError(f"height: {height} px; give {MIN_SIZE} to {size}, the size")
    if not 0.25 <= zoom <= 8:
        raise InputError(f"zoom: {zoom}; give a number from 0.25 to 8")
    if workers is not None and workers < 1:
        raise InputError(f"workers: {workers}; give at least 1")


def _digest(table: pd.DataFrame) -> str:
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16]


def _require_room(folder: Path, spec: dict[str, object]) -> None:
    """Refuse a folder unless it is new, empty, or was begun with the same spec."""
    path = folder / SPEC
    if path.is_file():
        found = read_json(path, OutputError)
        here, asked = _flat(found), _flat(json.loads(json.dumps(spec)))
        for name, wanted in asked.items():
            if here.get(name) != wanted:
                raise OutputError(
                    f"{folder}: holds a screen simulated with {name} {here.get(name)}, not "
                    f"{wanted}; give another folder or delete it"
                )
        return
    if folder.exists() and (not folder.is_dir() or visible(folder)):
        raise OutputError(f"{folder}: exists and holds no simulated screen; give a new folder")


def _flat(spec: dict[str, Any]) -> dict[str, Any]:
    """Put the difficulty's numbers beside the rest, so that a message names what differs."""
    rest = {name: value for name, value in spec.items() if name != "difficulty"}
    own = spec.get("difficulty")
    own = own if isinstance(own, dict) else {"name": own}
    return rest | {f"difficulty {name}": value for name, value in own.items()}


def _render_all(
    jobs: list[Job],
    total: int,
    seed: int,
    shape: tuple[int, int],
    zoom: float,
    workers: int | None,
) -> None:
    chunks = [jobs[start : start + CHUNK] for start in range(0, len(jobs), CHUNK)]
    processes = min(workers or num_cpus(), len(chunks))
    options = (seed, shape, zoom)
    with Meter("simulating", total, done=total - len(jobs)) as meter:
        if processes <= 1:
            for chunk in chunks:
                meter.advance(_render_chunk(chunk, *options))
            return
        # the first chunk compiles the kernels, which the workers then find on disk
        meter.advance(_render_chunk(chunks[0], *options))
        with drawing(processes) as pool:
            futures = [pool.submit(_render_chunk, chunk, *options) for chunk in chunks[1:]]
            for future in futures:
                meter.advance(future.result())


def _render_chunk(chunk: list[Job], seed: int, shape: tuple[int, int], zoom: float) -> int:
    height, size = shape
    top = (size - height) // 2
    # A ratio: older versions of tifffile make one of a float that differs in the seventh digit.
    per_cm = Fraction(1e4 * zoom / PIXEL_SIZE).limit_denominator(100_000).as_integer_ratio()
    for site, files in chunk:
        image = render(site, seed=seed, size=size, zoom=zoom)[:, top : top + height]
        for plane, file in zip(image, files, strict=True):
            with writing_buffered(file) as buffer:
                # uncompressed: the noise leaves deflate a fifth to save, at five times the cost
                tifffile.imwrite(
                    buffer,
                    plane,
                    photometric="minisblack",
                    metadata=None,
                    resolution=(per_cm, per_cm),
                    resolutionunit="CENTIMETER",
                )
    return len(chunk)


def _image_table(table: pd.DataFrame) -> pd.DataFrame:
    """BBBC021's image table, column for column."""
    plates = pd.factorize(table["batch"])[0]
    columns: dict[str, object] = {"TableNumber": plates, "ImageNumber": range(1, len(table) + 1)}
    for channel in CHANNELS:
        columns[f"Image_FileName_{channel}"] = table[f"file_{channel}"]
        columns[f"Image_PathName_{channel}"] = table["folder"]
    columns["Image_Metadata_Plate_DAPI"] = table["plate"]
    columns["Image_Metadata_Well_DAPI"] = table["well"]
    columns["Replicate"] = table["replicate"]
    columns["Image_Metadata_Compound"] = table["compound"]
    columns["Image_Metadata_Concentration"] = table["concentration"]
    return pd.DataFrame(columns)
