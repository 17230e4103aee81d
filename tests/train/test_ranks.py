"""Two real processes over gloo do what one does."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from helpers_job import meeting_of_two
from helpers_run import finish, start
from helpers_train import options_of, read_records, start_training
from wsdino.model.spec import Architecture
from wsdino.train.checkpoint import load_newest
from wsdino.train.train import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsdino.screen.store import Store

# Without stochastic depth, which each rank draws for itself, and without KoLeo, which looks for
# neighbours among a rank's own images.
PLAIN = {"epochs": 1, "drop_path": 0.0, "learning_rate": 1e-3}
# Its gradients are a hundred times as large here, and rounding grows with every step.
GENTLE = PLAIN | {"learning_rate": 1e-4}
CONTRAST = {"name": "contrast"}
SPC = {"name": "spc"}
BOTH = {"name": "distill_classify"}
CHANGES: dict[str, dict[str, Any]] = {
    "center": {
        "optimisation": PLAIN,
        "objective": {"targets": "center", "norm_last_layer": False},
        "spec": {"mode": "per_channel"},
    },
    "center, accumulated": {
        "optimisation": PLAIN | {"accumulate": 2},
        "objective": {"targets": "center"},
    },
    "batch norm": {
        "optimisation": PLAIN | {"learning_rate": 1e-4},
        "objective": {"head_batch_norm": True},
    },
    "compiled": {
        "optimisation": PLAIN | {"compile": True, "accumulate": 2},
        "objective": {"targets": "center", "norm_last_layer": False},
    },
    "batch norm, compiled": {
        "optimisation": PLAIN | {"compile": True, "learning_rate": 1e-4},
        "objective": {"head_batch_norm": True},
        "spec": {"mode": "per_channel"},
    },
    "sinkhorn": {"optimisation": PLAIN, "objective": {"targets": "sinkhorn"}},
    "contrast": {"optimisation": GENTLE, "objective": CONTRAST},
    "contrast, accumulated": {
        "optimisation": GENTLE | {"accumulate": 2},
        "objective": CONTRAST,
    },
    "pairs, accumulated": {
        "optimisation": GENTLE | {"accumulate": 2},
        "objective": {"name": "pairs"},
        "weak_positives": {"partner_global_views": 1},
    },
    "profiles, accumulated": {
        "optimisation": GENTLE | {"accumulate": 2},
        "objective": {"name": "profiles"},
    },
    "spc": {"optimisation": GENTLE, "objective": SPC},
    "spc, accumulated": {"optimisation": GENTLE | {"accumulate": 2}, "objective": SPC},
    "distillation and labels, accumulated": {
        "optimisation": GENTLE | {"accumulate": 2},
        "objective": BOTH,
    },
    "convolutional, accumulated": {
        "optimisation": GENTLE | {"accumulate": 2},
        "objective": {"targets": "center"},
        "spec": {
            "architecture": Architecture(
                backbone="test_efficientnet", image_size=24, expects="imagenet"
            )
        },
    },
    "sinkhorn, accumulated": {
        "optimisation": PLAIN | {"accumulate": 2},
        "objective": {"targets": "sinkhorn"},
    },
}
# Compiling takes longer than all other trainings together.
COMPILED = [name for name in CHANGES if "compiled" in name]
PLAINLY = [name for name in CHANGES if name not in COMPILED]
NUM_STEPS = 7
# What is the same for all images of a batch is taken away in the head, so that the gradient of what
# adds it is rounding, which Adam makes as large as any other.
SWALLOWED = ("networks.0.norm.bias", "networks.1.norm.bias", "mlp.0.bias", "mlp.3.bias")


@pytest.fixture(scope="module")
def two_ranks(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the run that two ranks made with a set of changes, by its name."""

    @cache
    def runs_of(names: tuple[str, ...]) -> Path:
        out = tmp_path_factory.mktemp("ranks")
        changes, meeting = [CHANGES[name] for name in names], meeting_of_two()
        ranks = [
            start_training(store.path, out, *changes, RANK=rank, LOCAL_RANK=rank, **meeting)
            for rank in ("0", "1")
        ]
        for training in ranks:
            training.finish()
        return out

    def run_of(name: str) -> Path:
        together = COMPILED if name in COMPILED else PLAINLY
        return runs_of(tuple(together)) / str(together.index(name))

    return run_of


@pytest.mark.parametrize(
    "targets", [*PLAINLY, *(pytest.param(name, marks=pytest.mark.slow) for name in COMPILED)]
)
def test_two_ranks_equal_one(
    store: Store, tmp_path: Path, two_ranks: Callable[[str], Path], targets: str
) -> None:
    changes = CHANGES[targets]
    plain = changes["optimisation"] | {"accumulate": 1, "compile": False}
    one_part = changes | {"optimisation": plain}
    train(store, tmp_path, **options_of(**one_part))
    run = two_ranks(targets)
    one, two = read_records(tmp_path), read_records(run)
    # Each step once: one rank writes.
    assert [record["step"] for record in two] == list(range(1, NUM_STEPS + 1))
    for ours, theirs in zip(two, one, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            # A norm of thousands of gradients gathers what each is off by rounding.
            rel = 5e-3 if key == "grad_norm" else 1e-3
            # Angles from the origin, which what SWALLOWED names has moved.
            drifts = "batch norm" in targets and key == "plate_clustering"
            abs_ = 2e-2 if drifts else 1e-4
            assert ours[key] == pytest.approx(theirs[key], rel=rel, abs=abs_), key
    ours, theirs = (load_file(out / "model" / "model.safetensors") for out in (run, tmp_path))
    without = SWALLOWED if "batch norm" in targets else ()
    for name, value in theirs.items():
        if name.endswith(without):
            continue
        np.testing.assert_allclose(ours[name], value, atol=2e-4, err_msg=name)
    student, after = (load_newest(out / "checkpoints") for out in (tmp_path, run))
    assert student is not None
    assert after is not None
    for name, value in student["objective"].items():
        if name.endswith(without):
            continue
        np.testing.assert_allclose(after["objective"][name], value, atol=2e-4, err_msg=name)
    seen = [state["watch"]["sites"].sort().values for state in (student, after)]
    assert torch.equal(*seen)


def test_ranks_divide_the_anchors_among_them(two_ranks: Callable[[str], Path]) -> None:
    out = two_ranks(PLAINLY[0]).parent
    anchors = [np.load(out / f"anchors_{rank}.npy") for rank in (0, 1)]
    assert [part.shape for part in anchors] == [(NUM_STEPS, 4)] * 2
    for ours, theirs in zip(*anchors, strict=True):
        # 8 labels a round, so that 8 images a step are of 8 labels.
        assert len({*ours, *theirs}) == 8


LAGGING = """
import sys
import time
from wsdino import job

job.start()
# The second process looks seldom: the first one is at its end long before it.
job.POLL_S = 1.5 if job.rank() else 0.001
job.barrier()
found = job.only_first(lambda: time.sleep(0.5) or "found")
job.finish()
sys.exit(found != "found")
"""


def test_whoever_holds_the_store_leaves_last() -> None:
    meeting = meeting_of_two()
    ranks = [
        start(code=LAGGING, variables=meeting | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    ends = [finish(process, timeout_s=120) for process in ranks]
    assert [status for status, _, _ in ends] == [0, 0], ends
