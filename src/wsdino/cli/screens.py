"""Screens: simulate, download, inspect, ingest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from wsdino.cli.app import (
    Acquisition,
    Channels,
    Columns,
    Controls,
    MissingOption,
    Pattern,
    PlateMapOption,
    TimePoint,
    Workers,
    ZPlane,
    choices,
)
from wsdino.counting import counted
from wsdino.errors import InputError, did_you_mean
from wsdino.screen.illumination import DEFAULT, METHODS, described_methods
from wsdino.screen.readers import accepted
from wsdino.simulate.difficulty import difficulty_help

if TYPE_CHECKING:
    from wsdino.screen.manifest import Missing
    from wsdino.screen.selection import Selection

commands = typer.Typer()


@commands.command(
    name="simulate",
    epilog="Example: wsdino simulate --out PLATES --layout small --difficulty hard --seed 1",
)
def simulate_command(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    layout: Annotated[
        str, typer.Option(help="small, bbbc021, or a BBBC021 image table or manifest.")
    ] = "small",
    size: Annotated[int, typer.Option(help="Side of a field in px.")] = 256,
    height: Annotated[
        int | None, typer.Option(help="Rows of each field that are kept; default: all.")
    ] = None,
    sites: Annotated[
        int | None, typer.Option(help="Sites per well; default: the layout's.")
    ] = None,
    zoom: Annotated[
        float, typer.Option(help="Magnification; at 1 a nucleus is about 12 px wide.")
    ] = 1.0,
    difficulty: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"{difficulty_help()}; or override one parameter, as name=value; may be repeated.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    workers: Workers = None,
) -> None:
    """Simulate a screen on a built-in or given plate layout, in BBBC021's file layout."""
    from wsdino.simulate import Difficulty, simulate

    screen = simulate(
        out,
        layout=layout,
        size=size,
        height=height,
        sites=sites,
        zoom=zoom,
        difficulty=Difficulty.of(difficulty or []),
        seed=seed,
        workers=workers,
    )
    typer.echo(screen)


@commands.command(epilog="Example: wsdino download bbbc021 --plate Week1_22123 --out PLATES")
def download(
    dataset: Annotated[
        str,
        typer.Argument(
            help="bbbc021, or a project of the Cell Painting Gallery, such as cpg0000-jump-pilot."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    plate: Annotated[
        list[str] | None,
        typer.Option(
            help="Plate such as Week1_22123 or BR00116991; may be repeated; default: all of "
            "bbbc021."
        ),
    ] = None,
    sites: Annotated[
        int | None, typer.Option(help="Sites of each well, of the Gallery; default: all.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Address of a mirror of the archives or of the Gallery.")
    ] = None,
) -> None:
    """Download a published screen; resumes if it was stopped."""
    from wsdino.screen.download import BBBC021, download_bbbc021
    from wsdino.screen.download_gallery import GALLERY, download_gallery

    if dataset.startswith("cpg"):
        download_gallery(dataset, out, plates=plate, sites=sites, source=source or GALLERY)
    elif dataset != "bbbc021":
        raise InputError(
            f"{dataset}: not a known dataset{did_you_mean(dataset, ['bbbc021'])}; use bbbc021, or "
            "a project of the Cell Painting Gallery, such as cpg0000-jump-pilot"
        )
    elif sites is not None:
        raise InputError("--sites: bbbc021 comes in archives of whole plates")
    else:
        download_bbbc021(out, plates=plate, source=source or BBBC021)
    typer.echo(out)


def _selection(
    channel: list[str] | None,
    z: str | None,
    time: int | None,
    acquisition: str | None,
    pattern: str | None,
) -> Selection:
    from wsdino.screen.selection import Selection, parse_z

    return Selection(
        channels=tuple(channel or ()),
        z=parse_z(z),
        time=time,
        acquisition=acquisition,
        pattern=pattern,
    )


@commands.command(name="inspect", epilog="Example: wsdino inspect PLATES --platemap WELLS.csv")
def inspect_command(
    source: Annotated[Path, typer.Argument(help="The screen: " + accepted() + ".")],
    platemap: PlateMapOption = None,
    column: Columns = None,
    control: Controls = None,
    channel: Channels = None,
    z: ZPlane = None,
    time: TimePoint = None,
    acquisition: Acquisition = None,
    pattern: Pattern = None,
    workers: Workers = None,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Look at a screen before it is converted: what is there, what is missing, what it costs."""
    from json import dumps

    from wsdino.inspection import inspect
    from wsdino.report.survey import print_survey
    from wsdino.tables.columns import parse_columns

    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: must be at least 1")
    found = inspect(
        source,
        platemap=platemap,
        columns=parse_columns(column),
        controls=control,
        selection=_selection(channel, z, time, acquisition, pattern),
        workers=workers,
    )
    if json:
        typer.echo(dumps(found, indent=1))
    else:
        print_survey(found)


@commands.command(
    name="ingest",
    epilog="Example: wsdino ingest PLATES --platemap WELLS.csv --channel DNA=OrigDNA --out STORE",
)
def ingest_command(
    source: Annotated[Path, typer.Argument(help="The screen: " + accepted() + ".")],
    out: Annotated[Path, typer.Option(help="Store to write.")],
    platemap: PlateMapOption = None,
    column: Columns = None,
    control: Controls = None,
    channel: Channels = None,
    z: ZPlane = None,
    time: TimePoint = None,
    acquisition: Acquisition = None,
    pattern: Pattern = None,
    illumination: Annotated[
        str,
        typer.Option(
            help=f"Correction of uneven illumination. {described_methods()}.",
            **choices(method.name for method in METHODS),
        ),
    ] = DEFAULT,
    scale: Annotated[
        float, typer.Option(help="Size of a field in the store relative to its images, 0 to 1.")
    ] = 1.0,
    pixel_size: Annotated[
        float | None,
        typer.Option(
            help="Width of a pixel of the images in micrometres, for scale bars; default: what the "
            "screen says."
        ),
    ] = None,
    missing: MissingOption = "error",
    sites_per_file: Annotated[
        int | None,
        typer.Option(help="Sites in each file of a new store; default: 1 up to 4,096 sites."),
    ] = None,
    workers: Workers = None,
    dask: Annotated[
        str | None, typer.Option(help="Convert on the Dask cluster with this scheduler address.")
    ] = None,
) -> None:
    """Convert a screen into a store; resumes if it was stopped, and adds sites and labels."""
    from wsdino.screen.ingest import ingest
    from wsdino.tables.columns import parse_columns

    store = ingest(
        source,
        out,
        platemap=platemap,
        columns=parse_columns(column),
        controls=control,
        selection=_selection(channel, z, time, acquisition, pattern),
        illumination=illumination,
        scale=scale,
        pixel_size=pixel_size,
        missing=cast("Missing", missing),  # any other text is refused there
        sites_per_file=sites_per_file,
        workers=workers,
        dask=dask,
    )
    manifest = store.manifest
    height, width = store.field_shape
    typer.echo(
        f"{out}: {counted(len(store), 'site')} of {height} x {width} px {store.dtype}, channels "
        f"{', '.join(store.channels)}; "
        f"{counted(manifest['Metadata_Compound'].nunique(), 'compound')}, "
        f"{counted(manifest['Metadata_Plate'].nunique(), 'plate')}, "
        f"{counted(manifest['Metadata_Batch'].nunique(), 'batch', 'batches')}, "
        f"{counted(int(manifest['Metadata_Control'].sum()), 'control site')}"
    )
