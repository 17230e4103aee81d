"""The stages in order: finished ones are skipped, and those that depend on a new one run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wsdino.baselines import find_baseline
from wsdino.checks import prepare
from wsdino.device import resolve_device
from wsdino.errors import InputError
from wsdino.lock import one_writer
from wsdino.profile.methods import find_normalisation
from wsdino.progress import say
from wsdino.runfolder import RunFolder, RunPaths
from wsdino.trainings import OWN, model_spec, plain, training_config, training_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsdino.baselines import Baseline, Training
    from wsdino.config import Config
    from wsdino.model.model import Model
    from wsdino.runfolder import ModelPaths
    from wsdino.screen.store import Store

T = TypeVar("T")


def run(config: Config, out: str | Path) -> dict[str, Any]:
    """Run every stage that isn't done.

    Parameters
    ----------
    config
        The resolved config.
    out
        Run folder.

    Returns
    -------
    dict
        The content of ``results.json``.

    Raises
    ------
    InputError
        If the config, the screen and the folder don't fit together; then nothing is written.
    TrainingError
        If training was stopped or can't continue; the same call resumes if it can.
    """
    out = RunFolder(Path(out)).path
    with one_writer(out):
        folder, store, config = prepare(config, out, evaluated=True)
        _train_stage(config, store, folder)
        embed, joined = _embedding(config, store, out), config.profile.with_
        _embed_stage(config, store, folder, out, name="run", embed=embed)
        for name in joined:
            _embed_baseline(name, config, store, folder)
        _profile_stage(config, folder, out, name="run", others=joined)
        for name in config.baselines.names:
            own = folder.paths.baseline(name).folder
            _embed_baseline(name, config, store, folder)
            _profile_stage(config, folder, own, name=name)
            _evaluate_stage(config, folder, own, name=name)
        names = config.baselines.names
        _evaluate_stage(config, folder, out, name="run", others=joined, baselines=names)
        _report_stage(config, store, folder)
        return _read_json(folder.paths.results)


def train_run(config: Config, out: str | Path) -> ModelPaths:
    """Train the model of a run, or resume training; no other stage.

    Parameters
    ----------
    config, out
        As for :func:`run`.

    Returns
    -------
    ModelPaths
        Location of the model.

    Raises
    ------
    InputError, TrainingError
        As for :func:`run`.
    """
    out = RunFolder(Path(out)).path
    with one_writer(out):
        folder, store, config = prepare(config, out)
        _train_stage(config, store, folder)
        return folder.paths.model


def open_run_store(config: Config, out: Path) -> Store:
    """Open the store that a run was made from."""
    from wsdino.screen.store import open_store

    return open_store(config.screen.store or RunPaths(out).store)


def _train_stage(config: Config, store: Store, folder: RunFolder) -> None:
    _train(config, store, folder, folder.path, name="train")


def _train(
    config: Config,
    store: Store,
    folder: RunFolder,
    out: Path,
    *,
    name: str,
    training: Training = OWN,
) -> None:
    """Train the model of a run or of a baseline."""
    from wsdino.train.train import train

    own = training_config(config, training)

    def work() -> None:
        train(
            store,
            out,
            spec=model_spec(own, store.channels),
            optimisation=own.train,
            objective=own.objective,
            weak_positives=own.pairing,
            global_views=own.crops.global_views,
            local_views=own.crops.local_views,
            weights=own.model.weights,
            seed=own.seed,
            device=resolve_device(own.device),
        )

    paths = RunPaths(out)
    folder.make(
        name,
        products=[paths.metrics, paths.model.config, paths.model.weights],
        sources=[],
        options=training_options(config, training) | _screen_of(store),
        work=work,
        together=True,
    )


def _screen_of(store: Store) -> dict[str, str]:
    """Identify the images and metadata that a stage works on."""
    return {"pixels": store.pixels_digest, "manifest": store.manifest_digest}


def _embedding(config: Config, store: Store, out: Path) -> Callable[[Path], None]:
    """Embed with the model in the folder of a run or of a baseline."""

    def embed(path: Path) -> None:
        from wsdino.model.model import load_model

        _embed(load_model(out, device=resolve_device(config.device)), config, store, path)

    return embed


def _embed(model: Model, config: Config, store: Store, path: Path) -> None:
    from wsdino.embed.embed import write_embeddings
    from wsdino.model.model import Model

    # The tiles are those of the config, not those saved with the weights.
    current = Model(model_spec(config, store.channels), model.networks, device=model.device)
    write_embeddings(current, store, path, batch_size=config.embed.batch_size)


def _embed_stage(
    config: Config,
    store: Store,
    folder: RunFolder,
    out: Path,
    *,
    name: str,
    embed: Callable[[Path], None],
    together: bool = True,
) -> None:
    """Make the embeddings of the run or of a baseline."""
    paths = RunPaths(out)
    # A network that was not trained has no file that would tell when its shape changes.
    network = [plain(config.model), config.architecture.identity(), plain(config.input)]
    # How many fields are embedded at once changes nothing but the time it takes.
    tiles = {key: value for key, value in plain(config.embed).items() if key != "batch_size"}
    folder.make(
        f"{name}: embed",
        products=[paths.embeddings],
        sources=[paths.model.weights],
        options=[tiles, network, config.seed, _screen_of(store)],
        work=lambda: embed(paths.embeddings),
        together=together,
    )


def _tables_of(folder: RunFolder, out: Path, others: tuple[str, ...]) -> dict[str, Path]:
    """Return the tables of sites behind profiles, by what they are called."""
    tables = {"the model": RunPaths(out).embeddings}
    return tables | {name: folder.paths.baseline(name).embeddings for name in others}


def _profile_stage(
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


def _evaluate_stage(
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
    from wsdino.evaluate.results import evaluate, evaluate_sites, write_results
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
            results["baselines"] = {each: _read_json(path) for each, path in beside.items()}
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


def _embed_baseline(name: str, config: Config, store: Store, folder: RunFolder) -> None:
    """Train a baseline where it is trained, and embed as for the run."""
    baseline, out = find_baseline(name), folder.paths.baseline(name).folder
    if baseline.training:
        _train(config, store, folder, out, name=f"{name}: train", training=baseline.training)
    _embed_stage(
        config,
        store,
        folder,
        out,
        name=name,
        embed=_baseline_embedding(baseline, config, store, out),
        together=baseline.features is None,
    )


def _baseline_embedding(
    baseline: Baseline, config: Config, store: Store, out: Path
) -> Callable[[Path], None]:
    """Choose how the site embeddings of a baseline are made."""
    from wsdino.device import num_cpus
    from wsdino.model.model import Model
    from wsdino.tables.writing import write_table

    features, networks = baseline.features, baseline.networks
    if features:
        return lambda path: write_table(features(store, num_cpus()), path)
    if networks is None:
        return _embedding(config, store, out)

    def embed(path: Path) -> None:
        spec = model_spec(config, store.channels)
        made = networks(spec, config.seed, config.model.weights)
        _embed(Model(spec, made, device=resolve_device(config.device)), config, store, path)

    return embed


def _report_stage(config: Config, store: Store, folder: RunFolder) -> None:
    paths = folder.paths

    def make_report() -> None:
        report(config, folder.path)

    folder.make(
        "report",
        products=[paths.report],
        sources=[
            *(paths.results, paths.profiles, paths.coverage, paths.config, paths.environment),
            *(paths.baseline(name).metrics for name in config.baselines.names),
            *(paths.metrics, paths.model.config, paths.model.weights),
        ],
        options=[plain(config.report), config.seed, _screen_of(store)],
        work=make_report,
    )


def report(config: Config, out: Path) -> Path:
    """Write the report on a run, finished or not, from what it has so far.

    Parameters
    ----------
    config
        The run's config.
    out
        Run folder.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    InputError
        See :func:`wsdino.report.html.write_report`.
    """
    from wsdino.model.model import load_model
    from wsdino.report.html import write_report

    store = _or_none(lambda: open_run_store(config, out))
    return write_report(
        out,
        store=store,
        model=None if store is None else _or_none(lambda: load_model(out)),
        num_example_fields=config.report.num_example_fields,
        attention_sites=config.report.attention_sites,
        seed=config.seed,
    )


def _or_none(get: Callable[[], T]) -> T | None:
    try:
        return get()
    except InputError as error:
        say(f"left out of the report: {error}")
        return None


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))
