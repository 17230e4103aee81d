"""Tables: profile, evaluate."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from wsdino.cli.app import (
    Columns,
    Controls,
    Keep,
    PlateMapOption,
    choices,
    lock_output,
    refuse,
)
from wsdino.errors import InputError, TableError, did_you_mean
from wsdino.evaluate.gallery import MULTI_BATCH
from wsdino.profile.methods import NORMALISATIONS, aggregation_names, normalisation_names

commands = typer.Typer()


def used_by(option: str) -> str:
    """List the normalisations that use an option."""
    names = [entry.name for entry in NORMALISATIONS if option in entry.options]
    return f" ({', '.join(names)})" if names else ""


def number_or_auto(text: str | None) -> float | str | None:
    """Parse a regularisation; None if it was not given."""
    if text in (None, "auto"):
        return text
    try:
        value = float(str(text))
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise InputError(f"--regularisation {text}: expected a number of at least 0, or auto")
    return value


Normalise = Annotated[
    str | None,
    typer.Option(
        "--normalise",
        "--normalize",
        help="Default: tvn, or whiten_all on a screen without controls.",
        **choices(normalisation_names()),
    ),
]
NumComponents = Annotated[
    int | None, typer.Option(help=f"Whitened features to keep{used_by('num_components')}.")
]
Features = Annotated[
    list[str] | None,
    typer.Option(
        "--feature",
        help="Column to keep as a feature although it looks like a label; may be repeated.",
    ),
]
Regularisation = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER",
        help=f"Floor added to the variances when whitening{used_by('regularisation')}; auto: "
        "chosen by held-out labels (weak_label).",
    ),
]
PerChannel = Annotated[
    bool | None,
    typer.Option(
        "--per-channel/--all-channels",
        help=f"Whiten each channel separately, or all together{used_by('per_channel')}.",
    ),
]
Label = Annotated[
    str | None,
    typer.Option(
        help="Weak label that the normalisation uses: compound, treatment or a metadata column"
        f"{used_by('label')}."
    ),
]
Aggregate = Annotated[
    str,
    typer.Option(help="How replicates become a treatment.", **choices(aggregation_names())),
]
# None if not given, so that a given option without effect differs from a default.
NormaliseSites = Annotated[
    str | None,
    typer.Option(
        "--normalise",
        "--normalize",
        help="With --from-sites; default: tvn, or whiten_all on a screen without controls.",
        **choices(normalisation_names()),
    ),
]
Normaliser = Annotated[
    Path | None,
    typer.Option(
        help="A normalisation fitted earlier, instead of one fitted on this table: an .npz, or a "
        "run folder or exported model that contains one."
    ),
]
AggregateSites = Annotated[
    str | None,
    typer.Option(
        help="With --from-sites; how replicates become a treatment; default: published.",
        **choices(aggregation_names()),
    ),
]
To = Annotated[
    str | None,
    typer.Option(
        "--to",
        help="anndata: an .h5ad file, as its suffix says too; gallery: embeddings, wells and "
        "treatments in the Cell Painting Gallery's workspace_dl, below the folder --out.",
        **choices(["anndata", "gallery"]),
    ),
]
Network = Annotated[
    str | None,
    typer.Option(
        help="With --to gallery: name of the network, with something that tells its weights, such "
        "as wsdino_1a2b3c4d."
    ),
]
Map = Annotated[
    bool,
    typer.Option(
        "--map", help="Add a map in two dimensions (UMAP): two columns, in .h5ad obsm X_umap."
    ),
]


def fit_options(
    num_components: int | None,
    regularisation: str | None,
    per_channel: bool | None,
    label: str | None,
) -> dict[str, Any]:
    """Options of a normalisation by name; None where an option isn't given."""
    return {
        "num_components": num_components,
        "regularisation": number_or_auto(regularisation),
        "per_channel": per_channel,
        "label": label,
    }


@commands.command(
    name="profile",
    epilog="Example: wsdino profile embeddings.parquet --normalise weak_label --out profiles.csv",
)
def profile_command(
    embeddings: Annotated[
        list[Path],
        typer.Argument(
            help="Table of sites or wells; or several of the same ones, whose features are taken "
            "together.",
            metavar="TABLE...",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Table to write.")],
    normalise: Normalise = None,
    normaliser: Normaliser = None,
    num_components: NumComponents = None,
    regularisation: Regularisation = None,
    per_channel: PerChannel = None,
    label: Label = None,
    aggregate: Aggregate = "published",
    platemap: PlateMapOption = None,
    column: Columns = None,
    control: Controls = None,
    feature: Features = None,
    keep: Keep = None,
    to: To = None,
    network: Network = None,
    with_map: Map = False,
) -> None:
    """Turn site embeddings into treatment profiles."""
    from wsdino.profile.aggregate import make_profiles
    from wsdino.profile.fitted import load_normalisation
    from wsdino.report.layout import with_map_columns
    from wsdino.tables.h5ad import write_anndata
    from wsdino.tables.writing import write_table

    options = fit_options(num_components, regularisation, per_channel, label)
    if normaliser:
        refuse(
            {"normalise": normalise, **options},
            f"has no effect on the normalisation already fitted in {normaliser}; leave it out, or "
            "leave --normaliser out",
        )
        options = {}
    if to not in (None, "anndata", "gallery"):
        near = did_you_mean(to, ("anndata", "gallery"))
        raise InputError(f"--to {to!r}{near}: expected anndata or gallery")
    if to == "gallery" and not network:
        raise InputError("--to gallery: give the network's name, as --network wsdino_1a2b3c4d")
    if to != "gallery":
        refuse({"network": network}, "has no effect without --to gallery; leave it out")
    fitted = load_normalisation(normaliser) if normaliser else None
    lock_output(out)
    table = read_tables(embeddings, platemap, column, control, feature, keep)
    with naming(embeddings):
        profiles = make_profiles(
            table,
            normalisation=fitted or settled(normalise, table),
            aggregation=aggregate,
            **options,
        )
    if with_map:
        profiles = with_map_columns(profiles)
    if to == "gallery":
        typer.echo(_to_gallery(table, profiles, out, str(network)))
        return
    (write_anndata if to else write_table)(profiles, out)
    typer.echo(out)


def _to_gallery(table: Any, profiles: Any, out: Path, network: str) -> Path:
    """Write sites, their wells and profiles in the layout of the Cell Painting Gallery."""
    from wsdino.profile.aggregate import aggregate
    from wsdino.tables.columns import BATCH, COMPOUND, PLATE, WELL
    from wsdino.tables.features import require_columns
    from wsdino.tables.workspace_dl import write_workspace_dl

    require_columns(table, [BATCH, PLATE, WELL, COMPOUND], purpose="--to gallery")
    wells = aggregate(table, by=[BATCH, PLATE, WELL, COMPOUND])
    return write_workspace_dl(table, wells, profiles, out, network=network)


@commands.command(
    name="evaluate",
    epilog="Example: wsdino evaluate embeddings.parquet --from-sites --normalise weak_label",
)
def evaluate_command(
    profiles: Annotated[
        list[Path],
        typer.Argument(
            help="Table of treatments, or of sites or wells; with --from-sites several of the same "
            "ones, whose features are taken together.",
            metavar="TABLE...",
        ),
    ],
    from_sites: Annotated[
        bool, typer.Option("--from-sites", help="The table holds sites or wells: profile first.")
    ] = False,
    normalise: NormaliseSites = None,
    num_components: NumComponents = None,
    regularisation: Regularisation = None,
    per_channel: PerChannel = None,
    label: Label = None,
    aggregate: AggregateSites = None,
    platemap: PlateMapOption = None,
    column: Columns = None,
    control: Controls = None,
    feature: Features = None,
    keep: Keep = None,
    multi_batch: Annotated[
        str | None,
        typer.Option(
            help="How NSCB treats a treatment in several batches; default: strict.",
            **choices(MULTI_BATCH),
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the permutation nulls and the bootstrap.")] = 0,
    json: Annotated[Path | None, typer.Option(help="JSON file for all results.")] = None,
) -> None:
    """Evaluate profiles: NSC, NSCB and mAP with confidence intervals; from sites also activity."""
    from wsdino.evaluate.results import evaluate, evaluate_sites, write_results
    from wsdino.report.terminal import print_results
    from wsdino.tables.columns import BATCH

    options = fit_options(num_components, regularisation, per_channel, label)
    if not from_sites:
        refuse(
            {"normalise": normalise, **options, "aggregate": aggregate, "keep": keep},
            "has no effect on treatment profiles; leave it out, or add --from-sites if the table "
            "holds sites or wells",
        )
        if len(profiles) > 1:
            raise InputError(
                f"{profiles[1]}: a second table has no effect on treatment profiles; leave it "
                "out, or add --from-sites if the tables hold sites or wells"
            )
    lock_output(json)
    table = read_tables(profiles, platemap, column, control, feature, keep)
    if multi_batch is not None and BATCH not in table:
        raise InputError(
            f"--multi-batch {multi_batch}: has no effect on {_names(profiles)}, which has no "
            f"{BATCH}; leave it out"
        )
    common: dict[str, Any] = {"multi_batch": multi_batch or "strict", "seed": seed}
    with naming(profiles):
        if from_sites:
            results = evaluate_sites(
                table,
                normalisation=settled(normalise, table),
                aggregation=aggregate or "published",
                **options,
                **common,
            )
        else:
            command = ["wsdino", "evaluate", *map(str, profiles)]
            command += ["--platemap", str(platemap)] if platemap else []
            results = evaluate(table, command=shlex.join(command), **common)
    if json:
        write_results(results, json)
    print_results(results, name=" + ".join(path.name.split(".")[0] for path in profiles))


def settled(normalise: str | None, table: Any) -> str:
    """Name the normalisation that is meant, and say so where the default is another one here."""
    from wsdino.profile.methods import settle_normalisation
    from wsdino.progress import say

    name, why = settle_normalisation(normalise, table)
    if why:
        say(why)
    return name


def _names(paths: list[Path]) -> str:
    return " and ".join(map(str, paths))


@contextmanager
def naming(paths: list[Path]) -> Iterator[None]:
    """Let errors about a table say which one it is."""
    try:
        yield
    except TableError as error:
        raise TableError(f"{_names(paths)}: {error}") from error


def read_tables(
    paths: list[Path],
    platemap: Path | None,
    column: list[str] | None,
    control: list[str] | None,
    feature: list[str] | None,
    keep: str | None = None,
) -> Any:
    """Read the tables that a command was given, and join them."""
    from wsdino.screen.manifest import read_wells
    from wsdino.tables.columns import parse_columns
    from wsdino.tables.joining import join_tables
    from wsdino.tables.keep import rows_to_keep
    from wsdino.tables.reading import read_table

    columns = parse_columns(column)
    wells = None if platemap is None else read_wells(platemap, columns=columns)
    tables = [
        read_table(path, platemap=wells, columns=columns, controls=control, features=feature or ())
        for path in paths
    ]
    table = join_tables(tables, names=list(map(str, paths)))
    if keep is None:
        return table
    return table.iloc[rows_to_keep(table, keep, origin=_names(paths))].reset_index(drop=True)
