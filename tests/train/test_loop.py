from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helpers_train import options_of, read_records
from wsdino.device import free_memory
from wsdino.errors import ConfigError, OutputError, TrainingError
from wsdino.train.checkpoint import PARTS, checkpoints, load_newest, save_checkpoint
from wsdino.train.journal import Journal
from wsdino.train.train import train
from wsdino.train.views import ViewPlan

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from wsdino.model.model import Model
    from wsdino.screen.store import Store
    from wsdino.train.plan import StepPlan

CONTRACT = {
    "step",
    "epoch",
    "samples",
    "loss",
    "kl",
    "teacher_entropy",
    "teacher_entropy_max",
    "assignment_entropy",
    "embedding_std",
    "embedding_rank",
    "grad_norm",
    "lr",
    "weight_decay",
    "teacher_momentum",
    "teacher_temp",
    "samples_per_s",
    "data_wait",
}


def weights_of(model: Model) -> dict[str, torch.Tensor]:
    return model.networks.state_dict()


def assert_same_weights(a: Model, b: Model) -> None:
    ours, theirs = weights_of(a), weights_of(b)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_a_run_leaves_what_the_contract_says(store: Store, tmp_path: Path) -> None:
    model = train(store, tmp_path, **options_of())
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["step"] for record in records] == list(range(1, 8)), "56 treated sites, 8 a step"
    assert all(record.keys() >= CONTRACT for record in records)
    for record in records:
        assert record["kl"] == pytest.approx(record["loss"] - record["teacher_entropy"])
        assert record["kl"] >= -1e-5
        assert record["samples"] == 8 * record["step"]
        assert record["epoch"] == pytest.approx(record["step"] / 7)
        assert 0 <= record["data_wait"] <= 1
        assert record["samples_per_s"] > 0
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["step_00000007.pt"]
    assert {path.name for path in (tmp_path / "model").iterdir()} == {
        "config.json",
        "model.safetensors",
    }
    assert not list(tmp_path.rglob("*partial*"))
    assert model.embed(store.read([0, 1])[:], offset=None, gain=None).shape == (2, 32)


def test_tensorboard_shows_the_same_numbers(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path, **options_of())
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    records = read_records(tmp_path)
    for key in ("loss", "lr", "teacher_entropy"):
        scalars = events.Scalars(key)
        assert [scalar.step for scalar in scalars] == [record["step"] for record in records]
        np.testing.assert_allclose(
            [scalar.value for scalar in scalars], [record[key] for record in records], rtol=1e-6
        )


def test_classification_is_recorded_with_its_accuracy(store: Store, tmp_path: Path) -> None:
    changes = {"epochs": 12, "learning_rate": 3e-3, "clip_gradient": None}
    objective = {"name": "classify"}
    train(store, tmp_path, **options_of(optimisation=changes, objective=objective))
    records = read_records(tmp_path)
    assert records[-1].keys() >= {
        "loss",
        "accuracy",
        "embedding_std",
        "embedding_rank",
        "grad_norm",
    }
    assert "teacher_entropy" not in records[-1]
    last = np.mean([record["loss"] for record in records[-7:]])
    assert last < np.mean([record["loss"] for record in records[:7]]) - 0.1, "it learns"


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process SIGTERM while the given step is prepared."""
    import os
    import signal

    from wsdino.train.plan import Planner

    plan = Planner.plan

    def plan_and_stop(self: Planner, number: int) -> Any:
        if number == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return plan(self, number)

    monkeypatch.setattr(Planner, "plan", plan_and_stop)


def test_a_stopped_run_says_so_and_goes_on_to_the_same_end(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by a real signal, then run again with the same options."""
    whole = train(store, tmp_path / "whole", **options_of())
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(TrainingError, match=r"stopped by a signal after step \d of 7"):
            train(store, tmp_path / "run", **options_of())
    stopped = load_newest(tmp_path / "run" / "checkpoints")
    assert stopped is not None
    assert 2 <= stopped["step"] <= 5
    assert not (tmp_path / "run" / "model").exists()
    assert_same_weights(train(store, tmp_path / "run", **options_of()), whole)
    assert read_records(tmp_path / "run") == read_records(tmp_path / "whole")
    # A finished run has nothing left to do, and changes nothing.
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert_same_weights(train(store, tmp_path / "run", **options_of()), whole)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    frequent = {"checkpoint_minutes": 1e-9}
    whole = train(store, tmp_path, **options_of(optimisation=frequent))
    newest, before = checkpoints(tmp_path / "checkpoints")
    assert (newest.name, before.name) == ("step_00000007.pt", "step_00000006.pt")
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    capfd.readouterr()
    again = train(store, tmp_path, **options_of(optimisation=frequent))
    said = [line for line in capfd.readouterr().err.splitlines() if "damaged" in line]
    assert len(said) == 1
    assert said[0].startswith(f"warning: {newest}: damaged checkpoint: ")
    assert said[0].endswith("; trying the one before")
    assert_same_weights(again, whole)
    assert [record["step"] for record in read_records(tmp_path)] == list(range(1, 8))


def test_with_nothing_but_damage_a_run_starts_anew(
    store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = train(store, tmp_path, **options_of())
    for path in checkpoints(tmp_path / "checkpoints"):
        path.write_bytes(b"")
    assert_same_weights(train(store, tmp_path, **options_of()), whole)
    assert "damaged checkpoint" in capfd.readouterr().err


def state_of(step: int) -> dict[str, object]:
    """Parts of a checkpoint, as empty as can be."""
    return dict.fromkeys(PARTS) | {"step": step}


def test_a_partial_checkpoint_is_not_there(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, state_of(3))
    (tmp_path / ".partial-0123456789ab-step_00000004.pt").write_bytes(b"half")
    assert load_newest(tmp_path) == state_of(3)
    for step in (4, 5, 6):
        save_checkpoint(tmp_path, step, state_of(step))
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000006.pt", "step_00000005.pt"]
    assert load_newest(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"optimisation": {"learning_rate": 1e-2}},
        {"objective": {"student_temp": 0.2}},
        {"weak_positives": {"label": "treatment"}},
        {"local_views": {"num_views": 3}},
        {"spec": {"mode": "joint"}},
        {"seed": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_options_do_not_go_on(store: Store, tmp_path: Path, changes: dict[str, Any]) -> None:
    short = {"epochs": 0.1, "warmup_epochs": 0.1}
    train(store, tmp_path, **options_of(optimisation=short))
    changes["optimisation"] = short | changes.get("optimisation", {})
    with pytest.raises(ConfigError, match="trained with other options") as caught:
        train(store, tmp_path, **options_of(**changes))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("targets", ["center", "sinkhorn"])
def test_training_that_explodes_stops_and_keeps_the_last_good_state(
    store: Store, tmp_path: Path, targets: str
) -> None:
    changes = {
        "optimisation": {
            "epochs": 5,
            "learning_rate": 1e38,
            "warmup_epochs": 0,
            "max_bad_steps": 3,
            "checkpoint_minutes": 1e-9,
        },
        "objective": {"targets": targets, "teacher_momentum": 0.0},
    }
    with pytest.raises(TrainingError, match=r"for 3 steps in a row.*lower train.learning_rate"):
        train(store, tmp_path, **options_of(**changes))
    bad = [record["step"] for record in read_records(tmp_path) if not record["applied"]]
    assert len(bad) >= 3
    assert bad[-3:] == list(range(bad[-1] - 2, bad[-1] + 1))
    state = load_newest(tmp_path / "checkpoints")
    assert state is not None
    assert state["step"] == bad[-1] - 3, "the state before the bad steps"


def test_too_many_bad_steps_save_the_state_before_them_whenever_they_come(
    store: Store, tmp_path: Path
) -> None:
    """No checkpoint was due: what was reached by the last good step is saved at the stop."""
    changes = {"epochs": 5, "learning_rate": 1e38, "warmup_epochs": 0, "max_bad_steps": 3}
    with pytest.raises(TrainingError, match=r"the state before them is saved"):
        train(store, tmp_path, **options_of(optimisation=changes))
    bad = [record["step"] for record in read_records(tmp_path) if not record["applied"]]
    state = load_newest(tmp_path / "checkpoints")
    assert state is not None
    assert state["step"] == bad[-1] - 3
    assert all(record["step"] <= state["step"] for record in state["records"])
    assert all(value.isfinite().all() for value in state["optimiser"]["state"][0].values())


def test_a_full_disk_is_one_line_and_keeps_what_is_there(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, state_of(1))
    (tmp_path / "step_00000002.pt").mkdir()
    with pytest.raises(OutputError, match=r"step_00000002.pt: can't be written") as caught:
        save_checkpoint(tmp_path, 2, state_of(2))
    assert "\n" not in str(caught.value)
    (tmp_path / "step_00000002.pt").rmdir()
    assert load_newest(tmp_path) == state_of(1)
    assert not list(tmp_path.glob("*partial*"))


def test_a_bad_step_is_skipped_and_leaves_no_trace(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch of broken pixels: training goes on as if the step had not been."""
    from wsdino.train.loop import Trainer

    states, whole_step = {}, Trainer.step

    def step(
        self: Trainer, number: int, plan: StepPlan, views: list[Tensor], **rest: Any
    ) -> dict[str, float]:
        if number == 2:
            views = [view * np.nan for view in views]
        record = whole_step(self, number, plan, views, **rest)
        copied = {name: value.clone() for name, value in self.module.state_dict().items()}
        states[number] = (record["applied"], copied)
        return record

    monkeypatch.setattr(Trainer, "step", step)
    train(store, tmp_path, **options_of(objective={"targets": "center"}))
    assert [applied for applied, _ in states.values()] == [1, 1, 0, 1, 1, 1, 1]
    for name, value in states[1][1].items():
        assert torch.equal(value, states[2][1][name]), name
        assert states[6][1][name].isfinite().all()
    records = read_records(tmp_path)
    assert [record["applied"] for record in records] == [1, 1, 0, 1, 1, 1, 1]
    assert records[2]["loss"] is None, "JSON has no NaN"


def test_a_torn_last_line_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "loss": 3.0}\n{"step": 2, "loss": 2.0}\n{"step": 3, "lo', encoding="utf-8"
    )
    with Journal(tmp_path, [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]) as journal:
        journal.write({"step": 3, "loss": 1.0})
    assert [record["step"] for record in read_records(tmp_path)] == [1, 2, 3]


def test_what_was_logged_after_the_checkpoint_is_logged_anew(tmp_path: Path) -> None:
    with Journal(tmp_path, []) as journal:
        for step in (1, 2, 3, 4):
            journal.write({"step": step, "loss": 0.0})
    with Journal(tmp_path, journal.records[:2]) as journal:
        journal.write({"step": 3, "loss": 1.0})
    assert [(r["step"], r["loss"]) for r in read_records(tmp_path)] == [(1, 0), (2, 0), (3, 1)]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(s.step, s.value) for s in events.Scalars("loss")] == [(1, 0), (2, 0), (3, 1)]


def test_deleted_records_come_back_from_the_checkpoint(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path, **options_of())
    path, events = tmp_path / "metrics.jsonl", tmp_path / "tensorboard"
    before, newest = path.read_text(encoding="utf-8"), max((tmp_path / "checkpoints").iterdir())
    path.unlink()
    shutil.rmtree(events)
    trained = newest.stat().st_mtime_ns
    train(store, tmp_path, **options_of())
    assert path.read_text(encoding="utf-8") == before
    assert list(events.iterdir())
    assert newest.stat().st_mtime_ns == trained, "nothing is trained again"


def test_a_batch_that_can_t_be_divided_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.batch_size 8: not a multiple of the 3 parts"):
        train(store, tmp_path, **options_of(optimisation={"accumulate": 3}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_views": ViewPlan(num_views=0, size=24)}, "global_views.num_views 0"),
        (
            {
                "global_views": ViewPlan(num_views=1, size=24),
                "local_views": ViewPlan(num_views=0, size=16),
            },
            "and there is one;",
        ),
        ({"weak_positives": {"partner_global_views": 3}}, "only 2 global views"),
        ({"weak_positives": {"num_partners": 3}}, "num_partners 3: there are only 2 local views"),
        ({"local_views": ViewPlan(num_views=0, size=16)}, "no view comes from a partner"),
        ({"local_views": ViewPlan(num_views=2, size=48)}, "does not fit fields of 32 x 40 px"),
    ],
)
def test_views_that_make_no_sense_are_refused(
    store: Store, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        train(store, tmp_path, **options_of(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"local_views": ViewPlan(num_views=2, size=20)},
            "crops.local_views.size 20 px: not a multiple",
        ),
        ({"spec": {"tile": 12}}, "embed.tile 12 px: not a multiple of the backbone's patch of 8"),
    ],
)
def test_sizes_that_are_no_whole_patches_are_refused_before_training(
    store: Store, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    from wsdino.errors import ModelError

    with pytest.raises(ModelError, match=message):
        train(store, tmp_path, **options_of(**changes))
    assert not (tmp_path / "checkpoints").exists()


def test_the_use_of_the_prototypes_is_said_in_the_end(
    store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    train(store, tmp_path, **options_of())
    last = read_records(tmp_path)[-1]
    used = math.exp(last["assignment_entropy"])
    assert (
        f"teacher entropy {last['teacher_entropy']:.2f} of at most 2.77 nats; assignments spread "
        f"over {used:.0f} of 16 prototypes"
    ) in " ".join(capfd.readouterr().err.split())


def test_the_processes_of_a_host_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    alone = free_memory(device)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    # Others on the machine take and give back meanwhile.
    assert free_memory(device) == pytest.approx(alone / 4, rel=0.3)
