"""Heat maps of plates and their edge."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from generated_run import make_run, make_screen, make_sites

from wsdino.report.plates import Measured, edge_effect, plate_format, plate_svg, plates
from wsdino.runrecord import Omitted


def whole_plates(num: int = 2, shape: tuple[int, int] = (8, 12)) -> pd.DataFrame:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    one = pd.DataFrame({"row": rows.ravel(), "column": columns.ravel()})
    one["value"] = np.random.default_rng(0).normal(size=len(one))
    one["is_control"] = one["column"].isin([0, 5])
    return pd.concat([one.assign(plate=f"p{n}", value=one["value"] + 10 * n) for n in range(num)])


def with_edge(table: pd.DataFrame, change: float, *, rows: bool = True) -> pd.DataFrame:
    edge = (table["row"].isin([0, 7]) | table["column"].isin([0, 11])) & rows
    return table.assign(value=table["value"] + change * edge)


def test_an_edge_effect_is_named_and_plates_may_differ() -> None:
    table = whole_plates()
    assert "no edge effect seen" in edge_effect(Measured("x", table), (8, 12))["text"]
    seen = edge_effect(Measured("x", with_edge(table, -3.0)), (8, 12))
    assert seen["is_seen"]
    assert "at the edge lower by" in seen["text"]
    assert "20 control wells at the edge, 12 inside" in seen["text"]


def test_treatments_at_the_edge_are_no_edge_effect_where_controls_tell() -> None:
    table = whole_plates()
    active = with_edge(table, 5.0).where(~table["is_control"], table)
    assert not edge_effect(Measured("x", active), (8, 12))["is_seen"]


def test_without_wells_at_the_edge_nothing_is_said_of_it() -> None:
    table = whole_plates()
    inner = table[table["row"].between(1, 6) & table["column"].between(1, 10)]
    assert edge_effect(Measured("x", inner), (8, 12))["text"].startswith("no well at the edge")


@pytest.mark.parametrize(
    ("row", "column", "shape"),
    [(1, 1, (8, 12)), (7, 11, (8, 12)), (8, 3, (16, 24)), (30, 2, (32, 48)), (40, 2, (41, 3))],
)
def test_the_format_is_the_smallest_usual_one(row: int, column: int, shape: tuple) -> None:
    assert plate_format([pd.DataFrame({"row": [row], "column": [column]})]) == shape


def test_wells_have_the_shade_of_their_value_and_controls_a_dot() -> None:
    own = pd.DataFrame(
        {
            "plate": "a<b",
            "row": [0, 1, 2],
            "column": [0, 1, 2],
            "value": [-5.0, 0.5, 9.0],
            "is_control": [False, True, False],
        }
    )
    svg = plate_svg(own, (8, 12), (0.0, 1.0), "x")
    found = dict(re.findall(r'class="step-(\d)" d="(M[^"]*)"', svg))
    assert {step: path.split("h")[0] for step, path in found.items()} == {
        "0": "M0 0",
        "4": "M10 10",
        "7": "M20 20",
    }
    assert 'class="control" d="M15 15h.01"' in svg
    assert 'data-plate="a&lt;b"' in svg
    assert "highest 9 in C03" in svg


def test_measures_are_those_that_are_known(tmp_path) -> None:
    profiles = pd.read_parquet(make_run(tmp_path / "run", num_steps=0) / "profiles.parquet")
    sites = make_sites(profiles, num_sites=2)
    store = make_screen(sites)
    assert [measure["name"] for measure in plates(None, store)["measures"]] == [
        "Mean intensity, DAPI",
        "Mean intensity, Tubulin",
        "Mean intensity, Actin",
    ]
    store.manifest["Metadata_QC_Focus_DAPI"] = np.arange(len(sites), dtype=float)
    found = plates(sites, store)
    names = [measure["name"] for measure in found["measures"]]
    assert names == ["Distance to controls", "Focus DAPI"]
    focus = found["measures"][1]
    head, *rows = focus["data"]
    assert head == ["plate", "well", "Focus DAPI"]
    # Two sites a well, a plate's 12 wells apart.
    assert rows[0] == ["P/1", "B02", 6.0]
    assert len(rows) == 24
    assert [name for name, _ in focus["plates"]] == ["P/1", "P/2"]
    with pytest.raises(Omitted, match="neither normalised sites nor a store"):
        plates(None, None)
