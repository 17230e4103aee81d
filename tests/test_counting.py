"""Numbers of things, in words."""

from __future__ import annotations

import pytest

from wsdino.counting import counted


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, "plate"), "0 plates"),
        ((1, "plate"), "1 plate"),
        ((1200, "plate"), "1,200 plates"),
        ((1, "batch", "batches"), "1 batch"),
        ((2, "batch", "batches"), "2 batches"),
    ],
)
def test_one_is_singular(arguments: tuple[int, str], text: str) -> None:
    assert counted(*arguments) == text
