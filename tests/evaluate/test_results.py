from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from helpers_tables import profile_table, real_design, synthetic_design, with_features
from wsdino.errors import OutputError, TableError
from wsdino.evaluate.gallery import make_gallery
from wsdino.evaluate.intervals import average_precisions, clustered_interval, permutation_nulls
from wsdino.evaluate.leakage import leakage_of
from wsdino.evaluate.matching import match_moa
from wsdino.evaluate.results import (
    evaluate,
    evaluate_sites,
    read_results,
    results_table,
    write_results,
)
from wsdino.profile.aggregate import aggregate_treatments, make_profiles
from wsdino.profile.normalise import normalise
from wsdino.tables.features import feature_columns
from wsdino.tables.reading import read_table
from wsdino.tables.writing import write_table

if TYPE_CHECKING:
    import pandas as pd

FEW = {"num_permutations": 20}


@pytest.fixture(scope="module")
def sites() -> pd.DataFrame:
    return with_features(synthetic_design(num_treatments=50, num_compounds=25, num_batches=5))


@pytest.fixture(scope="module")
def results(sites) -> dict:
    return evaluate_sites(sites, **FEW)


def test_results_have_the_documented_keys(results):
    assert results["schema"] == 2
    assert set(results["normalisation"]) == {
        "method", "options", "fitted_on", "num_fitted", "num_components", "note", "warning",
    }  # fmt: skip
    assert results["aggregation"] == "published"
    assert (results["multi_batch"], results["num_treatments"]) == ("strict", 50)
    assert (results["num_controls"], results["num_unannotated"]) == (1, 0)
    for name in ("nsc", "nscb"):
        assert results[name] == results[f"{name}_correct"] / results[f"{name}_total"]
        assert results[f"{name}_ci"][0] < results[name] <= results[f"{name}_ci"][1]
        assert len(results[f"{name}_neighbours"]) == results[f"{name}_total"]
        assert set(results[f"{name}_neighbours"][0]) == {
            "compound", "concentration", "moa", "neighbour_compound", "neighbour_concentration",
            "neighbour_moa", "similarity", "correct",
        }  # fmt: skip
        assert results[f"{name}_total"] + len(results["left_out"][name]) == 50
        matrix = np.array(results["confusion"][name])
        assert matrix.shape == (len(results["confusion"]["labels"]),) * 2
        assert matrix.sum() == results[f"{name}_total"]
        assert np.trace(matrix) == results[f"{name}_correct"]
        assert results[f"{name}_null"]["num_permutations"] == 20
    assert set(results["left_out"]["nscb"][0]) == {"compound", "concentration", "moa", "reason"}
    assert results["map_ci"][0] < results["map"] < results["map_ci"][1]
    assert results["map_total"] == results["nsc_total"]
    assert results["map_null"]["num_permutations"] == 20
    assert set(results["map_per_moa"]) == set(results["confusion"]["labels"])
    assert results["left_out"]["map"] == results["left_out"]["nsc"]
    assert results["gallery"]["map"] == results["gallery"]["nsc"] == results["nsc_total"]
    assert results["gallery"]["nscb"] >= results["nscb_total"]
    assert list(results["leakage"]) == ["batch", "plate", "row", "column", "edge", "density"]
    assert results["leakage"]["density"] is None
    assert results["leakage"]["plate"]["before"]["probe"]["num_classes"] > 2
    assert results["notes"] == []


def test_sites_take_the_published_path(results, sites):
    normalised, info = normalise(sites, method="tvn")
    match = match_moa(aggregate_treatments(normalised))
    assert results["normalisation"] == info
    assert (results["nsc_correct"], results["nsc_total"]) == (match.num_correct, match.num_total)


def test_sites_need_labels(sites):
    for name in ("Metadata_Compound", "Metadata_Concentration"):
        with pytest.raises(TableError, match=f"needs the column {name}.*--platemap"):
            evaluate_sites(sites.drop(columns=name))


def test_leakage_alone_is_that_of_the_whole(results, sites):
    assert leakage_of(sites, normalise(sites)[0]) == results["leakage"]
    for option in ({"method": "none"}, {"num_components": 1}, {"per_channel": False}):
        assert leakage_of(sites, normalise(sites, **option)[0]) != results["leakage"]


def test_results_survive_json(results, tmp_path):
    path = tmp_path / "new" / "results.json"
    write_results(results, path)
    assert read_results(path) == results
    assert [entry.name for entry in path.parent.iterdir()] == ["results.json"]
    with pytest.raises(OutputError, match="can't be written"):
        write_results(results, path / "below.json")


def test_results_that_can_not_be_read_are_named(tmp_path):
    with pytest.raises(TableError, match="no such file"):
        read_results(tmp_path / "none.json")
    path = tmp_path / "results.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(TableError, match="can't be read as JSON"):
        read_results(path)
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(TableError, match=r"can't be read as JSON: found '.1.'"):
        read_results(path)
    for other in ({"schema": 99}, {"schema": 1}):
        path.write_text(json.dumps(other), encoding="utf-8")
        with pytest.raises(TableError, match="this version reads 2: evaluate again"):
            read_results(path)


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        ("tvn", "found 'tvn': input should be a valid dictionary"),
        ({"normalisation": "tvn"}, "normalisation: found 'tvn'"),
        ({"normalisation": {"options": []}}, "normalisation.options: found '"),
        ({"leakage": {"plate": 3}}, "leakage.plate: found '3'"),
    ],
)
def test_a_file_that_says_in_a_wrong_way_how_it_was_made_is_refused(sites, tmp_path, made, problem):
    profiles = make_profiles(sites)
    profiles.attrs["wsdino"] = made
    write_table(profiles, tmp_path / "p.parquet")
    with pytest.raises(TableError) as caught:
        evaluate(read_table(tmp_path / "p.parquet"))
    line = str(caught.value)
    assert line.startswith(f"how the profiles were made (wsdino in the file): {problem}")


def test_profiles_from_a_file_say_how_they_were_made(sites, results, tmp_path):
    write_table(make_profiles(sites), tmp_path / "p.parquet")
    again = evaluate(read_table(tmp_path / "p.parquet"), **FEW)
    for name in ("normalisation", "aggregation", "nsc", "nscb", "left_out", "confusion"):
        assert again[name] == results[name]
    write_table(make_profiles(sites), tmp_path / "p.csv")
    bare = evaluate(read_table(tmp_path / "p.csv"), **FEW)
    assert bare["nsc"] == results["nsc"]
    assert bare["normalisation"]["method"] == bare["aggregation"] == "unknown"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("normalisation", "standardise_all"),
        ("aggregation", "mean"),
        ("num_components", 1),
        ("regularisation", 10.0),
        ("per_channel", False),
        ("num_permutations", 21),
        ("seed", 1),
        ("multi_batch", "first-published"),
    ],
)
def test_every_option_has_an_effect(sites, results, option, value):
    assert evaluate_sites(sites, **(FEW | {option: value})) != results


def test_without_batches_nscb_is_none_and_a_note_says_so(sites):
    results = evaluate_sites(sites.drop(columns="Metadata_Batch"), **FEW)
    assert results["nscb"] is None
    assert results["nscb_ci"] is None
    assert results["nscb_total"] == 0
    assert results["notes"] == ["NSCB was not computed: the profiles have no Metadata_Batch"]
    assert results["leakage"]["batch"] is None


def test_one_batch_leaves_everyone_out_of_nscb(sites):
    results = evaluate_sites(sites.assign(Metadata_Batch="W1"), **FEW)
    assert (results["nscb"], results["nscb_null"]) == (None, None)
    assert len(results["left_out"]["nscb"]) == 50
    assert results["notes"] == ["NSCB is not defined: no treatment has a candidate with its MoA"]


def test_where_no_mechanism_has_two_compounds_each_measure_says_so():
    table = profile_table(["a", "b"], ["x", "y"], np.eye(2), Batch=["1", "2"])
    results = evaluate(table, **FEW)
    for name in ("nsc", "nscb", "map"):
        assert results[name] is results[f"{name}_ci"] is results[f"{name}_null"] is None
        assert [row["compound"] for row in results["left_out"][name]] == ["a", "b"]
        assert results["gallery"][name] == 0
    assert [note.split()[0] for note in results["notes"]] == ["NSC", "NSCB", "mAP"]


def test_unannotated_treatments_are_counted(sites):
    some = sites.assign(
        Metadata_MoA=sites["Metadata_MoA"].where(sites["Metadata_Compound"] != "c01")
    )
    results = evaluate_sites(some, num_permutations=0)
    assert (results["num_treatments"], results["num_unannotated"]) == (48, 2)
    assert results["nsc_null"] is results["nscb_null"] is results["map_null"] is None
    assert results["notes"] == ["chance was not computed: no permutations were asked for"]
    for name in ("nsc", "nscb", "map"):
        rows = [row for row in results["left_out"][name] if row["compound"] == "c01"]
        assert [(row["moa"], row["reason"]) for row in rows] == [(None, "it has no MoA")] * 2
        assert results[f"{name}_total"] + len(results["left_out"][name]) == 50


def test_every_measure_has_one_gallery_its_chance_and_its_interval(sites):
    """Singletons leave the queries and the gallery of all, and with them the null's."""
    odd = sites.assign(
        Metadata_MoA=sites["Metadata_MoA"].where(sites["Metadata_Compound"] != "c01", "of its own")
    )
    results = evaluate_sites(odd, **FEW)
    profiles = make_profiles(odd)
    scores = average_precisions(profiles)
    assert results["map"] == pytest.approx(scores["average_precision"].mean())
    assert results["map_ci"] == pytest.approx(
        clustered_interval(
            scores["average_precision"].to_numpy(), scores["Metadata_Compound"].to_numpy()
        )
    )
    nulls = permutation_nulls(make_gallery(profiles), num_permutations=20)
    assert results["map_null"] == nulls["map"].as_dict()
    assert results["nsc_null"] == nulls["accuracy"].as_dict()
    for name in ("nsc", "nscb", "map"):
        own = [row for row in results["left_out"][name] if row["moa"] == "of its own"]
        assert [row["reason"] for row in own] == ["no other compound has this MoA"] * 2
        assert results["gallery"][name] <= 48
    queries = [row["compound"] for row in results["nsc_neighbours"]]
    assert scores["Metadata_Compound"].tolist() == queries


def test_missing_concentrations_become_null(tmp_path):
    table = profile_table(["a", "b"], ["x", "x"], np.eye(2), concentrations=[np.nan, 1.0])
    results = evaluate(table, **FEW)
    assert results["nsc_neighbours"][0]["concentration"] is None
    write_results(results, tmp_path / "r.json")
    assert read_results(tmp_path / "r.json") == results


def test_rows_for_people(results):
    bare = results | {"nscb": None, "nsc_null": None, "map": None, "map_null": None}
    one, two = results_table({"wsdino": results, "bare": bare})
    assert one["name"] == "wsdino"
    counts = f"{results['nsc_correct']}/{results['nsc_total']} = "
    assert one["nsc"].startswith(counts)
    assert one["nsc"].endswith("]")
    low, high = results["map_ci"]
    assert one["map"] == f"{results['map']:.3f} [{low:.2f}, {high:.2f}]"
    null = results["nscb_null"]
    assert one["nscb_chance"] == f"{100 * null['mean']:.0f} % (p = {null['p_value']:.2g})"
    assert one["map_chance"].startswith(f"{results['map_null']['mean']:.3f} (p = ")
    assert [two[key] for key in ("nscb", "nsc_chance", "map", "map_chance")] == ["-"] * 4
    published = {"nsc": 101 / 103, "nsc_correct": 101, "nsc_total": 103, "nsc_ci": [0.932, 0.9947]}
    assert results_table({"x": published})[0]["nsc"] == "101/103 = 98.1 % [93.2, 99.5]"


@pytest.fixture(scope="module")
def ljosa(real_data) -> pd.DataFrame:
    """CellProfiler's features of 632 wells, joined with the design."""
    folder = real_data / "bbbc021_profiles"
    joined = read_table(
        folder / "ljosa_jbiomolscreen_2013_per_well_mean.csv.gz", platemap=real_design(real_data)
    )
    assert (len(joined), len(feature_columns(joined))) == (632, 516)
    assert joined["Metadata_Control"].sum() == 330
    return joined


@pytest.mark.parametrize("multi_batch", ["strict", "first-published"])
@pytest.mark.parametrize(("method", "nsc"), [("plate_controls", 90), ("standardise_all", 89)])
def test_reference_numbers_of_cellprofiler_s_features(ljosa, method, nsc, multi_batch):
    results = evaluate_sites(
        ljosa, normalisation=method, aggregation="mean", multi_batch=multi_batch, **FEW
    )
    assert (results["nsc_correct"], results["nsc_total"]) == (nsc, 103)
    # In this table taxol 0.3 uM lies in one batch, so that both modes agree.
    assert (results["nscb_correct"], results["nscb_total"]) == (64, 92)
    left_out = {row["moa"] for row in results["left_out"]["nscb"]}
    assert left_out == {"Cholesterol-lowering", "Kinase inhibitors"}
    assert results["left_out"]["nsc"] == results["left_out"]["map"] == []
    assert results["gallery"] == {"nsc": 103, "nscb": 92, "map": 103}
    if method == "plate_controls":
        assert results["map"] == pytest.approx(0.755, abs=5e-4)


def test_the_full_design_leaves_out_taxol_only_where_strict(real_data):
    design = real_design(real_data)
    annotated = design[design["Metadata_MoA"].notna() & ~design["Metadata_Control"]]
    profiles = aggregate_treatments(with_features(annotated.reset_index(drop=True)))
    strict, published = (
        match_moa(profiles, exclude_shared_batch=True, multi_batch=mode)
        for mode in ("strict", "first-published")
    )
    assert published.num_total == 92
    assert strict.num_total == 91
    extra = set(strict.left_out["compound"]) - set(published.left_out["compound"])
    assert extra == {"taxol"}
    assert match_moa(profiles).num_total == 103
