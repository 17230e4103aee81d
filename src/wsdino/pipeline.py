"""The stages in order: done ones are skipped, what follows a new one is made anew."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wsdino.errors import InputError
from wsdino.prepare import plain, prepare, resolve_device, training_options
from wsdino.progress import say
from wsdino.stages import CONFIG, RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsdino.config import Config
    from wsdino.model.model import Model
    from wsdino.model.spec import ModelSpec
    from wsdino.screen.store import Store
    from wsdino.train.options import Optimisation, WeakPositives

T = TypeVar("T")


def run(config: Config, out: str | Path) -> dict[str, Any]:
    """Do every stage of a run that isn't done.

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
        If the config, the screen and the folder don't fit each other; nothing is written then.
    TrainingError
        If training was stopped or can't go on; the same call goes on where it can.
    """
    out = Path(out)
    folder, store, config = prepare(config, out, evaluated=True)
    train_stage(config, store, folder)
    _profile_stages(config, store, folder, out, name="run", embed=_embedding(config, store, out))
    for name in config.baselines.names:
        _baseline(name, config, store, folder)
    _evaluate_stage(config, folder, out, name="run", baselines=config.baselines.names)
    _report_stage(config, store, folder)
    return _read_json(out / "results.json")


def open_run_store(config: Config, out: Path) -> Store:
    """Open the store that a run was made from."""
    from wsdino.screen.store import open_store

    return open_store(config.screen.store or out / "store")


def model_spec(config: Config, channels: tuple[str, ...]) -> ModelSpec:
    """Describe the model that a config asks for on a screen's channels."""
    from wsdino.model.spec import ModelSpec

    return ModelSpec(
        channels=channels,
        mode=config.model.mode,
        architecture=config.architecture,
        scaling=config.input,
        tile=config.embed.tile,
        tile_grid=config.embed.tile_grid,
        tile_summary=config.embed.tile_summary,
    )


def train_stage(config: Config, store: Store, folder: RunFolder) -> None:
    """Train the run's own model."""
    _train(config, store, folder, folder.path, name="train")


def _train(
    config: Config,
    store: Store,
    folder: RunFolder,
    out: Path,
    *,
    name: str,
    optimisation: Optimisation | None = None,
    pairing: WeakPositives | None = None,
) -> None:
    from wsdino.train.train import train

    classify = optimisation is not None and optimisation.objective == "classify"
    views = config.baselines.classifier_views if classify else config.crops.global_views

    def work() -> None:
        train(
            store,
            out,
            spec=model_spec(config, store.channels),
            optimisation=optimisation or config.train,
            distillation=config.distill,
            weak_positives=pairing or config.pairing,
            global_views=views,
            local_views=config.crops.local_views,
            weights=config.model.weights,
            seed=config.seed,
            device=resolve_device(config.device),
        )

    options = training_options(config, classifier=classify) | {"own": plain(pairing)}
    folder.make(
        name,
        products=[
            out / "metrics.jsonl",
            out / "model" / "config.json",
            out / "model" / "model.safetensors",
        ],
        sources=[store.path / "manifest.parquet"],
        options=options,
        work=work,
        together=True,
    )


def _embedding(config: Config, store: Store, out: Path) -> Callable[[Path], None]:
    """Embed with the model in a run folder, or in that of a baseline."""

    def embed(path: Path) -> None:
        from wsdino.model.model import load_model

        _embed(load_model(out, device=resolve_device(config.device)), config, store, path)

    return embed


def _embed(model: Model, config: Config, store: Store, path: Path) -> None:
    from wsdino.model.model import Model
    from wsdino.profile.embed import write_embeddings

    # Tiles are the config's, not those that the weights were saved with.
    current = Model(model_spec(config, store.channels), model.networks, device=model.device)
    write_embeddings(current, store, path, batch_size=config.embed.batch_size)


def _profile_stages(
    config: Config,
    store: Store,
    folder: RunFolder,
    out: Path,
    *,
    name: str,
    embed: Callable[[Path], None],
    together: bool = True,
) -> None:
    """Make embeddings and profiles, of the run or of a baseline."""
    from wsdino.profile.aggregate import make_profiles
    from wsdino.profile.tables import read_table, write_table

    embeddings, profiles = out / "embeddings.parquet", out / "profiles.parquet"

    def make_profile_table() -> None:
        made = make_profiles(
            read_table(embeddings),
            aggregation=config.profile.aggregate,
            **_normalisation(config),
        )
        write_table(made, profiles)

    # A network that was not trained has no file that would tell when its shape changes.
    network = [plain(config.model), config.architecture.identity(), plain(config.input)]
    folder.make(
        f"{name}: embed",
        products=[embeddings],
        sources=[store.path / "manifest.parquet", out / "model" / "model.safetensors"],
        options=[plain(config.embed), network, config.seed],
        work=lambda: embed(embeddings),
        together=together,
    )
    folder.make(
        f"{name}: profile",
        products=[profiles],
        sources=[embeddings],
        options=plain(config.profile),
        work=make_profile_table,
    )


def _evaluate_stage(
    config: Config, folder: RunFolder, out: Path, *, name: str, baselines: tuple[str, ...] = ()
) -> None:
    """Make the numbers of the run or of a baseline; the run's hold those of the baselines."""
    from wsdino.evaluate.results import evaluate, evaluate_leakage, write_results
    from wsdino.profile.tables import read_table

    others = {each: out / "baselines" / each / "results.json" for each in baselines}

    def make_numbers() -> None:
        results = evaluate(
            read_table(out / "profiles.parquet"),
            multi_batch=config.evaluate.multi_batch,
            num_permutations=config.evaluate.num_permutations,
            seed=config.seed,
        )
        embeddings = read_table(out / "embeddings.parquet")
        results["leakage"] = evaluate_leakage(embeddings, **_normalisation(config))
        if baselines:
            results["baselines"] = {each: _read_json(path) for each, path in others.items()}
        write_results(results, out / "results.json")

    folder.make(
        f"{name}: evaluate",
        products=[out / "results.json"],
        sources=[out / "profiles.parquet", *others.values()],
        options=[plain(config.evaluate), config.seed, list(baselines)],
        work=make_numbers,
    )


def _normalisation(config: Config) -> dict[str, Any]:
    return {
        "normalisation": config.profile.normalise,
        "num_components": config.profile.num_components,
        "regularisation": config.profile.regularisation,
        "per_channel": config.profile.per_channel,
    }


def _baseline(name: str, config: Config, store: Store, folder: RunFolder) -> None:
    from wsdino.model.model import Model
    from wsdino.profile.classical import classical_table
    from wsdino.profile.tables import write_table
    from wsdino.screen.store import num_cpus
    from wsdino.train.train import initial_networks

    out = folder.path / "baselines" / name
    if name == "classifier":
        own = config.baselines.classifier
        _train(config, store, folder, out, name="classifier: train", optimisation=own)
    elif name == "dino":
        unpaired = replace(config.pairing, label="none")
        own = replace(config.train, objective="distill")
        _train(config, store, folder, out, name="dino: train", optimisation=own, pairing=unpaired)

    def as_it_starts(path: Path) -> None:
        spec = model_spec(config, store.channels)
        weights = config.model.weights if name == "frozen" else None
        networks = initial_networks(spec, seed=config.seed, weights=weights)
        model = Model(spec, networks, device=resolve_device(config.device))
        _embed(model, config, store, path)

    def classical(path: Path) -> None:
        write_table(classical_table(store, workers=num_cpus()), path)

    _profile_stages(
        config,
        store,
        folder,
        out,
        name=name,
        embed={"untrained": as_it_starts, "frozen": as_it_starts, "classical": classical}.get(
            name, _embedding(config, store, out)
        ),
        together=name != "classical",
    )
    _evaluate_stage(config, folder, out, name=name)


def _report_stage(config: Config, store: Store, folder: RunFolder) -> None:
    out = folder.path

    def make_report() -> None:
        report(config, out)

    shown = ("results.json", "profiles.parquet", "coverage.json", CONFIG, "environment.json")
    folder.make(
        "report",
        products=[out / "report.html"],
        sources=[
            *(out / name for name in shown),
            *(out / "baselines" / name / "metrics.jsonl" for name in config.baselines.names),
            out / "model" / "model.safetensors",
            store.path / "manifest.parquet",
        ],
        options=[plain(config.report), config.seed],
        work=make_report,
    )


def report(config: Config, out: Path) -> Path:
    """Write the report on a run from what is there, be the run finished or not.

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

    store = _if_there(lambda: open_run_store(config, out))
    return write_report(
        out,
        store=store,
        model=None if store is None else _if_there(lambda: load_model(out)),
        num_example_fields=config.report.num_example_fields,
        attention_sites=config.report.attention_sites,
        seed=config.seed,
    )


def _if_there(get: Callable[[], T]) -> T | None:
    try:
        return get()
    except InputError as error:
        say(f"the report goes without: {error}")
        return None


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))
