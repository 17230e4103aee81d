from __future__ import annotations

import statistics

import numpy as np
import pandas as pd
import pytest

from helpers_tables import annotated_sites, real_design, synthetic_design, with_features
from wsdino.errors import TableError
from wsdino.profile.aggregate import aggregate, aggregate_treatments, make_profiles
from wsdino.profile.normalise import normalise
from wsdino.tables.features import feature_columns, features_of
from wsdino.tables.reading import read_table
from wsdino.tables.writing import write_table

TREATMENT = ["Metadata_Compound", "Metadata_Concentration"]


@pytest.fixture(scope="module", params=["synthetic", "real"])
def sites(request) -> pd.DataFrame:
    """Sites of 103 annotated treatments and controls."""
    if request.param == "synthetic":
        design = synthetic_design()
    else:
        design = real_design(request.getfixturevalue("real_data"))
    sites = with_features(annotated_sites(design))
    assert sites[~sites["Metadata_Control"]].groupby(TREATMENT).ngroups == 103
    return sites


@pytest.mark.parametrize("method", ["mean", "median"])
def test_aggregation_equals_pandas(sites, method):
    ours = aggregate(sites, method=method).sort_values(TREATMENT, ignore_index=True)
    theirs = sites.groupby(TREATMENT)[feature_columns(sites)].agg(method).reset_index()
    np.testing.assert_allclose(features_of(ours), features_of(theirs), rtol=1e-5, atol=1e-6)
    assert ours[TREATMENT].equals(theirs[TREATMENT])


def test_features_of_a_long_table_are_aggregated_some_at_a_time():
    rng = np.random.default_rng(0)
    num = 130_000
    table = pd.DataFrame(rng.normal(size=(num, 40)), columns=[f"x{n}" for n in range(40)])
    table["Metadata_Compound"] = rng.integers(0, 500, num).astype(str)
    table["Metadata_Concentration"] = 1.0
    table["Metadata_Plate"] = rng.integers(0, 9, num).astype(str)
    found = aggregate_treatments(table).sort_values("Metadata_Compound", ignore_index=True)
    names = feature_columns(table)
    on_plates = table.groupby(["Metadata_Compound", "Metadata_Plate"])[names].mean()
    expected = on_plates.groupby("Metadata_Compound")[names].median()
    assert found["Metadata_Compound"].tolist() == expected.index.tolist()
    np.testing.assert_allclose(features_of(found), expected.to_numpy(), rtol=1e-12, atol=1e-12)


def test_published_aggregation_equals_a_loop(sites):
    profiles = aggregate_treatments(sites)
    names = feature_columns(sites)[:2]
    assert len(profiles) == 104
    by_treatment: dict[tuple, dict[str, list]] = {}
    for row in sites.to_dict("records"):
        plates = by_treatment.setdefault(tuple(row[key] for key in TREATMENT), {})
        plates.setdefault(row["Metadata_Plate"], []).append(row)
    for profile in profiles.to_dict("records"):
        plates = by_treatment[tuple(profile[key] for key in TREATMENT)]
        for name in names:
            means = [statistics.fmean(row[name] for row in rows) for rows in plates.values()]
            assert profile[name] == pytest.approx(statistics.median(means), rel=1e-6)


def test_each_plate_counts_alike_however_many_sites_it_has(sites):
    first = sites.index[sites["Metadata_Compound"] == sites["Metadata_Compound"].iloc[0]][:1]
    more = pd.concat([sites, sites.loc[first], sites.loc[first]], ignore_index=True)
    assert not np.allclose(features_of(aggregate(more)), features_of(aggregate(sites)))
    one_plate = sites["Metadata_Plate"] == sites["Metadata_Plate"].iloc[0]
    more = pd.concat([sites, sites[one_plate], sites[one_plate]], ignore_index=True)
    np.testing.assert_allclose(
        features_of(aggregate_treatments(more)), features_of(aggregate_treatments(sites)), rtol=1e-9
    )


@pytest.mark.parametrize("steps", ["one", "published"])
@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_several_plates_and_batches_survive(sites, tmp_path, steps, suffix):
    profiles = aggregate(sites) if steps == "one" else aggregate_treatments(sites)
    write_table(profiles, tmp_path / f"p{suffix}")
    back = read_table(tmp_path / f"p{suffix}")
    assert {"Metadata_MoA", "Metadata_Control", *TREATMENT} <= set(back)
    assert not {"Metadata_Well", "Metadata_Site"} & set(back)
    grouped = dict(list(sites.groupby(TREATMENT)))
    for profile in back.to_dict("records"):
        own = grouped[tuple(profile[key] for key in TREATMENT)]
        plates = own.drop_duplicates("Metadata_Plate")
        assert profile["Metadata_Plate"] == plates["Metadata_Plate"].tolist()
        batches = plates["Metadata_Batch"].tolist()
        assert profile["Metadata_Batch"] == (batches[:1] if len(set(batches)) == 1 else batches)
        if own["Metadata_MoA"].notna().all():
            assert profile["Metadata_MoA"] == own["Metadata_MoA"].iloc[0]
        assert profile["Metadata_Control"] == own["Metadata_Control"].iloc[0]


def test_groups_keep_the_order_of_the_table(sites):
    shuffled = sites.sample(frac=1, random_state=0)
    order = list(dict.fromkeys(shuffled["Metadata_Compound"]))
    assert aggregate(shuffled, by="Metadata_Compound")["Metadata_Compound"].tolist() == order


def test_missing_values_make_a_group():
    table = pd.DataFrame(
        {"Metadata_MoA": ["a", None, None], "Metadata_Batch": "W1", "x": [1, 2, 4]}
    )
    result = aggregate(table, by="Metadata_MoA")
    assert result["x"].tolist() == [1, 3]
    assert result["Metadata_Batch"].tolist() == [["W1"], ["W1"]]


def test_batches_without_plates():
    table = pd.DataFrame({"Metadata_Compound": "c", "Metadata_Batch": ["b", "a", "b"], "x": 1.0})
    assert aggregate(table, by="Metadata_Compound")["Metadata_Batch"].tolist() == [["b", "a"]]


def test_profiles_of_profiles_list_all_plates_and_batches():
    """Two steps by way of (compound, dose) list what one step lists."""
    rows = [("c", 1, "P1", "A"), ("c", 1, "P2", "B"), ("c", 2, "P3", "A"), ("d", 1, "P1", "A")]
    names = ["Metadata_Compound", "Metadata_Concentration", "Metadata_Plate", "Metadata_Batch"]
    sites = pd.DataFrame(rows, columns=names).assign(x=1.0)
    one = aggregate(sites, by="Metadata_Compound")
    two = aggregate(aggregate(sites), by="Metadata_Compound")
    assert one["Metadata_Plate"].tolist() == [["P1", "P2", "P3"], ["P1"]]
    assert one["Metadata_Batch"].tolist() == [["A", "B", "A"], ["A"]]
    pd.testing.assert_frame_equal(one, two)


def test_a_plate_is_a_plate_within_its_batch():
    """The median over three plates, two of which share a name."""
    sites = pd.DataFrame(
        {
            "Metadata_Compound": "c",
            "Metadata_Concentration": 1.0,
            "Metadata_Plate": ["P1", "P1", "P1", "P2"],
            "Metadata_Batch": ["A", "A", "B", "B"],
            "x": [1.0, 3.0, 10.0, 4.0],
        }
    )
    (profile,) = aggregate_treatments(sites).to_dict("records")
    assert profile["x"] == statistics.median([2.0, 10.0, 4.0])
    assert profile["Metadata_Plate"] == ["P1", "P1", "P2"]
    assert profile["Metadata_Batch"] == ["A", "B", "B"]
    centred, _ = normalise(sites.assign(Metadata_Control=True), method="plate_controls")
    assert centred["x"].iloc[2:].tolist() == [0.0, 0.0]


def test_batches_that_are_not_known_keep_their_place():
    sites = pd.DataFrame(
        {
            "Metadata_Compound": ["c", "c", "c", "d"],
            "Metadata_Plate": ["P1", "P2", "P3", "P4"],
            "Metadata_Batch": ["A", None, "B", None],
            "x": 1.0,
        }
    )
    profiles = aggregate(sites, by="Metadata_Compound")
    assert profiles["Metadata_Batch"].tolist() == [["A", None, "B"], None]
    assert profiles["Metadata_Plate"].tolist() == [["P1", "P2", "P3"], ["P4"]]


def test_wells_and_sites_are_left_out_even_where_there_is_one():
    sites = pd.DataFrame(
        {
            "Metadata_Compound": ["c", "d"],
            "Metadata_Plate": "P1",
            "Metadata_Well": ["B02", "B03"],
            "Metadata_Site": 1,
            "x": 1.0,
        }
    )
    treatments = aggregate(sites, by="Metadata_Compound")
    assert list(treatments) == ["Metadata_Compound", "Metadata_Plate", "x"]
    wells = aggregate(sites, by=["Metadata_Plate", "Metadata_Well"])
    assert wells["Metadata_Plate"].tolist() == ["P1", "P1"], "wells keep text"
    assert "Metadata_Well" in wells


def test_what_can_not_be_aggregated_is_named(sites):
    with pytest.raises(TableError, match="'max'; expected one of mean, median"):
        aggregate(sites, method="max")
    with pytest.raises(TableError, match="needs the column Metadata_Dose"):
        aggregate(sites, by="Metadata_Dose")
    with pytest.raises(TableError, match="aggregation published needs the column Metadata_Plate"):
        aggregate_treatments(sites.drop(columns="Metadata_Plate"))
    odd = pd.DataFrame({"Metadata_Compound": ["c", "c"], "x": 1.0})
    odd["Metadata_Plate"] = [["a", "b"], ["d"]]
    odd["Metadata_Batch"] = [["1", "2", "3"], ["4"]]
    with pytest.raises(TableError, match=r"\['1', '2', '3'\] don't fit together"):
        aggregate(odd, by="Metadata_Compound")
    with pytest.raises(TableError, match="aggregating needs one Metadata_Plate in each row"):
        aggregate(odd, by=["Metadata_Compound", "Metadata_Plate"])


@pytest.mark.parametrize("aggregation", ["published", "mean", "median"])
def test_make_profiles_normalises_then_aggregates(sites, tmp_path, aggregation):
    profiles = make_profiles(sites, aggregation=aggregation, num_components=3)
    normalised, info = normalise(sites, num_components=3)
    expected = (
        aggregate_treatments(normalised)
        if aggregation == "published"
        else aggregate(normalised, method=aggregation)
    )
    pd.testing.assert_frame_equal(profiles, expected)
    write_table(profiles, tmp_path / "p.parquet")
    made = read_table(tmp_path / "p.parquet").attrs["wsdino"]
    assert made == {"normalisation": info, "aggregation": aggregation}


def test_make_profiles_names_what_is_wrong(sites):
    with pytest.raises(TableError, match="'max'; expected one of published"):
        make_profiles(sites, aggregation="max")
    with pytest.raises(TableError, match="making profiles needs the column Metadata_Compound"):
        make_profiles(sites.drop(columns="Metadata_Compound"))
    with pytest.raises(TableError, match="making profiles needs one Metadata_Plate in each row"):
        make_profiles(make_profiles(sites, normalisation="none"))
