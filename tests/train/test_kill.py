"""Runs in processes of their own, killed in mid-training and started again."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers_train import read_records, start_training
from wsdino.train.checkpoint import checkpoints

if TYPE_CHECKING:
    from pathlib import Path

    from helpers_train import TrainingProcess
    from wsdino.screen.store import Store

# Everything that draws from a generator is on: jitter, stochastic depth, partners.
CHANGES: dict[str, Any] = {
    "optimisation": {
        "epochs": 8,
        "drop_path": 0.3,
        "checkpoint_minutes": 1e-4,
        "precision": "bfloat16",
    },
    "objective": {"targets": "center"},
    "weak_positives": {"num_partners": 2, "partner_global_views": 1},
    "global_views": {"contrast": 0.2, "brightness": 0.2, "area": [0.2, 0.5]},
}
NUM_STEPS = 56


def newest_step(run: Path) -> int:
    found = checkpoints(run / "checkpoints")
    return int(found[0].stem.removeprefix("step_")) if found else 0


def wait_for_step(training: TrainingProcess, run: Path, step: int) -> None:
    deadline = time.monotonic() + 250
    while newest_step(run) < step:
        assert training.process.is_alive(), training.output
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def whole(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    start_training(store.path, out, CHANGES).finish()
    return out / "0"


def assert_same_run(run: Path, whole: Path) -> None:
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (run, whole))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    assert read_records(run) == read_records(whole)
    assert len(read_records(run)) == NUM_STEPS


def test_a_run_killed_and_stopped_ends_bit_identical_to_an_uninterrupted_one(
    store: Store, tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run" / "0"

    training = start_training(store.path, run.parent, CHANGES)
    wait_for_step(training, run, 3)
    training.process.kill()
    training.finish(exit_code=-signal.SIGKILL)
    assert not (run / "model").exists()
    killed_at = newest_step(run)
    assert killed_at < NUM_STEPS
    # What a kill in the middle of writing leaves behind.
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 999, "lo')
    (run / "checkpoints" / f".partial-0123456789ab-step_{killed_at + 1:08d}.pt").write_bytes(
        os.urandom(100)
    )

    training = start_training(store.path, run.parent, CHANGES)
    wait_for_step(training, run, killed_at + 3)
    training.process.terminate()
    output = training.finish(exit_code=1)
    stopped_at = newest_step(run)
    assert f"resuming from step {killed_at} of {NUM_STEPS}" in output
    assert f"stopped by a signal after step {stopped_at} of {NUM_STEPS}; the same" in output
    assert "Traceback" not in output
    assert killed_at < stopped_at < NUM_STEPS

    output = start_training(store.path, run.parent, CHANGES).finish()
    assert f"resuming from step {stopped_at} of {NUM_STEPS}" in output
    assert_same_run(run, whole)


@pytest.mark.slow
def test_killed_time_and_again_also_while_a_checkpoint_is_written(
    store: Store, tmp_path: Path, whole: Path
) -> None:
    """Every step writes a checkpoint; half of the kills wait until one is being written."""
    run, rng = tmp_path / "0", np.random.default_rng(0)
    for attempt in range(4):
        training = start_training(store.path, tmp_path, CHANGES)
        wait_for_step(training, run, newest_step(run) + 1)
        deadline = time.monotonic() + float(rng.uniform(0, 0.2))
        while time.monotonic() < deadline:
            if attempt % 2 and list((run / "checkpoints").glob(".partial-*")):
                break
        training.process.kill()
        training.finish(exit_code=-signal.SIGKILL)
        if newest_step(run) >= NUM_STEPS - 20:
            break
    assert not (run / "model").exists()
    output = start_training(store.path, tmp_path, CHANGES).finish()
    assert "damaged" not in output, "a checkpoint is there whole or not at all"
    assert_same_run(run, whole)
