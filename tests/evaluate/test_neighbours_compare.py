from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.contingency_tables import mcnemar as theirs

from helpers_tables import profile_table, synthetic_design, with_features
from wsdino.errors import TableError
from wsdino.evaluate.compare import compare, compare_activity, mcnemar
from wsdino.evaluate.gallery import make_gallery
from wsdino.evaluate.intervals import mean_average_precision
from wsdino.evaluate.matching import match_moa, nearest, vote
from wsdino.evaluate.neighbours import neighbours
from wsdino.profile.aggregate import make_profiles

SMALL = {"num_moas": 4, "num_compounds": 12, "num_treatments": 30, "num_batches": 10}


@pytest.fixture(scope="module")
def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    design = synthetic_design(**SMALL)
    first, second = (with_features(design, signal=each, seed=1) for each in (0.3, 0.6))
    return make_profiles(first), make_profiles(second)


def test_a_comparison_is_paired(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    found = compare(*tables)
    answers = [
        match_moa(each).neighbours.set_index(["compound", "concentration"])["correct"]
        for each in tables
    ]
    before, after = answers
    both = pd.crosstab(before, after.reindex(before.index))
    nsc = found["nsc"]
    assert nsc["total"] == len(before) == found["num_treatments"] - 1
    assert (nsc["first"], nsc["second"]) == (before.mean(), after.mean())
    assert nsc["difference"] == pytest.approx(after.mean() - before.mean())
    assert nsc["p_value"] == pytest.approx(theirs(both.to_numpy(), exact=True).pvalue)
    assert len(nsc["gained"]) == both.loc[False, True] > 0
    assert len(nsc["lost"]) == both.loc[True, False]
    row = nsc["gained"][0]
    assert not before[(row["compound"], row["concentration"])]
    assert nsc["ci"][0] <= nsc["difference"] <= nsc["ci"][1]
    means = [mean_average_precision(each)[0] for each in tables]
    assert found["map"]["difference"] == pytest.approx(means[1] - means[0])
    assert found["nscb"]["total"] <= nsc["total"]


def test_nothing_differs_from_itself(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    found = compare(tables[0], tables[0].sample(frac=1, random_state=0))
    assert found["nsc"]["p_value"] == 1
    assert found["nsc"]["gained"] == found["nsc"]["lost"] == []
    assert found["map"]["ci"] == [0, 0]


def test_only_what_both_have_is_compared(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    first, second = tables
    cut = second[second["Metadata_Compound"] != "c03"]
    found = compare(first, cut)
    assert found["only_first"] == 3
    assert found["only_second"] == 0
    alone = first[first["Metadata_Compound"] != "c03"]
    assert found["nsc"]["first"] == match_moa(alone).accuracy


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Metadata_Compound": "other"}, "several rows at one concentration"),
        ({"Metadata_Concentration": 77.0}, "no treatment .* in common|several rows"),
        ({"Metadata_MoA": "else"}, "has the MoA .* in the first and 'else' in the second"),
    ],
)
def test_tables_that_do_not_fit_are_refused(
    tables: tuple[pd.DataFrame, pd.DataFrame], change: dict, words: str
) -> None:
    with pytest.raises(TableError, match=words):
        compare(tables[0], tables[1].assign(**change))


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (3, 9), (20, 11)])
def test_mcnemar_is_exact(gained: int, lost: int) -> None:
    assert mcnemar(gained, lost) == pytest.approx(
        theirs([[4, gained], [lost, 7]], exact=True).pvalue
    )


def test_activity_is_compared_where_both_were_tested() -> None:
    first = pd.DataFrame(
        {
            "Metadata_Compound": list("abcd"),
            "Metadata_Concentration": [5.0, 5.0, 0.3, np.nan],
            "mean_average_precision": [0.2, 0.9, 0.9, np.nan],
            "p_value": [0.5, 0.01, 0.01, np.nan],
            "is_active": [False, True, True, False],
        }
    )
    # Doses of a file are text.
    doses = ["5", "5.0", "0.3", None]
    second = first.assign(is_active=[True, False, True, True], Metadata_Concentration=doses)
    found = compare_activity(first, second)
    assert found["total"] == 3
    for name, compound in (("gained", "a"), ("lost", "b")):
        assert [(row["compound"], row["concentration"]) for row in found[name]] == [(compound, 5)]
    assert found["p_value"] == 1


def test_neighbours_equal_a_loop(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    profiles = tables[1]
    found = neighbours(profiles, "C05", num=3)
    features = profiles.filter(regex="^(emb|white)_").to_numpy()
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    own = np.flatnonzero(profiles["Metadata_Compound"] == "c05")
    assert found["concentration"].unique().tolist() == sorted(
        profiles["Metadata_Concentration"].iloc[own]
    )
    for row in own:
        similar = pd.Series(unit @ unit[row]).where(profiles["Metadata_Compound"] != "c05")
        best = similar.nlargest(3)
        mine = found[found["concentration"] == profiles["Metadata_Concentration"].iloc[row]]
        np.testing.assert_allclose(mine["similarity"], best, atol=1e-12)
        names = profiles["Metadata_Compound"].iloc[best.index]
        assert mine["neighbour_compound"].tolist() == names.tolist()
    assert set(found["shares_batch"]) <= {True, False}
    one = neighbours(profiles, "c05", concentration=1.0, num=3)
    pd.testing.assert_frame_equal(one, found[found["concentration"] == 1].reset_index(drop=True))


def test_a_plate_of_another_batch_is_another_plate() -> None:
    features = np.array([[1, 0.0], [1, 0.1], [1, 0.2], [1, 0.3], [1, 0.4]])
    plates = [["P1", "P2"], ["P1"], ["P1"], ["P3"], [None]]
    batches = [["B1", "B2"], ["B2"], ["B1"], ["B2"], ["B1"]]
    table = profile_table(list("abcde"), list("xxxxx"), features, Plate=plates, Batch=batches)
    found = neighbours(table, "a").set_index("neighbour_compound")
    assert found["shares_plate"].to_dict() == {"b": False, "c": True, "d": False, "e": None}
    assert found["shares_batch"].tolist() == [True] * 4
    without = neighbours(table.drop(columns="Metadata_Batch"), "a").set_index("neighbour_compound")
    assert without["shares_plate"].to_dict() == {"b": True, "c": True, "d": False, "e": None}
    assert without["shares_batch"].isna().all()


def test_a_compound_that_is_not_there_is_named(
    tables: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    with pytest.raises(TableError, match=r"no compound 'c5' among 13, did you mean c05"):
        neighbours(tables[0], "c5")
    with pytest.raises(TableError, match=r"c05 has no concentration 3 uM; it has 0.1, 1"):
        neighbours(tables[0], "c05", concentration=3.0)


def test_votes_equal_a_loop(tables: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    gallery = make_gallery(tables[0], exclude_shared_batch=True)
    every = slice(None)
    similarity, may = gallery.similarity(every), gallery.admissible(every)
    expected = {1: [0, 0], 3: [0, 0], 5: [0, 0]}
    queries = np.flatnonzero(gallery.is_query)
    for row in queries:
        order = [
            other
            for other in np.argsort(-similarity[row], kind="stable")
            if may[row, other] and gallery.is_in_gallery[other]
        ]
        for k, counts in expected.items():
            moas = [gallery.moa[other] for other in order[:k]]
            most = max(moas.count(moa) for moa in moas)
            winner = next(moa for moa in moas if moas.count(moa) == most)
            counts[0] += winner == gallery.moa[row]
            counts[1] += gallery.moa[row] in moas
    found = vote(gallery, (1, 3, 5))
    assert [[each["correct"], each["any"]] for each in found] == list(expected.values())
    assert {each["total"] for each in found} == {len(queries)}
    assert found[0]["correct"] == found[0]["any"]
    assert (nearest(gallery, 100)[1] == -1).any()


def test_not_same_plate_leaves_out_what_shares_one() -> None:
    features = np.array([[1, 0.0], [1, 0.1], [1, 0.3], [0, 1], [0.1, 1], [0.3, 1]])
    plates = [["P1", "P2"], ["P2"], ["P3"], ["P4"], ["P4"], ["P5"]]
    table = profile_table(list("abcdef"), list("xxxyyy"), features, Plate=plates)
    found = match_moa(table, exclude_shared_plate=True).neighbours.set_index("compound")
    assert found["neighbour_compound"].to_dict() == dict(zip("abcdef", "ccbffe", strict=True))
    batches = [["B1"], ["B2"], ["B1"], ["B1"], ["B2"], ["B1"]]
    apart = match_moa(table.assign(Metadata_Batch=batches), exclude_shared_plate=True).neighbours
    # P2 of batch B1 is another plate than P2 of B2.
    assert apart.set_index("compound")["neighbour_compound"]["a"] == "b"
    with pytest.raises(TableError, match="shared batches or shared plates"):
        match_moa(table, exclude_shared_plate=True, exclude_shared_batch=True)
