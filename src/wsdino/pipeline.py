"""The stages in order: finished ones are skipped, and those that depend on a new one run again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wsdino.baselines import find_baseline
from wsdino.checks import screen_warnings
from wsdino.device import resolve_device
from wsdino.errors import InputError
from wsdino.judging import evaluate_stage, normalised_sites, profile_stage
from wsdino.lock import one_writer
from wsdino.preparation import prepare
from wsdino.progress import say
from wsdino.runfolder import RunFolder, RunPaths
from wsdino.trainings import OWN, model_spec, plain, training_config, training_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsdino.baselines import Baseline, Training
    from wsdino.config import Config
    from wsdino.model.model import Model
    from wsdino.report.viewing import Screen
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
    from wsdino.evaluate.results import read_results

    out = RunFolder(Path(out)).path
    with one_writer(out):
        folder, store, config = prepare(config, out, evaluated=True)
        _train_stage(config, store, folder)
        embed, joined = _embedding(config, store, out), config.profile.with_
        _embed_stage(config, store, folder, out, name="run", embed=embed)
        for name in joined:
            _embed_baseline(name, config, store, folder)
        profile_stage(config, folder, out, name="run", others=joined)
        for name in config.baselines.names:
            own = folder.paths.baseline(name).folder
            _embed_baseline(name, config, store, folder)
            profile_stage(config, folder, own, name=name)
            evaluate_stage(config, folder, own, name=name)
        names = config.baselines.names
        evaluate_stage(config, folder, out, name="run", others=joined, baselines=names)
        _report_stage(config, store, folder)
        return read_results(folder.paths.results)


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

    return open_store(config.screen.store or RunPaths(out).store, keep=config.screen.keep)


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
    if baseline.model:
        return _embedding_as_it_is(baseline.model, config, store)
    if networks is None:
        return _embedding(config, store, out)

    def embed(path: Path) -> None:
        spec = model_spec(config, store.channels)
        made = networks(spec, config.seed, config.model.weights)
        _embed(Model(spec, made, device=resolve_device(config.device)), config, store, path)

    return embed


def _embedding_as_it_is(source: str, config: Config, store: Store) -> Callable[[Path], None]:
    """Embed by a model that has nothing to do with that of the run."""

    def embed(path: Path) -> None:
        from wsdino.embed.embed import write_embeddings
        from wsdino.model.model import load_model

        model = load_model(source, channels=store.channels, device=resolve_device(config.device))
        write_embeddings(model, store, path, batch_size=config.embed.batch_size)

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
            *(paths.embeddings, paths.normalisation),
            *(paths.baseline(name).embeddings for name in config.profile.with_),
        ],
        options=[
            *(plain(config.report), config.seed, _screen_of(store)),
            screen_warnings(config, store),
        ],
        work=make_report,
    )


def report(config: Config, out: Path, path: Path | None = None) -> Path:
    """Write the report on a run, finished or not, from what it has so far.

    Parameters
    ----------
    config
        The run's config.
    out
        Run folder.
    path
        The file to write; None: `report.html` in the run folder.

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
        warnings=None if store is None else screen_warnings(config, store),
        sites=_or_none(lambda: normalised_sites(out, config.profile.with_)),
        out=path,
        num_example_fields=config.report.num_example_fields,
        attention_sites=config.report.attention_sites,
        seed=config.seed,
    )


def explore(config: Config, out: Path) -> tuple[Screen, str]:
    """Make the page that looks at a run's whole store.

    Parameters
    ----------
    config
        The run's config.
    out
        Run folder.

    Returns
    -------
    screen, page
        See :func:`wsdino.report.explore.explore_page`.

    Raises
    ------
    InputError
        If the run's store can't be opened, or as in that function.
    """
    from wsdino.report.explore import explore_page

    store = open_run_store(config, out)
    sites = _or_none(lambda: normalised_sites(out, config.profile.with_))
    return explore_page(out, store, sites, seed=config.seed)


def _or_none(get: Callable[[], T]) -> T | None:
    try:
        return get()
    except InputError as error:
        say(f"left out of the report: {error}")
        return None
