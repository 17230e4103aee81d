"""What a column of text holds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from wsdino.tables.inferred import inferred


@pytest.mark.parametrize(
    ("written", "held"),
    [
        (["1.1", "NA", "0.36", ""], [1.1, np.nan, 0.36, np.nan]),
        (["3", "n/a"], [3.0, np.nan]),
        (["-666", "2.5"], [-666.0, 2.5]),
        (["12", "-3"], [12, -3]),
        (["1.0", "nan"], [1.0, np.nan]),
    ],
)
def test_beside_numbers_words_for_missing_are_missing(
    written: list[str], held: list[float]
) -> None:
    found = inferred(pd.Series(written, dtype=object))
    np.testing.assert_array_equal(found.to_numpy(), held)


@pytest.mark.parametrize(
    "written",
    [["NA", "x"], ["NA", "N/A"], ["NA", "007"], ["1.1", "1.10", "NA"], ["True", "NA"]],
)
def test_beside_labels_they_are_labels(written: list[str]) -> None:
    assert inferred(pd.Series(written, dtype=object)).tolist() == written
