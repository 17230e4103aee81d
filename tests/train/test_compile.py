"""Compiled training: the same result, whole graphs, nothing compiled twice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from helpers_train import TINY, options_of, read_records
from wsdino.train.checkpoint import load_newest
from wsdino.train.learners.base import COMPILED
from wsdino.train.loop import Trainer
from wsdino.train.train import train

if TYPE_CHECKING:
    from pathlib import Path

    from wsdino.screen.store import Store

MOVING = {
    "koleo_weight": 0.1,
    "attention_weight": 0.1,
    "warmup_teacher_temp": 0.02,
    "teacher_temp_warmup_epochs": 1,
    "norm_last_layer": False,
}
SLOW = [pytest.mark.slow, pytest.mark.timeout(1800)]


# Dynamo looks at what it is given, hides the warning that torch has for it, and here warnings are
# errors. Without code generation the graphs, and what they compute, are the same.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
# A bug of Python 3.13.0 makes compiled code slower; the numbers are the same.
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
@pytest.mark.parametrize(
    ("backend", "objective", "precision"),
    [
        ("aot_eager", "distill", "bfloat16"),
        pytest.param("aot_eager", "classify", "float32", marks=SLOW),
        pytest.param("inductor", "distill", "float32", marks=SLOW),
        pytest.param("inductor", "distill", "bfloat16", marks=SLOW),
        pytest.param("inductor", "classify", "bfloat16", marks=SLOW),
    ],
)
def test_compiled_training_equals_training(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    objective: str,
    precision: str,
) -> None:
    """Every schedule moves; the first step compiles whole graphs, and no later one anything."""
    options: dict[str, Any] = {
        "optimisation": {
            "precision": precision,
            "drop_path": 0.0,
            "accumulate": 2,
        },
        "objective": {"name": objective} | (MOVING if objective == "distill" else {}),
        "spec": {"mode": "per_channel"},
    }
    if backend == "aot_eager":
        # A block is traced as any other is, and takes seconds.
        options["spec"] |= {"architecture": replace(TINY, depth=1)}
    train(store, tmp_path / "eager", **options_of(**options))
    torch.compiler.reset()
    whole_step = Trainer.step

    def step(self: Trainer, number: int, *rest: Any, **named: Any) -> dict[str, float]:
        patch = torch._dynamo.config.patch  # noqa: SLF001 torch has no public name
        with patch(error_on_recompile=number > 0):
            return whole_step(self, number, *rest, **named)

    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setitem(COMPILED, "backend", backend)
    options["optimisation"] |= {"compile": True}
    train(store, tmp_path / "compiled", **options_of(**options))
    rough = precision == "bfloat16"
    records = [read_records(tmp_path / name) for name in ("compiled", "eager")]
    for ours, theirs in zip(*records, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02 if rough else 1e-4)
    states = [load_newest(tmp_path / name / "checkpoints") for name in ("compiled", "eager")]
    compiled, eager = (state["objective"] for state in states if state)
    assert compiled.keys() == eager.keys(), "no prefix of torch's"
    if not rough:
        for name, value in eager.items():
            torch.testing.assert_close(compiled[name], value, rtol=1e-2, atol=1e-4, msg=name)
