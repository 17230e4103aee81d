"""What happens before the first stage: checks, the store, and a record of what is run where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsdino import baselines
from wsdino.config import Config, load_config
from wsdino.device import resolve_device
from wsdino.environment import environment
from wsdino.errors import ConfigError, ModelError, TableError
from wsdino.profile.methods import (
    find_normalisation,
    settle_normalisation,
    usable_normalisations,
)
from wsdino.progress import say, show
from wsdino.runfolder import RunFolder, RunPaths
from wsdino.trainings import (
    OWN,
    model_spec,
    training_config,
    training_options,
    trainings,
)

if TYPE_CHECKING:
    import pandas as pd

    from wsdino.model.model import Model
    from wsdino.screen.selection import Selection
    from wsdino.screen.store import Store


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
        Whether profiles are to be judged in the end: what can't be said of this screen is said
        now.

    Returns
    -------
    tuple
        Run folder, store, and the config with absolute paths and settled by :func:`settle`.

    Raises
    ------
    InputError
        The subclass that fits; nothing is written then.
    """
    from wsdino import job
    from wsdino.evaluate.gallery import why_unmatched
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
    job.only_first(lambda: _check_and_note(config, resolved, folder, path))
    store = open_store(path, keep=config.screen.keep)
    # Found out before anything is trained: an image that was replaced in the store.
    job.only_first(lambda: store.pixels_digest)
    text = _environment_of(resolved, store)
    folder.before_work = lambda: folder.note(folder.paths.environment, text)
    settled, notes = settle(resolved, store.manifest)
    if evaluated:
        problem = why_unmatched(store.manifest)
        if problem:
            notes.append(f"{problem}: nothing is matched by mechanism; activity is measured anyway")
        for note in notes:
            say(f"{store.path}: {note}")
    return folder, store, settled


def settle(config: Config, manifest: pd.DataFrame) -> tuple[Config, list[str]]:
    """Decide what a config leaves to the screen: the normalisation, and those beside it.

    Parameters
    ----------
    config
        The resolved config.
    manifest
        Of the screen.

    Returns
    -------
    config : Config
        With the name of a normalisation, and without those in `evaluate.beside` for which the
        screen lacks something.
    notes : list of str
        What was decided otherwise than the config says, and why.
    """
    name, why = settle_normalisation(config.profile.normalise, manifest)
    notes, beside = [why] if why else [], []
    for method in config.evaluate.beside:
        unmet = find_normalisation(method).unmet(manifest, {})
        if unmet:
            notes.append(f"evaluate.beside: {method} {unmet}; it is left out")
        else:
            beside.append(method)
    sections = {
        "profile": config.profile.model_copy(update={"normalise": name}),
        "evaluate": config.evaluate.model_copy(update={"beside": tuple(beside)}),
    }
    return config.model_copy(update=sections), notes


def _check_and_note(config: Config, resolved: Config, folder: RunFolder, path: Path) -> None:
    """Check config, folder and screen; make the store; write config, environment and coverage."""
    from wsdino.screen.correction import Correction
    from wsdino.screen.images import planes_of, read_site
    from wsdino.screen.manifest import read_manifest
    from wsdino.tables.manifest import channels_of

    _refuse_other_training(config, folder.paths)
    source = config.screen.source
    if source is not None and not path.exists():
        # Ingesting may take an hour: what would be refused after it is refused before.
        manifest = read_manifest(
            source,
            platemap=config.screen.platemap,
            controls=config.screen.controls,
            columns=config.screen.columns,
            selection=_selection(config),
            missing=config.screen.missing,
        )
        field = read_site(planes_of(manifest)[0])
        check(
            config,
            manifest,
            Correction(config.screen.illumination, config.screen.scale).shape(field.shape),
            channels=tuple(channels_of(manifest)),
            origin=str(source),
            run=folder.paths,
        )
    store = _store(config, path)
    check(
        config,
        store.manifest,
        store.field_shape,
        channels=store.channels,
        origin=str(store.path),
        run=folder.paths,
    )
    for line in screen_warnings(config, store):
        say(f"{store.path}: warning: {line}")
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
    trained = [(run, OWN)] + [
        (run.baseline(entry.name), entry.training)
        for entry in baselines.BASELINES
        if entry.training
    ]
    for paths, training in trained:
        if not any(paths.checkpoints.glob("*.pt")):
            continue
        options = [training_options(each, training) for each in (before, config)]
        if options[0] != options[1]:
            key, old, new = _difference("", *options)
            raise ConfigError(
                f"{paths.folder}: was trained with {training.key(key)} {json.dumps(old)}, but the "
                f"config now has {json.dumps(new)}; give --out another folder, or delete "
                f"{paths.checkpoints} to train again"
            )


def _difference(key: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """Name the first option that differs, and return both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        name = next(name for name in old | new if old.get(name) != new.get(name))
        return _difference(f"{key}.{name}".lstrip("."), old.get(name), new.get(name))
    return key, old, new


def _selection(config: Config) -> Selection:
    from wsdino.screen.selection import Selection

    return Selection(
        channels=config.screen.channels,
        z=config.screen.z,
        time=config.screen.time,
        acquisition=config.screen.acquisition,
        pattern=config.screen.pattern,
    )


def _store(config: Config, path: Path) -> Store:
    from wsdino.screen.correction import Correction, correction_of
    from wsdino.screen.ingest import ingest
    from wsdino.screen.store import open_store

    screen = config.screen
    if screen.source is not None:
        ingest(
            screen.source,
            path,
            platemap=screen.platemap,
            controls=screen.controls,
            columns=screen.columns,
            selection=_selection(config),
            illumination=screen.illumination,
            scale=screen.scale,
            missing=screen.missing,
        )
        return open_store(path, keep=screen.keep)
    if screen.store is None and not path.exists():
        raise ConfigError(
            "config key screen.source: empty; name a screen (--set screen.source=FOLDER) or a "
            "finished store (--set screen.store=STORE)"
        )
    store = open_store(path, keep=screen.keep)
    made, wanted = correction_of(store.attributes), Correction(screen.illumination, screen.scale)
    if made != wanted and wanted != Correction():
        say(
            f"{path}: was made with illumination {made.illumination} and scale {made.scale:g}; "
            f"screen.illumination {wanted.illumination} and screen.scale {wanted.scale:g} apply "
            "only to a screen.source"
        )
    return store


def screen_warnings(config: Config, store: Store) -> list[str]:
    """Tell in a line each what looks wrong in the run's screen, and under its input scaling."""
    from wsdino.screen.check.stored import warnings_of

    fixed = config.input.method == "fixed"
    return warnings_of(store, scaling=(config.input.low, config.input.high) if fixed else None)


def check(
    config: Config,
    manifest: pd.DataFrame,
    field_shape: tuple[int, ...],
    *,
    channels: tuple[str, ...],
    origin: str,
    run: RunPaths,
) -> None:
    """Refuse what would fail hours later: normalisation, labels, networks, crops and tiles.

    Parameters
    ----------
    config
        The resolved config.
    manifest
        Of the screen.
    field_shape
        Height and width of its fields in px.
    channels
        Their names.
    origin
        What to call the screen in an error.
    run
        Paths of the run folder.

    Raises
    ------
    InputError
        The subclass that fits.
    """
    from wsdino.model.tiles import tile_boxes

    config, _ = settle(config, manifest)
    normalisation = find_normalisation(config.profile.normalise)
    unmet = normalisation.unmet(manifest, config.profile.options)
    if unmet:
        advice = f"use --set profile.normalise={'|'.join(usable_normalisations(manifest))}"
        if normalisation.needs.controls:
            advice += ", or name the controls with screen.controls"
        raise TableError(f"{origin}: profile.normalise {normalisation.name} {unmet}; {advice}")
    for name in dict.fromkeys((*config.baselines.names, *config.profile.with_)):
        baseline = baselines.find_baseline(name)
        if baseline.needs_weights and config.model.weights is None:
            key = "baselines.names" if baseline.name in config.baselines.names else "profile.with"
            raise ConfigError(
                f"{key}: {baseline.name} is {baseline.help}, which is not set; leave it out, or "
                "give model.weights"
            )
    for site in config.report.attention_sites or ():
        if not 0 <= site < len(manifest):
            raise ConfigError(
                f"report.attention_sites {site}: {origin} has the sites 0 to {len(manifest) - 1}"
            )
    height, width = field_shape
    _check_trainings(config, manifest, (height, width), channels, run)
    tile_boxes((height, width), config.embed.tile, config.embed.tile_grid)


def _check_trainings(
    config: Config,
    manifest: pd.DataFrame,
    field_shape: tuple[int, int],
    channels: tuple[str, ...],
    run: RunPaths,
) -> None:
    """Refuse what a training would refuse: that of the run, and those of its baselines."""
    from wsdino import job
    from wsdino.model.tiles import tile_sides
    from wsdino.train.objectives import objective_of
    from wsdino.train.objectives.base import Given
    from wsdino.train.train import (
        VIEW_SECTIONS,
        check_partners,
        check_views,
        initial_networks,
        positives,
        require_whole_patches,
        training_views,
    )

    # A finished model needs the weights that it started from no more.
    weights = None if run.model.config.is_file() else config.model.weights
    networks = initial_networks(
        model_spec(config, channels),
        seed=config.seed,
        drop_path=config.train.drop_path,
        weights=weights,
    )
    tiles = tile_sides(config.embed.tile, config.embed.tile_grid)
    for training in trainings(config):
        own = training_config(config, training)
        sections = [training.key(key) for key in VIEW_SECTIONS]
        own.train.require_equal_parts(job.world_size(), section=training.key("train"))
        kind = objective_of(own.objective)
        found = positives(manifest, own.pairing, objective=kind)
        views = training_views(own.crops.global_views, own.crops.local_views, objective=kind)
        check_views(views, field_shape=field_shape, sections=sections)
        section = training.key("objective")
        kind.requires(own.objective, Given(views, epochs=own.train.epochs, section=section))
        check_partners(views, own.pairing, found.pairing)
        require_whole_patches(networks, views, tiles=tiles, sections=sections)


def model_for(source: str, store: Path, *, device: str = "cpu") -> Model:
    """Load a model for the channels of a store.

    Parameters
    ----------
    source
        A run, an exported model, ``starter``, or a package of
        :data:`~wsdino.model.packaged.PACKAGED`.
    store
        Whose channels it is for, where it doesn't bring its own.
    device
        Where it computes.

    Raises
    ------
    ModelError
        If there is none, or a name could also be a folder.
    """
    from wsdino.model.model import load_model
    from wsdino.model.packaged import find_packaged
    from wsdino.model.weights import STARTER
    from wsdino.screen.store import open_store

    if source != STARTER and not find_packaged(source):
        return load_model(source, device=device)
    if Path(source).is_dir():
        raise ModelError(
            f"{source}: ambiguous between the backbone and the folder of that name; use "
            f"./{source} for the folder, or run from another directory for the backbone"
        )
    return load_model(source, channels=open_store(store).channels, device=device)


def coverage(config: Config, store: Store, folder: RunFolder) -> None:
    """Print and write how many sites have partners, before training."""
    from wsdino.report.coverage import coverage_table, coverage_title
    from wsdino.train.objectives import objective_of
    from wsdino.train.train import positives

    kind = objective_of(config.objective)
    found = positives(store.manifest, config.pairing, objective=kind)
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
