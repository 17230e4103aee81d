"""Models: embed, attention, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsdino.cli.app import Keep, Settings, choices, is_job, lock_output, refuse
from wsdino.errors import InputError
from wsdino.model.packaged import PACKAGED

if TYPE_CHECKING:
    from wsdino.screen.store import Store

commands = typer.Typer()
CLASSICAL = "classical"
MODEL_HELP = "Run folder, exported model, starter, or a package such as " + PACKAGED[0].name + "."


@commands.command(
    name="embed", epilog="Example: wsdino embed starter STORE --out embeddings.parquet"
)
def embed_command(
    model: Annotated[
        str,
        typer.Argument(help=f"{MODEL_HELP[:-1]}; or classical: statistics that nobody trained."),
    ],
    store: Annotated[Path, typer.Argument(help="Store.")],
    out: Annotated[Path, typer.Option(help="Table to write (.parquet, .csv, .csv.gz).")],
    batch_size: Annotated[
        int | None, typer.Option(help="Fields per forward pass; default: 16.")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Default: auto, a GPU where there is one.", **choices(["auto", "cpu", "cuda"])
        ),
    ] = None,
    keep: Keep = None,
) -> None:
    """Embed every site of a store; resumes if it was stopped."""
    from wsdino.device import resolve_device
    from wsdino.embed.embed import write_embeddings
    from wsdino.exchange import model_for
    from wsdino.screen.store import open_store

    if model == CLASSICAL:
        refuse({"batch_size": batch_size, "device": device}, f"has no effect on {CLASSICAL}")
        _write_classical(open_store(store, keep=keep), out)
    else:
        if batch_size is not None and batch_size < 1:
            raise InputError(f"--batch-size {batch_size}: must be at least 1")
        where = resolve_device(device or "auto")
        loaded = model_for(model, store, device=where, beside=[CLASSICAL])
        write_embeddings(loaded, open_store(store, keep=keep), out, batch_size=batch_size or 16)
    typer.echo(out)


def _write_classical(store: Store, out: Path) -> None:
    from wsdino.device import num_cpus
    from wsdino.embed.classical import classical_table
    from wsdino.tables.files import suffix_of
    from wsdino.tables.writing import write_table

    if is_job():
        raise InputError(f"{CLASSICAL}: is computed in one process; start it without torchrun")
    suffix_of(out)
    lock_output(out)
    write_table(classical_table(store, workers=num_cpus()), out)


@commands.command(
    name="attention", epilog="Example: wsdino attention RUN STORE --compound taxol --out maps"
)
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
        list[str] | None,
        typer.Option(
            "--format", help="Format of the images; may be repeated.", **choices(["png", "svg"])
        ),
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


@commands.command(name="export", epilog="Example: wsdino export RUN --out MODEL")
def export_command(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write model.onnx too (needs wsdino[onnx]).")
    ] = False,
) -> None:
    """Export a run's model: safetensors, its config, and a model card with its origin.

    The folder can go to the Hugging Face Hub as it is.
    """
    from wsdino.exchange import export_model

    export_model(run, out, onnx=onnx)
    typer.echo(out)


@commands.command(
    name="import",
    epilog="Example: wsdino import dino_deitsmall8.pth --channel DNA --channel Actin --out MODEL",
)
def import_command(
    weights: Annotated[
        list[str],
        typer.Argument(
            help="File or URL with weights of DINO, WS-DINO, timm or a published model; or "
            "CHANNEL=FILE ..."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    like: Annotated[
        str,
        typer.Option(
            help="What gives the backbone, scaling and tiles: a preset, a YAML file, or the name "
            "of the published model, such as dinov2_vits14_reg (docs/published.md)."
        ),
    ] = "paper",
    channel: Annotated[
        list[str] | None, typer.Option(help="Channel of the screen, in order; may be repeated.")
    ] = None,
    settings: Settings = None,
) -> None:
    """Build a model from weights saved by other code."""
    from wsdino.exchange import config_like, import_model, weights_by_channel

    found = weights_by_channel(weights)
    config, published = config_like(like, settings or [], per_channel=isinstance(found, dict))
    import_model(found, out, config=config, channels=channel or [], published=published)
    typer.echo(out)
