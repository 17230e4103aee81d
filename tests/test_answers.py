"""`wsdino activity`, `neighbours` and `compare` as people use them."""

from __future__ import annotations

import json
import os
import sys
from io import BytesIO, TextIOWrapper
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from helpers_run import call
from helpers_tables import synthetic_design, with_features
from wsdino.evaluate.evidence import activity_of
from wsdino.profile.aggregate import make_profiles
from wsdino.tables.writing import write_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL = {"num_moas": 4, "num_compounds": 12, "num_treatments": 24, "num_sites": 1}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of wells and of treatments, with little signal and with more."""
    folder = tmp_path_factory.mktemp("answers")
    for name, signal in (("weak", 0.3), ("strong", 0.6)):
        table = with_features(synthetic_design(**SMALL), signal=signal, seed=1)
        write_table(table, folder / f"{name}.csv")
        write_table(make_profiles(table), folder / f"{name}_profiles.parquet")
    return folder


@pytest.fixture
def wsdino(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command; return its status and what it printed."""

    def run(*arguments: object) -> tuple[int, str, str]:
        status = call(monkeypatch, *arguments)
        return status, *capfd.readouterr()

    return run


def test_activity_prints_and_writes_what_python_returns(
    place: Path, tmp_path: Path, wsdino: Callable
) -> None:
    files = ["--json", tmp_path / "a.json", "--out", tmp_path / "a.csv"]
    options = ["--null-size", 200, "--seed", 3, "--num", 5, "--normalise", "plate_controls"]
    status, out, _ = wsdino("activity", place / "strong.csv", *files, *options)
    assert status == 0
    table = with_features(synthetic_design(**SMALL), signal=0.6, seed=1)
    expected = activity_of(table, normalisation="plate_controls", null_size=200, seed=3)
    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert found["num_active"] == expected["num_active"]
    assert [row["p_value"] for row in found["treatments"]] == [
        row["p_value"] for row in expected["treatments"]
    ]
    written = pd.read_csv(tmp_path / "a.csv")
    assert len(written) == found["num_treatments"] == 24
    assert written["is_active"].sum() == found["num_active"]
    lines = out.splitlines()
    assert lines[0].split()[:4] == ["treatment", "wells", "mAP", "p"]
    assert lines[6] == ""
    assert lines[7].startswith(f"active: {found['num_active']} of 24 treatments")
    assert lines[-1] == "normalisation: plate_controls"


def test_options_of_activity_have_an_effect(place: Path, tmp_path: Path, wsdino: Callable) -> None:
    def found(*options: object) -> dict:
        path = tmp_path / "a.json"
        assert wsdino("activity", place / "strong.csv", "--json", path, *options)[0] == 0
        return json.loads(path.read_text(encoding="utf-8"))

    first = found("--null-size", 100)
    assert found("--null-size", 100, "--fdr", 0.9)["num_active"] > first["num_active"]
    p = [[row["p_value"] for row in each["treatments"]] for each in (first, found())]
    assert min(p[0]) == pytest.approx(1 / 101)
    assert min(p[1]) < min(p[0])
    assert found("--control", "c01", "--null-size", 100)["num_treatments"] > 22


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["activity", "strong.csv", "--fdr", 2], "--fdr 2: expected a share between 0 and 1"),
        (["activity", "strong_profiles.parquet"], "strong_profiles.parquet"),
        (["neighbours", "strong.csv", "c99"], "strong.csv: no compound 'c99' among 13"),
        (
            ["neighbours", "strong_profiles.parquet", "c01", "--normalise", "tvn"],
            "--normalise tvn: has no effect on",
        ),
        (["compare", "strong_profiles.parquet"], "give a second run folder or table"),
        (["compare", "strong_profiles.parquet", "none.parquet"], "none.parquet"),
    ],
)
def test_mistakes_are_one_line(
    command: list, words: str, place: Path, monkeypatch: pytest.MonkeyPatch, wsdino: Callable
) -> None:
    monkeypatch.chdir(place)
    status, out, err = wsdino(*command)
    assert (status, out) == (2, "")
    assert words in err.splitlines()[-1]


def test_neighbours_are_those_of_the_profiles(
    place: Path, tmp_path: Path, wsdino: Callable
) -> None:
    found = []
    for name, options in (("strong.csv", ["--normalise", "tvn"]), ("strong_profiles.parquet", [])):
        path = tmp_path / "n.json"
        status, out, _ = wsdino(
            "neighbours", place / name, "C01", "--num", 3, "--json", path, *options
        )
        assert status == 0
        found.append(json.loads(path.read_text(encoding="utf-8"))["neighbours"])
        first = found[-1][0]
        assert out.splitlines()[1].startswith("c01 0.1 µM")
        assert first["neighbour_compound"] in out.splitlines()[1]
    one, two = (
        [(row["neighbour_compound"], row["neighbour_concentration"]) for row in each]
        for each in found
    )
    assert one == two
    assert len(one) == 6


@pytest.mark.parametrize(
    ("encoding", "micro"), [("ascii", rb"\xb5"), ("latin-1", b"\xb5"), ("utf-8", b"\xc2\xb5")]
)
def test_letters_that_the_locale_lacks_are_escaped(
    place: Path, encoding: str, micro: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = BytesIO()
    monkeypatch.setattr("sys.stdout", TextIOWrapper(printed, encoding=encoding))
    assert call(monkeypatch, "neighbours", place / "strong_profiles.parquet", "c01") == 0
    sys.stdout.flush()
    assert printed.getvalue().splitlines()[1].startswith(b"c01 0.1 " + micro + b"M")
    # Names of files that aren't text in any locale are the bytes that they were.
    sys.stdout.write(os.fsdecode(b"\xff.csv"))
    sys.stdout.flush()
    assert printed.getvalue().endswith(b"\n\xff.csv")


def test_compare_names_what_was_gained(place: Path, tmp_path: Path, wsdino: Callable) -> None:
    tables = [place / f"{name}_profiles.parquet" for name in ("weak", "strong", "weak")]
    status, out, _ = wsdino("compare", *tables, "--json", tmp_path / "c.json")
    assert status == 0
    better, same = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))["comparisons"]
    assert better["nsc"]["difference"] > 0
    assert same["nsc"]["difference"] == same["map"]["difference"] == 0
    assert better["activity"] is None
    gained = better["nsc"]["gained"][0]
    assert (
        f"strong_profiles (2): NSC, gained: {gained['compound']} {gained['concentration']:g} µM"
        in out
    )
    row = out.splitlines()[1]
    assert row.split()[:3] == ["strong_profiles", "(2)", "NSC"]
    assert f"{100 * better['nsc']['first']:.1f} %" in row


def test_compare_says_where_a_run_was_judged_by_another_rule(
    place: Path, tmp_path: Path, wsdino: Callable
) -> None:
    """NSCB by both rules, in `results.json` and here, are two numbers of one name."""
    profiles = pd.read_parquet(place / "weak_profiles.parquet")
    for name in ("strict", "first-published"):
        (tmp_path / name).mkdir()
        write_table(profiles, tmp_path / name / "profiles.parquet")
        results = json.dumps({"multi_batch": name})
        (tmp_path / name / "results.json").write_text(results, encoding="utf-8")
    runs = [tmp_path / "strict", tmp_path / "first-published", place / "strong_profiles.parquet"]
    for rule, other in (("strict", "first-published"), ("first-published", "strict")):
        status, out, _ = wsdino("compare", *runs, "--multi-batch", rule)
        assert status == 0
        told = " ".join(out.split())
        assert (
            f"{other}: its own results take treatments in several batches as {other} "
            f"(--multi-batch), the comparison as {rule}; NSCB may differ"
        ) in told
        assert told.count("its own results") == 1
