from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_train import random_manifest
from wsdino.errors import ConfigError
from wsdino.train.labels import WeakLabels, weak_labels
from wsdino.train.sampler import BatchwiseSampler, Sampler

if TYPE_CHECKING:
    import pandas as pd

KEYS = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]


@pytest.fixture
def manifest() -> pd.DataFrame:
    frame = random_manifest(np.random.default_rng(0), 60, num_labels=4)
    frame["Metadata_Control"] = frame["Metadata_Compound"] == "c3"
    frame["Metadata_Operator"] = np.where(np.arange(60) % 7 == 0, None, frame["Metadata_Batch"])
    return frame


def naive_label(row: pd.Series, label: str) -> str | None:
    if label == "treatment":
        return f"{row.Metadata_Compound} {row.Metadata_Concentration:g} uM"
    value = row["Metadata_" + {"compound": "Compound", "moa": "MoA"}.get(label, label)]
    return None if value is None else str(value)


@pytest.mark.parametrize("label", ["compound", "treatment", "Operator", "Concentration", "MoA"])
@pytest.mark.parametrize("include_controls", [False, True])
def test_labels_equal_a_loop_over_rows(
    manifest: pd.DataFrame, label: str, include_controls: bool
) -> None:
    labels = weak_labels(manifest, label, include_controls=include_controls)
    for (_, row), code in zip(manifest.iterrows(), labels.codes, strict=True):
        wanted = naive_label(row, label)
        if wanted is None or (row.Metadata_Control and not include_controls):
            assert code == -1
        else:
            assert labels.names[code] == wanted
    assert sorted(set(labels.codes[labels.sites])) == list(range(len(labels.names)))


def test_none_is_a_label_for_every_image(manifest: pd.DataFrame) -> None:
    labels = weak_labels(manifest, "none")
    treated = (~manifest["Metadata_Control"]).to_numpy()
    assert len(labels.names) == treated.sum()
    assert (labels.codes[~treated] == -1).all()
    np.testing.assert_array_equal(labels.codes[treated], np.arange(treated.sum()))


def test_full_column_names_are_understood(manifest: pd.DataFrame) -> None:
    short, full = weak_labels(manifest, "compound"), weak_labels(manifest, "Metadata_Compound")
    np.testing.assert_array_equal(short.codes, full.codes)


def test_an_absent_column_is_named_with_those_there_are(manifest: pd.DataFrame) -> None:
    with pytest.raises(ConfigError, match=r"pairing.label 'gene': no such column.*Metadata_Batch"):
        weak_labels(manifest, "gene")


def test_a_constant_or_empty_column_is_refused(manifest: pd.DataFrame) -> None:
    manifest["Metadata_Lab"], manifest["Metadata_Gene"] = "here", None
    with pytest.raises(ConfigError, match="'Lab': 1 distinct"):
        weak_labels(manifest, "Lab")
    with pytest.raises(ConfigError, match="'Gene': 0 distinct"):
        weak_labels(manifest, "Gene")


@pytest.mark.parametrize("label", ["compound", "treatment", "none"])
def test_the_order_of_the_rows_changes_no_label(manifest: pd.DataFrame, label: str) -> None:
    def images_per_label(frame: pd.DataFrame) -> list[set[tuple]]:
        labels = weak_labels(frame, label)
        images = defaultdict(set)
        for key, code in zip(frame[KEYS].itertuples(index=False), labels.codes, strict=True):
            if code >= 0:
                images[labels.names[code] if label != "none" else tuple(key)].add(tuple(key))
        return sorted(images.values(), key=sorted)

    assert images_per_label(manifest.sample(frac=1, random_state=3)) == images_per_label(manifest)


# The sampler.


def codes_of(counts: list[int], *, num_left_out: int = 2, seed: int = 0) -> WeakLabels:
    codes = np.repeat(np.arange(-1, len(counts)), [num_left_out, *counts])
    np.random.default_rng(seed).shuffle(codes)
    return WeakLabels(codes, [f"label {i}" for i in range(len(counts))])


def draw(sampler: Sampler, num: int, batch: int) -> np.ndarray:
    return np.concatenate([sampler.batch(step, batch) for step in range(-(-num // batch))])[:num]


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 6), min_size=2, max_size=7),
    batch=st.integers(1, 9),
    seed=st.integers(0, 50),
)
def test_each_label_once_per_round_each_image_once_before_it_returns(
    counts: list[int], batch: int, seed: int
) -> None:
    labels, num_rounds = codes_of(counts, seed=seed), 13
    sites = draw(Sampler(labels, balance="label", seed=seed), num_rounds * len(counts), batch)
    rounds = labels.codes[sites].reshape(num_rounds, len(counts))
    assert (np.sort(rounds, axis=1) == np.arange(len(counts))).all()
    for code, count in enumerate(counts):
        visits = sites[labels.codes[sites] == code]
        for start in range(0, len(visits) - count + 1, count):
            assert len(set(visits[start : start + count])) == count


def test_rounds_and_turns_are_shuffled() -> None:
    labels = codes_of([6] * 8)
    sites = draw(Sampler(labels, balance="label", seed=1), 8 * 48, 16)
    orders = {tuple(order) for order in labels.codes[sites].reshape(-1, 8)}
    assert len(orders) > 40
    visits = sites[labels.codes[sites] == 0].reshape(-1, 6)
    assert len({tuple(turn) for turn in visits}) > 5


def test_balance_by_image_takes_every_image_once_per_round() -> None:
    labels = codes_of([1, 9, 4])
    sites = draw(Sampler(labels, balance="image", seed=1), 3 * 14, 5)
    for start in range(0, 42, 14):
        np.testing.assert_array_equal(np.sort(sites[start : start + 14]), labels.sites)


def test_labels_without_sites_have_no_turn() -> None:
    """With ``fallback="drop"`` a label may lose all its sites."""
    labels = WeakLabels(np.array([3, 1, -1, 3, 1, 3]), ["a", "b", "c", "d", "e"])
    sites = draw(Sampler(labels, balance="label", seed=0), 12, 4)
    assert (np.sort(labels.codes[sites].reshape(6, 2), axis=1) == [1, 3]).all()
    assert set(sites) == {0, 1, 3, 4, 5}


@pytest.mark.parametrize("balance", ["label", "image"])
def test_batches_need_no_state(balance: str) -> None:
    labels = codes_of([3, 5, 2])
    forward = Sampler(labels, balance=balance, seed=4)
    batches = [forward.batch(step, 7) for step in range(20)]
    for step in (19, 3, 11, 3):
        fresh = Sampler(labels, balance=balance, seed=4)
        np.testing.assert_array_equal(fresh.batch(step, 7), batches[step])
    other = Sampler(labels, balance=balance, seed=5)
    assert any((other.batch(step, 7) != batches[step]).any() for step in range(20))


def test_slices_of_two_ranks_make_up_the_batch() -> None:
    """Every rank draws the whole batch and takes its part: nothing twice, nothing lost."""
    labels = codes_of([4] * 6)
    sampler = Sampler(labels, balance="label", seed=0)
    for step in range(10):
        whole = sampler.batch(step, 6)
        assert not set(whole[:3]) & set(whole[3:])
        assert len(set(whole)) == 6


def test_the_order_of_the_rows_changes_no_frequency(manifest: pd.DataFrame) -> None:
    def frequencies(frame: pd.DataFrame) -> Counter:
        frame = frame.reset_index(drop=True)
        labels = weak_labels(frame, "compound")
        longest = np.bincount(labels.codes[labels.sites]).max()
        num = len(labels.names) * int(longest) * 12
        sites = draw(Sampler(labels, balance="label", seed=0), num, 8)
        images = frame[["Metadata_Compound", *KEYS]].iloc[sites].itertuples(index=False)
        seen = Counter(tuple(image) for image in images)
        per_label = defaultdict(list)
        for (compound, *_), count in seen.items():
            per_label[compound].append(count)
        for counts in per_label.values():
            assert max(counts) - min(counts) <= 1, "images of a label equally often"
        return Counter({compound: sum(counts) for compound, counts in per_label.items()})

    by_label = manifest.sort_values("Metadata_Compound")
    assert frequencies(by_label) == frequencies(manifest.sample(frac=1, random_state=1))
    assert len(set(frequencies(manifest).values())) == 1


# Steps of one batch each.


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(2, 6), min_size=2, max_size=6),
    num_batches=st.integers(1, 4),
    size=st.integers(1, 9),
    seed=st.integers(0, 50),
)
def test_a_step_of_one_batch_holds_no_other(
    counts: list[int], num_batches: int, size: int, seed: int
) -> None:
    labels = codes_of(counts, seed=seed)
    batches = np.random.default_rng(seed).integers(0, num_batches, len(labels.codes))
    found = set(batches[labels.sites].tolist())
    sampler = BatchwiseSampler(labels, batches, balance="label", seed=seed)
    seen: dict[int, list[int]] = defaultdict(list)
    for start in range(0, 5 * len(found), len(found)):
        steps = [sampler.batch(step, size) for step in range(start, start + len(found))]
        origins = [set(batches[sites].tolist()) for sites in steps]
        assert all(len(origin) == 1 for origin in origins)
        assert set().union(*origins) == found, "every batch once per round"
        for sites in steps:
            seen[int(batches[sites[0]])] += sites.tolist()
    for batch, sites in seen.items():
        alone = WeakLabels(np.where(batches == batch, labels.codes, -1), labels.names)
        num = len(set(labels.codes[alone.sites].tolist()))
        for start in range(0, len(sites) - num + 1, num):
            codes = labels.codes[sites[start : start + num]]
            assert len(set(codes.tolist())) == num, "every label of the batch once per round"


def test_steps_of_one_batch_need_no_state() -> None:
    labels = codes_of([3, 5, 2, 4])
    batches = np.arange(len(labels.codes)) % 3
    forward = BatchwiseSampler(labels, batches, balance="image", seed=4)
    drawn = [forward.batch(step, 5) for step in range(12)]
    fresh = BatchwiseSampler(labels, batches, balance="image", seed=4)
    for step in (11, 2, 7):
        np.testing.assert_array_equal(fresh.batch(step, 5), drawn[step])
