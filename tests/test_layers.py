"""Imports point one way only, and only where it is needed is torch imported."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers_tables import profile_table

SOURCE = Path(__file__).resolve().parents[1] / "src" / "wsdino"
MODULES = sorted(SOURCE.rglob("*.py"))
# From the top down: a module imports from its own layer and from those below.
LAYERS = (
    ("__init__", "__main__"),
    ("cli",),
    ("exchange",),
    ("pipeline", "preparation", "checks", "inspection", "doctor"),
    ("judging", "explain"),
    ("trainings",),
    ("report",),
    ("effects",),
    ("evaluate", "baselines"),
    ("train",),
    ("profile", "embed"),
    ("model",),
    ("screen", "simulate"),
    ("runrecord",),
    ("runfolder", "tables"),
    ("job", "environment", "lock"),
    ("device", "atomic", "compiled", "contents", "extras", "remote"),
    ("settings", "recorded"),
    ("outside",),
    ("errors", "progress", "stopping", "counting"),
)
HEIGHT = {part: -level for level, parts in enumerate(LAYERS) for part in parts}
SEES_CONFIG = {
    "__init__",
    "cli",
    "config",
    "effects",
    "exchange",
    "explain",
    "inspection",
    "pipeline",
    "judging",
    "checks",
    "preparation",
    "trainings",
}
MAX_LINES = 400
HEAVY = {"torch", "torchvision", "timm", "umap", "matplotlib"}


def part_of(module: Path) -> str:
    """Folder of a stage, or name of a module at the top."""
    return module.relative_to(SOURCE).parts[0].removesuffix(".py")


def absolute_name(node: ast.ImportFrom, module: Path) -> str:
    """Full name of the module that a `from` import names."""
    if not node.level:
        return node.module or ""
    package = ["wsdino", *module.relative_to(SOURCE).parent.parts]
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])


def imports_of(module: Path, *, at_run_time_only: bool = False) -> set[str]:
    """Full names of all that a module imports anywhere, or of what it imports when imported."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    nodes = _executed_on_import(tree) if at_run_time_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            name = absolute_name(node, module)
            # Of `from wsdino import screen` the layer is in the second name.
            found |= {f"wsdino.{a.name}" for a in node.names} if name == "wsdino" else {name}
    return found


def _executed_on_import(tree: ast.AST) -> list[ast.AST]:
    nodes = []
    for node in ast.iter_child_nodes(tree):
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if checking or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        nodes += [node, *_executed_on_import(node)]
    return nodes


def ours(names: set[str]) -> set[str]:
    """The parts of wsdino among imported names."""
    return {name.split(".")[1] for name in names if name.startswith("wsdino.")}


def test_every_part_has_a_layer() -> None:
    assert {part_of(module) for module in MODULES} == {*HEIGHT, "config", "sections"}


def mapped() -> dict[str, set[str]]:
    """Names on the map of CONTRIBUTING.md, by room; those of the top under the empty name."""
    text = (SOURCE.parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"^```\nsrc/wsdino/\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    found: dict[str, set[str]] = {"": set()}
    room = ""
    for line in lines.splitlines():
        if not line.startswith("   "):
            first = line.split()[0]
            room = first.removesuffix("/") if first.endswith("/") else ""
            found.setdefault(room, set())
        found[room] |= set(re.findall(r"\w+/?", line))
    return found


def test_the_map_has_every_module() -> None:
    names, missing = mapped(), []
    for module in MODULES:
        *rooms, _ = module.relative_to(SOURCE).parts
        room, name = rooms[0] if rooms else "", module.stem
        if len(rooms) > 1:
            name = f"{rooms[1]}/"
        if module.stem not in ("__init__", "__main__") and name not in names.get(room, set()):
            missing.append(str(module.relative_to(SOURCE)))
    assert not missing


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_that_grows_becomes_two(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downwards(module: Path) -> None:
    part, used = part_of(module), ours(imports_of(module))
    if part in {"config", "sections"}:
        below = {
            "effects",
            "errors",
            "model",
            "sections",
            "settings",
            "screen",
            "train",
            "profile",
            "baselines",
        }
        assert used <= below
        return
    assert "config" not in used or part in SEES_CONFIG
    upwards = {other for other in used - {"config"} if HEIGHT[other] > HEIGHT[part]}
    assert not upwards, f"{part} may not import {', '.join(sorted(upwards))}"


def test_the_checker_sees_what_it_must(tmp_path: Path) -> None:
    module = tmp_path / "m.py"
    module.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import torch\n"
        "def f():\n    from wsdino.cli import app\n"
        "try:\n    import umap\nexcept ImportError:\n    pass\n"
        "from wsdino import config\n",
        encoding="utf-8",
    )
    assert ours(imports_of(module)) == {"cli", "config"}
    assert imports_of(module, at_run_time_only=True) == {"typing", "umap", "wsdino.config"}


# Modules that describe models and trainings, so that a config needs no torch.
DESCRIBE = {
    *(
        SOURCE / "model" / f"{name}.py"
        for name in ("names", "packaged", "scaling", "spec", "tiles")
    ),
    *(SOURCE / "train" / f"{name}.py" for name in ("options", "views")),
    *(SOURCE / "train" / "objectives").glob("*.py"),
}


def is_light(module: Path) -> bool:
    """Whether a module has to work where torch is not installed."""
    needs_torch = part_of(module) in {"model", "train", "job"} and module not in DESCRIBE
    return not needs_torch and module != SOURCE / "embed" / "embed.py"


@pytest.mark.parametrize(
    "module", [*filter(is_light, MODULES)], ids=lambda path: str(path.relative_to(SOURCE))
)
def test_light_modules_import_nothing_heavy(module: Path) -> None:
    roots = {name.split(".")[0] for name in imports_of(module, at_run_time_only=True)}
    assert not roots & HEAVY


BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is not installed here")

sys.meta_path.insert(0, Blocker())
from wsdino.cli.main import main
main()
"""


def run_without(blocked: set[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a Python in which some packages can't be imported."""
    code = BLOCKER.format(blocked=blocked)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment
    )


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    """Four treatments whose nearest neighbours all have their mechanism."""
    import numpy as np

    features = np.array([[1.0, 0.1], [1.0, 0.2], [0.1, 1.0], [0.2, 1.0]])
    table = profile_table(list("abcd"), ["x", "x", "y", "y"], features, Batch=list("1212"))
    table.to_csv(tmp_path / "profiles.csv", index=False)
    return tmp_path / "profiles.csv"


def test_profiles_are_evaluated_without_torch(profiles: Path) -> None:
    done = run_without(HEAVY, "evaluate", str(profiles))
    assert done.returncode == 0, done.stderr
    assert "4/4 = 100.0 %" in done.stdout


def test_the_blocker_blocks(profiles: Path) -> None:
    done = run_without({"pandas"}, "evaluate", str(profiles))
    assert done.returncode == 1
    assert "pandas is not installed here" in done.stderr
