from __future__ import annotations

import math

import pandas as pd
import pytest
from generated_run import curves

from wsdino.report.verdict import collapse_verdict

TOP = math.log(4096)


def healthy(**changes: float) -> pd.DataFrame:
    """Curves of a good run, with some columns constant over the second half."""
    frame = pd.DataFrame(curves(200, teacher=True))
    for name, value in changes.items():
        frame.loc[100:, name] = value
    return frame


@pytest.mark.parametrize(
    ("changes", "level", "title"),
    [
        ({}, "good", "No sign of collapse"),
        (
            {"teacher_entropy": 0.999 * TOP, "assignment_entropy": TOP},
            "bad",
            "Collapse to uniform",
        ),
        (
            {"teacher_entropy": 0.01, "assignment_entropy": 0.02},
            "bad",
            "Collapse to few prototypes",
        ),
        ({"embedding_std": 1e-6}, "bad", "Collapse to one point"),
        ({"embedding_rank": 1.01}, "bad", "Collapse to a line"),
        ({"plate_clustering": 0.8}, "bad", "Clustering by plate"),
        ({"teacher_entropy": 0.87 * TOP}, "warning", "No collapse, but soft targets"),
        ({"loss": math.nan}, "bad", "Training diverged"),
    ],
)
def test_verdict(changes: dict[str, float], level: str, title: str) -> None:
    verdict = collapse_verdict(healthy(**changes))
    assert verdict.level == level
    assert verdict.title.startswith(title)


def test_one_odd_batch_does_not_decide() -> None:
    frame = healthy()
    frame.loc[len(frame) - 1, "embedding_std"] = 0.0
    assert collapse_verdict(frame).level == "good"


def test_detail_gives_the_numbers() -> None:
    detail = collapse_verdict(healthy(teacher_entropy=4.8, embedding_rank=12.5)).detail
    assert "teacher entropy 4.80 of at most 8.32 nats (58 %)" in detail
    assert "effective rank 12.5" in detail


def test_without_telling_columns_there_is_no_verdict() -> None:
    frame = pd.DataFrame(curves(50, teacher=False))
    assert collapse_verdict(frame).level == "unknown"


def test_only_spread_is_enough() -> None:
    assert collapse_verdict(pd.DataFrame({"embedding_std": [0.5, 0.4]})).level == "good"
