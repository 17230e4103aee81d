"""From site embeddings to numbers: the stages of a run that need no network."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from wsdino.errors import TableError
from wsdino.profile.methods import find_normalisation
from wsdino.runfolder import RunPaths
from wsdino.trainings import plain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd

    from wsdino.config import Config
    from wsdino.runfolder import RunFolder


def _tables_of(run: RunPaths, out: Path, others: tuple[str, ...]) -> dict[str, Path]:
    """Return the tables of sites behind profiles, by what they are called."""
    tables = {"the model": RunPaths(out).embeddings}
    return tables | {name: run.baseline(name).embeddings for name in others}


def profile_stage(
    config: Config, folder: RunFolder, out: Path, *, name: str, others: tuple[str, ...] = ()
) -> None:
    """Make the profiles of the run, with the features of others perhaps, or of a baseline.

    The profiles carry what can only be measured on the normalised sites, so that these are
    computed once.
    """
    from wsdino.evaluate.leakage import leakage_of
    from wsdino.profile.aggregate import ATTRIBUTE, profiles_of_normalised
    from wsdino.profile.normalise import fit_normalisation
    from wsdino.tables.joining import read_tables
    from wsdino.tables.writing import write_table

    paths, tables = RunPaths(out), _tables_of(folder.paths, out, others)

    def make_profile_table() -> None:
        table = read_tables(tables)
        fitted = fit_normalisation(table, method=config.profile.normalise, **config.profile.options)
        fitted.save(paths.normalisation)
        normalised = fitted.transform(table)
        made = profiles_of_normalised(normalised, fitted.info, aggregation=config.profile.aggregate)
        made.attrs[ATTRIBUTE]["leakage"] = leakage_of(table, normalised)
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
    from wsdino.evaluate.evidence import activity_or_note, write_activity
    from wsdino.evaluate.held_out import held_out_of
    from wsdino.evaluate.results import (
        evaluate,
        evaluate_sites,
        read_results,
        warnings_of,
        write_results,
    )
    from wsdino.profile.aggregate import how_made
    from wsdino.profile.fitted import load_normalisation
    from wsdino.tables.joining import read_tables
    from wsdino.tables.reading import read_table

    paths = RunPaths(out)
    tables = _tables_of(folder.paths, out, others)
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
        results["leakage"] = how_made(profiles).get("leakage")
        results["warnings"] = warnings_of(results)
        sites = read_tables(tables)
        results["activity"] = activity_or_note(
            sites,
            None if uses_labels else load_normalisation(paths.normalisation).transform(sites),
            normalisation=config.profile.normalise,
            seed=config.seed,
            **config.profile.options,
        )
        if uses_labels:
            results["held_out"] = held_out_of(
                sites,
                normalisation=config.profile.normalise,
                aggregation=config.profile.aggregate,
                multi_batch=config.evaluate.multi_batch,
                seed=config.seed,
                **config.profile.options,
            )
        results["beside"] = {
            method: evaluate_sites(
                sites,
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
        write_activity(results["activity"], paths.activity)
        write_results(results, paths.results)

    folder.make(
        f"{name}: evaluate",
        products=[paths.results, paths.activity],
        sources=[paths.profiles, paths.normalisation, *tables.values(), *beside.values()],
        options=[
            plain(config.evaluate),
            config.profile.aggregate,
            config.seed,
            list(baselines),
        ],
        work=make_numbers,
    )


def normalised_sites(out: Path, others: tuple[str, ...] = ()) -> pd.DataFrame:
    """Normalise the sites of a run as its profiles are.

    Parameters
    ----------
    out
        Run folder.
    others
        Baselines whose features are joined.

    Returns
    -------
    DataFrame
        Metadata and normalised features.

    Raises
    ------
    InputError
        If the embeddings or the fitted normalisation are missing, or don't fit together.
    """
    from wsdino.profile.fitted import load_normalisation
    from wsdino.tables.joining import read_tables

    table = read_tables(_tables_of(RunPaths(out), out, others))
    return load_normalisation(RunPaths(out).normalisation).transform(table)


def compare_runs(
    runs: Sequence[Path], *, multi_batch: str = "strict", seed: int = 0
) -> list[dict[str, Any]]:
    """Compare runs or tables of treatments with the first of them.

    Parameters
    ----------
    runs
        At least two run folders, or tables of treatment profiles.
    multi_batch, seed
        See :func:`wsdino.evaluate.compare.compare`.

    Returns
    -------
    list of dict
        For each but the first what :func:`wsdino.evaluate.compare.compare` returned, or its `nsc`,
        `nscb` and `map` as None where nothing can be matched; `first` and `second`, their names;
        `activity`, of :func:`wsdino.evaluate.compare.compare_activity`, or None; `notes`.

    Raises
    ------
    TableError
        If a file is missing, or there is nothing that two of them can be compared by.
    """
    from wsdino.errors import TableError
    from wsdino.evaluate.compare import compare, compare_activity

    names = _names_of(runs)
    first, *others = (_Judged(path) for path in runs)
    found = []
    for name, other in zip(names[1:], others, strict=True):
        compared: dict[str, Any] = {"nsc": None, "nscb": None, "map": None}
        notes = [note for note in (first.note, other.note) if note]
        try:
            compared = compare(first.profiles, other.profiles, multi_batch=multi_batch, seed=seed)
        except TableError as error:
            notes.append(f"{names[0]} and {name}: mechanisms are not compared: {error}")
        activity = None
        if first.activity is not None and other.activity is not None:
            activity = compare_activity(first.activity, other.activity, seed=seed)
        if compared["nscb"] is not None:
            notes += [
                f"{judged.path}: its own results take treatments in several batches as "
                f"{judged.multi_batch} (--multi-batch), the comparison as {multi_batch}; NSCB may "
                "differ"
                for judged in (first, other)
                if judged.multi_batch not in (None, multi_batch)
            ]
        if compared["nsc"] is None and activity is None:
            raise TableError(notes[-1] if notes else f"{names[0]} and {name}: nothing in common")
        found.append(
            {"first": names[0], "second": name, **compared, "activity": activity, "notes": notes}
        )
    return found


class _Judged:
    """Profiles of a run or table, the activity of a run's treatments, and how it was judged."""

    def __init__(self, path: Path) -> None:
        from wsdino.outside import read_json
        from wsdino.profile.aggregate import how_made
        from wsdino.tables.files import read_file
        from wsdino.tables.reading import read_table

        self.path, paths = path, RunPaths(path)
        self.profiles = read_table(paths.profiles if path.is_dir() else path)
        self.activity: pd.DataFrame | None = None
        self.multi_batch: str | None = None
        # Nothing else of the results is needed, so that they may be absent or damaged.
        with suppress(TableError):
            self.multi_batch = read_json(paths.results, TableError).get("multi_batch")
        if path.is_dir() and paths.activity.is_file():
            found = read_file(paths.activity)
            if "p_value" not in found:
                raise TableError(f"{paths.activity}: no column p_value; run wsdino run again")
            self.activity = found if found["p_value"].notna().any() else None
        made = how_made(self.profiles).get("normalisation", {})
        label = made.get("options", {}).get("label")
        self.note = ""
        if label:
            self.note = (
                f"{path}: its normalisation ({made.get('method')}) was fitted with the weak labels "
                f"({label}) of all treatments, which may favour it in NSC, NSCB and mAP"
            )


def _names_of(paths: Sequence[Path]) -> list[str]:
    """Name runs by their folders, and by those above where these are alike."""
    found = [path.resolve() for path in paths]
    parts = [(*path.parts[:-1], path.name.split(".")[0] or path.name) for path in found]
    for depth in (1, 2, 3):
        names = ["/".join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{each[-1]} ({number})" for number, each in enumerate(parts, start=1)]
