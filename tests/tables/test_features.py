"""The matrix of a table's features, whole and some rows at a time."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

from wsdino.errors import TableError
from wsdino.tables import features
from wsdino.tables.features import embeddings_among, feature_blocks, features_of, with_metadata


def a_table(num: int = 23, *, dtype: type = np.float32) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(num, 5)).astype(dtype), columns=list("abcde"))
    table.insert(2, "Metadata_Well", [f"A{n:02d}" for n in range(num)])
    return table.assign(counts=np.arange(num))


@pytest.mark.parametrize("rows_at_once", [1, 7, 23, 100])
def test_blocks_are_the_rows_in_order(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "ROWS_AT_ONCE", rows_at_once)
    table = a_table()
    expected = table[["a", "b", "c", "d", "e", "counts"]].to_numpy(dtype=np.float64)
    np.testing.assert_array_equal(features_of(table), expected)
    blocks = list(feature_blocks(table))
    assert [rows.start for rows, _ in blocks] == list(range(0, 23, rows_at_once))
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), expected)


def test_what_is_not_finite_is_counted_over_all_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "ROWS_AT_ONCE", 7)
    table = a_table()
    table.loc[[1, 8, 22], "c"] = [np.nan, np.inf, np.nan]
    table.loc[3, "e"] = np.nan
    words = "feature c is missing or infinite in 3 of 23 rows (2 of 6 features are affected)"
    with pytest.raises(TableError, match=re.escape(words)):
        features_of(table)


@pytest.mark.parametrize("rows_at_once", [7, 100])
@pytest.mark.parametrize("factor", [1e200, -1e200, 1e-200])
def test_what_can_not_be_squared_is_refused(
    factor: float, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "ROWS_AT_ONCE", rows_at_once)
    table = a_table()
    table["d"] = factor * (1 + np.arange(23) / 100)
    with pytest.raises(
        TableError, match=r"feature d has magnitudes of up to 1\.\d*e[+-]200, too (large|small) to"
    ):
        features_of(table)
    table["d"] = factor * 1e-60 if abs(factor) > 1 else factor * 1e60
    np.testing.assert_array_equal(features_of(table)[:, 3], table["d"])
    # A few tiny numbers beside others are zeros, as good as.
    table["d"] = np.where(np.arange(23) < 5, 1e-200, 1.0)
    np.testing.assert_array_equal(features_of(table)[:, 3], table["d"])


def test_the_type_is_float64_or_that_of_the_table() -> None:
    table = a_table().drop(columns="counts")
    assert features_of(table).dtype == np.float64
    assert features_of(table, dtype=None).dtype == np.float32
    assert features_of(table.assign(d=1.0), dtype=None).dtype == np.float64
    assert features_of(a_table(), dtype=None).dtype == np.float64


def test_features_that_lie_row_by_row_are_not_copied_and_can_not_be_changed() -> None:
    matrix = np.random.default_rng(0).normal(size=(23, 4))
    metadata = pd.DataFrame({"Metadata_Well": [*list("abc" * 7), "a", "b"], "Metadata_x": 1.0})
    table = with_metadata(metadata, pd.DataFrame(matrix, columns=list("pqrs"), copy=False))
    found = features_of(table)
    assert np.shares_memory(found, matrix)
    np.testing.assert_array_equal(found, matrix)
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0
    expected = pd.concat([metadata, pd.DataFrame(matrix, columns=list("pqrs"))], axis=1)
    pd.testing.assert_frame_equal(table, expected)
    # Of a table that holds each feature by itself there is a copy.
    copied = features_of(pd.DataFrame({name: table[name].copy() for name in table}))
    np.testing.assert_array_equal(copied, matrix)
    copied[0] = 0
    assert table["p"].iloc[0] == matrix[0, 0] != 0


def test_very_many_columns_of_metadata_are_put_before_features_too() -> None:
    metadata = pd.DataFrame({f"Metadata_{n}": [n, n + 1] for n in range(120)})
    made = with_metadata(metadata, pd.DataFrame({"x": [1.0, 2.0]}))
    pd.testing.assert_frame_equal(made, metadata.assign(x=[1.0, 2.0]))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([f"feature_{i}" for i in range(40)], [1] * 40),
        ([f"dino{i:03d}" for i in range(1, 41)], [1] * 40),
        ([str(i) for i in range(40)], [1] * 40),
        # One is missing; too few; numbers that don't begin at the beginning.
        ([f"feature_{i}" for i in range(41) if i != 9], [0] * 40),
        ([f"Zernike_{i}" for i in range(9)], [0] * 9),
        ([f"t{i}" for i in range(2, 42)], [0] * 40),
        (["Area", *(f"a{i}" for i in range(32)), *(f"b{i}" for i in range(32))],
         [0] + [1] * 32 + [2] * 32),
        (["a", *(f"a{i}" for i in range(32))], [0] + [1] * 32),
        (["table1_emb_DAPI_0", "table1_emb_Actin_0", "table2_Area", "table3_emb_x_1"],
         [1, 1, 0, 2]),
        ([*(f"table2_feature_{i}" for i in range(32)), "table1_emb_x_1"], [1] * 32 + [2]),
    ],
)  # fmt: skip
def test_features_that_are_numbered_through_are_an_embedding(
    names: list[str], expected: list[int]
) -> None:
    assert embeddings_among(names) == expected
