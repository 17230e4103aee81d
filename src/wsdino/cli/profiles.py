"""Tables: profile, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from wsdino.errors import InputError
from wsdino.profile.methods import NORMALISATIONS, aggregation_names, normalisation_names

commands = typer.Typer()


def alternatives(names: list[str]) -> str:
    """Say which names an option takes: `a, b or c.`."""
    return f"{', '.join(names[:-1])} or {names[-1]}."


def takers(option: str) -> str:
    """Say which normalisations an option has an effect on."""
    names = [entry.name for entry in NORMALISATIONS if option in entry.options]
    return f" ({', '.join(names)})" if names else ""


Normalise = Annotated[str, typer.Option(help=alternatives(normalisation_names()))]
NumComponents = Annotated[
    int | None, typer.Option(help=f"Whitened features to keep{takers('num_components')}.")
]
Regularisation = Annotated[
    float | None,
    typer.Option(help=f"Floor added to the variances when whitening{takers('regularisation')}."),
]
PerChannel = Annotated[
    bool | None,
    typer.Option(
        "--per-channel/--all-channels",
        help=f"Whiten each channel by itself, or all together{takers('per_channel')}.",
    ),
]
Label = Annotated[
    str | None,
    typer.Option(
        help="Weak label that the normalisation uses: compound, treatment or a metadata column"
        f"{takers('label')}."
    ),
]
Aggregate = Annotated[str, typer.Option(help=alternatives(aggregation_names()))]
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
    num_components: NumComponents = None,
    regularisation: Regularisation = None,
    per_channel: PerChannel = None,
    label: Label = None,
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
    profiles = make_profiles(
        table,
        normalisation=normalise,
        aggregation=aggregate,
        num_components=num_components,
        regularisation=regularisation,
        per_channel=per_channel,
        label=label,
    )
    (write_anndata if to else write_table)(profiles, out)
    typer.echo(out)


@commands.command(name="evaluate")
def evaluate_command(
    profiles: Annotated[Path, typer.Argument(help="Table of treatments, or of sites or wells.")],
    from_sites: Annotated[
        bool, typer.Option("--from-sites", help="The table holds sites or wells: profile first.")
    ] = False,
    normalise: Normalise = "tvn",
    num_components: NumComponents = None,
    regularisation: Regularisation = None,
    per_channel: PerChannel = None,
    label: Label = None,
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

    options: dict[str, Any] = {
        "num_components": num_components,
        "regularisation": regularisation,
        "per_channel": per_channel,
        "label": label,
    }
    given = [name for name, value in options.items() if value is not None]
    if given and not from_sites:
        raise InputError(
            f"{given[0]} {options[given[0]]!r} has no effect on profiles, which are normalised "
            "already; leave it out, or give --from-sites with a table of sites or wells"
        )
    table = _read_table(profiles, design)
    if from_sites:
        results = evaluate_sites(
            table,
            normalisation=normalise,
            aggregation=aggregate,
            multi_batch=multi_batch,
            seed=seed,
            **options,
        )
    else:
        results = evaluate(table, multi_batch=multi_batch, seed=seed)
    if json:
        write_results(results, json)
    print_results(results, name=profiles.name.split(".", maxsplit=1)[0])


def _read_table(path: Path, design: Path | None) -> Any:
    from wsdino.tables.platemap import attach_metadata
    from wsdino.tables.reading import read_table

    table = read_table(path)
    if design is None:
        return table
    from wsdino.screen.manifest import read_manifest

    return attach_metadata(table, read_manifest(design, check_files=False))
