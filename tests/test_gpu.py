"""On a GPU: the same as on a CPU, without waiting for the device. Run with ``pytest -m gpu``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from helpers_train import CHANNELS, TINY, make_store, options_of, read_records, start_training
from wsdino.embed.embed import write_embeddings
from wsdino.model.model import Model
from wsdino.model.spec import ModelSpec
from wsdino.tables.reading import read_table
from wsdino.train.checkpoint import checkpoints
from wsdino.train.loop import Trainer
from wsdino.train.train import initial_networks, train

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from wsdino.screen.store import Store

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICE = "cuda"
# Convolutions on a GPU round their inputs to ten bits.
ROUNDED = 1e-2
PLAIN = {"drop_path": 0.0, "epochs": 2}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """64 sites on 4 plates, 8 compounds and DMSO."""
    return make_store(tmp_path_factory.mktemp("gpu"))


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_records(folder)]


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": {"targets": "center", "norm_last_layer": False}},
        {"objective": {"targets": "sinkhorn", "koleo_weight": 0.1}, "spec": {"mode": "joint"}},
        {"objective": {"head_batch_norm": True}, "spec": {"mode": "per_channel"}},
        {"objective": {"name": "classify"}},
        {"optimisation": {"learning_rate": 1e-4}, "objective": {"name": "contrast"}},
        {"optimisation": {"accumulate": 2, "residency": "stream"}},
        {"global_views": {"area": (0.2, 0.5), "contrast": 0.2, "brightness": 0.2}},
    ],
)
def test_training_equals_that_on_a_cpu(
    store: Store, tmp_path: Path, changes: dict[str, dict[str, Any]]
) -> None:
    options = changes | {"optimisation": PLAIN | changes.get("optimisation", {})}
    for device in ("cpu", DEVICE):
        train(store, tmp_path / device, device=device, **options_of(**options))
    assert losses(tmp_path / DEVICE) == pytest.approx(losses(tmp_path / "cpu"), rel=ROUNDED)


def test_bfloat16_is_what_a_gpu_gets(store: Store, tmp_path: Path) -> None:
    for precision in ("auto", "float32"):
        options = {"optimisation": PLAIN | {"precision": precision}}
        train(store, tmp_path / precision, device=DEVICE, **options_of(**options))
    rounded, exact = losses(tmp_path / "auto"), losses(tmp_path / "float32")
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05)


def test_a_run_goes_on_where_it_was(store: Store, tmp_path: Path) -> None:
    options = options_of(optimisation={"epochs": 3, "checkpoint_minutes": 1e-6})
    train(store, tmp_path, device=DEVICE, **options)
    whole = losses(tmp_path)
    checkpoints(tmp_path / "checkpoints")[0].unlink()
    train(store, tmp_path, device=DEVICE, **options)
    assert losses(tmp_path) == pytest.approx(whole, rel=ROUNDED)


def test_a_bad_step_leaves_no_trace(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, whole_step = [], Trainer.step

    def step(
        self: Trainer, number: int, plan: Any, views: list[Tensor], **rest: Any
    ) -> dict[str, float]:
        broken = [view * np.nan for view in views] if number == 2 else views
        record = whole_step(self, number, plan, broken, **rest)
        states.append({key: value.clone() for key, value in self.module.state_dict().items()})
        return record

    monkeypatch.setattr(Trainer, "step", step)
    train(store, tmp_path, device=DEVICE, **options_of(objective={"targets": "center"}))
    assert [record["applied"] for record in read_records(tmp_path)] == [1, 1, 0, 1, 1, 1, 1]
    for name, value in states[1].items():
        assert torch.equal(value, states[2][name]), name
        assert states[-1][name].isfinite().all(), name


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
@pytest.mark.parametrize("targets", ["center", "sinkhorn"])
def test_nothing_in_a_step_waits_until_the_device_has_run_dry(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, targets: str
) -> None:
    """Metrics are waited for, by an event of their own; all else is queued."""
    whole_step, num_checked = Trainer.step, 0

    def step(self: Trainer, number: int, *rest: Any, **named: Any) -> dict[str, float]:
        nonlocal num_checked
        if number < 2:
            return whole_step(self, number, *rest, **named)
        torch.cuda.set_sync_debug_mode("error")
        try:
            record = whole_step(self, number, *rest, **named)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        num_checked += 1
        return record

    monkeypatch.setattr(Trainer, "step", step)
    options = {
        "optimisation": {"residency": "device", "log_every": 1000},
        "objective": {"targets": targets, "koleo_weight": 0.1},
        "global_views": {"area": (0.2, 0.5)},
    }
    train(store, tmp_path, device=DEVICE, **options_of(**options))
    assert num_checked > 3


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
@pytest.mark.parametrize("objective", ["distill", "classify"])
def test_compiled_training_equals_training(store: Store, tmp_path: Path, objective: str) -> None:
    for compiled in (False, True):
        options = {
            "optimisation": PLAIN | {"compile": compiled, "precision": "float32"},
            "objective": {"name": objective},
        }
        train(store, tmp_path / str(compiled), device=DEVICE, **options_of(**options))
    assert losses(tmp_path / "True") == pytest.approx(losses(tmp_path / "False"), rel=ROUNDED)


@pytest.mark.parametrize("mode", ["per_channel", "shared", "joint"])
def test_embeddings_are_those_of_a_cpu_by_any_batch(
    store: Store, tmp_path: Path, mode: Any
) -> None:
    spec = ModelSpec(channels=CHANNELS, mode=mode, architecture=TINY, tile=16)

    def embedded(name: str, device: str, batch_size: int) -> np.ndarray:
        model = Model(spec, initial_networks(spec, seed=0), device=device)
        write_embeddings(model, store, tmp_path / name, batch_size=batch_size)
        return read_table(tmp_path / name)[model.feature_names].to_numpy()

    exact = embedded("cpu.parquet", "cpu", 16)
    found = [embedded(f"{size}.parquet", DEVICE, size) for size in (16, 3)]
    for vectors in found:
        # Products are in bfloat16 there.
        difference = np.abs(vectors - exact) / exact.std()
        assert difference.max() < 0.1
        assert difference.mean() < 0.01


def test_attention_is_that_of_a_cpu(store: Store) -> None:
    spec = ModelSpec(channels=CHANNELS, mode="shared", architecture=TINY)
    ours, theirs = (
        Model(spec, initial_networks(spec, seed=0), device=device).attention(store.read([0, 1]))
        for device in (DEVICE, "cpu")
    )
    np.testing.assert_allclose(ours, theirs, rtol=ROUNDED, atol=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_do_what_one_does(store: Store, tmp_path: Path) -> None:
    changes = {"optimisation": PLAIN, "device": DEVICE}
    train(store, tmp_path / "one", **options_of(**changes))
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    ranks = [
        start_training(
            store.path,
            tmp_path,
            changes,
            RANK=rank,
            LOCAL_RANK=rank,
            CUDA_VISIBLE_DEVICES="0,1",
            **meeting,
        )
        for rank in ("0", "1")
    ]
    for training in ranks:
        training.finish()
    assert losses(tmp_path / "0") == pytest.approx(losses(tmp_path / "one"), rel=ROUNDED)
