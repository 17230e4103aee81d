"""Programs that no test runs whole (benchmarks, pretraining) import what is there."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from wsdino.config import load_config
from wsdino.train.objectives import OBJECTIVES
from wsdino.trainings import training_config, trainings

ROOT = Path(__file__).parents[1]
PROGRAMS = [
    path for folder in ("benchmarks", "pretraining") for path in (ROOT / folder).glob("*.py")
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_every_name_is_there(program: Path) -> None:
    missing = []
    for node in ast.walk(ast.parse(program.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wsdino"):
            module = import_module(node.module)
            missing += [
                f"{node.module}.{each.name}"
                for each in node.names
                if not hasattr(module, each.name) and not is_module(f"{node.module}.{each.name}")
            ]
    assert missing == []


def is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_every_training_of_the_headline_is_a_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    headline = import_module("headline")
    trained = headline.TRAINED
    configs = {row: load_config(headline.SHARED, settings) for row, settings in trained.items()}
    assert {config.objective.name for config in configs.values()} == {
        objective.name for objective in OBJECTIVES
    }
    # Trainings that its runs would have, those of baselines too, fit the fields that it simulates.
    for config in configs.values():
        for training in trainings(config):
            assert training_config(config, training).crops.global_views.size <= 192
    # The presets are what was measured.
    for name, row, length in (
        ("imagenet", "pairs from ImageNet", ["train.epochs=11", "train.learning_rate=0.0003"]),
        ("demo", "pairs", ["train.epochs=16", "train.learning_rate=0.0005"]),
    ):
        preset = load_config(name)
        measured = load_config(headline.SHARED, [*length, *trained[row]])
        for section in ("model", "input", "pairing", "train", "objective"):
            assert getattr(preset, section) == getattr(measured, section)
        assert preset.crops.global_views == measured.crops.global_views
        assert preset.architecture.backbone == measured.architecture.backbone
        assert preset.architecture.expects == measured.architecture.expects
        assert preset.embed.tile == measured.embed.tile
