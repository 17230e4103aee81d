"""The stages in order: done ones are skipped, what follows a new one is made anew."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import sys
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsdino.errors import ConfigError, OutputError
from wsdino.progress import say, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pandas as pd

    from wsdino.config import Config
    from wsdino.model.model import Model, ModelSpec
    from wsdino.screen.store import Store
    from wsdino.train.options import Optimisation, WeakPositives

STAMPS = ".stages.json"
# Sections that decide what each stage makes; a stage also follows all stages before it.
TRAINING_SECTIONS = (
    "seed",
    "model",
    "architecture",
    "input",
    "pairing",
    "crops",
    "train",
    "distill",
)
BEFORE_CONFIG = {"screen", "store"}
NEED_CONTROLS = ("tvn", "plate_controls")


class RunFolder:
    """A run folder that knows which of its products are up to date.

    A stage is done if its products are there, it was made with the same options, and none of what
    it was made from is newer.

    Parameters
    ----------
    path
        The folder: new, empty, or a run folder.

    Raises
    ------
    OutputError
        If the folder holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        found = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        # A run that was stopped early holds its screen and store, and no config yet.
        if path.is_file() or ("config.yaml" not in found and found - BEFORE_CONFIG):
            raise OutputError(
                f"{path}: is there and is no run folder (no config.yaml); give --out a new or "
                "empty folder"
            )
        path.mkdir(parents=True, exist_ok=True)

    def make(
        self,
        stage: str,
        *,
        products: Iterable[Path],
        sources: Iterable[Path],
        options: object,
        work: Callable[[], None],
    ) -> None:
        """Do the work of a stage unless it is done.

        Parameters
        ----------
        stage
            Name, for the person who waits.
        products, sources
            Files that the stage writes and reads.
        options
            What the stage depends on beside its sources; must be serialisable as JSON.
        work
            Writes the products.
        """
        stamp = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()
        stamps = self._stamps()
        products, sources = list(products), list(sources)
        if (
            stamps.get(stage) == stamp
            and all(product.exists() for product in products)
            and _newest(sources) <= min(product.stat().st_mtime_ns for product in products)
        ):
            say(f"{stage}: done before")
            return
        say(f"{stage}: start")
        work()
        write_text(self.path / STAMPS, json.dumps(self._stamps() | {stage: stamp}, indent=1) + "\n")

    def _stamps(self) -> dict[str, str]:
        path = self.path / STAMPS
        return dict(json.loads(path.read_text())) if path.is_file() else {}


def _newest(paths: list[Path]) -> int:
    return max((path.stat().st_mtime_ns for path in paths if path.exists()), default=0)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


def run(config: Config, out: Path) -> dict[str, Any]:
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
    """
    folder, store, config = prepare(config, out)
    train_stage(config, store, folder)
    _profile_stages(config, store, folder, out, name="run", table=_embedding(config, store, out))
    baselines = {name: _baseline(name, config, store, folder) for name in config.baselines.names}
    results = _read_json(out / "evaluation.json") | {"baselines": baselines}
    write_text(out / "results.json", json.dumps(results, indent=1) + "\n")
    report(config, store, out)
    return results


def prepare(config: Config, out: Path) -> tuple[RunFolder, Store, Config]:
    """Open the run folder and the store, check that they fit the config, and note both.

    Returns
    -------
    tuple
        Run folder, store, and the config with absolute paths.
    """
    folder = RunFolder(out)
    screen = config.screen.model_copy(
        update={
            "source": config.screen.source and config.screen.source.absolute(),
            "store": (config.screen.store or out / "store").absolute(),
        }
    )
    store = _store(config, out)
    config = config.model_copy(update={"screen": screen})
    check(config, store)
    start_record(config, out)
    coverage(config, store, out)
    return folder, store, config


def open_run_store(config: Config, out: Path) -> Store:
    """Open the store that a run was made from."""
    from wsdino.screen.store import open_store

    return open_store(config.screen.store or out / "store")


def _store(config: Config, out: Path) -> Store:
    from wsdino.screen.ingest import ingest
    from wsdino.screen.store import open_store

    path = config.screen.store or out / "store"
    if config.screen.source is not None:
        return ingest(config.screen.source, path, controls=config.screen.controls)
    if config.screen.store is None:
        raise ConfigError(
            "config key screen.source: empty; name a screen (--set screen.source=FOLDER) or a "
            "finished store (--set screen.store=STORE)"
        )
    return open_store(path)


def check(config: Config, store: Store) -> None:
    """Refuse what would fail hours later: normalisation, labels, crops and tiles.

    Raises
    ------
    InputError
        The subclass that fits.
    """
    import numpy as np

    from wsdino.errors import TableError
    from wsdino.model.tiles import tile_starts
    from wsdino.train.crops import draw_crops
    from wsdino.train.train import positives

    manifest = store.manifest
    if config.profile.normalise in NEED_CONTROLS and not manifest["Metadata_Control"].any():
        raise TableError(
            f"{store.path}: has no controls, and profile.normalise {config.profile.normalise} is "
            "fitted on them; use --set profile.normalise=whiten_all or plate, or name the controls "
            "with screen.controls"
        )
    if manifest["Metadata_Compound"][~manifest["Metadata_Control"]].nunique() < 2:
        raise ConfigError(
            f"{store.path}: its column Metadata_Compound has fewer than two compounds beside the "
            "controls; matching needs a neighbour of another compound"
        )
    positives(manifest, config.pairing, objective=config.train.objective)
    crops = config.crops
    for views in (crops.global_views, crops.local_views, config.baselines.classifier_views):
        draw_crops(
            replace(views, num_views=1),
            64,
            field_shape=store.field_shape,
            num_channels=1,
            rng=np.random.default_rng(config.seed),
        )
    if crops.global_views.num_views < 1 or config.baselines.classifier_views.num_views < 1:
        raise ConfigError("config key crops.global_views.num_views: at least 1 is needed")
    if crops.global_views.num_views + crops.local_views.num_views < 2:
        raise ConfigError("config key crops: self-distillation needs at least two views")
    if config.pairing.partner_global_views > crops.global_views.num_views:
        raise ConfigError(
            f"config key pairing.partner_global_views: {config.pairing.partner_global_views} is "
            f"more than the {crops.global_views.num_views} global views"
        )
    for side in store.field_shape if config.embed.tile else ():
        tile_starts(side, config.embed.tile or side)


def start_record(config: Config, out: Path) -> None:
    """Write ``config.yaml`` and ``environment.json``."""
    write_text(out / "config.yaml", config.to_yaml())
    write_text(out / "environment.json", json.dumps(environment(config), indent=1) + "\n")


def environment(config: Config) -> dict[str, Any]:
    """Say what a run ran on: versions, hardware, git commit, command and seed."""
    import torch

    wanted = ("wsdino", "torch", "timm", "numpy", "pandas", "scikit-learn", "zarr", "copairs")
    git = subprocess.run(  # noqa: S603 fixed arguments
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "command": ["wsdino", *sys.argv[1:]],
        "seed": config.seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "num_threads": torch.get_num_threads(),
        "device": resolve_device(config.device),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": git.stdout.strip() or None,
        "versions": {name: metadata.version(name) for name in wanted},
    }


def resolve_device(wanted: str) -> str:
    """Turn ``auto`` into ``cuda`` where there is one, else ``cpu``."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"config key device: {wanted!r}, but no CUDA device is there; use cpu")
    return wanted


def coverage(config: Config, store: Store, out: Path) -> None:
    """Print and write how many sites have partners, before training."""
    from wsdino.report.coverage import coverage_table
    from wsdino.train.train import positives

    found = positives(store.manifest, config.pairing, objective=config.train.objective)
    record = {
        "label": config.pairing.label,
        "num_labels": len(found.labels.names),
        "num_sites": len(found.labels.sites),
        "partner_from": config.pairing.partner_from,
        "fallback": config.pairing.fallback,
        "rows": found.pairing.coverage() if found.pairing else [],
    }
    show(coverage_table(record))
    write_text(out / "coverage.json", json.dumps(record, indent=1) + "\n")


def model_spec(config: Config, store: Store) -> ModelSpec:
    """Describe the model that a config asks for on a store's channels."""
    from wsdino.model.model import ModelSpec

    return ModelSpec(
        channels=store.channels,
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
            spec=model_spec(config, store),
            optimisation=optimisation or config.train,
            distillation=config.distill,
            weak_positives=pairing or config.pairing,
            global_views=views,
            local_views=config.crops.local_views,
            weights=_weights(config),
            seed=config.seed,
            device=resolve_device(config.device),
        )

    options: dict[str, Any] = {key: _plain(getattr(config, key)) for key in TRAINING_SECTIONS}
    options["own"] = [_plain(optimisation), _plain(pairing), asdict(views)]
    folder.make(
        name,
        products=[out / "model" / "model.safetensors", out / "metrics.jsonl"],
        sources=[store.path / "manifest.parquet"],
        options=options,
        work=work,
    )


def _plain(section: Any) -> Any:
    if hasattr(section, "model_dump"):
        return section.model_dump(mode="json")
    return asdict(section) if hasattr(section, "__dataclass_fields__") else section


def _weights(config: Config) -> Any:
    weights = config.model.weights
    if isinstance(weights, dict):
        return {channel: Path(path) for channel, path in weights.items()}
    return weights


def _embedding(config: Config, store: Store, out: Path) -> Callable[[], pd.DataFrame]:
    """Embed with the model in a run folder, or in that of a baseline."""

    def table() -> pd.DataFrame:
        from wsdino.model.model import load_model

        return _embed(load_model(out, device=resolve_device(config.device)), config, store)

    return table


def _embed(model: Model, config: Config, store: Store) -> pd.DataFrame:
    from wsdino.model.model import Model
    from wsdino.profile.embed import embed_store

    # Tiles are the config's, not those that the weights were saved with.
    current = Model(model_spec(config, store), model.networks, device=model.device)
    return embed_store(current, store, batch_size=config.embed.batch_size)


def _profile_stages(
    config: Config,
    store: Store,
    folder: RunFolder,
    out: Path,
    *,
    name: str,
    table: Callable[[], pd.DataFrame],
) -> None:
    """Embeddings, profiles and numbers, of the run or of a baseline."""
    from wsdino.evaluate.results import evaluate, evaluate_leakage, write_results
    from wsdino.profile.aggregate import make_profiles
    from wsdino.profile.tables import read_table, write_table

    embeddings, profiles = out / "embeddings.parquet", out / "profiles.parquet"
    numbers = out / ("evaluation.json" if name == "run" else "results.json")
    profile_options: dict[str, Any] = {
        "normalisation": config.profile.normalise,
        "num_components": config.profile.num_components,
        "regularisation": config.profile.regularisation,
        "per_channel": config.profile.per_channel,
    }

    def make_profile_table() -> None:
        made = make_profiles(
            read_table(embeddings), aggregation=config.profile.aggregate, **profile_options
        )
        write_table(made, profiles)

    def make_numbers() -> None:
        results = evaluate(
            read_table(profiles),
            multi_batch=config.evaluate.multi_batch,
            num_permutations=config.evaluate.num_permutations,
            seed=config.seed,
        )
        results["leakage"] = evaluate_leakage(read_table(embeddings), **profile_options)
        write_results(results, numbers)

    model = out / "model" / "model.safetensors"
    folder.make(
        f"{name}: embed",
        products=[embeddings],
        sources=[store.path / "manifest.parquet", model],
        options=[_plain(config.embed), _plain(config.input), config.seed, name],
        work=lambda: write_table(table(), embeddings),
    )
    folder.make(
        f"{name}: profile",
        products=[profiles],
        sources=[embeddings],
        options=_plain(config.profile),
        work=make_profile_table,
    )
    folder.make(
        f"{name}: evaluate",
        products=[numbers],
        sources=[profiles],
        options=[_plain(config.evaluate), config.seed],
        work=make_numbers,
    )


def _baseline(name: str, config: Config, store: Store, folder: RunFolder) -> dict[str, Any]:
    from wsdino.model.model import Model
    from wsdino.profile.classical import classical_table
    from wsdino.screen.store import num_cpus
    from wsdino.train.train import initial_networks

    out = folder.path / "baselines" / name
    if name == "classifier":
        own = replace(config.baselines.classifier, objective="classify")
        _train(config, store, folder, out, name="classifier: train", optimisation=own)
    elif name == "dino":
        plain = replace(config.pairing, label="none")
        _train(config, store, folder, out, name="dino: train", pairing=plain)

    def untrained() -> pd.DataFrame:
        spec = model_spec(config, store)
        networks = initial_networks(spec, seed=config.seed)
        return _embed(Model(spec, networks, device=resolve_device(config.device)), config, store)

    table = _embedding(config, store, out)
    if name == "untrained":
        table = untrained
    elif name == "classical":
        table = lambda: classical_table(store, workers=num_cpus())  # noqa: E731
    _profile_stages(config, store, folder, out, name=name, table=table)
    return _read_json(out / "results.json")


def report(config: Config, store: Store, out: Path) -> Path:
    """Write the report of a run."""
    from wsdino.model.model import load_model
    from wsdino.report.html import write_report

    say("report: start")
    return write_report(
        out,
        store=store,
        model=load_model(out),
        num_example_fields=config.report.num_example_fields,
        attention_sites=config.report.attention_sites,
        seed=config.seed,
    )


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))
