from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from helpers_tables import profile_table, synthetic_design, with_features
from wsdino.errors import TableError
from wsdino.evaluate import intervals, leakage
from wsdino.evaluate.gallery import make_gallery
from wsdino.evaluate.intervals import (
    PermutationNull,
    average_precisions,
    clustered_interval,
    mean_average_precision,
    permutation_nulls,
    wilson_interval,
)
from wsdino.evaluate.leakage import label_leakage
from wsdino.evaluate.matching import match_moa
from wsdino.evaluate.ranking import rank
from wsdino.evaluate.results import evaluate
from wsdino.profile.aggregate import aggregate_treatments
from wsdino.tables.features import feature_columns, features_of, metadata_of

SMALL = {"num_moas": 4, "num_compounds": 12, "num_treatments": 24, "num_batches": 4}


def profiles_of(signal: float, **options: int) -> pd.DataFrame:
    return aggregate_treatments(with_features(synthetic_design(**(SMALL | options)), signal=signal))


def permutation_null(
    profiles: pd.DataFrame, *, exclude_shared_batch: bool = False, **options: int
) -> PermutationNull | None:
    gallery = make_gallery(profiles, exclude_shared_batch=exclude_shared_batch)
    return permutation_nulls(gallery, **options)["accuracy"]


def test_the_published_accuracy_has_the_known_interval():
    low, high = wilson_interval(101, 103)
    assert low == pytest.approx(0.932, abs=5e-4)
    assert high == pytest.approx(0.9947, abs=5e-5)


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (37, 55), (1, 1)])
def test_wilson_s_formula(k, n):
    z, p = 1.959963984540054, k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert wilson_interval(k, n) == pytest.approx((centre - half, centre + half), abs=1e-12)


def test_confidence_widens_and_nothing_has_no_interval():
    narrow, wide = (wilson_interval(8, 10, confidence=c) for c in (0.5, 0.99))
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert wilson_interval(0, 0) is None


@pytest.mark.parametrize("batches", [False, True])
def test_signal_is_told_from_chance(batches):
    strong = permutation_null(profiles_of(3.0), exclude_shared_batch=batches, num_permutations=99)
    assert strong.p_value == pytest.approx(0.01)
    assert strong.mean < strong.p95 < 1
    none = permutation_null(profiles_of(0.0), exclude_shared_batch=batches, num_permutations=99)
    assert none.p_value > 0.05


def test_the_null_shuffles_compounds_not_treatments():
    profiles = profiles_of(1.0)
    null = permutation_null(profiles, num_permutations=50, seed=3)
    generator = np.random.default_rng(3)
    gallery = make_gallery(profiles)
    compounds = sorted(set(gallery.compound))
    of_compound = dict(zip(gallery.compound, gallery.moa, strict=True))
    names = sorted(set(gallery.moa))
    accuracies = []
    for _ in range(50):
        codes = generator.permutation([names.index(of_compound[c]) for c in compounds])
        shuffled = {c: names[code] for c, code in zip(compounds, codes, strict=True)}
        known = profiles["Metadata_MoA"].notna()
        moas = profiles["Metadata_Compound"].map(shuffled).where(known)
        accuracies.append(match_moa(profiles.assign(Metadata_MoA=moas)).accuracy)
    assert null.mean == pytest.approx(np.mean(accuracies))
    assert null.p95 == pytest.approx(np.percentile(accuracies, 95))


def test_the_null_is_seeded():
    profiles = profiles_of(1.0)
    one, same, other = (
        permutation_null(profiles, num_permutations=40, seed=seed) for seed in (0, 0, 1)
    )
    assert one == same
    assert one.mean != other.mean
    assert one.as_dict()["seed"] == 0


def test_the_null_s_edges():
    with pytest.raises(TableError, match="number of permutations is 0"):
        permutation_null(profiles_of(1.0), num_permutations=0)
    nobody = profile_table(["a1", "b1"], ["a", "b"], np.eye(2))
    assert permutation_null(nobody) is None


@pytest.mark.parametrize("batches", [False, True])
def test_both_nulls_equal_a_loop(batches):
    """Singletons come and go with the permutation, and with them the gallery."""
    profiles = profiles_of(1.0, num_moas=6, num_compounds=10, num_treatments=20)
    gallery = make_gallery(profiles, exclude_shared_batch=batches)
    nulls = permutation_nulls(gallery, num_permutations=30, seed=5)
    names, compounds = sorted(set(gallery.moa)), sorted(set(gallery.compound))
    of_compound = dict(zip(gallery.compound, gallery.moa, strict=True))
    generator = np.random.default_rng(5)
    accuracies, precisions = [], []
    for _ in range(30):
        codes = generator.permutation([names.index(of_compound[c]) for c in compounds])
        shuffled = dict(zip(compounds, codes, strict=True))
        moa = [shuffled[compound] for compound in gallery.compound]
        accuracy, precision = naive_scores(gallery, moa)
        accuracies.append(accuracy)
        precisions.append(precision)
    for name, values in (("accuracy", accuracies), ("map", precisions)):
        assert nulls[name].mean == pytest.approx(np.mean(values), abs=1e-12)
        assert nulls[name].p95 == pytest.approx(np.percentile(values, 95), abs=1e-12)
        truth = naive_scores(gallery, list(gallery.moa))[name == "map"]
        at_least = sum(value >= truth - 1e-12 for value in values)
        assert nulls[name].p_value == pytest.approx((1 + at_least) / 31)


def naive_scores(gallery, moa: list) -> tuple[float, float]:
    """Accuracy and mean average precision of one labelling, row by row."""
    rows = range(len(moa))
    may, cosine = gallery.admissible(slice(None)), gallery.similarity(slice(None))
    queries = [i for i in rows if any(may[i, j] and moa[i] == moa[j] for j in rows)]
    kept = {moa[i] for i in queries}
    hits, precisions = [], []
    for i in queries:
        ranked = sorted(
            (j for j in rows if may[i, j] and moa[j] in kept), key=lambda j: -cosine[i, j]
        )
        hits.append(moa[ranked[0]] == moa[i])
        right, shares = 0, []
        for place, j in enumerate(ranked, start=1):
            if moa[j] == moa[i]:
                right += 1
                shares.append(right / place)
        precisions.append(np.mean(shares))
    return float(np.mean(hits or [0])), float(np.mean(precisions or [0]))


def test_many_labellings_at_once_score_as_each_alone():
    gallery = make_gallery(profiles_of(0.5), exclude_shared_batch=True)
    labels = np.random.default_rng(0).integers(0, 9, size=(7, len(gallery.moa)), dtype=np.int32)
    ranking = rank(gallery.similarity(slice(None)), gallery.admissible(slice(None)))
    together = ranking.scores(labels)
    each = [ranking.scores(row[None]) for row in labels]
    for name in ("num_queries", "accuracy", "mean_precision"):
        found = np.concatenate([getattr(one, name) for one in each])
        np.testing.assert_array_equal(getattr(together, name), found)


def test_average_precision_equals_copairs():
    """Where every MoA has two compounds, copairs defines the same."""
    from copairs.map import average_precision

    profiles = profiles_of(0.7, num_compounds=11)
    rows = profiles[profiles["Metadata_MoA"].notna()].reset_index(drop=True)
    theirs = average_precision(
        metadata_of(rows)[["Metadata_Compound", "Metadata_Concentration", "Metadata_MoA"]],
        features_of(rows),
        pos_sameby=["Metadata_MoA"],
        pos_diffby=["Metadata_Compound"],
        neg_sameby=[],
        neg_diffby=["Metadata_MoA", "Metadata_Compound"],
        progress_bar=False,
    )
    keys = ["Metadata_Compound", "Metadata_Concentration"]
    both = average_precisions(profiles).merge(theirs, on=keys, suffixes=("", "_theirs"))
    assert len(both) == len(rows) == 24
    np.testing.assert_allclose(
        both["average_precision"], both["average_precision_theirs"], atol=1e-5
    )


def test_a_singleton_is_neither_query_nor_in_the_gallery_of_nsc_and_map():
    # s lies between q and its only partner; its MoA has no other compound.
    features = np.array([[1, 0], [1, 0.1], [1, 0.05], [0, 1.0], [0.1, 1.0]])
    table = profile_table(["q", "p", "s", "u", "v"], ["a", "a", "s", "b", "b"], features)
    assert match_moa(table).accuracy == 1
    scores = average_precisions(table)
    assert scores["Metadata_Compound"].tolist() == match_moa(table).neighbours["compound"].tolist()
    assert scores["average_precision"].tolist() == [1, 1, 1, 1]
    without = table[table["Metadata_Compound"] != "s"]
    pd.testing.assert_frame_equal(average_precisions(without), scores)


def test_equal_similarities_are_ranked_by_name_as_in_nsc():
    features = np.array([[1, 0.0], [1, 0], [1, 0], [1, 0], [0, 1], [0, 1]])
    table = profile_table(list("abcdef"), ["x", "y", "x", "y", "z", "z"], features)
    scores = average_precisions(table).set_index("Metadata_Compound")["average_precision"]
    # a ranks b, c, d: its partner c is second; b ranks a, c, d: third.
    assert scores[["a", "b", "c", "d"]].tolist() == [1 / 2, 1 / 3, 1, 1 / 2]
    nsc = match_moa(table).neighbours.set_index("compound")["neighbour_compound"]
    assert nsc[["a", "b", "c", "d"]].tolist() == ["b", "a", "a", "a"]
    shuffled = average_precisions(table.iloc[[5, 3, 1, 0, 2, 4]])
    pd.testing.assert_frame_equal(shuffled, average_precisions(table))


def test_mean_average_precision_equals_scikit_learn():
    profiles = profiles_of(0.7, num_compounds=11)
    gallery = make_gallery(profiles)
    scores: dict[str, list[float]] = {}
    for i in range(len(gallery.moa)):
        others = gallery.compound != gallery.compound[i]
        right = gallery.moa[others] == gallery.moa[i]
        if right.any():
            score = average_precision_score(right, gallery.similarity(slice(None))[i, others])
            scores.setdefault(gallery.moa[i], []).append(score)
    found, per_moa = mean_average_precision(profiles)
    assert found == pytest.approx(np.mean(sum(scores.values(), [])))  # noqa: RUF017
    assert per_moa == pytest.approx({moa: np.mean(own) for moa, own in scores.items()})


def test_mean_average_precision_without_pairs():
    assert mean_average_precision(profile_table(["a", "b"], ["x", "y"], np.eye(2))) == (None, {})
    alike = profile_table(["a", "b"], ["x", "x"], np.eye(2))
    assert mean_average_precision(alike) == (1.0, {"x": 1.0})
    with pytest.raises(TableError, match="mAP needs the column Metadata_MoA"):
        mean_average_precision(alike.drop(columns="Metadata_MoA"))


def naive_leakage(wells: pd.DataFrame, label: str) -> tuple[float, float, int]:
    names = feature_columns(wells)
    hits, chances = [], []
    rows = wells.to_dict("records")
    vectors = {i: np.array([row[name] for name in names]) for i, row in enumerate(rows)}
    for i, row in enumerate(rows):
        others = [
            j for j, other in enumerate(rows)
            if other["Metadata_Compound"] != row["Metadata_Compound"]
        ]  # fmt: skip
        same = [j for j in others if rows[j][label] == row[label]]
        if not same:
            continue
        cosines = {
            j: vectors[i] @ vectors[j] / np.linalg.norm(vectors[i]) / np.linalg.norm(vectors[j])
            for j in others
        }
        hits.append(max(cosines, key=cosines.get) in same)
        chances.append(len(same) / len(others))
    return float(np.mean(hits)), float(np.mean(chances)), len(hits)


@pytest.mark.parametrize("label", ["Metadata_Batch", "Metadata_Plate"])
def test_leakage_equals_a_loop(label):
    table = with_features(synthetic_design(**SMALL, num_sites=1))
    found = label_leakage(table, label)
    assert (found.accuracy, found.chance, found.num_wells) == pytest.approx(
        naive_leakage(table, label)
    )


def test_leakage_tells_a_batch_effect_from_none():
    design = synthetic_design(**SMALL)
    clean = with_features(design, signal=0.0)
    names = feature_columns(clean)
    clean[names] = np.random.default_rng(0).normal(size=(len(clean), len(names)))
    offsets = np.random.default_rng(1).normal(size=(4, len(names)), scale=5)
    shift = offsets[pd.factorize(design["Metadata_Batch"])[0]]
    shifted = clean.assign(**(clean[names] + shift))
    none, strong = (label_leakage(t, "Metadata_Batch") for t in (clean, shifted))
    assert abs(none.accuracy - none.chance) < 0.1
    assert strong.accuracy > 0.7
    assert strong.as_dict()["num_wells"] == none.num_wells


def test_leakage_of_one_batch_is_not_defined():
    table = with_features(synthetic_design(**(SMALL | {"num_batches": 1})))
    assert label_leakage(table, "Metadata_Batch") is None
    with pytest.raises(TableError, match="leakage needs the column Metadata_Well"):
        label_leakage(table.drop(columns="Metadata_Well"), "Metadata_Batch")


def test_average_precisions_tell_whose_they_are():
    profiles = profile_table(
        list("abcd"), list("xxyz"), np.random.default_rng(0).normal(size=(4, 3))
    )
    scores = average_precisions(profiles)
    assert scores["Metadata_Compound"].tolist() == ["a", "b"]
    assert scores["average_precision"].mean() == pytest.approx(mean_average_precision(profiles)[0])


def test_a_clustered_interval_of_single_values_is_the_classical_one():
    """With clusters of one the bootstrap of a mean is close to mean +- 1.96 standard errors."""
    values = np.random.default_rng(0).normal(2, 1, 400)
    low, high = clustered_interval(values, np.arange(400), num_resamples=4000)
    error = values.std(ddof=1) / 20
    assert (low, high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.1 * error * 1.96
    )


def test_a_clustered_interval_is_wider_where_clusters_are_alike():
    values = np.repeat(np.random.default_rng(0).normal(size=40), 10)
    together = clustered_interval(values, np.repeat(np.arange(40), 10))
    apart = clustered_interval(values, np.arange(400))
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])
    repeated = clustered_interval(values[::10], np.arange(40))
    assert together == pytest.approx(repeated), "ten copies of a value say no more than one"


def test_a_clustered_interval_covers_the_truth():
    rng, hits = np.random.default_rng(1), 0
    for trial in range(200):
        sizes = rng.integers(1, 5, 30)
        values = np.repeat(rng.normal(size=30), sizes) + rng.normal(0, 0.3, sizes.sum())
        low, high = clustered_interval(
            values, np.repeat(np.arange(30), sizes), num_resamples=500, seed=trial
        )
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def test_a_bootstrap_in_parts_is_one_bootstrap():
    """More draws than are held at once: the same stream of random numbers."""
    rng = np.random.default_rng(2)
    clusters = rng.integers(0, 700, 2000)
    values = rng.normal(size=2000)
    _, of = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(of, weights=values), np.bincount(of)
    drawn = np.random.default_rng(4).integers(len(sizes), size=(5000, len(sizes)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    assert clustered_interval(values, clusters, num_resamples=5000, seed=4) == pytest.approx(
        tuple(np.percentile(means, [2.5, 97.5]))
    )


def test_a_clustered_interval_needs_clusters():
    with pytest.raises(TableError, match="at least two clusters; found 1"):
        clustered_interval(np.ones(3), np.zeros(3))


def test_chance_of_many_treatments_is_that_of_a_named_sample(monkeypatch):
    """The sample is of whole compounds, and p is about the truth in it."""
    profiles = profiles_of(1.0)
    every = evaluate(profiles, num_permutations=20)
    assert every["nsc_null"]["sample"] is None
    monkeypatch.setattr(intervals, "MAX_SHUFFLED", 12)
    found = evaluate(profiles, num_permutations=20)
    assert found["nsc"] == every["nsc"]
    words = found["nsc_null"]["sample"]
    assert re.fullmatch(r"\d+ of 24 treatments \(\d of 12 compounds, drawn with seed 0\)", words)
    assert 2 <= int(words.split()[0]) <= 12
    assert found["notes"][-1] == f"chance and p are those of {words}"
    assert found["nsc_null"] != every["nsc_null"]


def test_leakage_of_many_wells_is_that_of_a_named_sample(monkeypatch):
    table = with_features(synthetic_design(**SMALL))
    every = label_leakage(table, "Metadata_Plate")
    assert every.sample is None
    monkeypatch.setattr(leakage, "MAX_WELLS", 30)
    found = label_leakage(table, "Metadata_Plate")
    assert found.sample.startswith("30 of ")
    assert found.num_wells <= 30 < every.num_wells
    assert label_leakage(table, "Metadata_Plate") == found
