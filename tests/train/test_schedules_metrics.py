from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from wsdino.train.collapse import name_collapse
from wsdino.train.metrics import effective_rank, entropy, spread
from wsdino.train.schedules import cosine, linear_then_constant


@pytest.mark.parametrize("warmup", [0, 7])
def test_cosine_equals_the_closed_form(warmup: int) -> None:
    start, end, total = 0.5, 0.1, 40
    steps = np.arange(total + 5)
    progress = np.clip((steps - warmup) / (total - warmup), 0, 1)
    expected = end + (start - end) * 0.5 * (1 + np.cos(np.pi * progress))
    expected[:warmup] = start * (np.arange(warmup) + 1) / (warmup + 1)
    found = [cosine(int(s), start=start, end=end, total=total, warmup=warmup) for s in steps]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_cosine_end_points() -> None:
    def at(step: int) -> float:
        return cosine(step, start=3.0, end=1.0, total=10, warmup=4)

    assert 0 < at(0) < at(1) < at(3) < at(4) == 3.0
    assert at(7) == pytest.approx(2.0)
    assert at(10) == at(11) == pytest.approx(1.0)
    assert cosine(0, start=3.0, end=1.0, total=1, warmup=1) == 1.5, "all of it warm-up"


def test_linear_then_constant_equals_interp() -> None:
    steps = np.arange(12)
    found = [linear_then_constant(int(s), start=0.02, end=0.07, warmup=8) for s in steps]
    np.testing.assert_allclose(found, np.interp(steps, [0, 8], [0.02, 0.07]), rtol=1e-12)
    assert linear_then_constant(0, start=0.02, end=0.07, warmup=0) == 0.07


def test_entropy_equals_scipy() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(9), size=(2, 5))
    p[0, 0] = np.eye(9)[3]
    found = entropy(torch.from_numpy(p))
    np.testing.assert_allclose(found, scipy.stats.entropy(p, axis=-1), atol=1e-12)


def test_spread_extremes() -> None:
    assert spread(torch.ones(6, 4) * torch.arange(1.0, 7)[:, None]) == pytest.approx(0, abs=1e-6)
    opposite = torch.cat([torch.eye(4), -torch.eye(4)])
    assert spread(opposite * 5) == pytest.approx(1.0)


def test_spread_is_the_distance_from_the_mean() -> None:
    x = np.random.default_rng(0).normal(size=(10, 4))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = np.sqrt(unit.var(axis=0).sum())
    assert float(spread(torch.from_numpy(x))) == pytest.approx(expected)


def test_effective_rank_equals_the_covariance_s() -> None:
    x = np.random.default_rng(0).normal(size=(30, 5)) @ np.diag([5, 3, 1, 0.5, 0.1]) + 7
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T))
    expected = np.exp(scipy.stats.entropy(eigenvalues))
    assert float(effective_rank(torch.from_numpy(x))) == pytest.approx(expected, rel=1e-9)


def test_effective_rank_closed_forms() -> None:
    axes = torch.cat([torch.eye(6), -torch.eye(6)])
    assert float(effective_rank(axes)) == pytest.approx(6)
    assert float(effective_rank(torch.outer(torch.arange(5.0), torch.ones(3)))) == pytest.approx(1)
    assert float(effective_rank(torch.ones(5, 3))) == pytest.approx(1)
    assert effective_rank(torch.full((5, 3), torch.nan)).isnan(), "a bad step must be loggable"


HEALTHY = {
    "embedding_std": 0.5,
    "teacher_entropy_max": 4.0,
    "teacher_entropy": 1.0,
    "assignment_entropy": 3.0,
}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({}, None),
        ({"embedding_std": 0.001}, "one point"),
        ({"teacher_entropy": 3.99, "assignment_entropy": 3.995}, "uniform"),
        ({"teacher_entropy": 0.30, "assignment_entropy": 0.31}, "few prototypes"),
        # Sharp targets, but different ones for different images: as it should be.
        ({"teacher_entropy": 0.01, "assignment_entropy": 0.9}, None),
    ],
)
def test_collapse_is_called_by_its_name(change: dict[str, float], named: str | None) -> None:
    found = name_collapse(HEALTHY | change)
    assert (found is None) if named is None else (found is not None and named in found)


def test_records_without_a_teacher_can_collapse_to_a_point_only() -> None:
    assert name_collapse({"loss": 1.0, "embedding_std": 0.5}) is None
    assert name_collapse({"loss": 1.0, "embedding_std": 0.0})
