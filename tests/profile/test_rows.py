"""Which rows belong to which plate."""

from __future__ import annotations

import numpy as np
import pandas as pd

from wsdino.profile.rows import plate_rows


def test_rows_of_plates_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"Metadata_Batch": rng.choice(["a", "b"], 60)})
    table["Metadata_Plate"] = rng.choice(["2", "1", "3"], 60)
    pairs = list(zip(table["Metadata_Batch"], table["Metadata_Plate"], strict=True))
    expected = [
        [row for row, pair in enumerate(pairs) if pair == plate] for plate in dict.fromkeys(pairs)
    ]
    assert [rows.tolist() for rows in plate_rows(table)] == expected
