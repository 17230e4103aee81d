"""Models: embed, attention, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsdino.cli.app import Keep, Settings
from wsdino.errors import InputError
from wsdino.model.packaged import PACKAGED

commands = typer.Typer()
MODEL_HELP = "Run folder, exported model, starter, or a package such as " + PACKAGED[0].name + "."


@commands.command(name="embed")
def embed_command(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    store: Annotated[Path, typer.Argument(help="Store.")],
    out: Annotated[Path, typer.Option(help="Table to write (.parquet, .csv, .csv.gz).")],
    batch_size: Annotated[int, typer.Option(help="Fields per forward pass.")] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    keep: Keep = None,
) -> None:
    """Embed every site of a store; resumes if it was stopped."""
    from wsdino.device import resolve_device
    from wsdino.embed.embed import write_embeddings
    from wsdino.exchange import model_for
    from wsdino.screen.store import open_store

    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: must be at least 1")
    loaded = model_for(model, store, device=resolve_device(device))
    write_embeddings(loaded, open_store(store, keep=keep), out, batch_size=batch_size)
    typer.echo(out)


@commands.command(name="attention")
def attention_command(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)],
    store: Annotated[Path, typer.Argument(help="Store.")],
    out: Annotated[Path, typer.Option(help="Folder for the images.")],
    site: Annotated[
        list[int] | None, typer.Option(help="Row of the manifest; may be repeated.")
    ] = None,
    well: Annotated[
        list[str] | None, typer.Option(help="Well, as PLATE/B03; may be repeated.")
    ] = None,
    compound: Annotated[
        list[str] | None, typer.Option(help="Compound, by its name; may be repeated.")
    ] = None,
    num: Annotated[
        int, typer.Option("--num", help="Fields of each well and compound; spread over doses.")
    ] = 1,
    format_: Annotated[
        list[str] | None, typer.Option("--format", help="png or svg; may be repeated.")
    ] = None,
    dpi: Annotated[int, typer.Option(help="Dots per inch of a PNG.")] = 150,
    quantiles: Annotated[
        tuple[float, float],
        typer.Option(help="Each map is coloured between these two of its quantiles."),
    ] = (0.02, 0.98),
) -> None:
    """Draw attention maps: where in a field the network looks."""
    from wsdino.exchange import model_for
    from wsdino.report.asked import asked_sites
    from wsdino.report.attention import save_attention
    from wsdino.screen.store import open_store

    if num < 1:
        raise InputError(f"--num {num}: must be at least 1")
    loaded, opened = model_for(model, store), open_store(store)
    sites = asked_sites(
        opened.manifest,
        sites=site or (),
        wells=well or (),
        compounds=compound or (),
        num=num,
    )
    written = save_attention(
        loaded,
        opened,
        sites,
        out,
        formats=format_ or ("png",),
        dpi=dpi,
        quantiles=quantiles,
    )
    for path in written:
        typer.echo(path)


@commands.command(name="export")
def export_command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Export a run's model: safetensors, its config, and a model card with its origin."""
    from wsdino.exchange import export_model

    export_model(run, out)
    typer.echo(out)


@commands.command(name="import")
def import_command(
    weights: Annotated[
        list[str],
        typer.Argument(
            help="File or URL with weights of DINO, WS-DINO or timm; or CHANNEL=FILE ..."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    like: Annotated[
        str, typer.Option(help="Preset or YAML file that gives the backbone, scaling and tiles.")
    ] = "paper",
    channel: Annotated[
        list[str] | None, typer.Option(help="Channel of the screen, in order; may be repeated.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Build a model from weights saved by other code."""
    from wsdino.config import load_config
    from wsdino.exchange import import_model, weights_by_channel
    from wsdino.trainings import MODEL_KEYS

    found = weights_by_channel(weights)
    # One file per channel means one network per channel.
    mode = ["model.mode=per_channel"] if isinstance(found, dict) else []
    config = load_config(like, [*mode, *(settings or [])])
    for setting in settings or ():
        key = setting.partition("=")[0]
        if not any(key == each or key.startswith(f"{each}.") for each in MODEL_KEYS):
            raise InputError(
                f"--set {setting}: has no effect on an import, which takes only "
                f"{', '.join(MODEL_KEYS)}; leave it out"
            )
    import_model(found, out, config=config, channels=channel or [])
    typer.echo(out)
