"""From site embeddings to numbers: the stages of a run that need no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsdino.profile.methods import find_normalisation
from wsdino.runfolder import RunPaths
from wsdino.trainings import plain

if TYPE_CHECKING:
    from pathlib import Path

    from wsdino.config import Config
    from wsdino.runfolder import RunFolder


def _tables_of(folder: RunFolder, out: Path, others: tuple[str, ...]) -> dict[str, Path]:
    """Return the tables of sites behind profiles, by what they are called."""
    tables = {"the model": RunPaths(out).embeddings}
    return tables | {name: folder.paths.baseline(name).embeddings for name in others}


def profile_stage(
    config: Config, folder: RunFolder, out: Path, *, name: str, others: tuple[str, ...] = ()
) -> None:
    """Make the profiles of the run, with the features of others perhaps, or of a baseline.

    The profiles carry what can only be measured on the normalised sites, so that these are
    computed once.
    """
    from wsdino.evaluate.results import leakage_of_normalised
    from wsdino.profile.aggregate import ATTRIBUTE, profiles_of_normalised
    from wsdino.profile.normalise import fit_normalisation
    from wsdino.tables.joining import read_tables
    from wsdino.tables.writing import write_table

    paths, tables = RunPaths(out), _tables_of(folder, out, others)

    def make_profile_table() -> None:
        table = read_tables(tables)
        fitted = fit_normalisation(table, method=config.profile.normalise, **config.profile.options)
        fitted.save(paths.normalisation)
        normalised = fitted.transform(table)
        made = profiles_of_normalised(normalised, fitted.info, aggregation=config.profile.aggregate)
        made.attrs[ATTRIBUTE]["leakage"] = leakage_of_normalised(normalised)
        write_table(made, paths.profiles)

    # Which features are joined is the run's business alone.
    options = {key: value for key, value in plain(config.profile).items() if key != "with"}
    folder.make(
        f"{name}: profile",
        products=[paths.profiles, paths.normalisation],
        sources=list(tables.values()),
        options=[options, list(others)],
        work=make_profile_table,
    )


def evaluate_stage(
    config: Config,
    folder: RunFolder,
    out: Path,
    *,
    name: str,
    others: tuple[str, ...] = (),
    baselines: tuple[str, ...] = (),
) -> None:
    """Make the results of the run or of a baseline; the run's contain those of its baselines."""
    from wsdino.evaluate.held_out import held_out_of
    from wsdino.evaluate.results import evaluate, evaluate_sites, read_results, write_results
    from wsdino.profile.aggregate import ATTRIBUTE
    from wsdino.tables.joining import read_tables
    from wsdino.tables.reading import read_table

    paths = RunPaths(out)
    tables = _tables_of(folder, out, others)
    beside = {each: paths.baseline(each).results for each in baselines}
    uses_labels = find_normalisation(config.profile.normalise).needs.label

    def make_numbers() -> None:
        profiles = read_table(paths.profiles)
        results = evaluate(
            profiles,
            multi_batch=config.evaluate.multi_batch,
            num_permutations=config.evaluate.num_permutations,
            seed=config.seed,
        )
        results["leakage"] = profiles.attrs.get(ATTRIBUTE, {}).get("leakage")
        if uses_labels:
            results["held_out"] = held_out_of(
                read_tables(tables),
                normalisation=config.profile.normalise,
                aggregation=config.profile.aggregate,
                multi_batch=config.evaluate.multi_batch,
                seed=config.seed,
                **config.profile.options,
            )
        results["beside"] = {
            method: evaluate_sites(
                read_tables(tables),
                normalisation=method,
                aggregation=config.profile.aggregate,
                multi_batch=config.evaluate.multi_batch,
                num_permutations=config.evaluate.num_permutations,
                seed=config.seed,
            )
            for method in config.evaluate.beside
        }
        if baselines:
            results["baselines"] = {each: read_results(path) for each, path in beside.items()}
        write_results(results, paths.results)

    folder.make(
        f"{name}: evaluate",
        products=[paths.results],
        sources=[paths.profiles, *tables.values(), *beside.values()],
        options=[
            plain(config.evaluate),
            config.profile.aggregate,
            config.seed,
            list(baselines),
        ],
        work=make_numbers,
    )
