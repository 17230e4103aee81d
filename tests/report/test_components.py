"""Principal components of patches as colours, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from generated_run import MeanModel, make_store
from sklearn.decomposition import PCA

from wsdino.report.attentive import site_patches
from wsdino.report.components import QUANTILES, principal_components


def drawn(*shapes: tuple[int, int], num_features: int = 16) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(num_features, num_features))
    return [(rng.normal(size=(*shape, num_features)) @ mixing).astype("f4") for shape in shapes]


def test_scores_and_shares_are_those_of_scikit_learn() -> None:
    pictures = drawn((6, 8), (5, 7), (6, 8))
    found = principal_components(pictures)
    rows = np.concatenate([each.reshape(-1, 16) for each in pictures]).astype(np.float64)
    oracle = PCA(3, svd_solver="full").fit(rows)
    scores = np.concatenate([each.reshape(-1, 3) for each in found.scores])
    expected = oracle.transform(rows)
    signs = np.sign((scores * expected).sum(axis=0))
    np.testing.assert_allclose(scores, expected * signs, atol=1e-9)
    np.testing.assert_allclose(found.shares, oracle.explained_variance_ratio_)
    assert [each.shape for each in found.scores] == [(6, 8, 3), (5, 7, 3), (6, 8, 3)]


def test_equal_patches_have_equal_colours_in_every_picture() -> None:
    one, other = drawn((6, 8), (6, 8))
    other[2, 3] = one[4, 5]
    first, second = principal_components([one, other]).colours()
    np.testing.assert_array_equal(first[4, 5], second[2, 3])
    # As much of each colour is cut off as the quantiles say, over both pictures together.
    both = np.concatenate([first.reshape(-1, 3), second.reshape(-1, 3)])
    assert ((both == 0).mean(axis=0) <= QUANTILES[0] + 0.01).all()
    assert ((both == 0).any(axis=0) & (both == 255).any(axis=0)).all()


@pytest.mark.parametrize("order", [1, -1])
def test_signs_do_not_depend_on_the_order_of_patches(order: int) -> None:
    (picture,) = drawn((6, 8))
    expected = principal_components([picture]).scores[0]
    found = principal_components([picture[::order]]).scores[0]
    np.testing.assert_allclose(found[::order], expected, atol=1e-9)


def test_fewer_features_than_colours_leave_some_out() -> None:
    found = principal_components(drawn((4, 4), num_features=2))
    assert found.shares[2] == 0
    assert found.shares.sum() == pytest.approx(1)
    assert not found.colours()[0][..., 2].any()


def test_patches_of_a_site_are_those_of_its_field() -> None:
    store = make_store()
    features = site_patches(MeanModel(), store, 1)
    assert features.shape == (3, 6, 8, 64)
    np.testing.assert_array_equal(features[1, 2, 5].reshape(8, 8), store[1][1, 16:24, 40:48])
