"""Two real processes over gloo do what one does."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers_train import options_of, read_records, start_training
from wsdino.train.checkpoint import load_newest
from wsdino.train.train import train

if TYPE_CHECKING:
    from pathlib import Path

    from wsdino.screen.store import Store

CHANGES: dict[str, dict[str, Any]] = {
    "center": {
        "optimisation": {"epochs": 2, "drop_path": 0.0, "learning_rate": 1e-3},
        "distillation": {"targets": "center", "norm_last_layer": False},
        "spec": {"mode": "per_channel"},
    },
    "sinkhorn": {
        "optimisation": {"epochs": 2, "drop_path": 0.0, "learning_rate": 1e-3, "accumulate": 2},
        "distillation": {"targets": "sinkhorn"},
    },
}
# Mean of the ranks' own values, not of the whole batch.
PER_RANK = {"embedding_std", "embedding_rank"}


@pytest.fixture(scope="module")
def two_ranks(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the runs of two ranks, a folder for each set of changes."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        start_training(store.path, out, *CHANGES.values(), RANK=rank, LOCAL_RANK=rank, **meeting)
        for rank in ("0", "1")
    ]
    for training in ranks:
        training.finish()
    return out


@pytest.mark.parametrize("targets", CHANGES)
def test_two_ranks_equal_one(store: Store, tmp_path: Path, two_ranks: Path, targets: str) -> None:
    train(store, tmp_path, **options_of(**CHANGES[targets]))
    run = two_ranks / str(list(CHANGES).index(targets))
    one, two = read_records(tmp_path), read_records(run)
    # Each step once: one rank writes.
    assert [record["step"] for record in two] == list(range(1, 15))
    for ours, theirs in zip(two, one, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - PER_RANK:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-4), key
    ours, theirs = (load_file(out / "model" / "model.safetensors") for out in (run, tmp_path))
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, atol=2e-4, err_msg=name)
    student, after = (load_newest(out / "checkpoints") for out in (tmp_path, run))
    for name, value in student["objective"].items():
        np.testing.assert_allclose(after["objective"][name], value, atol=2e-4, err_msg=name)
