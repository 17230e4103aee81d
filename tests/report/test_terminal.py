from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rich.console import Console

from helpers_tables import profile_table
from wsdino.evaluate.results import evaluate
from wsdino.report.terminal import (
    WIDTH,
    added_lines,
    left_out_lines,
    missing_lines,
    print_results,
    summary_table,
)

PAPER: dict[str, Any] = {
    "nsc": 101 / 103,
    "nsc_correct": 101,
    "nsc_total": 103,
    "nsc_ci": [0.932, 0.995],
    "nsc_null": {"mean": 0.11, "p_value": 0.000999},
    "nscb": None,
    "map": 0.61234,
    "map_ci": [0.5, 0.7049],
    "notes": ["NSCB was not computed: the profiles have no Metadata_Batch"],
}
UNTRAINED = {"nscb": 0.25, "nscb_correct": 1, "nscb_total": 4, "nscb_ci": [0.046, 0.7]}


def printed(results: dict[str, Any], name: str, width: int = WIDTH) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(summary_table(results, name=name, width=width))
    return [line.rstrip() for line in capture.get().splitlines()]


def words(line: str) -> str:
    return " ".join(line.split())


def test_a_row_each_for_the_run_and_its_baselines() -> None:
    baselines = {"untrained": UNTRAINED, "mine": {}}
    head, run, chance, untrained, mine = printed({**PAPER, "baselines": baselines}, "[red]run")
    assert words(head) == "NSC [95 % CI] NSCB [95 % CI] mAP [95 % CI]"
    assert words(run) == "[red]run 101/103 = 98.1 % [93.2, 99.5] - 0.612 [0.50, 0.70]"
    assert words(chance) == "by chance 11 % (p = 0.001) - -"
    assert words(untrained) == "untrained network - 1/4 = 25.0 % [4.6, 70.0] -"
    assert mine.split() == ["mine", "-", "-", "-"]


def test_empty_results_are_a_row_of_dashes() -> None:
    assert printed({}, "run")[-1].split() == ["run", "-", "-", "-"]


def test_every_dash_has_its_reason() -> None:
    baselines = {"untrained": UNTRAINED, "mine": {}}
    assert missing_lines({**PAPER, "baselines": baselines}, name="it") == [
        "it: NSCB was not computed: the profiles have no Metadata_Batch",
        "untrained network: the results don't contain NSC and mAP",
        "mine: the results don't contain NSC and NSCB and mAP",
    ]
    assert missing_lines(PAPER) == PAPER["notes"]
    assert missing_lines({**PAPER, "baselines": {"dino": PAPER}}) == PAPER["notes"]


@pytest.mark.parametrize("width", [60, 80, WIDTH])
def test_nothing_is_cut_where_the_terminal_is_narrow(width: int) -> None:
    perfect = {"nscb": 1.0, "nscb_correct": 149, "nscb_total": 149, "nscb_ci": [0.927, 1.0]}
    name = "a_table_of_profiles_with_a_long_name"
    lines = printed({**PAPER, **perfect, "baselines": {"classifier": PAPER}}, name, width)
    assert max(map(len, lines)) <= width
    text = " ".join(lines)
    for number in ("101/103 = 98.1 %", "[93.2, 99.5]", "[92.7, 100.0]", "0.612", "[0.50, 0.70]"):
        assert number in text
    if width == WIDTH:
        assert any("149/149 = 100.0 % [92.7, 100.0]" in line for line in lines)


def test_what_is_left_out_is_counted_and_named() -> None:
    moas = [None] * 8 + ["own", "x", "x", "y", "y"]
    compounds = [f"new{n}" for n in range(8)] + ["odd", "a", "b", "c", "d"]
    table = profile_table(compounds, moas, np.eye(13), Batch=["1"] * 10 + ["2", "3", "3"])
    single, new, shared = left_out_lines(evaluate(table, num_permutations=0))
    everywhere = "left out of NSC, NSCB and mAP"
    own = "no other compound has this MoA: odd 1 uM (own)"
    assert single == f"{everywhere}: 1 of 13 treatments: {own}"
    names = "new0 1 uM, new1 1 uM, new2 1 uM, new3 1 uM, new4 1 uM and 3 more"
    assert new == f"{everywhere}: 8 of 13 treatments: it has no MoA: {names}"
    reason = "every other compound with this MoA shares a batch with it"
    assert shared == f"left out of NSCB: 2 of 13 treatments: {reason}: c 1 uM (y), d 1 uM (y)"


def test_doses_and_compounds_that_are_not_known_are_not_made_up() -> None:
    table = profile_table(
        ["a", "b", "c", None], ["x", "x", None, None], np.eye(4), concentrations=[np.nan] * 4
    )
    lines = left_out_lines(evaluate(table, num_permutations=0))
    assert lines == [
        "left out of NSC and mAP: 1 of 4 treatments: it has no MoA: c",
        "left out of NSC and mAP: 1 of 4 treatments: it has no compound: no compound",
    ]


def test_printed_lines_fit(capfd: pytest.CaptureFixture[str]) -> None:
    moas = [None] * 8 + ["x", "x"]
    names = [f"a compound with quite a long name, number {n}" for n in range(10)]
    results = evaluate(profile_table(names, moas, np.eye(10)), num_permutations=9)
    print_results(results, name="profiles")
    out, err = capfd.readouterr()
    assert max(map(len, (out + err).splitlines())) <= WIDTH
    text = " ".join(out.split())
    assert "gallery: 2 treatments (NSC and mAP), 0 treatments (NSCB)" in text
    assert "95 % CI: Wilson's score interval (NSC), bootstrap over compounds (mAP)" in text
    assert "NSCB was not computed: the profiles have no Metadata_Batch" in text
    assert "and 3 more" in " ".join(err.split())


def test_cautions_stand_right_below_the_score(capsys: pytest.CaptureFixture[str]) -> None:
    profiles = profile_table(list("abcd"), list("xxyy"), np.eye(4) + 1)
    results = evaluate(profiles, num_permutations=0) | {"warnings": ["It may be a batch effect."]}
    probe = {"accuracy": 0.63, "chance": 0.1}
    before = {"lift": 5.5, "probe": {"accuracy": 0.9, "chance": 0.1}}
    results["leakage"] = {"batch": {"lift": 2.5, "probe": probe, "before": before}, "plate": None}
    print_results(results, name="it")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("it  ")
    assert lines[2] == "Caution: It may be a batch effect."
    text = " ".join(lines)
    assert "batch 5.5 -> 2.5 (probe 90.0 % -> 63.0 %, chance 10.0 %)" in text


def test_further_normalisations_have_a_table_each(capsys: pytest.CaptureFixture[str]) -> None:
    table = profile_table(list("abcd"), ["x", "x", "y", "y"], np.eye(4)[[0, 0, 1, 1]])
    run = evaluate(table, num_permutations=0)
    lucky, baseline = (evaluate(table, num_permutations=0) for _ in range(2))
    lucky["nsc_correct"], baseline["nsc_correct"] = 2, 1
    own = {**run, "beside": {"weak_label": lucky}}
    other = {**run, "beside": {"weak_label": baseline}}
    print_results({**own, "baselines": {"untrained": other, "frozen": run}}, name="mine")
    head, beside = capsys.readouterr().out.split("\nweak_label:\n")
    assert head.startswith("unknown:\n")
    assert [line.split()[0] for line in head.splitlines() if "/4" in line] == [
        "mine",
        "untrained",
        "starting",
    ]
    rows = [line for line in beside.partition("\n\n")[0].splitlines() if "/4" in line]
    assert [row.partition("  ")[0] for row in rows] == ["mine", "untrained network"]
    assert ["2/4" in rows[0], "1/4" in rows[1]] == [True, True]


@pytest.mark.parametrize(
    ("trained", "verdict"),
    [
        (np.arange(16) // 2, "better (NSC +100.0 points [+100.0, +100.0]"),
        (np.arange(16) % 8, "no clear difference (NSC +0.0 points [+0.0, +0.0]"),
    ],
)
def test_it_says_what_training_added(trained: np.ndarray, verdict: str) -> None:
    compounds = [f"c{index}" for index in range(16)]
    moas = [f"m{index // 2}" for index in range(16)]
    # The frozen network pairs each compound with one of another mechanism.
    run, frozen = (
        evaluate(profile_table(compounds, moas, np.eye(16)[codes]), num_permutations=0)
        for codes in (trained, np.arange(16) % 8)
    )
    assert added_lines({**run, "baselines": {"untrained": frozen}}) == []
    (line,) = added_lines({**run, "baselines": {"frozen": frozen}})
    assert line.startswith(f"trained against starting weights, frozen, unknown: {verdict}, mAP +")
    worse = added_lines({**frozen, "baselines": {"frozen": run}})
    if "better" in verdict:
        assert worse[0].partition(": ")[2].startswith("worse (NSC -100.0 points")
