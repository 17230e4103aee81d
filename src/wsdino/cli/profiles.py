"""Tables: profile, evaluate."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from wsdino.errors import InputError, TableError

commands = typer.Typer()

Normalise = Annotated[
    str,
    typer.Option(help="tvn, whiten_all, plate, plate_controls, standardise_all or none."),
]
Aggregate = Annotated[str, typer.Option(help="published, mean or median.")]
# None where it isn't given, which tells an option without effect from a default.
NormaliseSites = Annotated[
    str | None,
    typer.Option(
        help="With --from-sites: tvn (the default), whiten_all, plate, plate_controls, "
        "standardise_all or none."
    ),
]
AggregateSites = Annotated[
    str | None,
    typer.Option(help="With --from-sites: published (the default), mean or median."),
]
Design = Annotated[
    Path | None,
    typer.Option(help="Screen or manifest whose metadata is joined by plate and well."),
]
To = Annotated[str | None, typer.Option("--to", help="anndata: write an .h5ad file instead.")]


@commands.command(name="profile")
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
    from wsdino.tables.writing import write_anndata, write_table

    if to not in (None, "anndata"):
        raise InputError(f"--to {to!r}: only anndata is known")
    table = _read_table(embeddings, design)
    with _naming(embeddings):
        profiles = make_profiles(table, normalisation=normalise, aggregation=aggregate)
    (write_anndata if to else write_table)(profiles, out)
    typer.echo(out)


@commands.command(name="evaluate")
def evaluate_command(
    profiles: Annotated[Path, typer.Argument(help="Table of treatments, or of sites or wells.")],
    from_sites: Annotated[
        bool, typer.Option("--from-sites", help="The table holds sites or wells: profile first.")
    ] = False,
    normalise: NormaliseSites = None,
    aggregate: AggregateSites = None,
    design: Design = None,
    multi_batch: Annotated[
        str | None,
        typer.Option(
            help="strict (the default), or first-published: a treatment in several batches."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of permutation nulls and bootstrap.")] = 0,
    json: Annotated[Path | None, typer.Option(help="File for all numbers.")] = None,
) -> None:
    """Judge profiles: NSC, NSCB and mAP with intervals."""
    from wsdino.evaluate.results import evaluate, evaluate_sites, write_results
    from wsdino.report.terminal import print_results
    from wsdino.tables.columns import BATCH

    if not from_sites:
        for option, value in (("--normalise", normalise), ("--aggregate", aggregate)):
            if value is not None:
                raise InputError(
                    f"{option} {value}: no effect on profiles of treatments; leave it out, or add "
                    "--from-sites if the table holds sites or wells"
                )
    table = _read_table(profiles, design)
    if multi_batch is not None and BATCH not in table:
        raise InputError(
            f"--multi-batch {multi_batch}: no effect on {profiles}, which has no {BATCH}; leave "
            "it out"
        )
    common: dict[str, Any] = {"multi_batch": multi_batch or "strict", "seed": seed}
    with _naming(profiles):
        if from_sites:
            results = evaluate_sites(
                table,
                normalisation=normalise or "tvn",
                aggregation=aggregate or "published",
                **common,
            )
        else:
            command = ["wsdino", "evaluate", str(profiles)]
            command += ["--design", str(design)] if design else []
            results = evaluate(table, command=shlex.join(command), **common)
    if json:
        write_results(results, json)
    print_results(results, name=profiles.name.split(".", maxsplit=1)[0])


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let errors about a table say which one it is."""
    try:
        yield
    except TableError as error:
        raise TableError(f"{path}: {error}") from error


def _read_table(path: Path, design: Path | None) -> Any:
    from wsdino.tables.platemap import attach_metadata
    from wsdino.tables.reading import read_table

    table = read_table(path)
    if design is None:
        return table
    from wsdino.screen.manifest import read_manifest

    return attach_metadata(table, read_manifest(design, check_files=False))
