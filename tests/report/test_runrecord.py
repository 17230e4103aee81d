from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
from generated_run import curves, write_lines

from wsdino.errors import InputError, TableError
from wsdino.evaluate.results import read_results
from wsdino.recorded import Evaluation
from wsdino.report.html import write_report
from wsdino.runrecord import Omitted, read_metrics, read_run

if TYPE_CHECKING:
    from pathlib import Path


def test_a_torn_last_line_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, curves(5, teacher=True))
    with path.open("a") as file:
        file.write('{"step": 5, "lo')
    frame = read_metrics(path)
    assert frame["step"].tolist() == [0, 1, 2, 3, 4]
    assert (frame.dtypes == "float64").all()


def test_steps_repeated_after_a_resume_count_once_and_the_last_wins(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write_lines(path, [{"step": s, "loss": loss} for s, loss in [(0, 9), (1, 8), (2, 7), (1, 5)]])
    frame = read_metrics(path)
    assert frame["step"].tolist() == [0, 1, 2]
    assert frame["loss"].tolist() == [9, 5, 7]


def test_lines_may_lack_keys_and_hold_words(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 0, "loss": 1}\n[1]\n\n{"step": 1, "note": "x", "kl": null}\n', encoding="utf-8"
    )
    frame = read_metrics(path)
    assert list(frame) == ["step", "loss"]
    assert frame["loss"].isna().tolist() == [False, True]


@pytest.mark.parametrize("text", ["", "nonsense\n", "{}\n"])
def test_no_readable_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(Omitted, match=r"metrics\.jsonl has no readable line"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_complete_run(run: Path) -> None:
    record = read_run(run)
    assert record.problems == {}
    assert record.wrong == []
    assert list(record.all_results) == ["run", "classical", "untrained", "classifier", "dino"]
    assert list(record.metrics) == ["run", "classifier", "dino"]
    assert "baselines" not in record.results
    assert record.name == "my run"


def test_baselines_are_also_found_in_their_folders(run: Path) -> None:
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    dino = results.pop("baselines")["dino"]
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (run / "baselines/dino/results.json").write_text(json.dumps(dino), encoding="utf-8")
    assert read_run(run).baselines == {"dino": dino}


def test_damaged_files_become_reasons(run: Path) -> None:
    (run / "results.json").write_text('{"nsc": 1,\n oops', encoding="utf-8")
    (run / "coverage.json").write_text("[1]", encoding="utf-8")
    (run / "profiles.parquet").write_bytes(b"PAR1 no more")
    (run / "environment.json").unlink()
    problems = read_run(run).problems
    assert problems["results.json"].startswith("results.json: can't be read as JSON: ")
    assert "line 2" in problems["results.json"]
    assert problems["coverage.json"] == (
        "coverage.json: can't be read as JSON: found '[1]': input should be a valid dictionary"
    )
    assert "profiles.parquet" in problems["profiles.parquet"]
    assert problems["environment.json"] == "there is no environment.json"


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run folder"):
        read_run(tmp_path / "absent")


def test_a_damaged_baseline_does_not_speak_for_the_run(run: Path) -> None:
    (run / "baselines/extra").mkdir()
    (run / "baselines/broken").mkdir()
    (run / "baselines/broken/results.json").write_text("{", encoding="utf-8")
    record = read_run(run)
    assert list(record.problems) == ["baselines/broken"]
    assert "results.json: can't be read as JSON: " in record.problems["baselines/broken"]
    assert "broken" not in record.baselines


def changed(path: Path, key: str, value: Any) -> None:
    """Put another value at a place in a JSON file, given as `a.0.b`."""
    node = whole = json.loads(path.read_text(encoding="utf-8"))
    *way, last = (int(part) if part.isdigit() else part for part in key.split("."))
    for part in way:
        node = node[part]
    node[last] = value
    path.write_text(json.dumps(whole), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "key", "value", "problem"),
    [
        ("results.json", "nsc_neighbours.3", "a", "valid dictionary"),
        ("results.json", "nsc_neighbours.3.moa", ["a"], "valid string"),
        ("results.json", "nsc_neighbours", {"a": {}}, "valid list"),
        ("results.json", "nscb", "0.5", "valid number"),
        ("results.json", "nscb_ci", [0.1], "at least 2 items"),
        ("results.json", "nsc_null", 0, "valid dictionary"),
        ("results.json", "confusion.labels", "abc", "valid list"),
        ("results.json", "confusion.nsc.0.1", None, "valid integer"),
        ("results.json", "activity.treatments.0.p_value", True, "valid number"),
        ("results.json", "activity.notes", [None], "valid string"),
        ("results.json", "leakage.batch", [1], "valid dictionary"),
        ("results.json", "left_out.nscb.0", 3, "valid dictionary"),
        ("results.json", "normalisation", "zscore", "valid dictionary"),
        ("results.json", "baselines", 3, "valid dictionary"),
        ("coverage.json", "rows.0", 3, "valid dictionary"),
        ("environment.json", "versions", ["1.0"], "valid dictionary"),
        ("environment.json", "command", {"a": 1}, "valid list"),
    ],
)
def test_what_has_another_shape_is_said_and_costs_its_section_only(
    run: Path, name: str, key: str, value: Any, problem: str
) -> None:
    changed(run / name, key, value)
    record, top = read_run(run), key.partition(".")[0]
    assert record.problems == {}
    (line,) = record.wrong
    assert line.startswith(f"{name}: {key}")
    assert line.endswith(problem) or f"{problem} " in line
    kept = {"results.json": record.results, "coverage.json": record.coverage}
    assert top not in kept.get(name, record.environment)
    assert len(kept.get(name, record.environment)) > 2
    if name == "results.json":
        with pytest.raises(TableError, match=rf"{name}: {re.escape(key)}.*; evaluate again$"):
            read_results(run / name)


@pytest.mark.parametrize("key", ["baselines.dino.nsc", "baselines.dino.nsc_neighbours.0"])
def test_a_wrong_shape_of_a_baseline_is_its_own(run: Path, key: str) -> None:
    changed(run / "results.json", key, [])
    record = read_run(run)
    (line,) = record.wrong
    assert line.startswith(f"baseline dino: {key.removeprefix('baselines.dino.')}: found '[]'")
    assert key.split(".")[2] not in record.baselines["dino"]
    assert len(record.all_results) == 5
    with pytest.raises(TableError, match=r"results\.json: baselines\.dino: nsc.* found '\[\]'"):
        read_results(run / "results.json")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("model: [1]\n", "config.yaml: model: found '[1]': input should be a valid dictionary"),
        ("objective: {name: 3}\n", "config.yaml: objective.name: found '3'"),
        ("a: [\n", "config.yaml: not YAML"),
        ("- a\n", "config.yaml: a config is a mapping"),
    ],
)
def test_what_is_told_of_a_config_is_checked(run: Path, text: str, line: str) -> None:
    (run / "config.yaml").write_text(
        f"seed: 3\n{text}" if text[0] != "-" else text, encoding="utf-8"
    )
    record = read_run(run)
    assert record.wrong[0].startswith(line)
    assert len(record.wrong) == 1
    assert set(record.settings) <= {"seed"}


def test_a_report_with_nothing_but_wrong_shapes_says_each_once(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = json.loads((run / "results.json").read_text(encoding="utf-8"))
    lists = {"left_out", "gallery", "map_per_moa", "confusion", "activity"}
    lists |= {"leakage", "normalisation", "baselines"}
    known = set(whole) & set(Evaluation.__annotations__)
    wrong: dict[str, Any] = {name: [3] if name in lists else {"a": [{}]} for name in known}
    wrong |= {name: {"mean": "x"} for name in wrong if name.endswith("_null")}
    (run / "results.json").write_text(json.dumps(wrong), encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    said = capsys.readouterr().err
    for name in wrong:
        assert f"results.json: {name}" in page
        assert len(re.findall(rf"warning: results\.json: {name}[.:]", said)) == 1, name
    assert 'id="treatments"' in page
    assert 'id="confusion"' not in page


def test_halves_of_characters_are_replaced_where_text_is_written(run: Path) -> None:
    odd = run.with_name(os.fsdecode(b"run \xff"))
    run.rename(odd)
    changed(odd / "results.json", "notes", ["a \ud800 b"])
    changed(odd / "environment.json", "command", ["wsdino", "run", "\udcff.yaml"])
    page = write_report(odd).read_text(encoding="utf-8")
    assert "<title>run ? " in page
    assert "a ? b" in page
    assert "wsdino run &#39;?.yaml&#39;" in page
