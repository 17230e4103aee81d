from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from generated_run import curves, write_lines

from wsdino.errors import InputError
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
    path.write_text('{"step": 0, "loss": 1}\n[1]\n\n{"step": 1, "note": "x", "kl": null}\n')
    frame = read_metrics(path)
    assert list(frame) == ["step", "loss"]
    assert frame["loss"].isna().tolist() == [False, True]


@pytest.mark.parametrize("text", ["", "nonsense\n", "{}\n"])
def test_no_readable_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(Omitted, match=r"metrics\.jsonl has no readable line"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_complete_run(run: Path) -> None:
    record = read_run(run)
    assert record.problems == {}
    assert list(record.all_results) == ["run", "classical", "untrained", "classifier", "dino"]
    assert list(record.metrics) == ["run", "classifier", "dino"]
    assert "baselines" not in record.results
    assert record.name == "my run"


def test_baselines_are_also_found_in_their_folders(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    dino = results.pop("baselines")["dino"]
    (run / "results.json").write_text(json.dumps(results))
    (run / "baselines/dino/results.json").write_text(json.dumps(dino))
    assert read_run(run).baselines == {"dino": dino}


def test_damaged_files_become_reasons(run: Path) -> None:
    (run / "results.json").write_text('{"nsc": 1,\n oops')
    (run / "coverage.json").write_text("[1]")
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
    (run / "baselines/broken/results.json").write_text("{")
    record = read_run(run)
    assert list(record.problems) == ["baselines/broken"]
    assert "results.json: can't be read as JSON: " in record.problems["baselines/broken"]
    assert "broken" not in record.baselines
