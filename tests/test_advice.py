"""Advice works where it is given: to users of a command, and to those of a run's config."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from helpers_run import ended, write_tiny_config
from helpers_screen import write_bbbc021_folder
from wsdino.config import load_config
from wsdino.errors import CONFIG_KEYS, option

SOURCE = Path(__file__).resolve().parents[1] / "src" / "wsdino"
FLAG = re.compile(rf"({'|'.join(CONFIG_KEYS)})\b(?!-)")


def test_each_option_has_the_key_of_a_config_beside_it() -> None:
    assert option("--z 0 or --z max") == "--z 0 or --z max (in a config screen.z)"
    for key in CONFIG_KEYS.values():
        section, name = key.split(".")
        assert name in getattr(load_config("default"), section).model_dump()


def advised(module: Path) -> list[str]:
    """Texts of a module that name such an option by themselves, apart from docstrings."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    passed = {
        id(part)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        if call.func.id == "option"
        for part in ast.walk(call)
    }
    said = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
    return [
        each.value
        for each in ast.walk(tree)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
        if id(each) not in passed | said and FLAG.search(each.value)
    ]


@pytest.mark.parametrize("room", ["screen", "tables", "profile", "embed", "evaluate", "report"])
def test_what_a_run_may_say_names_no_option_alone(room: str) -> None:
    found = {path.name: advised(path) for path in sorted((SOURCE / room).rglob("*.py"))}
    # These parse the option itself, or are of a command that no run has.
    ours = {"columns.py", "selection.py", "images.py", "choosing.py", "asked.py"}
    assert {name for name, texts in found.items() if texts} <= ours


def test_controls_are_named_as_the_run_its_report_and_the_command_say(tmp_path: Path) -> None:
    write_bbbc021_folder(tmp_path / "screen", num_sites=1)
    for name in ("BBBC021_v1_image.csv", "BBBC021_v1_moa.csv"):
        path = tmp_path / "screen" / name
        path.write_text(
            path.read_text(encoding="utf-8").replace("DMSO", "Vehicle"), encoding="utf-8"
        )
    settings = ["--set", f"screen.source={tmp_path / 'screen'}"]
    config = write_tiny_config(tmp_path / "tiny.yaml", baselines={"names": []})
    status, _, err = ended("run", config, *settings, "--out", tmp_path / "first")
    assert status == 0, err
    (note, *_) = json.loads((tmp_path / "first/results.json").read_text(encoding="utf-8"))[
        "activity"
    ]["notes"]
    told = re.search(r"name one by --control NAME \(in a config ([\w.]+)\)", note)
    assert told
    page = (tmp_path / "first/report.html").read_text(encoding="utf-8")
    assert note in page
    assert f"name them ({told[1]} in the config), and run again into another folder" in page
    # In the same folder the advice leads on: the network had learnt the controls as a label.
    named = [*settings, "--set", f"{told[1]}=[Vehicle]"]
    status, _, err = ended("run", config, *named, "--out", tmp_path / "first")
    assert status == 2
    assert err.endswith("use the options of its config.yaml, or give --out another folder\n")
    status, _, err = ended("run", config, *named, "--out", tmp_path / "second")
    assert status == 0, err
    found = json.loads((tmp_path / "second/results.json").read_text(encoding="utf-8"))["activity"]
    assert found["num_tested"] == found["num_treatments"] == 14
    assert not [each for each in found["notes"] if "negative control" in each]
    table = pd.read_parquet(tmp_path / "first/embeddings.parquet")
    table.to_parquet(tmp_path / "sites.parquet")
    _, out, _ = ended("activity", tmp_path / "sites.parquet", "--num", 0)
    assert "name one by --control NAME" in " ".join(out.split())
    _, out, _ = ended("activity", tmp_path / "sites.parquet", "--num", 0, "--control", "Vehicle")
    assert re.search(r"active: \d+ of 14 treatments", " ".join(out.split()))
