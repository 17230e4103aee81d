"""Batch normalisation of convolutional networks that are trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from helpers_train import options_of
from wsdino.errors import ConfigError, TrainingError
from wsdino.model.spec import Architecture
from wsdino.train.checkpoint import load_newest
from wsdino.train.optimiser import restorer
from wsdino.train.train import initial_networks, train

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from wsdino.screen.store import Store

CONVOLUTIONAL = Architecture(backbone="test_efficientnet", image_size=24, expects="imagenet")


def given(*, learns: bool, **change: object) -> dict[str, object]:
    return options_of(
        spec={"architecture": CONVOLUTIONAL},
        optimisation={"batch_statistics": learns, **change},
    )


def statistics_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if "running_" in name}


@pytest.mark.parametrize("learns", [False, True])
def test_running_statistics_are_learnt_only_if_wanted(
    store: Store, tmp_path: Path, *, learns: bool
) -> None:
    options = given(learns=learns)
    model = train(store, tmp_path, **options)
    before = statistics_of(initial_networks(options["spec"], seed=0).state_dict())
    after = statistics_of(model.networks.state_dict())
    assert before
    assert {torch.equal(before[name], after[name]) for name in before} == {not learns}
    # Fields are embedded by running statistics: one by itself as one among others.
    fields = store.read(range(4))
    together = model.embed(fields)
    assert together[:1] == pytest.approx(model.embed(fields[:1]), abs=1e-4)


def test_a_step_that_is_skipped_leaves_no_trace_in_them(store: Store, tmp_path: Path) -> None:
    explode = {"learning_rate": 1e38, "warmup_epochs": 0, "epochs": 9, "max_bad_steps": 2}
    with pytest.raises(TrainingError, match="for 2 steps in a row"):
        train(store, tmp_path, **given(learns=True, **explode))
    state = statistics_of(load_newest(tmp_path / "checkpoints")["objective"])
    assert state
    assert all(value.isfinite().all() for value in state.values())


def test_buffers_are_restored() -> None:
    layer = torch.nn.BatchNorm1d(2)
    undo, before = restorer(layer), layer.running_mean.clone()
    layer(torch.full((4, 2), torch.nan))
    assert not layer.running_mean.isfinite().any()
    undo()
    assert torch.equal(layer.running_mean, before)
    assert int(layer.num_batches_tracked) == 0


def test_a_network_without_them_is_refused(store: Store, tmp_path: Path) -> None:
    options = options_of(optimisation={"batch_statistics": True})
    with pytest.raises(ConfigError, match="this network has no batch normalisation; set false"):
        train(store, tmp_path, **options)
