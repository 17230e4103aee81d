from __future__ import annotations

import numpy as np
import pytest

from wsdino.report.style import BLUE, ROSE, YELLOW, channel_colours, moa_styles, series_colours
from wsdino.report.words import (
    concentration,
    count_text,
    decimal,
    interval,
    interval_text,
    number,
    percent,
)


def test_each_of_forty_mechanisms_looks_different() -> None:
    styles = moa_styles(f"moa {n:02d}" for n in range(40))
    assert len({(style.colour, style.marker) for style in styles.values()}) == 40


def test_style_does_not_depend_on_order_or_repetition() -> None:
    assert moa_styles(["b", "a", "c", "a"]) == moa_styles(["a", "b", "c"])
    assert list(moa_styles(["b", "a"])) == ["a", "b"]


def test_a_run_keeps_its_colour_whoever_else_is_there() -> None:
    few, many = series_colours(["run", "dino"]), series_colours(["classifier", "x", "dino", "run"])
    assert {name: many[name] for name in few} == few
    assert len(set(many.values())) == 4


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        (("DAPI", "Tubulin", "Actin"), (BLUE, YELLOW, ROSE)),
        (("Actin_fluor", "dna-stain"), (ROSE, BLUE)),
        (("x", "y", "z"), (ROSE, YELLOW, BLUE)),
    ],
)
def test_stains_get_the_colours_of_their_names(
    channels: tuple[str, ...], expected: tuple[tuple[float, float, float], ...]
) -> None:
    assert channel_colours(channels) == expected


def test_unknown_stains_beside_known_ones_all_differ() -> None:
    channels = ("DAPI", "Tubulin", "Actin", "Mito", "ER-ish", "RNA", "Golgi")
    assert len(set(channel_colours(channels))) == len(channels)


def test_numbers_are_formatted_and_absent_ones_are_a_dash() -> None:
    assert (percent(101 / 103), decimal(0.6), number(12345), number(1 / 3)) == (
        "98.1 %",
        "0.600",
        "12,345",
        "0.333",
    )
    for absent in (None, float("nan"), float("inf"), "x", True):
        assert {percent(absent), decimal(absent), number(absent)} == {"-"}
    assert (concentration(0.30000000000000004), concentration(None)) == ("0.3 µM", "")
    assert number(np.int64(4)) == "4"


def test_interval_is_in_percent_and_empty_where_malformed() -> None:
    assert interval_text({"nsc_ci": [0.932, 0.995]}, "nsc") == "[93.2, 99.5]"
    assert interval_text({"map_ci": [0.5, 0.7049]}, "map") == "[0.500, 0.705]", "mAP is no share"
    for bad in (None, [0.1], [None, 0.3], "ab"):
        assert interval({"nsc_ci": bad}, "nsc") is None
    assert count_text({"nsc_correct": 3, "nsc_total": 4}, "nsc") == "3/4"
    assert count_text({"nsc_correct": 3}, "nsc") == ""
