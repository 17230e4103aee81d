"""Whitening by weak label as one of the named normalisations, on tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from helpers_tables import synthetic_design, with_features
from wsdino.errors import TableError
from wsdino.evaluate.held_out import held_out_of
from wsdino.evaluate.results import evaluate, evaluate_sites
from wsdino.profile import weak_label_method
from wsdino.profile.aggregate import make_profiles
from wsdino.profile.fitted import load_normalisation
from wsdino.profile.labels import label_names
from wsdino.profile.normalise import fit_normalisation, normalise
from wsdino.profile.weak_label import fit_weak_label
from wsdino.tables.features import feature_columns, features_of


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    design = synthetic_design(
        num_treatments=36, num_compounds=18, num_moas=6, num_batches=4, num_plates=2, num_sites=2
    )
    return with_features(design, signal=0.4)


def column(table: pd.DataFrame, name: str) -> np.ndarray:
    return table[f"Metadata_{name}"].to_numpy()


@pytest.mark.parametrize("ridge", ["auto", 0.05])
def test_a_table_is_whitened_as_its_arrays_are(table, ridge):
    result, info = normalise(table, method="weak_label", regularisation=ridge)
    arrays = {"controls": column(table, "Control"), "plates": column(table, "Plate")}
    whitening = fit_weak_label(features_of(table), column(table, "Compound"), ridge=ridge, **arrays)
    np.testing.assert_allclose(
        features_of(result), whitening.transform(features_of(table), **arrays), atol=1e-12
    )
    assert feature_columns(result) == feature_columns(table)
    assert info["note"] == f"weak labels (compound) were used; {whitening.describe()}"
    assert (info["num_fitted"], info["num_components"]) == (len(table), 12)
    assert info["options"] == {"label": "compound", "regularisation": ridge, "per_channel": False}


def test_the_label_is_any_column_and_a_treatment_is_compound_and_dose(table):
    arrays = {"controls": column(table, "Control"), "plates": column(table, "Plate")}
    pairs = zip(column(table, "Compound"), column(table, "Concentration"), strict=True)
    by_hand = {"treatment": [f"{c} {d}" for c, d in pairs], "Well": column(table, "Well")}
    for label, names in by_hand.items():
        given = {"label": label, "regularisation": 0.05}
        result, info = normalise(table, method="weak_label", **given)
        whitening = fit_weak_label(features_of(table), np.array(names), ridge=0.05, **arrays)
        np.testing.assert_allclose(
            features_of(result), whitening.transform(features_of(table), **arrays), atol=1e-12
        )
        assert info["note"].startswith(f"weak labels ({label}) were used; ")
    assert not np.allclose(
        features_of(result), features_of(normalise(table, method="weak_label")[0])
    )


def test_rows_without_a_label_are_whitened_and_not_fitted(table):
    blank = table["Metadata_Compound"].isin(["c03", "c11"])
    bare = table.assign(Metadata_Compound=table["Metadata_Compound"].where(~blank))
    fitted = fit_normalisation(bare, method="weak_label", regularisation=0.05)
    without = fit_normalisation(table[~blank], method="weak_label", regularisation=0.05)
    assert fitted.info["num_fitted"] == (~blank).sum()
    np.testing.assert_allclose(
        features_of(fitted.transform(table)), features_of(without.transform(table)), atol=1e-12
    )


def test_of_very_many_rows_some_labels_are_fitted_on_and_said(table, monkeypatch):
    control, compound = column(table, "Control"), column(table, "Compound")
    num_treated = int((~control).sum())
    monkeypatch.setattr(weak_label_method, "MAX_LABELLED", num_treated)
    assert "drawn with seed" not in normalise(table, method="weak_label")[1]["note"]
    monkeypatch.setattr(weak_label_method, "MAX_LABELLED", num_treated // 2)
    result, info = normalise(table, method="weak_label", regularisation=0.1)
    # As many labels, in an order that is drawn, as there is room for.
    names, sizes = np.unique(compound[~control], return_counts=True)
    order = np.random.default_rng(0).permutation(len(names))
    num = int((np.cumsum(sizes[order]) <= num_treated // 2).sum())
    chosen, rows = names[order[:num]], int(sizes[order[:num]].sum())
    assert 2 < num < len(names)
    assert (
        f"fitted on {num} of {len(names)} labels, {rows} of {num_treated} rows, drawn with seed 0, "
        "and on all controls"
    ) in info["note"]
    assert info["num_fitted"] == rows + control.sum()
    again = normalise(table, method="weak_label", regularisation=0.1)[0]
    pd.testing.assert_frame_equal(result, again)
    # A fit on these alone is the same whitening of all rows.
    part = table[control | np.isin(compound, chosen)]
    alone = fit_normalisation(part, method="weak_label", regularisation=0.1).transform(table)
    pd.testing.assert_frame_equal(result, alone)


def test_each_channel_can_be_whitened_alone(table):
    together, _ = normalise(table, method="weak_label", regularisation=0.05)
    alone, info = normalise(table, method="weak_label", regularisation=0.05, per_channel=True)
    assert "2 blocks of features, each whitened on its own" in info["note"]
    one = table.drop(columns=[name for name in table if name.startswith("emb_Actin_")])
    dapi, _ = normalise(one, method="weak_label", regularisation=0.05)
    names = feature_columns(one)
    np.testing.assert_allclose(alone[names], dapi[names], atol=1e-12)
    assert not np.allclose(together[names], alone[names])


def test_the_order_of_rows_does_not_matter(table):
    shuffled = table.sample(frac=1, random_state=0)
    one, two = (normalise(rows, method="weak_label")[0] for rows in (table, shuffled))
    names = feature_columns(one)
    np.testing.assert_allclose(one.loc[shuffled.index, names], two[names], atol=1e-9)


def test_new_plates_are_centred_on_their_own_controls(table, tmp_path):
    new = column(table, "Batch") == "W3"
    fit_normalisation(table[~new], method="weak_label").save(tmp_path / "fit.npz")
    fitted = load_normalisation(tmp_path / "fit.npz")
    shifted = table[new].copy()
    shifted[feature_columns(table)] += 7
    one, two = fitted.transform(table[new]), fitted.transform(shifted)
    np.testing.assert_allclose(features_of(one), features_of(two), atol=1e-4)
    with pytest.raises(TableError, match="weak_label needs at least 1 control row on every plate"):
        fitted.transform(table[new & ~column(table, "Control")])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns="Metadata_Plate"), "needs the column Metadata_Plate"),
        (lambda t: t.assign(Metadata_Plate=None), "Metadata_Plate is missing in 204 of 204"),
        (lambda t: t[~t["Metadata_Control"]], "plate W0_0 has 0"),
    ],
)
def test_where_plates_can_not_be_centred_it_is_said(table, change, words):
    result, info = normalise(change(table), method="weak_label", regularisation=0.05)
    assert "plates not centred on their controls: that needs " in info["note"]
    assert words in info["note"]
    assert np.isfinite(features_of(result)).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label": "Shape"}, "needs the column Metadata_Shape for label 'Shape'"),
        ({"label": "Row"}, "needs rows that share a label"),
        ({"regularisation": -1.0}, "ridge is -1.0; expected auto or a number of at least 0"),
        ({"regularisation": "big"}, "ridge is 'big'; expected auto or a number of at least 0"),
        ({"num_components": 3}, "num_components 3 has no effect with normalisation weak_label"),
    ],
)
def test_what_can_not_be_done_is_named(table, options, words):
    numbered = table.assign(Metadata_Row=[str(row) for row in range(len(table))])
    with pytest.raises(TableError, match=words):
        normalise(numbered, method="weak_label", **options)


def test_auto_is_refused_where_nothing_chooses(table):
    with pytest.raises(TableError, match="regularisation 'auto' is unknown to normalisation tvn"):
        normalise(table, method="tvn", regularisation="auto")


def test_labels_as_text():
    table = pd.DataFrame(
        {
            "Metadata_Compound": ["a", "a", None, "DMSO"],
            "Metadata_Concentration": [1.0, np.nan, 1.0, np.nan],
        }
    )
    assert label_names(table, "compound").tolist() == ["a", "a", None, "DMSO"]
    one, two, three, four = label_names(table, "treatment")
    assert len({one, two, four}) == 3
    assert three is None


def test_without_enough_compounds_the_number_is_missing_with_its_reason(table):
    two = table[table["Metadata_Control"] | table["Metadata_Compound"].isin(["c00", "c06"])]
    found = held_out_of(two, normalisation="weak_label", num_seeds=1)
    assert set(found) == {"note"}
    assert "needs two labels or more, found 1 for label 'compound'" in found["note"]


def test_held_out_numbers_are_those_of_fits_without_the_compounds(table):
    """Labels that are noise help those that were fitted alone."""
    rng = np.random.default_rng(0)
    noise = pd.DataFrame(rng.normal(size=(len(table), 150)), index=table.index)
    random = pd.concat([table.filter(regex="^Metadata_"), noise.add_prefix("emb_x_")], axis=1)
    results = evaluate_sites(
        random, normalisation="weak_label", label="MoA", regularisation=0.003, num_permutations=0
    )
    assert results["nsc"] > 0.6
    assert results["held_out"]["nsc"] < 0.35


def test_the_real_fields_are_solved_by_classical_statistics_whitened_by_weak_label(
    real_statistics,
):
    profiles = make_profiles(real_statistics, normalisation="weak_label")
    results = evaluate(profiles, num_permutations=0)
    assert (results["nsc_correct"], results["nsc_total"]) == (55, 55)
    assert (results["nscb_correct"], results["nscb_total"]) == (49, 49)
    assert results["map"] > 0.99
    held_out = held_out_of(real_statistics, normalisation="weak_label", num_seeds=1)
    assert held_out["nsc"] == held_out["nscb"] == 1
