"""Several tables of the same sites or wells as one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from helpers_tables import synthetic_design, with_features
from wsdino.errors import TableError
from wsdino.profile.normalise import fit_normalisation, normalise
from wsdino.profile.whitening import fit_tvn
from wsdino.tables.features import feature_columns, features_of
from wsdino.tables.joining import join_tables
from wsdino.tables.reading import read_table

NAMES = ["one.csv", "two.csv"]


@pytest.fixture(scope="module")
def one() -> pd.DataFrame:
    return with_features(synthetic_design(num_treatments=20, num_compounds=10, num_batches=3))


@pytest.fixture(scope="module")
def two(one: pd.DataFrame) -> pd.DataFrame:
    """Other features of the same sites, some by the same names, in another order of rows."""
    other = with_features(one.filter(regex="^Metadata_"), num_features=6, seed=1)
    return other.sample(frac=1, random_state=0)


def join(*tables: pd.DataFrame) -> pd.DataFrame:
    return join_tables(tables, names=NAMES[: len(tables)])


def test_rows_meet_by_identity_and_features_by_number(one, two):
    joined = join(one, two)
    assert len(feature_columns(joined)) == 18
    metadata = one.filter(regex="^Metadata_")
    pd.testing.assert_frame_equal(joined[metadata.columns], metadata)
    for number, table in ((1, one), (2, two.sort_index())):
        names = feature_columns(table)
        found = joined[[f"table{number}_{name}" for name in names]]
        np.testing.assert_array_equal(found, table[names])
    pd.testing.assert_frame_equal(join(one), one)


def test_they_are_whitened_together_each_table_brought_to_the_same_deviation(one, two):
    joined = join(one, two)
    block = np.hstack([features_of(one), features_of(two.sort_index())])
    controls = block[one["Metadata_Control"]]
    units = controls.std(axis=0)
    # Each embedding keeps its own ratios.
    for columns in (slice(12), slice(12, 18)):
        units[columns] = np.sqrt((units[columns] ** 2).mean())
    scaled = controls / units
    for columns in (slice(12), slice(12, 18)):
        assert np.mean((scaled - scaled.mean(axis=0))[:, columns] ** 2) == pytest.approx(1)
    expected = fit_tvn(scaled, regularisation=0.1).transform(block / units)
    result, info = normalise(joined, method="tvn", regularisation=0.1)
    np.testing.assert_allclose(features_of(result), expected, rtol=1e-8, atol=1e-10)
    assert info["note"].startswith("features of one.csv and two.csv together; ")


@pytest.mark.parametrize("method", ["tvn", "whiten_all", "weak_label", "plate_controls"])
def test_the_units_of_a_table_do_not_matter(one, two, method):
    names = feature_columns(two)
    loud = two.assign(**(1000 * two[names].astype(np.float64)))
    results = (features_of(normalise(join(one, b), method=method)[0]) for b in (two, loud))
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)


def test_what_leaves_units_alone_is_refused(one, two):
    with pytest.raises(TableError, match=r"none leaves the features of one\.csv and two\.csv in"):
        normalise(join(one, two), method="none")


def test_what_was_fitted_serves_other_tables_in_the_same_order(one, two):
    new = one["Metadata_Batch"] == "W2"
    other = two["Metadata_Batch"] == "W2"
    fitted = fit_normalisation(join(one[~new], two[~other]), method="weak_label")
    white = fitted.transform(join(one[new], two[other]))
    whole = fitted.transform(join(one, two))
    np.testing.assert_allclose(
        features_of(white), features_of(whole[new.to_numpy()]), rtol=1e-6, atol=1e-8
    )
    with pytest.raises(TableError, match="was fitted on other features: table1_emb_DAPI_3 is miss"):
        fitted.transform(join(two[other], one[new]))


def test_wells_lend_their_features_to_their_sites(one, two):
    per_well = ["Metadata_Plate", "Metadata_Well"]
    names = feature_columns(two)
    wells = two.groupby(per_well, as_index=False, sort=False)[names].mean()
    for tables, number in (((one, wells), 2), ((wells, one), 1)):
        joined = join(*tables)
        assert len(joined) == len(one)
        merged = joined[per_well].merge(wells, on=per_well)
        found = joined[[f"table{number}_{name}" for name in names]]
        np.testing.assert_array_equal(found, merged[names])
    assert set(joined["Metadata_Site"]) == set(one["Metadata_Site"])
    assert joined["Metadata_Compound"].notna().all()


def test_the_other_table_completes_the_metadata(one, two):
    bare = one.drop(columns=["Metadata_MoA", "Metadata_Compound"])
    joined = join(bare, two)
    for name in ("Metadata_MoA", "Metadata_Compound"):
        assert joined[name].where(joined[name].notna(), None).tolist() == one[name].tolist()


def test_rows_of_one_table_alone_are_left_out_and_said(one, two, capsys):
    joined = join(one.iloc[4:], two)
    assert len(joined) == len(one) - 4
    assert (
        "two.csv: 4 of 372 rows are not in the other table and left out" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda t: t.drop(columns="Metadata_Well"),
            "two.csv: joining tables needs the column Meta",
        ),
        (lambda t: t.assign(Metadata_Plate=None), "two.csv: Metadata_Plate is missing in"),
        (lambda t: t.assign(Metadata_Plate="p"), "have no row in common"),
        (
            lambda t: t.drop(columns="Metadata_Site"),
            r"several rows for the same place \(in two.csv plate W\d_\d, well .*Metadata_Site",
        ),
        (
            lambda t: t.assign(Metadata_Compound="x"),
            r"Metadata_Compound of plate W0_0, well B02 is c00 in one.csv and x in two.csv",
        ),
        (
            lambda t: t.assign(Metadata_Concentration=t["Metadata_Concentration"] + 1),
            "Metadata_Concentration of plate W0_0, well B02 is 0.1 in one.csv and 1.1 in two.csv",
        ),
    ],
)
def test_what_can_not_be_joined_is_named(one, two, change, words):
    with pytest.raises(TableError, match=words):
        join(one, change(two))


def test_a_table_without_the_dose_that_another_is_merged_with_agrees(one):
    """20 stands for 19.9998 in one table; the other has the latter alone."""
    is_part = one["Metadata_Batch"] == "W0"
    dose = np.where(is_part, 19.9998446614006889, 20.0)
    table = one.assign(Metadata_Concentration=dose, Metadata_Compound="x")
    whole, part = read_table(table), read_table(table[is_part].reset_index(drop=True))
    assert set(whole["Metadata_Concentration"]) == {20.0}
    assert set(part["Metadata_Concentration"]) == {19.9998446614006889}
    assert set(join(whole, part)["Metadata_Concentration"]) == {20.0}
    assert len(join(whole, part)) == len(part)
    tiny = [part.assign(Metadata_Concentration=dose) for dose in (1e-9, 3e-9)]
    with pytest.raises(TableError, match=r"is 1e-09 in one\.csv and 3e-09 in two\.csv"):
        join(*tiny)
