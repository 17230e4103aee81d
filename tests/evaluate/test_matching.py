from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_tables import profile_table, synthetic_design, with_features
from wsdino.errors import TableError
from wsdino.evaluate.gallery import unannotated
from wsdino.evaluate.matching import match_moa
from wsdino.profile.aggregate import aggregate_treatments
from wsdino.tables.features import feature_columns
from wsdino.tables.lists import labels_of

COLUMNS = ["compound", "concentration", "moa"]


@pytest.fixture(scope="module")
def profiles() -> pd.DataFrame:
    return aggregate_treatments(with_features(synthetic_design(), signal=0.8))


def naive(profiles: pd.DataFrame, *, batches: bool, multi_batch: str) -> tuple[dict, set]:
    """The rule of matching, row by row: {query: neighbour}, and the treatments left out."""
    names = feature_columns(profiles)
    rows = [row for row in profiles.to_dict("records") if isinstance(row["Metadata_MoA"], str)]
    rows = [row for row in rows if not row.get("Metadata_Control")]
    order: list[str] = []
    for row in rows:
        for batch in labels_of(row.get("Metadata_Batch")):
            if batch not in order:
                order.append(batch)

    def cosine(a: dict, b: dict) -> float:
        dot = sum(a[name] * b[name] for name in names)
        return dot / math.sqrt(sum(a[n] ** 2 for n in names) * sum(b[n] ** 2 for n in names))

    def shares(a: dict, b: dict) -> bool:
        one, two = (labels_of(row["Metadata_Batch"]) for row in (a, b))
        if multi_batch == "strict":
            return any(batch in two for batch in one)
        medians = [np.median([order.index(batch) for batch in own]) for own in (one, two)]
        return medians[0] == medians[1]

    def may(a: dict, b: dict) -> bool:
        different = a["Metadata_Compound"] != b["Metadata_Compound"]
        return different and not (batches and shares(a, b))

    def name(row: dict) -> tuple:
        return (row["Metadata_Compound"], row["Metadata_Concentration"], row["Metadata_MoA"])

    def same(a: dict, b: dict) -> bool:
        return a["Metadata_MoA"] == b["Metadata_MoA"]

    queries = [a for a in rows if any(may(a, b) and same(a, b) for b in rows)]
    left_out = {name(row) for row in rows if row not in queries}
    gallery = [b for b in rows if any(same(a, b) for a in queries)]
    pairs = {}
    for a in queries:
        best = max((b for b in gallery if may(a, b)), key=lambda b: cosine(a, b))
        pairs[name(a)] = (*name(best), cosine(a, best))
    return pairs, left_out


@pytest.mark.parametrize("multi_batch", ["strict", "first-published"])
@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_matching_equals_a_loop(batches, multi_batch, seed):
    table = with_features(synthetic_design(num_treatments=60), signal=0.6, seed=seed)
    profiles = aggregate_treatments(table)
    pairs, left_out = naive(profiles, batches=batches, multi_batch=multi_batch)
    result = match_moa(profiles, exclude_shared_batch=batches, multi_batch=multi_batch)
    found = {
        tuple(row[name] for name in COLUMNS): (
            *(row[f"neighbour_{name}"] for name in COLUMNS),
            pytest.approx(row["similarity"], abs=1e-9),
        )
        for row in result.neighbours.to_dict("records")
    }
    assert pairs == found
    assert set(result.left_out[COLUMNS].itertuples(index=False, name=None)) == left_out
    correct = sum(query[2] == pair[2] for query, pair in pairs.items())
    assert (result.num_correct, result.num_total) == (correct, len(pairs))
    assert result.accuracy == correct / len(pairs)
    assert bool(left_out) == (batches and multi_batch == "strict")


def test_confusion_counts_the_neighbours(profiles):
    result = match_moa(profiles)
    table = result.neighbours
    for i, query in enumerate(result.labels):
        for j, neighbour in enumerate(result.labels):
            both = (table["moa"] == query) & (table["neighbour_moa"] == neighbour)
            assert result.confusion[i, j] == both.sum()
    assert np.trace(result.confusion) == result.num_correct == table["correct"].sum()


def test_everyone_is_a_query_or_left_out_by_name(profiles):
    result = match_moa(profiles, exclude_shared_batch=True)
    assert result.num_total + len(result.left_out) == 103
    # The treatment on all plates shares a batch with everyone.
    (everywhere,) = result.left_out[result.left_out["compound"] == "c37"].to_dict("records")
    assert everywhere["reason"] == "every other compound with this MoA shares a batch with it"
    neighbours = result.neighbours[["neighbour_compound", "neighbour_concentration"]]
    assert ("c37", everywhere["concentration"]) not in set(map(tuple, neighbours.to_numpy()))
    published = match_moa(profiles, exclude_shared_batch=True, multi_batch="first-published")
    assert "c37" not in set(published.left_out["compound"])


def test_an_moa_without_queries_leaves_the_gallery():
    # b1 is nearest to a1, but no other compound has its MoA.
    features = np.array([[1, 0, 0], [1, 0.5, 0], [1, 0.01, 0], [0, 0, 1.0]])
    table = profile_table(["a1", "a2", "b1", "none"], ["a", "a", "b", None], features)
    result = match_moa(table)
    assert result.neighbours["neighbour_compound"].tolist() == ["a2", "a1"]
    (left,) = result.left_out.to_dict("records")
    assert (left["compound"], left["reason"]) == ("b1", "no other compound has this MoA")
    assert result.labels == ("a",)


def test_shared_batches_by_hand():
    features = np.array([[1, 0], [1, 0.1], [1, 1.0], [0, 1.0], [0.2, 1]])
    table = profile_table(
        ["a1", "a2", "a3", "b1", "b2"],
        ["a", "a", "a", "b", "b"],
        features,
        Batch=["W1", ["W1"], ["W2", "W3"], "W2", "W1"],
    )
    nsc = match_moa(table)
    assert nsc.neighbours["neighbour_compound"].tolist() == ["a2", "a1", "b2", "b2", "b1"]
    nscb = match_moa(table, exclude_shared_batch=True)
    assert nscb.neighbours["neighbour_compound"].tolist() == ["a3", "a3", "b2", "b2", "b1"]
    # W2 and W3 have median 1.5 and so shares with no one.
    loose = match_moa(table, exclude_shared_batch=True, multi_batch="first-published")
    assert loose.neighbours["neighbour_compound"].tolist() == ["a3", "a3", "b2", "b2", "b1"]


def test_the_median_counts_plates():
    batches = ["W1", "W2", "W3", ["W1", "W1", "W1", "W2", "W3"]]
    table = profile_table(
        ["a1", "a2", "a3", "a4"], ["a"] * 4, np.random.default_rng(0).normal(size=(4, 3)),
        Batch=batches,
    )  # fmt: skip
    table.loc[0, [f"x{i}" for i in range(3)]] = table.loc[3, [f"x{i}" for i in range(3)]]
    result = match_moa(table, exclude_shared_batch=True, multi_batch="first-published")
    # a4's median batch is W1, so a1, its twin, is not admissible.
    assert result.neighbours["neighbour_compound"][3] != "a1"


@pytest.mark.parametrize("batches", [False, True])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_the_order_of_rows_does_not_matter(profiles, batches, seed):
    shuffled = profiles.sample(frac=1, random_state=seed)
    one, two = (match_moa(p, exclude_shared_batch=batches) for p in (profiles, shuffled))
    pd.testing.assert_frame_equal(one.neighbours, two.neighbours)
    pd.testing.assert_frame_equal(one.left_out, two.left_out)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=15, deadline=None)
def test_the_length_of_a_profile_does_not_matter(profiles, seed):
    scales = np.random.default_rng(seed).uniform(0.01, 100, size=(len(profiles), 1))
    names = feature_columns(profiles)
    scaled = profiles.assign(**(profiles[names] * scales))
    one, two = match_moa(profiles).neighbours, match_moa(scaled).neighbours
    pd.testing.assert_frame_equal(one, two, rtol=1e-9)


def test_labels_never_enter(profiles):
    labelled = profiles.assign(
        Metadata_CompoundId=pd.factorize(profiles["Metadata_MoA"])[0] * 1e6,
        moa_text="x",
        truth=True,
    )
    pd.testing.assert_frame_equal(match_moa(profiles).neighbours, match_moa(labelled).neighbours)


def test_ties_go_to_the_first_name():
    features = np.array([[1, 0.3], [2, 0.6], [1, 0.3], [3, 0.9]])
    table = profile_table(["d", "c", "b", "a"], ["x", "x", "y", "y"], features)
    for order in ([0, 1, 2, 3], [3, 1, 2, 0], [2, 0, 3, 1]):
        result = match_moa(table.iloc[order])
        assert result.neighbours["compound"].tolist() == ["a", "b", "c", "d"]
        assert result.neighbours["neighbour_compound"].tolist() == ["b", "a", "a", "a"]


def test_controls_take_no_part(profiles):
    assert profiles["Metadata_Control"].any()
    named = profiles.assign(
        Metadata_MoA=profiles["Metadata_MoA"].where(~profiles["Metadata_Control"], "DMSO")
    )
    pd.testing.assert_frame_equal(match_moa(profiles).left_out, match_moa(named).left_out)


def test_tables_without_concentration():
    table = profile_table(["a1", "a2"], ["a", "a"], np.eye(2)).drop(
        columns="Metadata_Concentration"
    )
    assert match_moa(table).neighbours["concentration"].isna().all()


def test_where_no_one_is_a_query():
    table = profile_table(["a1", "b1"], ["a", "b"], np.eye(2))
    result = match_moa(table)
    assert (result.accuracy, result.num_total, len(result.left_out)) == (None, 0, 2)
    assert result.confusion.shape == (0, 0)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"Metadata_Compound": "only"}, {}, "only is the only compound with an MoA"),
        ({"Metadata_MoA": None}, {}, "Metadata_MoA is empty in all 104 rows"),
        ({"emb_DAPI_0": np.nan}, {}, "feature emb_DAPI_0 is missing or infinite in 103 of 103"),
        ({}, {"multi_batch": "loose"}, "'loose'; expected one of strict, first-published"),
    ],
)
def test_what_can_not_be_matched_is_named(profiles, change, options, words):
    with pytest.raises(TableError, match=words):
        match_moa(profiles.assign(**change), **options)


def test_missing_columns_and_features_are_named(profiles):
    names = feature_columns(profiles)
    with pytest.raises(TableError, match="NSC needs the column Metadata_Compound"):
        match_moa(profiles.drop(columns="Metadata_Compound"))
    with pytest.raises(TableError, match="NSC needs the column Metadata_MoA"):
        match_moa(profiles.drop(columns="Metadata_MoA"))
    with pytest.raises(TableError, match="NSCB needs the column Metadata_Batch"):
        match_moa(profiles.drop(columns="Metadata_Batch"), exclude_shared_batch=True)
    with pytest.raises(TableError, match="0 feature columns"):
        match_moa(profiles.drop(columns=names))
    with pytest.raises(TableError, match="every feature is constant over the 103 treatments"):
        match_moa(profiles.assign(**dict.fromkeys(names, 3.0)))
    zero = profiles.assign(**profiles[names].where(profiles["Metadata_Compound"].ne("c03"), 0.0))
    with pytest.raises(TableError, match="the profile of c03 is zero"):
        match_moa(zero)


@pytest.mark.parametrize("multi_batch", ["strict", "first-published"])
def test_batches_with_a_separator_in_their_names_are_two(multi_batch):
    features = np.array([[1, 0], [1, 0.1], [0, 1.0], [0.1, 1]])
    compounds, moas = ["a1", "a2", "b1", "b2"], ["a", "a", "b", "b"]
    names = ["2019;A", "2019;B", "2019;A", "2019;B"]
    plain = profile_table(compounds, moas, features, Batch=["A", "B", "A", "B"])
    for batches in (names, [[name] for name in names]):
        table = profile_table(compounds, moas, features, Batch=batches)
        options = {"exclude_shared_batch": True, "multi_batch": multi_batch}
        one, two = match_moa(table, **options), match_moa(plain, **options)
        assert one.num_total == 4
        pd.testing.assert_frame_equal(one.neighbours, two.neighbours)


@pytest.mark.parametrize("multi_batch", ["strict", "first-published"])
@pytest.mark.parametrize("unknown", [None, np.nan, ["W3", None]])
def test_an_unknown_batch_is_no_other_batch(unknown, multi_batch):
    features = np.array([[1, 0], [1, 0.1], [1, 0.2], [0, 1.0], [0.1, 1], [0.1, 1.1]])
    table = profile_table(
        ["a1", "a2", "a3", "b1", "b2", "b3"],
        ["a", "a", "a", "b", "b", "b"],
        features,
        Batch=["W1", "W2", "W2", "W1", "W1", unknown],
    )
    result = match_moa(table, exclude_shared_batch=True, multi_batch=multi_batch)
    reasons = dict(zip(result.left_out["compound"], result.left_out["reason"], strict=True))
    shares = "every other compound with this MoA shares a batch with it"
    assert reasons == {
        "b1": f"{shares}, or is of an unknown batch",
        "b2": f"{shares}, or is of an unknown batch",
        "b3": "its batch is unknown",
    }
    assert not result.neighbours["neighbour_compound"].str.startswith("b").any()
    assert match_moa(table).num_total == 6


def test_the_gallery_is_counted():
    features = np.random.default_rng(0).normal(size=(5, 3))
    table = profile_table(
        ["a1", "a2", "a3", "b1", "b2"],
        list("aaabb"),
        features,
        Batch=["1", "2", ["1", "2"], "1", "1"],
    )
    assert (match_moa(table).num_gallery, match_moa(table).num_total) == (5, 5)
    nscb = match_moa(table, exclude_shared_batch=True)
    # a3 is no query, but its MoA has some; b has none.
    assert (nscb.num_gallery, nscb.num_total) == (3, 2)


def test_who_takes_no_part_is_named():
    table = profile_table(
        ["a1", "a2", "new", "DMSO", None], ["a", "a", None, None, "a"], np.eye(5),
        Control=[False, False, False, True, False],
    )  # fmt: skip
    found = unannotated(table)
    assert found["compound"].tolist() == ["new", None]
    assert found["reason"].tolist() == ["it has no MoA", "it has no compound"]
    assert match_moa(table).num_total == 2
