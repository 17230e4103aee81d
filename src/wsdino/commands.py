"""The commands: each reads its options and calls what does the work."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from wsdino.errors import InputError
from wsdino.screen.illumination import DEFAULT, described_methods

app = typer.Typer(
    name="wsdino",
    help="Phenotypic profiles from whole microscope fields by weakly supervised self-distillation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

JOB_COMMANDS = ("train", "run", "embed")
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one option of the config, as a.b=value; may be repeated."),
]
Workers = Annotated[int | None, typer.Option(help="Threads or processes; default: all CPUs.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"wsdino {metadata.version('wsdino')}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback on errors.")] = False,
    version: Annotated[  # noqa: ARG001 its callback does the work
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    _State.debug = debug
    if is_job() and context.invoked_subcommand not in JOB_COMMANDS:
        raise InputError(
            f"wsdino {context.invoked_subcommand}: works in one process; run it without torchrun "
            f"(which is for {', '.join(JOB_COMMANDS)})"
        )


def is_job() -> bool:
    """Whether this is one of several processes that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


class _State:
    debug = False


def wants_traceback() -> bool:
    """Whether ``--debug`` was given."""
    return _State.debug


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Run folder.")] = Path("demo_run"),
    seed: Annotated[int, typer.Option(help="Seed of the screen and of the run.")] = 0,
) -> None:
    """Run the whole chain on a simulated screen: minutes on a laptop's CPU."""
    from wsdino.config import load_config
    from wsdino.screen.simulate import simulate
    from wsdino.stages import RunFolder

    RunFolder(out)
    screen = simulate(out / "screen", layout="small", size=192, seed=seed)
    config = load_config("demo", [f"seed={seed}", f"screen.source={screen}"])
    _run(config, out)


@app.command(name="simulate")
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
        typer.Option(help="Change one number of the difficulty, as name=value; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    workers: Workers = None,
) -> None:
    """Draw a screen for a built-in or a given plate layout, in BBBC021's own file layout."""
    from wsdino.screen.simulate import Difficulty, simulate

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


@app.command()
def download(
    dataset: Annotated[str, typer.Argument(help="bbbc021.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    plate: Annotated[
        list[str] | None, typer.Option(help="Such as Week1_22123; may be repeated; default: all.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Address of a mirror of the tables and archives.")
    ] = None,
) -> None:
    """Fetch a published screen; goes on where it was stopped."""
    from wsdino.screen.download import BBBC021, download_bbbc021

    if dataset != "bbbc021":
        raise InputError(f"{dataset}: only bbbc021 is known")
    download_bbbc021(out, plates=plate, source=source or BBBC021)
    typer.echo(out)


@app.command(name="ingest")
def ingest_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="BBBC021 folder, OME-Zarr plate or folder of such, LoadData CSV, or manifest."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Store to write.")],
    design: Annotated[
        Path | None, typer.Option(help="Table of wells that says which got what.")
    ] = None,
    control: Annotated[
        list[str] | None, typer.Option(help="Compound that is a negative control; default DMSO.")
    ] = None,
    illumination: Annotated[
        str, typer.Option(help=f"Correction of uneven illumination. {described_methods()}.")
    ] = DEFAULT,
    scale: Annotated[
        float, typer.Option(help="Size of a field in the store relative to its images, 0 to 1.")
    ] = 1.0,
    workers: Workers = None,
    dask: Annotated[
        str | None, typer.Option(help="Convert on the Dask cluster with this scheduler address.")
    ] = None,
) -> None:
    """Convert a screen into a store; goes on where it was stopped."""
    from wsdino.screen.ingest import ingest

    store = ingest(
        source,
        out,
        design=design,
        controls=control,
        workers=workers,
        dask=dask,
        illumination=illumination,
        scale=scale,
    )
    manifest = store.manifest
    height, width = store.field_shape
    typer.echo(
        f"{out}: {len(store)} sites of {height} x {width} px {store.dtype}, channels "
        f"{', '.join(store.channels)}; {manifest['Metadata_Compound'].nunique()} compounds, "
        f"{manifest['Metadata_Plate'].nunique()} plates, "
        f"{manifest['Metadata_Batch'].nunique()} batches, "
        f"{int(manifest['Metadata_Control'].sum())} control sites"
    )


ConfigArgument = Annotated[str, typer.Argument(help="Preset or YAML file.", metavar="CONFIG")]
RunOption = Annotated[Path, typer.Option(help="Run folder.")]


@app.command(name="train")
def train_command(config: ConfigArgument, out: RunOption, settings: Settings = None) -> None:
    """Train a model; goes on where it was stopped."""
    from wsdino.config import load_config
    from wsdino.pipeline import train_stage
    from wsdino.prepare import prepare

    folder, store, resolved = prepare(load_config(config, settings), out)
    train_stage(resolved, store, folder)
    typer.echo(out / "model")


@app.command(name="run")
def run_command(config: ConfigArgument, out: RunOption, settings: Settings = None) -> None:
    """Do every stage in order, from the screen to the report; done ones are skipped."""
    from wsdino.config import load_config

    _run(load_config(config, settings), out)


@app.command(name="embed")
def embed_command(
    model: Annotated[str, typer.Argument(help="Run folder, exported model, or starter.")],
    store: Annotated[Path, typer.Argument(help="Store.")],
    out: Annotated[Path, typer.Option(help="Table to write (.parquet, .csv, .csv.gz).")],
    batch_size: Annotated[int, typer.Option(help="Fields per forward pass.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Embed every site of a store; goes on where it was stopped."""
    from wsdino.prepare import model_for, resolve_device
    from wsdino.profile.embed import write_embeddings
    from wsdino.screen.store import open_store

    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: at least 1 is needed")
    loaded = model_for(model, store, device=resolve_device(device))
    write_embeddings(loaded, open_store(store), out, batch_size=batch_size)
    typer.echo(out)


Normalise = Annotated[
    str,
    typer.Option(help="tvn, whiten_all, plate, plate_controls, standardise_all or none."),
]
Aggregate = Annotated[str, typer.Option(help="published, mean or median.")]
Design = Annotated[
    Path | None,
    typer.Option(help="Screen or manifest whose metadata is joined by plate and well."),
]
To = Annotated[str | None, typer.Option("--to", help="anndata: write an .h5ad file instead.")]


@app.command(name="profile")
def profile_command(
    embeddings: Annotated[Path, typer.Argument(help="Table of sites or wells.")],
    out: Annotated[Path, typer.Option(help="Table to write.")],
    normalise: Normalise = "tvn",
    aggregate: Aggregate = "published",
    design: Design = None,
    to: To = None,
) -> None:
    """Turn site embeddings into treatment profiles."""
    from wsdino.profile.aggregate import make_profiles
    from wsdino.profile.tables import write_anndata, write_table

    if to not in (None, "anndata"):
        raise InputError(f"--to {to!r}: only anndata is known")
    table = _read_table(embeddings, design)
    profiles = make_profiles(table, normalisation=normalise, aggregation=aggregate)
    (write_anndata if to else write_table)(profiles, out)
    typer.echo(out)


@app.command(name="evaluate")
def evaluate_command(
    profiles: Annotated[Path, typer.Argument(help="Table of treatments, or of sites or wells.")],
    from_sites: Annotated[
        bool, typer.Option("--from-sites", help="The table holds sites or wells: profile first.")
    ] = False,
    normalise: Normalise = "tvn",
    aggregate: Aggregate = "published",
    design: Design = None,
    multi_batch: Annotated[
        str, typer.Option(help="strict, or first-published: a treatment in several batches.")
    ] = "strict",
    seed: Annotated[int, typer.Option(help="Seed of the permutation null.")] = 0,
    json: Annotated[Path | None, typer.Option(help="File for all numbers.")] = None,
) -> None:
    """Judge profiles: NSC, NSCB and mAP with intervals."""
    from wsdino.evaluate.results import evaluate, evaluate_sites, write_results
    from wsdino.report.terminal import print_results

    table = _read_table(profiles, design)
    if from_sites:
        results = evaluate_sites(
            table,
            normalisation=normalise,
            aggregation=aggregate,
            multi_batch=multi_batch,
            seed=seed,
        )
    else:
        results = evaluate(table, multi_batch=multi_batch, seed=seed)
    if json:
        write_results(results, json)
    print_results(results, name=profiles.name.split(".", maxsplit=1)[0])


@app.command(name="attention")
def attention_command(
    model: Annotated[str, typer.Argument(help="Run folder, exported model, or starter.")],
    store: Annotated[Path, typer.Argument(help="Store.")],
    site: Annotated[list[int], typer.Option(help="Row of the manifest; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
) -> None:
    """Draw what the network looks at."""
    from wsdino.prepare import model_for
    from wsdino.report.attention import save_attention
    from wsdino.screen.store import open_store

    for path in save_attention(model_for(model, store), open_store(store), site, out):
        typer.echo(path)


@app.command(name="export")
def export_command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Copy a run's model out: safetensors, its config, and a card that says where it is from."""
    from wsdino.exchange import export_model

    export_model(run, out)
    typer.echo(out)


@app.command(name="import")
def import_command(
    weights: Annotated[
        list[str], typer.Argument(help="File or URL of DINO, WS-DINO or timm; or CHANNEL=FILE ...")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    like: Annotated[
        str, typer.Option(help="Preset or YAML file that names backbone, scaling and tiles.")
    ] = "paper",
    channel: Annotated[
        list[str] | None, typer.Option(help="Channel of the screen, in order; may be repeated.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Make a model of weights that other code has saved."""
    from wsdino.config import load_config
    from wsdino.exchange import import_model, weights_by_channel

    found = weights_by_channel(weights)
    # A file for each channel is a network for each channel.
    mode = ["model.mode=per_channel"] if isinstance(found, dict) else []
    config = load_config(like, [*mode, *(settings or [])])
    import_model(found, out, config=config, channels=channel or [])
    typer.echo(out)


@app.command(name="report")
def report_command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
) -> None:
    """Write a run's report anew, as one self-contained HTML file."""
    from wsdino.config import load_config
    from wsdino.pipeline import report

    typer.echo(report(load_config(run / "config.yaml"), run))


def _run(config: Any, out: Path) -> None:
    from wsdino.pipeline import run
    from wsdino.report.terminal import print_results

    results = run(config, out)
    print_results(results, name="this run")
    typer.echo(f"\nreport: {out / 'report.html'}")


def _read_table(path: Path, design: Path | None) -> Any:
    from wsdino.profile.tables import attach_metadata, read_table

    table = read_table(path)
    if design is None:
        return table
    from wsdino.screen.manifest import read_manifest

    return attach_metadata(table, read_manifest(design, check_files=False))
