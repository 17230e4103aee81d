"""Answers: activity, neighbours, compare."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any

import typer

from wsdino.cli.app import Columns, Controls, PlateMapOption, choices, lock_output, refuse
from wsdino.cli.profiles import (
    Features,
    Label,
    Normalise,
    NumComponents,
    PerChannel,
    Regularisation,
    fit_options,
    naming,
    read_tables,
    settled,
)
from wsdino.errors import InputError
from wsdino.evaluate.gallery import MULTI_BATCH
from wsdino.tables.columns import PLATE

commands = typer.Typer()

Json = Annotated[Path | None, typer.Option(help="JSON file for all results.")]
Seed = Annotated[int, typer.Option(help="Seed of all that is drawn.")]
Tables = Annotated[
    list[Path],
    typer.Argument(
        help="Table of sites or wells; or several of the same ones, whose features are taken "
        "together.",
        metavar="TABLE...",
    ),
]


@commands.command(
    name="activity", epilog="Example: wsdino activity embeddings.parquet --out activity.csv"
)
def activity_command(
    tables: Tables,
    normalise: Normalise = None,
    num_components: NumComponents = None,
    regularisation: Regularisation = None,
    per_channel: PerChannel = None,
    label: Label = None,
    platemap: PlateMapOption = None,
    column: Columns = None,
    control: Controls = None,
    feature: Features = None,
    null_size: Annotated[
        int, typer.Option(min=1, help="Random rankings behind each p value.")
    ] = 10_000,
    fdr: Annotated[float, typer.Option(help="Treatments with a q value below are active.")] = 0.05,
    num: Annotated[int, typer.Option(min=0, help="Treatments to print.")] = 20,
    out: Annotated[
        Path | None, typer.Option(help="CSV file with a row for each treatment.")
    ] = None,
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Tell which treatments differ from controls; needs no mechanism."""
    from wsdino.evaluate.evidence import activity_of, write_activity
    from wsdino.evaluate.results import write_results
    from wsdino.report.activity import activity_lines, treatments_table

    if not 0 < fdr < 1:
        raise InputError(f"--fdr {fdr:g}: expected a share between 0 and 1")
    lock_output(json)
    lock_output(out)
    table = read_tables(tables, platemap, column, control, feature)
    name = settled(normalise, table)
    with naming(tables):
        found = activity_of(
            table,
            normalisation=name,
            null_size=null_size,
            seed=seed,
            fdr=fdr,
            **fit_options(num_components, regularisation, per_channel, label),
        )
    if json:
        write_results({"normalisation": name, **found}, json)
    if out:
        write_activity(found, out)
    console, width = _console()
    if num:
        console.print(treatments_table(found, num_rows=num, width=width))
        console.print()
    _print(console, width, [*activity_lines(found), f"normalisation: {name}"])


@commands.command(
    name="neighbours", epilog="Example: wsdino neighbours profiles.parquet taxol --num 5"
)
def neighbours_command(
    table: Annotated[
        Path, typer.Argument(help="Table of treatments, wells or sites.", metavar="TABLE")
    ],
    compound: Annotated[str, typer.Argument(help="Name of the compound.")],
    concentration: Annotated[
        float | None, typer.Option(help="In micromolar; default: each of the compound's.")
    ] = None,
    num: Annotated[int, typer.Option(min=1, help="Neighbours of each treatment.")] = 10,
    normalise: Normalise = None,
    num_components: NumComponents = None,
    regularisation: Regularisation = None,
    per_channel: PerChannel = None,
    label: Label = None,
    platemap: PlateMapOption = None,
    column: Columns = None,
    control: Controls = None,
    feature: Features = None,
    json: Json = None,
) -> None:
    """List the treatments that look most like those of a compound."""
    from wsdino.evaluate.level import are_treatments
    from wsdino.evaluate.neighbours import neighbours
    from wsdino.evaluate.results import write_results
    from wsdino.profile.aggregate import make_profiles
    from wsdino.report.activity import neighbours_table

    options = fit_options(num_components, regularisation, per_channel, label)
    lock_output(json)
    profiles = read_tables([table], platemap, column, control, feature)
    with naming([table]):
        if are_treatments(profiles):
            refuse(
                {"normalise": normalise, **options},
                f"has no effect on {table}, whose rows are treatments; leave it out",
            )
        else:
            profiles = make_profiles(
                profiles,
                normalisation=settled(normalise, profiles),
                aggregation="published" if PLATE in profiles else "mean",
                **options,
            )
        found = neighbours(profiles, compound, concentration=concentration, num=num)
    if json:
        write_results({"neighbours": found.to_dict("records")}, json)
    console, width = _console()
    console.print(neighbours_table(found, width=width))


@commands.command(
    name="compare", epilog="Example: wsdino compare RUN OTHER_RUN --json comparison.json"
)
def compare_command(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders, or tables of treatments; two or more.", metavar="RUN..."),
    ],
    multi_batch: Annotated[
        str,
        typer.Option(
            help="How NSCB treats a treatment in several batches, as in evaluate.",
            **choices(MULTI_BATCH),
        ),
    ] = "strict",
    seed: Seed = 0,
    json: Json = None,
) -> None:
    """Compare runs with the first one, treatment by treatment."""
    from wsdino.evaluate.results import write_results
    from wsdino.judging import compare_runs
    from wsdino.report.activity import comparison_lines, comparison_table

    if len(runs) < 2:
        raise InputError(f"compare {runs[0]}: give a second run folder or table to compare it with")
    lock_output(json)
    found = compare_runs(runs, multi_batch=multi_batch, seed=seed)
    if json:
        write_results({"comparisons": found}, json)
    console, width = _console()
    console.print(comparison_table(found, width=width))
    console.print()
    _print(console, width, comparison_lines(found))


def _console() -> tuple[Any, int]:
    """Return a console for standard output, and its width: a pipe has none of its own."""
    from rich.console import Console

    from wsdino.report.terminal import WIDTH

    console = Console(highlight=False, markup=False)
    width = min(console.width, WIDTH) if sys.stdout.isatty() else WIDTH
    return Console(highlight=False, width=width, markup=False), width


def _print(console: Any, width: int, lines: list[str]) -> None:
    for line in lines:
        text = textwrap.fill(line, width, break_on_hyphens=False, subsequent_indent="  ")
        console.print(text, soft_wrap=True)
