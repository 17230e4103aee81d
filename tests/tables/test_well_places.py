"""Where wells lie on their plate."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from wsdino.evaluate.confounders import CONFOUNDERS
from wsdino.report.plates import Measured, edge_effect
from wsdino.tables.places import at_edge, place_of, places_of, plate_format


@pytest.mark.parametrize(
    ("well", "place"),
    [
        ("A01", (0, 0)),
        ("b4", (1, 3)),
        ("H12", (7, 11)),
        ("Z48", (25, 47)),
        ("AF48", (31, 47)),
        ("A00", None),
        ("p3", (15, 2)),
        ("nan", None),
        ("A-1", None),
    ],
)
def test_a_name_is_a_place(well: str, place: tuple[int, int] | None) -> None:
    assert place_of(well) == place


def test_names_of_another_kind_have_no_place() -> None:
    rows, columns = places_of(pd.Series(["C05", None, "pool", "C05"]))
    assert rows.tolist() == [2, -1, -1, 2]
    assert columns.tolist() == [4, -1, -1, 4]


@pytest.mark.parametrize(
    ("row", "column", "shape"),
    [(1, 1, (8, 12)), (7, 11, (8, 12)), (8, 3, (16, 24)), (30, 2, (32, 48)), (40, 2, (41, 3))],
)
def test_the_format_is_the_smallest_usual_one(row: int, column: int, shape: tuple) -> None:
    assert plate_format(row + 1, column + 1) == shape


def whole(rows: range, columns: range) -> tuple[np.ndarray, np.ndarray]:
    grid = np.array([(row, column) for row in rows for column in columns], dtype=np.intp)
    return grid[:, 0], grid[:, 1]


def test_the_edge_is_the_plate_s_else_that_of_the_wells_in_use() -> None:
    found, of_plate = at_edge(*whole(range(8), range(12)), (8, 12))
    assert (found.sum(), of_plate) == (2 * 12 + 2 * 6, True)
    found, of_plate = at_edge(*whole(range(1, 7), range(1, 11)), (8, 12))
    assert (found.sum(), of_plate) == (2 * 10 + 2 * 4, False)
    # Of the plate's rim row H alone is in use: B, 2 and 11 are inside.
    found, of_plate = at_edge(*whole(range(1, 8), range(1, 11)), (8, 12))
    assert (found.sum(), of_plate) == (10, True)


def test_technical_effects_and_heat_maps_have_one_edge() -> None:
    rows, columns = whole(range(1, 8), range(1, 11))
    names = [
        f"{'ABCDEFGH'[row]}{column + 1:02d}" for row, column in zip(rows, columns, strict=True)
    ]
    wells = pd.DataFrame({"Metadata_Well": names})
    edge = next(each for each in CONFOUNDERS if each.name == "edge").classes(wells)
    assert edge is not None
    assert edge.astype(bool).tolist() == (rows == 7).tolist()
    table = pd.DataFrame({"row": rows, "column": columns, "value": 0.0, "plate": "p"})
    shown = edge_effect(Measured("x", table.assign(is_control=True)), (8, 12))["text"]
    assert "(10 control wells at the edge, 60 inside" in shown
