"""What is refused before the first stage, since it would fail hours later."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from wsdino import baselines
from wsdino.config import Config, load_config
from wsdino.errors import ConfigError, TableError
from wsdino.profile.methods import (
    find_normalisation,
    settle_normalisation,
    usable_normalisations,
)
from wsdino.trainings import (
    OWN,
    model_spec,
    training_config,
    training_options,
    trainings,
)

if TYPE_CHECKING:
    import pandas as pd

    from wsdino.runfolder import RunPaths
    from wsdino.screen.store import Store


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


def refuse_other_training(config: Config, run: RunPaths) -> None:
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
        key = "baselines.names" if baseline.name in config.baselines.names else "profile.with"
        if baseline.model:
            _require_package(baseline.model, f"{key}: {baseline.name}")
        if baseline.needs_weights and config.model.weights is None:
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


def _require_package(model: str, origin: str) -> None:
    """Refuse a model whose weights are part of a package that isn't installed."""
    from wsdino.model.packaged import find_packaged

    packaged = find_packaged(model)
    if packaged:
        packaged.path(origin)


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
