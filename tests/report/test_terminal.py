from __future__ import annotations

from rich.console import Console

from wsdino.report.terminal import summary_table

PAPER = {
    "nsc": 101 / 103,
    "nsc_correct": 101,
    "nsc_total": 103,
    "nsc_ci": [0.932, 0.995],
    "nsc_null": {"mean": 0.11},
    "nscb": None,
    "map": 0.61234,
}


def printed(results: dict[str, object], name: str) -> list[str]:
    console = Console(width=140, color_system=None)
    with console.capture() as capture:
        console.print(summary_table(results, name=name))
    return capture.get().splitlines()


def test_a_row_each_for_the_run_and_its_baselines() -> None:
    baselines = {
        "untrained": {"nscb": 0.25, "nscb_correct": 1, "nscb_total": 4, "nscb_ci": [0.046, 0.7]},
        "mine": {},
    }
    _, run, untrained, mine = printed({**PAPER, "baselines": baselines}, "[red]run")
    assert run.split() == [
        "[red]run",
        "101/103",
        "=",
        "98.1",
        "%",
        "[93.2,",
        "99.5]",
        "-",
        "11",
        "%",
        "0.612",
    ]
    assert untrained.split() == [
        "untrained",
        "network",
        "-",
        "1/4",
        "=",
        "25.0",
        "%",
        "[4.6,",
        "70.0]",
        "-",
        "-",
    ]
    assert mine.split() == ["mine", "-", "-", "-", "-"]


def test_empty_results_are_a_row_of_dashes() -> None:
    assert printed({}, "run")[-1].split() == ["run", "-", "-", "-", "-"]
