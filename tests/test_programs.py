"""Programs that no test runs whole (benchmarks, pretraining) import what is there."""

from __future__ import annotations

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = [
    path for folder in ("benchmarks", "pretraining") for path in (ROOT / folder).glob("*.py")
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_every_name_is_there(program: Path) -> None:
    missing = []
    for node in ast.walk(ast.parse(program.read_text())):
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
