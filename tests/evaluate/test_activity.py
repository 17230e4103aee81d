"""Activity, replicates and consistency equal copairs; each rule that differs has its own test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from helpers_tables import synthetic_design, with_features
from wsdino.errors import TableError
from wsdino.evaluate import replicates
from wsdino.evaluate.activity import activity_table, rank_against_controls, why_not
from wsdino.evaluate.consistency import consistency
from wsdino.evaluate.evidence import activity, activity_of
from wsdino.evaluate.precision import (
    average_precision,
    average_precisions,
    expected_precision,
    p_values,
    random_precisions,
)
from wsdino.evaluate.replicates import (
    null_correlations,
    percent_replicating,
    random_pairs,
    replicate_correlations,
    retrieval_across_plates,
)
from wsdino.evaluate.wells import Part, wells_of
from wsdino.profile.aggregate import make_profiles
from wsdino.tables.features import features_of, metadata_of

if TYPE_CHECKING:
    from pathlib import Path

KEYS = ["Metadata_Compound", "Metadata_Concentration"]
SMALL = {"num_moas": 4, "num_compounds": 9, "num_treatments": 18, "num_batches": 3, "num_sites": 2}


def sites_of(signal: float = 0.6, **changes: Any) -> pd.DataFrame:
    design = synthetic_design(**(SMALL | changes))
    return with_features(design, signal=signal, num_features=16)


def whole(table: pd.DataFrame) -> Part:
    wells = wells_of(table)
    return Part(wells, ~wells.is_control)


def labelled(part: Part) -> pd.DataFrame:
    """Metadata with a text per treatment, as copairs wants it."""
    names = np.char.add("t", part.wells.treatment.astype(str))
    return part.wells.metadata.assign(Treatment=names)


def screen(
    num_plates: int, num_treatments: int, num_controls: int, *, seed: int, num_features: int = 30
) -> pd.DataFrame:
    """Wells of pure noise, one of each treatment on each plate."""
    rows = [
        (f"P{plate}", f"{row}{1 + number:02d}", f"{kind}{'' if kind == 'DMSO' else number}")
        for plate in range(num_plates)
        for row, kind, num in (("A", "c", num_treatments), ("B", "DMSO", num_controls))
        for number in range(num)
    ]
    names = ["Metadata_Plate", "Metadata_Well", "Metadata_Compound"]
    table = pd.DataFrame(rows, columns=names).assign(Metadata_Concentration=1.0)
    table["Metadata_Control"] = table["Metadata_Compound"] == "DMSO"
    noise = np.random.default_rng(seed).normal(size=(len(table), num_features))
    return pd.concat([table, pd.DataFrame(noise).add_prefix("x")], axis=1)


def test_activity_equals_copairs(tmp_path: Path) -> None:
    from copairs.map import average_precision, mean_average_precision
    from copairs.matching import assign_reference_index

    part = whole(sites_of(signal=0.5, num_plates=4))
    found = activity_table(part.wells, rank_against_controls(part), null_size=500, seed=3)
    meta = assign_reference_index(
        labelled(part), "Metadata_Control", reference_col="Reference", default_value=-1
    )
    scores = average_precision(
        meta,
        part.wells.features.astype(np.float64),
        pos_sameby=["Treatment", "Reference"],
        pos_diffby=[],
        neg_sameby=["Metadata_Plate"],
        neg_diffby=["Treatment", "Reference"],
        progress_bar=False,
    )
    theirs = mean_average_precision(
        scores[~scores["Metadata_Control"]],
        KEYS,
        null_size=500,
        threshold=0.05,
        seed=3,
        progress_bar=False,
        cache_dir=tmp_path,
    )
    both = found.merge(theirs, on=KEYS, suffixes=("", "_theirs"))
    assert len(both) == len(found) == 18
    for name in (
        "mean_average_precision",
        "mean_normalized_average_precision",
        "p_value",
        "corrected_p_value",
    ):
        np.testing.assert_allclose(both[name], both[f"{name}_theirs"], atol=1e-6)
    assert both["is_active"].equals(both["below_corrected_p"])
    assert found["p_value"].nunique() > 3


def test_percent_replicating_equals_copairs() -> None:
    from copairs.matching import Matcher
    from copairs.replicating import correlation_test_from_pairs

    part = whole(sites_of())
    meta = labelled(part)[part.asked].reset_index(drop=True)
    features = part.wells.features[part.asked].astype(np.float64)
    pairs = Matcher(meta, ["Treatment", "Metadata_Plate"], seed=0).get_all_pairs(
        ["Treatment"], ["Metadata_Plate"]
    )
    treatment, median, num_first = replicate_correlations(part)
    # The same random pairs for both: ours are among the wells asked.
    where = np.cumsum(part.asked) - 1
    num_pairs = int(np.median(num_first))
    chosen = random_pairs(part, num=200 * num_pairs, same_position=False, seed=5)
    null = null_correlations(part.wells, chosen, num_pairs=num_pairs)
    theirs = correlation_test_from_pairs(
        features, pairs, list(where[chosen]), ["Treatment"], progress_bar=False
    )
    ours = pd.Series(median, index=[f"t{number}" for number in treatment]).sort_index()
    np.testing.assert_allclose(ours, theirs.corr_dist.sort_index(), atol=1e-6)
    np.testing.assert_allclose(null, theirs.null_dist, atol=1e-6)
    share = (median > np.percentile(null, 95)).mean()
    assert share == pytest.approx(theirs.percent_score("right")[0], abs=1e-6)
    assert 0 < share < 1


@pytest.mark.parametrize("same", [False, True])
def test_random_pairs_are_what_they_say(same: bool) -> None:
    part = whole(sites_of())
    drawn = random_pairs(part, num=150, same_position=same, seed=1)
    wells = part.wells
    first, second = drawn.T
    assert len(drawn) == 150
    assert (wells.treatment[first] != wells.treatment[second]).all()
    assert (wells.plate[first] != wells.plate[second]).all()
    assert ((wells.position[first] == wells.position[second]) == same).all()
    assert part.asked[first].all()
    assert part.asked[second].all()


def test_one_layout_on_all_plates_has_no_null_of_the_same_position() -> None:
    result, _ = percent_replicating([whole(screen(3, 10, 4, seed=0))])
    assert result["same_position"] is None
    assert result["other_position"]["share"] < 0.4


def test_a_fold_without_replicates_takes_no_number_from_the_others() -> None:
    table = screen(3, 10, 4, seed=0)
    lonely = (table["Metadata_Compound"] == "c0") & (table["Metadata_Plate"] != "P0")
    wells = wells_of(table[~lonely])
    is_c0 = (wells.metadata["Metadata_Compound"] == "c0").to_numpy()
    whole_, others, c0 = (Part(wells, ~wells.is_control & which) for which in (True, ~is_c0, is_c0))
    expected, _ = percent_replicating([others])
    assert expected["num_treatments"] == 9
    assert expected["other_position"] is not None
    assert percent_replicating([others, c0])[0] == expected
    assert percent_replicating([whole_])[0]["num_treatments"] == 9


def test_retrieval_equals_copairs() -> None:
    from copairs.map import average_precision

    part = whole(sites_of())
    scores = average_precision(
        labelled(part)[part.asked],
        part.wells.features[part.asked].astype(np.float64),
        pos_sameby=["Treatment"],
        pos_diffby=["Metadata_Plate"],
        neg_sameby=[],
        neg_diffby=["Treatment", "Metadata_Plate"],
        progress_bar=False,
    )
    found = retrieval_across_plates([part])
    known = scores["average_precision"].dropna()
    assert found["num_queries"] == len(known)
    assert found["map"] == pytest.approx(known.mean(), abs=1e-6)
    low, high = found["map_ci"]
    assert low < found["map"] < high
    assert found["sample"] is None


def test_retrieval_among_many_wells_is_that_of_a_named_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part = whole(sites_of())
    monkeypatch.setattr(replicates, "MAX_RETRIEVED", 20)
    found = retrieval_across_plates([part])
    assert found["num_wells"] <= 20
    assert found["sample"].endswith(f"{part.asked.sum()} wells, drawn with seed 0")
    assert retrieval_across_plates([part]) == found


@pytest.mark.parametrize("with_sets", [False, True])
def test_consistency_equals_copairs(tmp_path: Path, with_sets: bool) -> None:
    from copairs.map import mean_average_precision
    from copairs.map.multilabel import average_precision

    profiles = make_profiles(sites_of(signal=1.0), normalisation="tvn")
    if with_sets:
        number = profiles["Metadata_Compound"].str.extract(r"c(\d+)", expand=False).astype(float)
        profiles["Metadata_MoA"] += "|T" + (number % 3).astype(str)
    found = consistency(profiles, "Metadata_MoA", null_size=300, seed=2)
    rows = profiles[profiles["Metadata_MoA"].notna()].reset_index(drop=True)
    meta = metadata_of(rows)[["Metadata_Compound"]].assign(
        Labels=rows["Metadata_MoA"].str.split("|")
    )
    scores = average_precision(
        meta,
        features_of(rows),
        pos_sameby=["Labels"],
        pos_diffby=["Metadata_Compound"],
        neg_sameby=[],
        neg_diffby=["Labels", "Metadata_Compound"],
        multilabel_col="Labels",
        progress_bar=False,
    )
    theirs = mean_average_precision(
        scores,
        ["Labels"],
        null_size=300,
        threshold=0.05,
        seed=2,
        progress_bar=False,
        cache_dir=tmp_path,
    ).set_index("Labels")
    ours = pd.DataFrame(found["labels"]).set_index("label")
    assert len(ours) == len(theirs) == (7 if with_sets else 4)
    theirs = theirs.loc[ours.index]
    for name in ("mean_average_precision", "p_value", "corrected_p_value"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-6)
    assert found["num_consistent"] == theirs["below_corrected_p"].sum()


def test_the_null_is_drawn_as_in_copairs_and_has_the_expected_mean() -> None:
    from copairs.compute import random_ap

    drawn = random_precisions(3, 40, size=4000, seed=7)
    np.testing.assert_array_equal(drawn, random_ap(4000, 3, 40, 7))
    assert drawn.mean() == pytest.approx(expected_precision(3, 40), abs=0.01)
    assert expected_precision(2, 2) == 1


@pytest.mark.parametrize(("num_right", "num_wrong"), [(1, 1), (3, 32), (40, 7)])
def test_precisions_of_many_queries_are_those_of_each(num_right: int, num_wrong: int) -> None:
    generator = np.random.default_rng(num_right)
    # Of 21 values many are equal.
    right, wrong = (
        generator.integers(-10, 11, size=(50, num)) / 10 for num in (num_right, num_wrong)
    )
    found = average_precisions(right, wrong)
    expected = [average_precision(*each) for each in zip(right, np.sort(wrong), strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_treatment_in_very_many_wells_is_ranked_as_any_other() -> None:
    """More wells than are asked at a time, on plates with unequal numbers of controls."""
    table = screen(9, 150, 4, seed=6, num_features=4)
    table.loc[~table["Metadata_Control"], "Metadata_Compound"] = "positive"
    part = whole(table.drop(index=table.index[table["Metadata_Control"]][:3]))
    wells = part.wells
    queries = rank_against_controls(part)
    np.testing.assert_array_equal(queries.rows, np.flatnonzero(part.asked))
    unit = wells.unit(np.arange(len(wells)))
    for at in range(0, len(queries.rows), 97):
        row = queries.rows[at]
        others = part.asked & (np.arange(len(wells)) != row)
        against = wells.is_control & (wells.plate == wells.plate[row])
        similar = unit @ unit[row]
        expected = average_precision(similar[others], np.sort(similar[against]))
        assert queries.precision[at] == pytest.approx(expected, rel=1e-12)
        assert queries.num_all[at] == others.sum() + against.sum()


@pytest.mark.parametrize("rank", range(1, 14))
def test_an_equal_random_ranking_is_not_above(rank: int) -> None:
    """One right candidate among 13: a random ranking is above iff it has it at a lower rank."""
    precision = np.array([1 / rank])
    one = np.array([1])
    (p,) = p_values(precision, one, one * 13, [np.array([0])], null_size=1000, seed=4)
    seed = int(np.random.default_rng(4).integers(8096, size=1)[0])
    ranks = np.rint(1 / random_precisions(1, 13, size=1000, seed=seed))
    assert p == (1 + (ranks < rank).sum()) / 1001


def test_noise_is_not_active_and_a_shift_is() -> None:
    table = screen(4, 30, 12, seed=1)
    assert activity(table, null_size=2000)["num_active"] == 0
    shifted = table["Metadata_Compound"].isin(["c0", "c1"])
    table.loc[shifted, ["x0", "x1", "x2"]] += 12.0
    found = activity(table, null_size=2000)
    active = [row["Metadata_Compound"] for row in found["treatments"] if row["is_active"]]
    assert active == ["c0", "c1"]


def test_a_design_that_chance_can_make_perfect_is_told() -> None:
    """Two wells that find each other before 12 controls: once in 13 by chance."""
    told = [activity(screen(2, 40, 12, seed=seed), null_size=2000) for seed in range(3)]
    assert sum(found["num_active"] for found in told) > 0
    for found in told:
        if found["num_active"]:
            assert "to be expected by chance" in " ".join(found["notes"])


def test_chance_is_held_against_the_rate_that_was_asked_for() -> None:
    wells = wells_of(screen(2, 4, 12, seed=0))
    table = pd.DataFrame(
        {"num_wells": 2, "num_queries": 2, "is_active": True, "p_perfect": 0.1}, index=range(4)
    )
    for fdr, is_told in ((0.05, True), (0.2, False)):
        notes = " ".join(why_not(table, wells, fdr=fdr))
        assert ("up to 0.4 of the 4 active treatments" in notes) == is_told


def test_wells_without_replicate_or_control_are_left_out_and_told() -> None:
    table = screen(3, 6, 4, seed=2)
    lonely = (table["Metadata_Compound"] == "c0") & (table["Metadata_Plate"] != "P0")
    bare = table["Metadata_Control"] & (table["Metadata_Plate"] == "P2")
    part = whole(table[~lonely & ~bare])
    queries = rank_against_controls(part)
    found = activity_table(part.wells, queries, null_size=100).set_index("Metadata_Compound")
    assert np.isnan(found.loc["c0", "p_value"])
    assert not found.loc["c0", "is_active"]
    assert found.loc["c1", ["num_wells", "num_queries"]].tolist() == [3, 2]
    notes = activity(table[~lonely & ~bare], null_size=100)["notes"]
    assert notes[0] == (
        "activity is not defined for 1 treatment (c0): a single well, so no replicate"
    )


def test_equal_features_reach_nothing() -> None:
    table = screen(3, 5, 4, seed=3)
    table.loc[:, [f"x{i}" for i in range(30)]] = 1.0
    queries = rank_against_controls(whole(table))
    # Two right candidates after four wrong ones.
    np.testing.assert_allclose(queries.precision, (1 / 5 + 2 / 6) / 2)


def test_sites_are_averaged_to_wells() -> None:
    table = sites_of()
    wells = wells_of(table)
    keys = ["Metadata_Batch", "Metadata_Plate", "Metadata_Well", *KEYS]
    names = [name for name in table if name.startswith("emb_")]
    expected = table.groupby(keys, sort=False, dropna=False)[names].mean()
    np.testing.assert_allclose(wells.features, expected.to_numpy(), rtol=1e-5)
    assert wells.features.dtype == np.float32


def test_labels_of_the_fit_do_not_make_their_own_replicates_alike() -> None:
    """Whitening by compound on few rows makes any noise look like replicates."""
    table = screen(3, 12, 6, seed=4, num_features=60)
    options = {"normalisation": "weak_label", "null_size": 500, "regularisation": 1e-3}
    found = activity_of(table, **options)
    assert "fitted without its compound (4 folds)" in found["notes"][0]
    assert found["num_active"] == 0
    assert found["retrieval"]["map"] == pytest.approx(found["retrieval"]["map_by_chance"], abs=0.1)
    from wsdino.profile.normalise import normalise

    careless = activity(
        normalise(table, method="weak_label", regularisation=1e-3)[0], null_size=500
    )
    assert careless["retrieval"]["map"] > found["retrieval"]["map"] + 0.2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Metadata_Compound": None}, "Metadata_Compound is empty in all"),
        ({"Metadata_Control": True}, "are controls; activity needs treated ones"),
        ({"Metadata_Well": None}, "activity needs Metadata_Well in every row"),
        ({"x0": np.nan}, "feature x0 is missing or infinite"),
    ],
)
def test_what_is_missing_is_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(TableError, match=words):
        activity(screen(2, 3, 2, seed=0).assign(**change))
