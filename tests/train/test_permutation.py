"""Permutations without a table: bijections that look drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from wsdino.train.permutation import keyed, permuted

NUM_KEYS = 20_000


def whole(count: int, key: np.ndarray) -> np.ndarray:
    return permuted(np.arange(count), np.array(count), key)


def many(count: int) -> np.ndarray:
    """(keys, count): a permutation in each row, as a run would key them."""
    turns = np.repeat(np.arange(NUM_KEYS), count)
    places = np.tile(np.arange(count), NUM_KEYS)
    return permuted(places, np.array(count), keyed(3, 1, turns)).reshape(NUM_KEYS, count)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 3000), parts=st.lists(st.integers(0, 2**40), min_size=1, max_size=4))
def test_each_is_a_bijection(count: int, parts: list[int]) -> None:
    np.testing.assert_array_equal(np.sort(whole(count, keyed(*parts))), np.arange(count))


def test_places_of_different_permutations_at_once_equal_one_after_another() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 500, 300)
    places, keys = rng.integers(0, counts), keyed(rng.integers(0, 9, 300))
    single = [permuted(places[[i]], counts[[i]], keys[[i]])[0] for i in range(len(places))]
    np.testing.assert_array_equal(permuted(places, counts, keys), single)


@pytest.mark.parametrize("count", [2, 3, 5, 8, 13])
def test_every_place_is_sent_everywhere_alike(count: int) -> None:
    table = many(count)
    for place in range(count):
        assert chisquare(np.bincount(table[:, place], minlength=count)).pvalue > 1e-4


@pytest.mark.parametrize("count", [3, 5, 6, 12])
def test_neighbours_are_sent_everywhere_alike(count: int) -> None:
    """What follows what in a round is drawn too: all ordered pairs are equally likely."""
    table = many(count)
    pairs = table[:, :-1] * count + table[:, 1:]
    seen = np.bincount(pairs[:, 0], minlength=count**2).reshape(count, count)
    off_diagonal = seen[~np.eye(count, dtype=bool)]
    assert seen.trace() == 0
    assert chisquare(off_diagonal).pvalue > 1e-4


def test_small_ones_come_in_every_order() -> None:
    for count in (2, 3, 4):
        seen = {tuple(row) for row in many(count)[:2000].tolist()}
        assert seen == set(itertools.permutations(range(count)))


def test_large_ones_leave_no_order() -> None:
    sent = whole(100_003, keyed(7)).astype(np.float64)
    for lag in (1, 2, 317):
        assert abs(np.corrcoef(sent[:-lag], sent[lag:])[0, 1]) < 0.02
    assert abs(np.corrcoef(np.arange(len(sent)), sent)[0, 1]) < 0.02


def test_keys_differ_in_every_part_and_place() -> None:
    a, b, c = np.meshgrid(*[np.arange(20)] * 3)
    keys = keyed(a.ravel(), b.ravel(), c.ravel())
    assert len(np.unique(keys)) == 20**3


def test_ten_million_cost_no_table() -> None:
    """A place of a huge permutation comes back unharmed, and no other one goes there."""
    count = 10**12
    places = np.arange(count - 1000, count)
    sent = permuted(places, np.array(count), keyed(0))
    assert len(np.unique(sent)) == 1000
    assert sent.min() >= 0
    assert sent.max() < count
