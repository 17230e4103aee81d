from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA

from wsdino.report.layout import NUM_NEAREST, lay_out, lay_out_many


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


def test_rounding_errors_lie_where_zeros_do_and_a_wild_row_moves_no_other() -> None:
    features = np.random.default_rng(1).normal(size=(12, 5))
    zero, wild = features.copy(), features.copy()
    zero[4] = 0
    features[4] *= 1e-16
    np.testing.assert_array_equal(lay_out(features)[0], lay_out(zero)[0])
    wild[4] *= 1e15
    same = wild.copy()
    same[4] /= 1e15
    np.testing.assert_allclose(lay_out(wild)[0], lay_out(same)[0], atol=1e-9)


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


def test_of_many_rows_some_are_laid_out_and_the_others_among_them() -> None:
    generator = np.random.default_rng(4)
    features = generator.normal(size=(60, 6)).astype(np.float32)
    features[50:] = 3 * features[:10]
    points, method = lay_out_many(features, seed=2, most=30)
    assert method == "PCA"
    drawn = np.sort(np.random.default_rng(2).choice(60, 30, replace=False))
    known, _ = lay_out(features[drawn], seed=2)
    np.testing.assert_allclose(points[drawn], known, atol=1e-6)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for row in set(range(60)) - set(drawn):
        cosines = unit[drawn] @ unit[row]
        *nearest, last = np.argsort(-cosines)[: NUM_NEAREST + 1]
        weights = cosines[nearest] - cosines[last]
        expected = weights @ known[nearest] / weights.sum()
        np.testing.assert_allclose(points[row], expected, atol=1e-5)
    assert lay_out_many(features[:30], seed=2, most=30)[0].shape == (30, 2)


def test_importing_evaluation_and_report_loads_neither_plotting_nor_torch() -> None:
    code = (
        "import sys, wsdino.report.html, wsdino.report.terminal, wsdino.report.attention;"
        "import wsdino.evaluate.results, wsdino.embed.classical;"
        "print(sorted({'matplotlib', 'umap', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
