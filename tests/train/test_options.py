"""No option is ignored: each is changed, and the change must be seen where it belongs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch._dynamo.utils import counters

from helpers_train import DEFAULTS, TINY, make_store, options_of, read_records
from wsdino.errors import TrainingError
from wsdino.model.precision import uses_bfloat16
from wsdino.model.spec import Architecture
from wsdino.train.checkpoint import checkpoints
from wsdino.train.learners.base import HeadedNetworks
from wsdino.train.objectives import (
    OBJECTIVES,
    classify,
    contrast,
    distill,
    distill_classify,
    pairs,
    profiles,
    spc,
)
from wsdino.train.options import Optimisation, WeakPositives
from wsdino.train.train import train
from wsdino.train.views import ViewPlan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsdino.screen.store import Store

Observed = dict[str, Any]


def column(key: str) -> Callable[[Observed], list[float]]:
    return lambda seen: [record[key] for record in seen["records"]]


def losses(seen: Observed) -> list[float]:
    return column("loss")(seen)


def kinds_of_record(seen: Observed) -> list[str]:
    return sorted(seen["records"][0])


def num_records(seen: Observed) -> int:
    return len(seen["records"])


@dataclass
class Case:
    """A change of one option, the base it is a change of, and where it shows."""

    value: Any
    shows: Callable[[Observed], Any] = losses
    base: dict[str, Any] = field(default_factory=dict)
    same_weights: bool = False


EXPLODING = {"optimisation": {"learning_rate": 1e38, "warmup_epochs": 0, "epochs": 9}}
# Stochastic depth draws for each part anew.
WHOLE_PATHS = {"optimisation": {"drop_path": 0.0}}
WARMING = {
    "objective": {
        "warmup_teacher_temp": 0.02,
        "teacher_temp": 0.06,
        "teacher_temp_warmup_epochs": 0.5,
    }
}
CENTERED = {"objective": {"targets": "center"}}
OF_CONTRAST = {"objective": {"name": "contrast"}}
OF_SPC = {"objective": {"name": "spc"}}
CONVOLUTIONAL = {
    "spec": replace(
        DEFAULTS["spec"],
        architecture=Architecture(backbone="test_efficientnet", image_size=24, expects="imagenet"),
    )
}
OF_PROFILES = {"objective": {"name": "profiles"}}
OF_PAIRS = {"objective": {"name": "pairs"}}
OF_BOTH = {"objective": {"name": "distill_classify"}}


def both(base: dict[str, Any]) -> dict[str, Any]:
    """Return a base of self-distillation with labels beside it."""
    return {"objective": base["objective"] | OF_BOTH["objective"]}


# Controls lie in both batches, every compound in one only.
SOME_LACK_PARTNERS = {"weak_positives": {"partner_from": "batch", "include_controls": True}}

VIEW_CASES = {
    "num_views": Case(3),
    "size": Case(8),
    "area": Case((0.1, 0.3)),
    "flip": Case(value=False),
    "rotate": Case(value=False),
    "brightness": Case(0.5),
    "contrast": Case(0.5),
    "staining": Case(0.5),
}
CASES: dict[str, dict[str, Case]] = {
    "optimisation": {
        "epochs": Case(2, num_records),
        "batch_size": Case(4, column("samples")),
        "accumulate": Case(2, lambda seen: seen["parts"], WHOLE_PATHS, same_weights=True),
        "balance": Case("image"),
        "step_from": Case("batch"),
        "learning_rate": Case(1e-2, column("lr")),
        "final_learning_rate": Case(1e-4, column("lr")),
        "warmup_epochs": Case(0.2, column("lr")),
        "weight_decay": Case(0.4, column("weight_decay")),
        "final_weight_decay": Case(0.4, column("weight_decay")),
        "clip_gradient": Case(1e-4),
        "drop_path": Case(0.9, base={"spec": DEFAULTS["spec"]}),
        "batch_statistics": Case(value=True, base=CONVOLUTIONAL),
        "precision": Case("bfloat16"),
        "compile": Case(
            value=True, shows=lambda seen: seen["graphs"], base=WHOLE_PATHS, same_weights=True
        ),
        "residency": Case("stream", lambda seen: "streamed" in seen["said"], same_weights=True),
        "log_every": Case(2, num_records, same_weights=True),
        "checkpoint_minutes": Case(1e-9, lambda seen: seen["checkpoints"], same_weights=True),
        "max_bad_steps": Case(2, num_records, EXPLODING),
    },
    "distill": {
        "name": Case("classify", kinds_of_record),
        "num_prototypes": Case(8, column("teacher_entropy_max")),
        "head_hidden_dim": Case(32),
        "head_bottleneck_dim": Case(4),
        "head_batch_norm": Case(value=True),
        "norm_last_layer": Case(value=False, base={"optimisation": {"epochs": 2}}),
        "targets": Case("center"),
        "student_temp": Case(0.2),
        "warmup_teacher_temp": Case(0.03, column("teacher_temp"), WARMING),
        "teacher_temp": Case(0.07, column("teacher_entropy")),
        "teacher_temp_warmup_epochs": Case(0.9, column("teacher_temp"), WARMING),
        "center_momentum": Case(0.2, losses, CENTERED),
        "teacher_momentum": Case(0.5, column("teacher_entropy")),
        "final_teacher_momentum": Case(0.9, column("teacher_momentum")),
        "freeze_last_layer_epochs": Case(0.0),
        "koleo_weight": Case(0.1, kinds_of_record),
        "attention_weight": Case(0.1, kinds_of_record),
    },
    "contrast": {
        "name": Case("distill", kinds_of_record, OF_CONTRAST),
        "head_hidden_dim": Case(32, losses, OF_CONTRAST),
        "head_bottleneck_dim": Case(4, losses, OF_CONTRAST),
        "head_batch_norm": Case(value=True, base=OF_CONTRAST),
        "student_temp": Case(0.2, losses, OF_CONTRAST),
        "teacher_momentum": Case(0.5, losses, OF_CONTRAST),
        "final_teacher_momentum": Case(0.9, column("teacher_momentum"), OF_CONTRAST),
        "koleo_weight": Case(0.1, kinds_of_record, OF_CONTRAST),
        "attention_weight": Case(0.1, kinds_of_record, OF_CONTRAST),
    },
    "pairs": {
        "name": Case("distill", kinds_of_record, OF_PAIRS),
        "head_hidden_dim": Case(32, losses, OF_PAIRS),
        "head_bottleneck_dim": Case(4, losses, OF_PAIRS),
        "head_batch_norm": Case(value=True, base=OF_PAIRS),
        "student_temp": Case(0.2, losses, OF_PAIRS),
        "teacher_momentum": Case(0.5, losses, OF_PAIRS),
        "final_teacher_momentum": Case(0.9, column("teacher_momentum"), OF_PAIRS),
        "koleo_weight": Case(0.1, kinds_of_record, OF_PAIRS),
        "attention_weight": Case(0.1, kinds_of_record, OF_PAIRS),
    },
    "profiles": {
        "name": Case("distill", kinds_of_record, OF_PROFILES),
        "head_hidden_dim": Case(32, losses, OF_PROFILES),
        "head_bottleneck_dim": Case(2, losses, OF_PROFILES),
        "head_batch_norm": Case(value=True, base=OF_PROFILES),
        "teacher_momentum": Case(0.5, column("embedding_std"), OF_PROFILES),
        "final_teacher_momentum": Case(0.9, column("teacher_momentum"), OF_PROFILES),
        "koleo_weight": Case(0.1, kinds_of_record, OF_PROFILES),
        "attention_weight": Case(0.1, kinds_of_record, OF_PROFILES),
    },
    "spc": {
        "name": Case("distill", kinds_of_record, OF_SPC),
        "head_hidden_dim": Case(32, losses, OF_SPC),
        "head_bottleneck_dim": Case(4, losses, OF_SPC),
        "head_batch_norm": Case(value=True, base=OF_SPC),
        "student_temp": Case(0.2, losses, OF_SPC),
        "teacher_momentum": Case(0.5, losses, OF_SPC),
        "final_teacher_momentum": Case(0.9, column("teacher_momentum"), OF_SPC),
        "koleo_weight": Case(0.1, kinds_of_record, OF_SPC),
        "attention_weight": Case(0.1, kinds_of_record, OF_SPC),
        "class_angle": Case(20.0, column("class_overlap"), OF_SPC),
    },
    "distill_classify": {
        "name": Case("distill", kinds_of_record, OF_BOTH),
        "num_prototypes": Case(8, column("teacher_entropy_max"), OF_BOTH),
        "head_hidden_dim": Case(32, losses, OF_BOTH),
        "head_bottleneck_dim": Case(4, losses, OF_BOTH),
        "head_batch_norm": Case(value=True, base=OF_BOTH),
        "norm_last_layer": Case(value=False, base=OF_BOTH | {"optimisation": {"epochs": 2}}),
        "targets": Case("center", losses, OF_BOTH),
        "student_temp": Case(0.2, losses, OF_BOTH),
        "warmup_teacher_temp": Case(0.03, column("teacher_temp"), both(WARMING)),
        "teacher_temp": Case(0.07, column("teacher_entropy"), OF_BOTH),
        "teacher_temp_warmup_epochs": Case(0.9, column("teacher_temp"), both(WARMING)),
        "center_momentum": Case(0.2, losses, both(CENTERED)),
        "teacher_momentum": Case(0.5, column("teacher_entropy"), OF_BOTH),
        "final_teacher_momentum": Case(0.9, column("teacher_momentum"), OF_BOTH),
        "freeze_last_layer_epochs": Case(0.0, base=OF_BOTH),
        "koleo_weight": Case(0.1, kinds_of_record, OF_BOTH),
        "attention_weight": Case(0.1, kinds_of_record, OF_BOTH),
        "label_weight": Case(3.0, losses, OF_BOTH),
    },
    "classify": {"name": Case("distill", kinds_of_record, {"objective": {"name": "classify"}})},
    "weak_positives": {
        "label": Case("treatment"),
        "include_controls": Case(value=True, shows=column("epoch")),
        "partner_from": Case("image"),
        "fallback": Case("drop", num_records, SOME_LACK_PARTNERS),
        "num_partners": Case(2),
        "partner_global_views": Case(1),
    },
    "global_views": VIEW_CASES,
    "local_views": VIEW_CASES,
}
SECTIONS = {
    "optimisation": Optimisation,
    "distill": distill.Options,
    "contrast": contrast.Options,
    "pairs": pairs.Options,
    "profiles": profiles.Options,
    "spc": spc.Options,
    "distill_classify": distill_classify.Options,
    "classify": classify.Options,
    "weak_positives": WeakPositives,
    "global_views": ViewPlan,
    "local_views": ViewPlan,
}


def merged(base: dict[str, Any], section: str, name: str, value: Any) -> dict[str, Any]:
    section = "objective" if section in {each.name for each in OBJECTIVES} else section
    return base | {section: base.get(section, {}) | {name: value}}


# Enough for every option to show.
SMALL = replace(DEFAULTS["spec"], architecture=replace(TINY, depth=1))


@pytest.fixture(scope="module")
def small_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Half of the store's sites: one of each well."""
    return make_store(tmp_path_factory.mktemp("small"), num_sites=1)


@pytest.fixture(scope="module")
def seen_before() -> dict[str, Observed]:
    return {}


def observe(store: Store, out: Path, changes: dict[str, Any], said: Callable[[], str]) -> Observed:
    """Train; return what can be seen of it from the outside."""
    parts: list[int] = []

    def note_size(module: torch.nn.Module, args: tuple[Any, ...]) -> None:
        if isinstance(module, HeadedNetworks) and module.training:
            parts.append(args[0][0].shape[1])

    torch.compiler.reset()
    counters.clear()
    handle = torch.nn.modules.module.register_module_forward_pre_hook(note_size)
    try:
        train(store, out, **options_of(**{"spec": SMALL} | changes))
    except TrainingError:
        assert changes.get("optimisation", {}).get("learning_rate") == 1e38
    finally:
        handle.remove()
    model = out / "model" / "model.safetensors"
    return {
        "records": read_records(out),
        "checkpoints": len(checkpoints(out / "checkpoints")),
        "weights": load_file(model) if model.is_file() else {},
        "said": said(),
        "parts": parts,
        "graphs": counters["stats"]["unique_graphs"],
    }


def test_every_objective_has_cases() -> None:
    assert {each.options for each in OBJECTIVES} <= set(SECTIONS.values())


@pytest.mark.parametrize("section", CASES)
def test_every_option_has_a_case(section: str) -> None:
    assert set(CASES[section]) == {option.name for option in fields(SECTIONS[section])}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(
    ("section", "name"),
    [
        # Code is generated and compiled: minutes on a slow machine.
        pytest.param(section, name, marks=[pytest.mark.slow] if name == "compile" else [])
        for section in CASES
        for name in CASES[section]
    ],
)
def test_a_changed_option_shows(
    small_store: Store,
    tmp_path: Path,
    section: str,
    name: str,
    seen_before: dict[str, Observed],
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = CASES[section][name]
    key = repr(case.base)
    if key not in seen_before:
        seen_before[key] = observe(
            small_store, tmp_path / "base", case.base, lambda: capsys.readouterr().err
        )
    base = seen_before[key]
    changes = merged(case.base, section, name, case.value)
    changed = observe(small_store, tmp_path / "changed", changes, lambda: capsys.readouterr().err)
    assert case.shows(base) != case.shows(changed)
    for weight, value in base["weights"].items():
        if case.same_weights:
            np.testing.assert_allclose(
                changed["weights"][weight], value, rtol=1e-3, atol=1e-4, err_msg=weight
            )
    if base["weights"] and not case.same_weights and name != "num_views":
        same_shapes = all(
            value.shape == changed["weights"][weight].shape
            for weight, value in base["weights"].items()
        )
        assert not same_shapes or any(
            (value != changed["weights"][weight]).any() for weight, value in base["weights"].items()
        ), "the network that comes out is another"


def test_accumulated_parts_are_of_equal_size(store: Store, tmp_path: Path) -> None:
    halves = {"optimisation": {"accumulate": 4}}
    assert set(observe(store, tmp_path, halves, str)["parts"]) == {2}


SHORT = {"epochs": 0.1, "warmup_epochs": 0.0}


def test_bfloat16_is_close_to_float32(store: Store, tmp_path: Path) -> None:
    runs = [
        observe(store, tmp_path / p, {"optimisation": SHORT | {"precision": p}}, str)
        for p in ("float32", "bfloat16", "auto")
    ]
    exact, rounded, auto = (losses(run)[0] for run in runs)
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05)
    assert auto == (rounded if uses_bfloat16("auto", torch.device("cpu")) else exact)
