"""What happens before the first stage: checks, the store, and a record of what is run where."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsdino import baselines
from wsdino.config import Config, load_config
from wsdino.device import resolve_device
from wsdino.environment import environment
from wsdino.errors import ConfigError, ModelError, TableError
from wsdino.profile.methods import find_normalisation, usable_normalisations
from wsdino.progress import say, show
from wsdino.runfolder import RunFolder, RunPaths

if TYPE_CHECKING:
    import pandas as pd

    from wsdino.baselines import Baseline
    from wsdino.model.model import Model
    from wsdino.screen.store import Store

TRAINING_SECTIONS = ("seed", "model", "architecture", "input", "pairing", "crops", "distill")


def prepare(
    config: Config, out: Path, *, evaluated: bool = False
) -> tuple[RunFolder, Store, Config]:
    """Open the run folder and the store, check that they fit the config, and note both.

    In a job of several processes the first one checks and writes, and the others open.

    Parameters
    ----------
    config
        The resolved config.
    out
        Run folder.
    evaluated
        Whether mechanisms are to be matched in the end, which takes annotated treatments.

    Returns
    -------
    tuple
        Run folder, store, and the config with absolute paths.

    Raises
    ------
    InputError
        The subclass that fits; nothing is written then.
    """
    from wsdino import job
    from wsdino.screen.store import open_store

    job.start()
    resolve_device(config.device)
    folder = RunFolder(out)
    path = config.screen.store or folder.paths.store
    absolute = {
        name: value and value.absolute()
        for name in ("source", "platemap", "store")
        for value in [getattr(config.screen, name)]
    }
    resolved = config.model_copy(update={"screen": config.screen.model_copy(update=absolute)})
    job.only_first(lambda: _check_and_note(config, resolved, folder, path, evaluated))
    store = open_store(path)
    # Found out before anything is trained: an image that was replaced in the store.
    job.only_first(lambda: store.pixels_digest)
    text = _environment_of(resolved, store)
    folder.before_work = lambda: folder.note(folder.paths.environment, text)
    return folder, store, resolved


def _check_and_note(
    config: Config, resolved: Config, folder: RunFolder, path: Path, evaluated: bool
) -> None:
    """Check config, folder and screen; make the store; write config, environment and coverage."""
    from wsdino.screen.images import planes_of, read_site
    from wsdino.screen.manifest import read_manifest

    _refuse_other_training(config, folder.paths)
    source = config.screen.source
    if source is not None and not path.exists():
        # Ingesting may take an hour: what would be refused after it is refused before.
        manifest = read_manifest(
            source,
            platemap=config.screen.platemap,
            controls=config.screen.controls,
            columns=config.screen.columns,
        )
        field = read_site(planes_of(manifest)[0])
        check(config, manifest, field.shape[-2:], origin=str(source), evaluated=evaluated)
    store = _store(config, path)
    check(config, store.manifest, store.field_shape, origin=str(store.path), evaluated=evaluated)
    folder.sweep()
    folder.note(folder.paths.config, resolved.to_yaml())
    if not folder.paths.environment.is_file():
        folder.note(folder.paths.environment, _environment_of(resolved, store))
    coverage(config, store, folder)


def _environment_of(config: Config, store: Store) -> str:
    """Say what the run ran on: the machine, and the screen by what it holds."""
    screen = {"pixels_digest": store.pixels_digest, "manifest_digest": store.manifest_digest}
    made = environment(seed=config.seed, device=config.device) | {"screen": screen}
    return json.dumps(made, indent=1) + "\n"


def _refuse_other_training(config: Config, run: RunPaths) -> None:
    """Refuse options that differ from those which something in the run folder was trained with."""
    if not run.config.is_file():
        return
    before = load_config(run.config)
    trained: list[tuple[RunPaths, Baseline | None]] = [(run, None)]
    trained += [
        (run.baseline(entry.name), entry) for entry in baselines.BASELINES if entry.training
    ]
    for paths, baseline in trained:
        if not any(paths.checkpoints.glob("*.pt")):
            continue
        options = [training_options(training_config(each, baseline)) for each in (before, config)]
        if options[0] != options[1]:
            key, old, new = _difference("", *options)
            key = baseline.training.key(key) if baseline and baseline.training else key
            raise ConfigError(
                f"{paths.folder}: was trained with {key} {json.dumps(old)}, and {json.dumps(new)} "
                f"is wanted now; give --out another folder, or delete {paths.checkpoints} to train "
                "anew"
            )


def training_config(config: Config, baseline: Baseline | None) -> Config:
    """Return the config of what a baseline trains; without one, or without training, the run's."""
    if baseline is None or baseline.training is None:
        return config
    return Config.model_validate(baseline.training.applied(config.model_dump()))


def training_options(config: Config) -> dict[str, Any]:
    """Return what the training of a config depends on."""
    from wsdino.train.options import decisive

    options = {key: plain(getattr(config, key)) for key in TRAINING_SECTIONS}
    return options | {"train": decisive(config.train)}


def _difference(key: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """Name the first option that differs, and return both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        name = next(name for name in old | new if old.get(name) != new.get(name))
        return _difference(f"{key}.{name}".lstrip("."), old.get(name), new.get(name))
    return key, old, new


def _store(config: Config, path: Path) -> Store:
    from wsdino.screen.ingest import ingest
    from wsdino.screen.store import open_store

    screen = config.screen
    if screen.source is not None:
        return ingest(
            screen.source,
            path,
            platemap=screen.platemap,
            controls=screen.controls,
            columns=screen.columns,
        )
    if screen.store is None and not path.exists():
        raise ConfigError(
            "config key screen.source: empty; name a screen (--set screen.source=FOLDER) or a "
            "finished store (--set screen.store=STORE)"
        )
    return open_store(path)


def check(
    config: Config,
    manifest: pd.DataFrame,
    field_shape: tuple[int, ...],
    *,
    origin: str,
    evaluated: bool,
) -> None:
    """Refuse what would fail hours later: normalisation, labels, crops and tiles.

    Parameters
    ----------
    config
        The resolved config.
    manifest
        Of the screen.
    field_shape
        Height and width of its fields in px.
    origin
        What to call the screen in an error.
    evaluated
        Whether mechanisms are to be matched in the end.

    Raises
    ------
    InputError
        The subclass that fits.
    """
    from wsdino.model.tiles import tile_starts

    controls = manifest["Metadata_Control"]
    normalisation = find_normalisation(config.profile.normalise)
    unmet = normalisation.unmet(manifest, config.profile.options)
    if unmet:
        advice = f"use --set profile.normalise={'|'.join(usable_normalisations(manifest))}"
        if normalisation.needs.controls:
            advice += ", or name the controls with screen.controls"
        raise TableError(f"{origin}: profile.normalise {normalisation.name} {unmet}; {advice}")
    if evaluated:
        annotated = manifest[manifest["Metadata_MoA"].notna() & ~controls]
        if annotated["Metadata_Compound"].nunique() < 2:
            raise TableError(
                f"{origin}: Metadata_Compound has {annotated['Metadata_Compound'].nunique()} "
                "compounds with a known Metadata_MoA, and matching needs two; without an "
                "evaluation there are wsdino train, embed and profile"
            )
    names = dict.fromkeys((*config.baselines.names, *config.profile.with_))
    wanted = [baselines.find_baseline(name) for name in names]
    for baseline in wanted:
        if baseline.needs_weights and config.model.weights is None:
            key = "baselines.names" if baseline.name in config.baselines.names else "profile.with"
            raise ConfigError(
                f"{key}: {baseline.name} is {baseline.help}; there are none, so leave it "
                "out, or give model.weights"
            )
    for each in (None, *(baseline for baseline in wanted if baseline.training)):
        _check_training(training_config(config, each), manifest, field_shape)
    for side in field_shape if config.embed.tile else ():
        tile_starts(side, config.embed.tile or side)


def _check_training(config: Config, manifest: pd.DataFrame, field_shape: tuple[int, ...]) -> None:
    from wsdino.train.train import check_views, positives, training_views

    crops, goal = config.crops, config.train.objective
    check_views(
        training_views(crops.global_views, crops.local_views, objective=goal),
        config.pairing,
        positives(manifest, config.pairing, objective=goal).pairing,
        objective=goal,
        field_shape=(field_shape[0], field_shape[1]),
    )


def model_for(source: str, store: Path, *, device: str = "cpu") -> Model:
    """Load the model of a run, an exported one, or ``starter``, for the channels of a store.

    Raises
    ------
    ModelError
        If there is none, or ``starter`` could also be a folder.
    """
    from wsdino.model.model import load_model
    from wsdino.model.weights import STARTER
    from wsdino.screen.store import open_store

    if source != STARTER:
        return load_model(source, device=device)
    if Path(source).is_dir():
        raise ModelError(
            f"{source}: the package's own backbone, or the folder of that name? ./{source} is the "
            "folder; from another directory the name means the backbone"
        )
    return load_model(source, channels=open_store(store).channels, device=device)


def coverage(config: Config, store: Store, folder: RunFolder) -> None:
    """Print and write how many sites have partners, before training."""
    from wsdino.report.coverage import coverage_table, coverage_title
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
    say(coverage_title(record))
    if record["rows"]:
        show(coverage_table(record))
    folder.note(folder.paths.coverage, json.dumps(record, indent=1) + "\n")


def plain(section: Any) -> Any:
    """Turn a section of the config, or any value of it, into what JSON holds."""
    if hasattr(section, "model_dump"):
        return section.model_dump(mode="json")
    return asdict(section) if hasattr(section, "__dataclass_fields__") else section
