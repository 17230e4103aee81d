"""The trainings of a run: its own and those of its baselines, each with its own config."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from wsdino.baselines import Training, trainings_of
from wsdino.config import Config

if TYPE_CHECKING:
    from wsdino.model.spec import ModelSpec

# The objective comes before the crops because it decides which of them count: an error names the
# first difference.
SECTIONS = ("seed", "model", "architecture", "input", "objective", "pairing", "crops", "train")
# The run's own training has no differences.
OWN = Training()
# How fields are tiled when they are embedded.
TILES = ("tile", "tile_grid", "tile_summary")
# Keys that describe a model, see `model_spec`.
MODEL_KEYS = ("model.mode", "architecture", "input", *(f"embed.{key}" for key in TILES))


def trainings(config: Config) -> list[Training]:
    """All trainings of a run, its own first."""
    return [OWN, *trainings_of((*config.baselines.names, *config.profile.with_))]


def training_config(config: Config, training: Training = OWN) -> Config:
    """Make the config of a training from that of its run."""
    return Config.model_validate(training.applied(config.model_dump()))


def training_options(config: Config, training: Training = OWN) -> dict[str, Any]:
    """Return the options that a training depends on, by section of its own config.

    Parameters
    ----------
    config
        The run's config.
    training
        Which of its trainings.
    """
    from wsdino.train.objectives import objective_of
    from wsdino.train.options import fixed_options

    own = training_config(config, training)
    options = {key: plain(getattr(own, key)) for key in SECTIONS}
    options |= {"architecture": own.architecture.identity(), "train": fixed_options(own.train)}
    kind = objective_of(own.objective)
    if not kind.takes_local_views:
        del options["crops"]["local_views"]
    if kind.uses_profiles:
        options["embed"] = {key: getattr(own.embed, key) for key in TILES}
    return options


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


def plain(section: Any) -> Any:
    """Turn a section of the config, or any value in it, into JSON-serialisable values."""
    if hasattr(section, "model_dump"):
        return section.model_dump(mode="json")
    return asdict(section) if hasattr(section, "__dataclass_fields__") else section
