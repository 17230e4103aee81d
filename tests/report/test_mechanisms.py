"""The confusion between mechanisms: its order and drawing."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from wsdino.report.mechanisms import confusion_svg, similarity_order
from wsdino.report.treated import Treated


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
