"""The application, and what all commands share."""

from __future__ import annotations

import os
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsdino.atomic import sweep
from wsdino.errors import InputError
from wsdino.lock import one_writer_of_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

app = typer.Typer(
    name="wsdino",
    help="Phenotypic profiles from whole microscope fields by weakly supervised self-distillation.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

JOB_COMMANDS = ("train", "run", "embed")
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Set one option of the config, as a.b=value; may be repeated."),
]
Workers = Annotated[
    int | None, typer.Option(help="Number of threads or processes; default: all CPUs.")
]


def choices(names: Iterable[str]) -> dict[str, Any]:
    """Show the values of an option in its help, and complete them in the shell.

    They are checked where they are used, which suggests the nearest for a misspelt one.
    """
    known = list(names)
    return {"metavar": f"[{'|'.join(known)}]", "autocompletion": lambda: known}


def refuse(options: Mapping[str, object], why: str) -> None:
    """Refuse options that have no effect; None means not given."""
    for option, value in options.items():
        if value is not None:
            raise InputError(f"--{option.replace('_', '-')} {value}: {why}")


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
            f"wsdino {context.invoked_subcommand}: runs in a single process; start it without "
            f"torchrun, which is only for {', '.join(JOB_COMMANDS)}"
        )


def is_job() -> bool:
    """Whether this is one of several processes that torchrun started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def lock_output(path: Path | None) -> None:
    """Hold the lock of a table or file until the command ends."""
    if path is not None:
        _State.locks.enter_context(one_writer_of_file(path))
        sweep(path.parent, name=path.name)


def release_outputs() -> None:
    """Release every lock that :func:`lock_output` holds."""
    _State.locks.close()


class _State:
    debug = False
    locks = ExitStack()


def wants_traceback() -> bool:
    """Whether ``--debug`` was given."""
    return _State.debug


ConfigArgument = Annotated[str, typer.Argument(help="Preset or YAML file.", metavar="CONFIG")]
RunOption = Annotated[Path, typer.Option(help="Run folder.")]
PlateMapOption = Annotated[
    Path | None,
    typer.Option(
        "--platemap",
        "--design",
        help="Plate map: a table of what each well received, joined by plate and well; or "
        "barcode_platemap.csv, or the folder that contains it.",
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="Read one of our columns from a column with another name, as "
        "Metadata_Compound=pert_iname; may be repeated.",
    ),
]
Controls = Annotated[
    list[str] | None,
    typer.Option(
        "--control",
        help="Name of a compound that is a negative control; may be repeated; default: the rows "
        "marked in Metadata_Control, else DMSO.",
    ),
]
Channels = Annotated[
    list[str] | None,
    typer.Option(
        "--channel",
        help="Channel to read, in the order given, as NAME, or as NEW=NAME to rename it; may be "
        "repeated; default: all.",
    ),
]
ZPlane = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER|max",
        help="z plane to read, as the screen numbers it (within a file: from 0), or max for the "
        "maximum of all.",
    ),
]
TimePoint = Annotated[
    int | None,
    typer.Option(
        "--time", help="Time point to read, as the screen numbers it (in a file: from 0)."
    ),
]
Acquisition = Annotated[
    str | None, typer.Option(help="Which of several acquisitions of its plates to read.")
]
Pattern = Annotated[
    str | None,
    typer.Option(
        help="Read any folder of images by their names: a regular expression of each path, with "
        "named groups plate, well (or row and column), site, channel, z, time; any other is "
        "metadata."
    ),
]
MissingOption = Annotated[
    str,
    typer.Option(
        help="Where an image is missing: end with an error, or leave out its site, which is "
        "counted and named at the end.",
        **choices(("error", "leave-out")),
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        metavar="CONDITION",
        help="Keep only sites that meet a condition on metadata, such as "
        '"Metadata_QC_Focus_DAPI > 0.1".',
    ),
]
