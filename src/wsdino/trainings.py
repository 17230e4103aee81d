"""The trainings of a run: its own and those of its baselines, each as a config of its own."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from wsdino.config import Config

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wsdino.model.spec import ModelSpec

SECTIONS = ("seed", "model", "architecture", "input", "pairing", "crops", "objective", "train")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a training differs from that of the run.

    Parameters
    ----------
    reads
        Config keys whose values stand under another key, such as
        ``{"train": "baselines.classifier"}``.
    sets
        Config keys with a fixed value.
    """

    reads: Mapping[str, str] = field(default_factory=dict)
    sets: Mapping[str, Any] = field(default_factory=dict)

    def key(self, key: str) -> str:
        """Name the key under which the config has what this training reads at a key."""
        for own, source in self.reads.items():
            if f"{key}.".startswith(f"{own}."):
                return source + key.removeprefix(own)
        return key

    def config(self, config: Config) -> Config:
        """Make the config of this training of that of the run."""
        before, values = config.model_dump(), config.model_dump()
        for key, source in self.reads.items():
            _put(values, key, _value(before, source))
        for key, value in self.sets.items():
            _put(values, key, value)
        return Config.model_validate(values)


OWN = Training()
BASELINES = {
    "classifier": Training(
        reads={
            "train": "baselines.classifier",
            "crops.global_views": "baselines.classifier_views",
        },
        sets={"objective": {"name": "classify"}},
    ),
    "dino": Training(reads={"objective": "baselines.dino"}, sets={"pairing.label": "none"}),
}


def trainings(config: Config) -> list[Training]:
    """All trainings of a run, its own first."""
    return [OWN, *(BASELINES[name] for name in config.baselines.names if name in BASELINES)]


def training_options(config: Config, training: Training = OWN) -> dict[str, Any]:
    """Return what a training depends on, by section of its own config.

    Parameters
    ----------
    config
        The run's config.
    training
        Which of its trainings.
    """
    from wsdino.train.objectives import objective_of
    from wsdino.train.options import decisive

    own = training.config(config)
    options = {key: plain(getattr(own, key)) for key in SECTIONS} | {"train": decisive(own.train)}
    if not objective_of(own.objective).takes_local_views:
        del options["crops"]["local_views"]
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
    """Turn a section of the config, or any value of it, into what JSON holds."""
    if hasattr(section, "model_dump"):
        return section.model_dump(mode="json")
    return asdict(section) if hasattr(section, "__dataclass_fields__") else section


def _value(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for part in sections:
        values = values[part]
    values[last] = value
