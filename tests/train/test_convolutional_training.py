"""Every objective trains a convolutional backbone, whose batch statistics stay what they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from helpers_train import CHANNELS, options_of, read_records
from wsdino.errors import ConfigError, ModelError, TrainingError
from wsdino.model.building import build_networks
from wsdino.model.model import load_model
from wsdino.model.precision import uses_bfloat16
from wsdino.model.spec import Architecture, ModelSpec
from wsdino.train.checkpoint import load_newest
from wsdino.train.loop import Trainer
from wsdino.train.objectives import OBJECTIVES
from wsdino.train.train import train

if TYPE_CHECKING:
    from pathlib import Path

    from wsdino.model.model import Model
    from wsdino.screen.store import Store

BACKBONE = Architecture(backbone="test_efficientnet", image_size=24, expects="imagenet")
SPEC = ModelSpec(CHANNELS, mode="shared", architecture=BACKBONE)
# Three steps are enough to see that each part takes one.
SHORT = {"epochs": 0.4, "warmup_epochs": 0, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the backbone's weights, with statistics that are not the initial ones."""
    torch.manual_seed(5)
    network = build_networks(SPEC).networks[0]
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.3, 2)
    path = tmp_path_factory.mktemp("weights") / "backbone.pth"
    torch.save(network.state_dict(), path)
    return path


def statistics_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if "running_" in name}


def train_short(store: Store, out: Path, weights: Path, **changes: Any) -> Model:
    optimisation = SHORT | changes.pop("optimisation", {})
    return train(
        store, out, **options_of(spec=SPEC, weights=weights, optimisation=optimisation, **changes)
    )


@pytest.mark.parametrize("name", [objective.name for objective in OBJECTIVES])
def test_every_objective_trains_it(store: Store, tmp_path: Path, weights: Path, name: str) -> None:
    model = train_short(store, tmp_path, weights, objective={"name": name})
    records = read_records(tmp_path)
    assert [record["applied"] for record in records] == [1, 1, 1]
    assert all(np.isfinite(record["loss"]) for record in records)
    before = torch.load(weights)
    after = model.networks.networks[0].state_dict()
    kept = statistics_of(before)
    assert kept
    for key, value in kept.items():
        assert torch.equal(after[key], value), key
    moved = [key for key in before if not torch.equal(after[key], before[key])]
    assert {key.rsplit(".", maxsplit=1)[1] for key in moved} == {"weight", "bias"}
    again = load_model(tmp_path)
    pixels = store.read([0, 1])
    np.testing.assert_array_equal(again.embed(pixels), model.embed(pixels))


def test_a_run_goes_on_from_its_checkpoint_to_the_same_bits(
    store: Store, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train_short(store, tmp_path / "whole", weights)
    step = Trainer.step

    def stop_at_the_second(self: Trainer, number: int, *args: Any, **rest: Any) -> Any:
        if number == 2:
            raise TrainingError("power cut")
        return step(self, number, *args, **rest)

    often = {"checkpoint_minutes": 1e-9}
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", stop_at_the_second)
        with pytest.raises(TrainingError, match="power cut"):
            train_short(store, tmp_path / "run", weights, optimisation=often)
    stopped = load_newest(tmp_path / "run" / "checkpoints")
    assert stopped is not None
    assert stopped["step"] == 2
    resumed = train_short(store, tmp_path / "run", weights, optimisation=often)
    state = whole.networks.state_dict()
    for name, value in resumed.networks.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert read_records(tmp_path / "run") == read_records(tmp_path / "whole")


def test_a_bad_step_leaves_no_statistics_behind(
    store: Store, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def broken(self: Trainer, number: int, plan: Any, views: Any, **rest: Any) -> Any:
        views = [view * np.nan for view in views] if number == 1 else views
        return step(self, number, plan, views, **rest)

    monkeypatch.setattr(Trainer, "step", broken)
    model = train_short(store, tmp_path, weights)
    assert [record["applied"] for record in read_records(tmp_path)] == [1, 0, 1]
    assert all(value.isfinite().all() for value in model.networks.state_dict().values())


@pytest.mark.parametrize(
    ("mode", "change"),
    [
        ("per_channel", {"drop_path": 0.2}),
        ("joint", {"accumulate": 2}),
    ],
)
def test_modes_parts_and_stochastic_depth(
    store: Store, tmp_path: Path, weights: Path, mode: Any, change: dict[str, Any]
) -> None:
    spec = ModelSpec(CHANNELS, mode=mode, architecture=BACKBONE)
    options = options_of(spec=spec, weights=weights, optimisation=SHORT | change)
    model = train(store, tmp_path, **options)
    assert all(record["applied"] for record in read_records(tmp_path))
    found = statistics_of(dict(model.networks.networks[0].state_dict()))
    for key, value in statistics_of(torch.load(weights)).items():
        assert torch.equal(found[key], value), key


def test_bfloat16_is_refused_on_a_cpu(store: Store, tmp_path: Path, weights: Path) -> None:
    """Gradients differed from run to run: PyTorch's, of depthwise convolutions of maps of 1 px."""
    with pytest.raises(ConfigError, match=r"precision bfloat16: on a CPU, .* set auto or float32"):
        train_short(store, tmp_path, weights, optimisation={"precision": "bfloat16"})
    assert not uses_bfloat16("auto", torch.device("cpu"), is_convolutional=True)
    assert uses_bfloat16("bfloat16", torch.device("cuda"), is_convolutional=True)


def test_what_it_expects_is_part_of_the_training(
    store: Store, tmp_path: Path, weights: Path
) -> None:
    train_short(store, tmp_path, weights)
    other = Architecture(backbone="test_efficientnet", image_size=24)
    assert "expects" not in other.identity()
    assert BACKBONE.identity()["expects"] == "imagenet"
    with pytest.raises(ConfigError, match="trained with other options"):
        train(
            store,
            tmp_path,
            **options_of(
                spec=ModelSpec(CHANNELS, architecture=other), weights=weights, optimisation=SHORT
            ),
        )


def test_stochastic_depth_that_a_network_lacks_is_refused(store: Store, tmp_path: Path) -> None:
    spec = ModelSpec(CHANNELS, architecture=Architecture(backbone="dla34", image_size=32))
    with pytest.raises(ModelError, match=r"'dla34': does not support train.drop_path 0.1"):
        train(store, tmp_path, **options_of(spec=spec, optimisation={"drop_path": 0.1}))
    assert not any(tmp_path.iterdir())


def test_attention_can_t_be_drawn_where_there_is_none(
    store: Store, tmp_path: Path, weights: Path
) -> None:
    with pytest.raises(ModelError) as caught:
        train_short(store, tmp_path, weights, objective={"attention_weight": 0.1})
    assert str(caught.value) == (
        "objective.attention_weight needs a vision transformer with a class token, and this "
        "model's backbone is of the kind EfficientNet; 0 leaves it out"
    )
