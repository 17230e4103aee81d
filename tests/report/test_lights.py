"""The three lights of the first screen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generated_run import results_of, treatments

from wsdino.evaluate.compare import compare
from wsdino.evaluate.results import evaluate
from wsdino.report.lights import Light, lights, paired_difference
from wsdino.runrecord import Omitted, RunRecord

ACTIVE = {"num_tested": 8, "num_active": 6, "fdr": 0.05, "notes": []}


def shown(results: dict[str, Any], baselines: dict[str, Any] | None = None) -> list[Light]:
    record = RunRecord(Path("run"), results=results, baselines=baselines or {})
    found: list[Light] = lights(record)["lights"]
    return found


def matched(right: list[bool], **more: Any) -> dict[str, Any]:
    """Results of one query for each compound."""
    rows = [
        {"compound": f"c{n}", "concentration": 1.0, "correct": is_right}
        for n, is_right in enumerate(right)
    ]
    null = {"mean": 0.1, "p95": 0.2, "p_value": 0.001}
    return {"nsc": sum(right) / len(right), "nsc_null": null, "nsc_neighbours": rows, **more}


def test_without_results_there_are_no_lights() -> None:
    with pytest.raises(Omitted, match="empty"):
        lights(RunRecord(Path("run")))


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({}, "good", "6 of 8 treatments (75.0 %) differ from the controls"),
        ({"num_active": 0}, "bad", "0 of 8 treatments"),
        ({"num_tested": 0, "notes": ["no well is a control"]}, "unknown", "No well is a control."),
        ({"notes": ["up to 2.0 are to be expected by chance"]}, "warning", "expected by chance."),
    ],
)
def test_phenotype(changes: dict[str, Any], level: str, words: str) -> None:
    light = shown({"activity": ACTIVE | changes})[0]
    assert light.level == level
    assert words in light.sentence


def test_nothing_measured_is_grey_with_a_reason() -> None:
    found = shown({"notes": ["NSC: no two compounds have an MoA"]})
    assert [light.level for light in found] == ["unknown"] * 3
    assert found[1].sentence == "NSC: no two compounds have an MoA."


@pytest.mark.parametrize(
    ("mine", "theirs", "level", "sign"),
    [
        ([True] * 30, [True] * 15 + [False] * 15, "good", "+50.0 points"),
        ([True] * 15 + [False] * 15, [True] * 16 + [False] * 14, "warning", "-3.3 points"),
        ([True] * 15 + [False] * 15, [True] * 30, "bad", "-50.0 points"),
    ],
)
def test_mechanism_is_judged_in_pairs(
    mine: list[bool], theirs: list[bool], level: str, sign: str
) -> None:
    light = shown(matched(mine), {"classical": matched(theirs), "dino": matched([False] * 30)})[1]
    assert light.level == level
    assert sign in light.sentence
    assert "by chance it would be 10.0 % (p = 0.001)" in light.sentence


def test_no_better_than_chance_is_not_good_whatever_the_baselines() -> None:
    null = {"mean": 0.5, "p95": 0.7, "p_value": 0.4}
    light = shown(matched([True] * 30, nsc_null=null), {"dino": matched([False] * 30)})[1]
    assert (light.level, light.title) == ("bad", "Not above chance")


def test_without_a_baseline_it_says_so() -> None:
    assert "There is no baseline" in shown(matched([True] * 3))[1].sentence


@pytest.mark.parametrize(
    ("accuracy", "chance", "num", "level"),
    [
        (0.11, 0.1, 100, "good"),
        (0.2, 0.1, 20, "good"),  # within two standard errors
        (0.2, 0.1, 1000, "warning"),
        (0.5, 0.1, 1000, "bad"),
    ],
)
def test_technical_effects(accuracy: float, chance: float, num: int, level: str) -> None:
    found = {"plate": {"accuracy": accuracy, "chance": chance, "num_wells": num}, "batch": None}
    light = shown({"leakage": found})[2]
    assert light.level == level
    assert f"the same plate in {100 * accuracy:.1f} % of cases" in light.sentence


def test_the_warning_of_the_normalisation_is_in_the_light() -> None:
    found = {"plate": {"accuracy": 0.1, "chance": 0.1, "num_wells": 90}}
    warning = "The whitening was fitted on 4 rows of controls for 12 features."
    light = shown({"leakage": found, "normalisation": {"warning": warning}})[2]
    assert (light.level, light.title) == ("warning", "The normalisation warns")
    assert light.sentence.endswith(f"in 10.0 % of cases (by chance 10.0 %). {warning}")


SHARED = "Similar wells share cell density more often than by chance"


def test_effects_are_named_in_one_plain_sentence() -> None:
    beyond = {"accuracy": 0.5, "chance": 0.1, "num_wells": 1000}
    light = shown({"leakage": dict.fromkeys(("batch", "plate", "row", "edge"), beyond)})[2]
    assert light.title == (
        "Similar wells share batch, plate, row and a place at the edge or inside more often than "
        "by chance"
    )
    assert "in the same row in 50.0 % of cases (by chance 10.0 %) and alike" in light.sentence


def test_a_row_alone_that_is_not_shared_is_no_effect() -> None:
    found = {"row": {"accuracy": 0.13, "chance": 0.125, "num_wells": 900}}
    light = shown({"leakage": found})[2]
    assert light.level == "good"
    assert light.sentence == "What was measured is shared no more often than by chance."


def test_what_else_neighbours_share_is_named_where_it_is_beyond_chance() -> None:
    found = {
        "batch": {"accuracy": 0.1, "chance": 0.1, "num_wells": 900},
        "row": {"accuracy": 0.13, "chance": 0.125, "num_wells": 900},
        "density": {"accuracy": 0.7, "chance": 0.33, "num_wells": 900},
    }
    light = shown({"leakage": found})[2]
    assert (light.level, light.title) == ("warning", SHARED)
    assert "in the same third by cell density in 70.0 % of cases" in light.sentence
    assert "row" not in light.sentence


def test_the_paired_interval_is_that_of_wsdino_compare() -> None:
    frame = treatments(6)
    rng = np.random.default_rng(3)
    codes = frame["Metadata_MoA"].astype("category").cat.codes.to_numpy()
    tables = []
    for noise in (0.7, 1.6):
        features = rng.normal(size=(3, 8))[codes] + noise * rng.normal(size=(len(frame), 8))
        tables.append(frame.assign(**{f"emb_x_{n}": features[:, n] for n in range(8)}))
    first, second = (evaluate(table, num_permutations=0) for table in tables)
    theirs = compare(tables[1], tables[0])["nsc"]
    assert theirs["gained"] or theirs["lost"]
    difference, low, high = paired_difference(first, second) or (0, 0, 0)
    assert difference == pytest.approx(theirs["difference"], abs=1e-12)
    assert [low, high] == pytest.approx(theirs["ci"], abs=1e-12)


def test_results_as_written_have_three_lights() -> None:
    frame = treatments(3)
    results = json.loads(json.dumps(results_of(frame, 0.9, 0)))
    found = shown(results, {"dino": results_of(frame, 0.7, 1)})
    assert [light.name for light in found] == ["Phenotype", "Mechanism", "Technical effects"]
    assert all(light.sentence.endswith(".") and light.advice.endswith(".") for light in found)
