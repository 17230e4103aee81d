from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA

from wsdino.report.layout import lay_out


def test_few_profiles_are_laid_out_by_principal_components() -> None:
    features = np.random.default_rng(0).normal(size=(9, 5)) + 3
    points, method = lay_out(features)
    assert method == "PCA"
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = PCA(2).fit_transform(unit)
    for axis in range(2):
        sign = np.sign(points[:, axis] @ expected[:, axis])
        np.testing.assert_allclose(sign * points[:, axis], expected[:, axis], atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 4), (2, 1), (3, 7)])
def test_tiny_tables_get_two_finite_coordinates(shape: tuple[int, int]) -> None:
    points, _ = lay_out(np.zeros(shape))
    assert points.shape == (shape[0], 2)
    assert np.isfinite(points).all()


@pytest.mark.slow
def test_umap_repeats_itself_and_keeps_groups_together() -> None:
    rng = np.random.default_rng(0)
    centres = 5 * rng.normal(size=(3, 12))
    groups = np.repeat(np.arange(3), 16)
    features = centres[groups] + rng.normal(size=(48, 12))
    points, method = lay_out(features, seed=3)
    assert method == "UMAP"
    np.testing.assert_array_equal(points, lay_out(features, seed=3)[0])
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (groups[distances.argmin(axis=1)] == groups).all()


def test_importing_the_report_loads_no_plotting() -> None:
    code = (
        "import sys, wsdino.report.html, wsdino.report.terminal, wsdino.report.attention;"
        "print(sorted({'matplotlib', 'umap', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
