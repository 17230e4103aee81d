"""Which rows belong to which plate, and which are zero."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from wsdino.profile.rows import directions, lengths, plate_rows


def test_rows_of_plates_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"Metadata_Batch": rng.choice(["a", "b"], 60)})
    table["Metadata_Plate"] = rng.choice(["2", "1", "3"], 60)
    pairs = list(zip(table["Metadata_Batch"], table["Metadata_Plate"], strict=True))
    expected = [
        [row for row, pair in enumerate(pairs) if pair == plate] for plate in dict.fromkeys(pairs)
    ]
    assert [rows.tolist() for rows in plate_rows(table)] == expected


@pytest.mark.parametrize("unit", [1e-90, 1.0, 1e90])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_is_zero_and_a_wild_row_makes_no_other_zero(unit: float, dtype: type) -> None:
    if dtype is np.float32 and unit != 1:
        return
    features = (np.random.default_rng(0).normal(size=(20, 4)) * unit).astype(dtype)
    expected = np.linalg.norm(features.astype(np.float64), axis=1)
    features[[3, 8, 9]] *= dtype(1e-16)
    features[5] *= dtype(1e15)
    features[7] = 0
    expected[[3, 7, 8, 9]], expected[5] = 0, expected[5] * 1e15
    np.testing.assert_allclose(lengths(features), expected, rtol=1e-6)
    found = directions(features)
    assert found.dtype == dtype
    is_zero = expected == 0
    np.testing.assert_array_equal(found[is_zero], 0)
    np.testing.assert_allclose(np.linalg.norm(found[~is_zero], axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found * expected[:, None], features, atol=1e-6 * unit)


def test_of_two_rows_the_shorter_may_be_rounding() -> None:
    assert lengths(np.array([[1e-16, 0], [3, 4]])).tolist() == [0, 5]
    assert lengths(np.array([[1e-16, 0]])).tolist() == [1e-16]
    assert lengths(np.zeros((2, 3))).tolist() == [0, 0]
    assert lengths(np.zeros((0, 3))).tolist() == []
