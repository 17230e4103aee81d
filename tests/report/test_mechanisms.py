"""The confusion between mechanisms: its order and drawing."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from generated_run import MOAS, make_run

from wsdino.evaluate.consistency import consistency
from wsdino.report.html import write_report
from wsdino.report.mechanisms import confusion_svg, similarity_order
from wsdino.report.treated import Treated

if TYPE_CHECKING:
    from pathlib import Path


def profiles_of(features: np.ndarray, moas: list[str]) -> Treated:
    frame = pd.DataFrame({"Metadata_Compound": [f"c{n}" for n in range(len(moas))]})
    frame["Metadata_MoA"] = moas
    return Treated(frame, features, tuple({} for _ in moas), frozenset())


def test_mechanisms_on_an_arc_are_put_in_its_order() -> None:
    # Ten directions over a right angle, in random order: similar ones are neighbours on the arc.
    shuffled = np.random.default_rng(1).permutation(10)
    angles = shuffled * np.pi / 20
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = [f"m{n}" for n in range(10)]
    order = similarity_order(labels, profiles_of(features, labels), np.eye(10, dtype=int))
    along = shuffled[order].tolist()
    assert along in (sorted(along), sorted(along, reverse=True))


def test_without_profiles_what_is_confused_is_put_together() -> None:
    counts = 5 * np.eye(6, dtype=int)
    for one, other in [(0, 3), (1, 4), (2, 5)]:
        counts[one, other] = counts[other, one] = 3
    order = similarity_order([f"m{n}" for n in range(6)], None, counts)
    place = {at: n for n, at in enumerate(order)}
    assert sorted(order) == list(range(6))
    assert all(abs(place[one] - place[one + 3]) == 1 for one in range(3))


def test_a_matrix_of_any_size_takes_few_elements() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 3, size=(150, 150))
    svg = confusion_svg(counts, [f"mechanism {n}" for n in range(150)], "NSC")
    assert svg.count("<path") + svg.count("<rect") < 12
    assert svg.count("<text") == 300
    # Every cell with a query is in exactly one shade.
    shades = "".join(re.findall(r'<path class="shade"[^>]* d="([^"]*)"', svg))
    assert shades.count("M") == int((counts > 0).sum())


def test_shades_and_numbers_are_those_of_the_cells() -> None:
    svg = confusion_svg(np.array([[3, 1], [0, 0]]), ["a<b", "c"], "NSC")
    assert "a&lt;b" in svg
    assert re.findall(r'class="number"[^>]*>(\d)<', svg) == ["3", "1"]
    opacities = re.findall(r'fill-opacity="([\d.]+)"', svg)
    # A quarter and three quarters of the row, in steps of a fifth.
    assert [float(each) for each in opacities] == [round(0.62 * step / 5, 3) for step in (2, 4)]


def test_targets_are_listed_with_what_they_rest_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", num_steps=0)
    profiles = pd.read_parquet(run / "profiles.parquet")
    # Sets of targets: every treatment of the second mechanism has one of the first's as well.
    names = dict(zip(MOAS, ("ACTB|ACTG1", "KIF11|ACTB", "RPL3"), strict=True))
    profiles["Metadata_Target_list"] = profiles["Metadata_MoA"].map(names)
    found = consistency(profiles, "Metadata_Target_list", null_size=200)
    results = json.loads((run / "results.json").read_text(encoding="utf-8")) | {
        "consistency": [found]
    }
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    (summary,) = re.findall(r"<summary>(Target list: .*?)</summary>", page)
    assert summary == f"Target list: {found['num_consistent']} of 4 labels are consistent"
    table = page.split('data-name="consistency-1"')[1].split("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in table.split("<tr>")[2:]]
    expected = sorted(
        found["labels"], key=lambda row: (row["corrected_p_value"], -row["mean_average_precision"])
    )
    assert [row[:2] for row in rows] == [
        [row["label"], str(row["num_treatments"])] for row in expected
    ]
    assert {row[0]: row[1] for row in rows} == {
        "ACTB": "6",
        "ACTG1": "3",
        "KIF11": "3",
        "RPL3": "3",
    }
    for row, own in zip(rows, expected, strict=True):
        assert float(row[2]) == pytest.approx(own["mean_average_precision"], abs=0.0006)
        assert float(row[3]) == pytest.approx(own["corrected_p_value"], rel=0.06)
