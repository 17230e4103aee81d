from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from helpers_tables import synthetic_design, with_features
from wsdino.errors import TableError
from wsdino.profile.methods import normalisation_names
from wsdino.profile.normalise import normalise
from wsdino.profile.whitening import fit_tvn
from wsdino.tables.features import feature_columns, features_of, metadata_of
from wsdino.tables.joining import join_tables

RNG = np.random.default_rng(0)


def uncentred(num: int, num_features: int, *, rank: int | None = None) -> np.ndarray:
    """Correlated rows, far from the origin."""
    rank = rank or num_features
    mixing = RNG.normal(size=(rank, num_features)) * np.geomspace(1, 10, num_features)
    return RNG.normal(size=(num, rank)) @ mixing + 20


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return with_features(synthetic_design(num_treatments=40, num_compounds=20, num_batches=4))


def test_tvn_leaves_identity_covariance_on_uncentred_controls():
    controls = uncentred(300, 20)
    tvn = fit_tvn(controls)
    white = tvn.transform(controls)
    assert (tvn.rank, tvn.num_fitted, white.shape) == (20, 300, (300, 20))
    np.testing.assert_allclose(np.cov(white.T), np.eye(20), atol=1e-9)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-9)


@given(
    num=st.integers(2, 30), num_features=st.integers(1, 30), rank=st.integers(1, 30), k=st.none()
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_tvn_is_limited_by_rank(num, num_features, rank, k):
    rank = min(rank, num_features)
    # Seeded by the example: a random square matrix is now and then nearly singular.
    rng = np.random.default_rng([num, num_features, rank])
    mixing = rng.normal(size=(rank, num_features))
    controls = rng.normal(size=(num, rank)) @ mixing + 20
    tvn = fit_tvn(controls, num_components=k)
    assert tvn.rank == min(rank, num - 1)
    white = tvn.transform(controls)
    np.testing.assert_allclose(np.atleast_2d(np.cov(white.T)), np.eye(tvn.rank), atol=1e-5)


def test_tvn_equals_scikit_learn_up_to_the_sign_of_axes():
    controls, others = uncentred(100, 12), uncentred(30, 12)
    ours = fit_tvn(controls, num_components=7).transform(others)
    theirs = PCA(n_components=7, whiten=True).fit(controls).transform(others)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), rtol=1e-7, atol=1e-9)


def test_tvn_does_not_whiten_rounding():
    controls = uncentred(200, 10)
    copied = np.concatenate([controls, controls * 3 + 1], axis=1).astype(np.float32)
    assert fit_tvn(copied).rank == 10


def test_regularisation_shrinks_narrow_axes_most():
    controls = uncentred(100, 8)
    plain, shrunk = fit_tvn(controls), fit_tvn(controls, regularisation=0.5)
    variance = shrunk.transform(controls).var(axis=0, ddof=1)
    expected = plain.eigenvalues / (plain.eigenvalues + 0.5 * plain.eigenvalues.mean())
    np.testing.assert_allclose(variance, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("controls", "options", "words"),
    [
        (np.ones((1, 3)), {}, "at least 2 rows"),
        (np.ones((5, 0)), {}, "1 feature"),
        (np.full((5, 3), 7.1), {}, "every feature is constant"),
        (np.array([[1.0, np.nan], [1, 2]]), {}, "finite"),
        (np.array([[1.0, -1e200], [1, 2]]), {}, "finite features of at most 1e.150"),
        (uncentred(9, 3), {"num_components": 0}, "num_components is 0"),
        (uncentred(9, 3), {"regularisation": -1}, "regularisation is -1"),
    ],
)
def test_what_can_not_be_whitened_is_named(controls, options, words):
    with pytest.raises(TableError, match=words):
        fit_tvn(controls, **options)


def test_another_number_of_features_is_named():
    with pytest.raises(TableError, match=r"\(4, 2\) can't be whitened; expected \(rows, 3\)"):
        fit_tvn(uncentred(9, 3)).transform(np.ones((4, 2)))


@pytest.mark.parametrize("per_channel", [True, False])
def test_tvn_of_a_table_whitens_controls_per_channel(table, per_channel):
    result, info = normalise(table, per_channel=per_channel)
    controls = table["Metadata_Control"].to_numpy()
    covariance = np.cov(features_of(result)[controls].T)
    blocks = [slice(0, 6), slice(6, 12)] if per_channel else [slice(0, 12)]
    for block in blocks:
        size = block.stop - block.start
        np.testing.assert_allclose(covariance[block, block], np.eye(size), atol=1e-4)
    assert (np.abs(covariance[:6, 6:]).max() > 0.1) == per_channel
    pd.testing.assert_frame_equal(metadata_of(result), metadata_of(table))
    assert (info["method"], info["fitted_on"], info["num_fitted"]) == ("tvn", "controls", 144)
    assert info["num_components"] == 12
    assert ("per channel (DAPI, Actin)" in info["note"]) == per_channel
    if per_channel:
        assert feature_columns(result) == feature_columns(table)


def test_num_components_counts_per_channel(table):
    result, info = normalise(table, num_components=2)
    assert feature_columns(result) == ["emb_DAPI_0", "emb_DAPI_1", "emb_Actin_0", "emb_Actin_1"]
    assert info["num_components"] == 4


def test_fewer_components_than_asked_for_are_said(table):
    few = table[table["Metadata_Control"]].head(4)
    result, info = normalise(few, per_channel=False)
    assert len(feature_columns(result)) == 3
    assert "3 components instead of 12: the 4 rows fitted on" in info["note"]
    assert info["warning"].startswith(
        "The whitening was fitted on 4 rows of controls for 12 features: "
    )


def test_whitening_on_all_is_regularised_unless_told(table):
    result, info = normalise(table, method="whiten_all", regularisation=0)
    np.testing.assert_allclose(np.cov(features_of(result)[:, :6].T), np.eye(6), atol=1e-4)
    assert (info["fitted_on"], info["num_fitted"]) == ("all rows", len(table))
    shrunk, info = normalise(table, method="whiten_all")
    assert (features_of(shrunk).var(axis=0) < features_of(result).var(axis=0)).all()
    assert "regularisation 0.1" in info["note"]


def test_features_with_units_of_their_own_are_whitened_alike(table):
    names = {name: name.replace("emb_", "Cells_") for name in feature_columns(table)}
    foreign = table.rename(columns=names)
    scaled = foreign.copy()
    scaled["Cells_DAPI_0"] *= 1e6
    one, two = (features_of(normalise(t, num_components=5)[0]) for t in (foreign, scaled))
    np.testing.assert_allclose(np.abs(one), np.abs(two), rtol=1e-3, atol=1e-3)
    assert feature_columns(normalise(foreign)[0])[0] == "white_0"


def test_an_embedding_among_joined_tables_keeps_its_own_ratios(table):
    quiet = table.copy()
    # Hardly varies among the controls, as features of photographs do: not to be blown up.
    quiet.loc[quiet["Metadata_Control"], "emb_DAPI_0"] *= 1e-3
    joined = join_tables(
        [quiet, table.rename(columns=lambda n: n.replace("emb_", "Cells_"))], names="ab"
    )
    names = feature_columns(joined)
    is_embedding = np.array([name.startswith("table1_emb_") for name in names])
    features, control = (
        features_of(joined).astype(np.float64),
        joined["Metadata_Control"].to_numpy(),
    )
    deviation = features[control].std(axis=0)
    units = np.where(is_embedding, np.sqrt((deviation[is_embedding] ** 2).mean()), deviation)
    expected = fit_tvn(features[control] / units, regularisation=0.1).transform(features / units)
    result = features_of(normalise(joined, regularisation=0.1)[0])
    np.testing.assert_allclose(result @ result.T, expected @ expected.T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_controls", [5, 8, 40])
def test_whitening_with_a_ridge_is_that_of_the_whole_covariance(num_controls):
    rng = np.random.default_rng(num_controls)
    rows = rng.normal(size=(30, 9)) @ rng.normal(size=(9, 9)) + 3
    controls = rng.normal(size=(num_controls, 9)) * np.arange(1, 10)
    covariance = np.cov(controls.T)
    values, axes = np.linalg.eigh(covariance)
    ridge = 0.2 * values.sum() / min(num_controls - 1, 9)
    whitening = axes @ np.diag((np.maximum(values, 0) + ridge) ** -0.5) @ axes.T
    expected = (rows - controls.mean(axis=0)) @ whitening
    result = fit_tvn(controls, regularisation=0.2).transform(rows)
    # The whitening is unique but for a rotation, which changes no angle and no length.
    np.testing.assert_allclose(result @ result.T, expected @ expected.T, rtol=1e-8, atol=1e-8)


def test_what_many_rows_do_not_vary_in_is_left_out():
    """As of features that a layer norm has centred, whose sum is always the same."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 6)) * np.arange(1, 7)
    rows -= rows.mean(axis=1, keepdims=True)
    found = fit_tvn(rows, regularisation=0.1)
    assert found.projection.shape == (6, 5)
    covariance = np.cov(found.transform(rows).T)
    # Along the rows' own axes, each shrunk by what was added to its variance.
    expected = found.eigenvalues / (found.eigenvalues + 0.1 * found.eigenvalues.mean())
    np.testing.assert_allclose(covariance, np.diag(expected), atol=1e-10)


def test_an_embedding_of_another_tool_keeps_its_own_ratios():
    """Numbered features share a unit: one that hardly varies isn't blown up to the others."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(60, 40)) * np.geomspace(1e-3, 10, 40)
    table = pd.DataFrame(rows, columns=[f"feature_{i}" for i in range(40)])
    table.insert(0, "Metadata_Control", np.arange(60) < 20)
    ours = table.rename(columns=lambda name: name.replace("feature", "emb_DAPI"))
    options = {"regularisation": 0.1}
    found, expected = (features_of(normalise(each, **options)[0]) for each in (table, ours))
    # But for one factor, which takes nothing from the angles.
    similar = [x @ x.T / np.trace(x @ x.T) for x in (found, expected)]
    np.testing.assert_allclose(*similar, rtol=1e-6, atol=1e-12)
    note = normalise(table, **options)[1]["note"]
    assert "40 features are taken for 1 embedding by their names: of one unit" in note
    apart = table.rename(columns=lambda name: name.replace("feature_7", "Area"))
    with_units = features_of(normalise(apart, **options)[0])
    assert not np.allclose(with_units @ with_units.T, found @ found.T, rtol=0.1)


def test_few_controls_are_warned_of_by_what_is_lost(table):
    few = pd.concat([table[table["Metadata_Control"]].head(4), table[~table["Metadata_Control"]]])
    exact, shrunk = (
        normalise(few, per_channel=False, regularisation=each)[1] for each in (0, 0.01)
    )
    assert "are lost" in exact["warning"]
    assert "such as 0.01, which keeps them" in exact["warning"]
    assert "known only in part" in shrunk["warning"]
    assert "lost" not in shrunk["warning"]
    assert (exact["num_components"], shrunk["num_components"]) == (3, 12)
    few_rows = normalise(table.head(8), method="whiten_all", per_channel=False)[1]
    assert "8 rows for 12 features: so few rows become nearly equally far" in few_rows["warning"]
    truncated = normalise(few, per_channel=False, regularisation=0.01, num_components=3)[1]
    assert truncated["num_components"] == 3
    assert "are lost" in truncated["warning"]


def test_plate_standardises_on_each_plate_s_controls(table):
    result, info = normalise(table, method="plate")
    names = feature_columns(table)
    for _, rows in table.groupby("Metadata_Plate"):
        own = rows.loc[rows["Metadata_Control"], names].astype(np.float64)
        expected = (rows[names] - own.mean()) / own.std(ddof=0)
        np.testing.assert_allclose(result.loc[rows.index, names], expected, rtol=1e-6)
    assert (info["fitted_on"], info["note"]) == ("controls of each plate", "")


def test_plate_falls_back_to_all_rows_and_says_so(table):
    treated = table[~table["Metadata_Control"]].reset_index(drop=True)
    result, info = normalise(treated, method="plate")
    grouped = result.groupby("Metadata_Plate")[feature_columns(table)]
    np.testing.assert_allclose(grouped.mean(), 0, atol=1e-9)
    np.testing.assert_allclose(grouped.std(ddof=0), 1, atol=1e-9)
    assert info["fitted_on"] == "all rows of each plate"
    assert "not every plate has two controls" in info["note"]


def test_plate_controls_pools_one_deviation(table):
    result, info = normalise(table, method="plate_controls")
    names, controls = feature_columns(table), table["Metadata_Control"]
    means = table[controls].groupby("Metadata_Plate")[names].mean().astype(np.float64)
    centred = table[names] - means.loc[table["Metadata_Plate"]].to_numpy()
    expected = centred / centred[controls].std(ddof=0)
    np.testing.assert_allclose(result[names], expected, rtol=1e-4, atol=1e-4)
    assert info["num_fitted"] == controls.sum()


def test_standardise_all_and_none(table):
    names = feature_columns(table)
    result, info = normalise(table, method="standardise_all")
    expected = (features_of(table) - features_of(table).mean(0)) / features_of(table).std(0)
    np.testing.assert_allclose(features_of(result), expected, rtol=1e-9)
    assert info["fitted_on"] == "all rows"
    np.testing.assert_array_equal(
        normalise(table, method="none")[0][names].to_numpy(), features_of(table)
    )


@pytest.mark.parametrize("method", ["plate", "plate_controls", "standardise_all"])
def test_constant_features_are_dropped_and_counted(table, method):
    result, info = normalise(table.assign(emb_DAPI_0=np.float32(3.3)), method=method)
    assert "emb_DAPI_0" not in result
    assert "1 of 12 features are constant there and were dropped" in info["note"]
    assert np.isfinite(features_of(result)).all()
    constant = table.assign(**dict.fromkeys(feature_columns(table), 0.1))
    with pytest.raises(TableError, match="every feature is constant"):
        normalise(constant, method=method)


@pytest.mark.parametrize("method", ["tvn", "plate_controls"])
def test_without_controls_the_alternatives_are_named(table, method):
    words = r"Metadata_Control true\), found .*use one of whiten_all, weak_label, plate, standard"
    for bare in (table.assign(Metadata_Control=False), table.drop(columns="Metadata_Control")):
        with pytest.raises(TableError, match=words):
            normalise(bare, method=method)


def test_plates_without_what_a_method_needs_are_named(table):
    controls = table["Metadata_Control"] & (table["Metadata_Plate"] != "W0_1")
    with pytest.raises(TableError, match="at least 1 control row on every plate, plate W0_1 has 0"):
        normalise(table.assign(Metadata_Control=controls), method="plate_controls")
    lonely = table.assign(Metadata_Plate=["lonely", *table["Metadata_Plate"][1:]])
    with pytest.raises(TableError, match="at least 2 rows on every plate, plate lonely has 1"):
        normalise(lonely, method="plate")
    with pytest.raises(TableError, match="Metadata_Plate is missing in 1 of"):
        normalise(table.assign(Metadata_Plate=[None, *table["Metadata_Plate"][1:]]), method="plate")
    with pytest.raises(TableError, match="needs the column Metadata_Plate"):
        normalise(table.drop(columns="Metadata_Plate"), method="plate")


def test_an_unknown_method_is_named(table):
    with pytest.raises(TableError, match="'zscore'; expected one of tvn"):
        normalise(table, method="zscore")


@pytest.mark.parametrize("method", normalisation_names())
def test_labels_never_enter(table, method):
    shuffled = table.assign(Metadata_Site=RNG.permutation(len(table)) * 1000)
    one, two = (features_of(normalise(t, method=method)[0]) for t in (table, shuffled))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("method", [name for name in normalisation_names() if name != "none"])
def test_a_feature_s_unit_changes_nothing_unless_it_is_refused(table, method):
    names = feature_columns(table)[:5]
    renamed = dict(zip(names, ("Cells_p", "Cells_q", "Cells_r", "Cells_s", "Cells_t"), strict=True))
    features = table[names].rename(columns=renamed).astype(np.float64)
    plain = pd.concat([metadata_of(table), features], axis=1)
    expected, _ = normalise(plain, method=method)
    for unit in (1e148, 1e-140):
        found, _ = normalise(plain.assign(Cells_q=plain["Cells_q"] * unit), method=method)
        np.testing.assert_allclose(
            np.abs(features_of(found)), np.abs(features_of(expected)), rtol=1e-6, atol=1e-9
        )
    for unit in (1e200, 1e-200):
        with pytest.raises(TableError, match="feature Cells_q has magnitudes of up to"):
            normalise(plain.assign(Cells_q=plain["Cells_q"] * unit), method=method)


def many_rows(num: int = 40_000) -> pd.DataFrame:
    """More rows than are worked on at a time; plates in an order of their own."""
    generator = np.random.default_rng(5)
    mixing = generator.normal(size=(5, 5))
    features = (7 + generator.normal(size=(num, 5)) @ mixing).astype(np.float32)
    metadata = pd.DataFrame(
        {
            "Metadata_Plate": generator.choice([f"P{plate}" for plate in range(40)], num),
            "Metadata_Control": generator.random(num) < 0.5,
        }
    )
    return pd.concat([metadata, pd.DataFrame(features).add_prefix("x")], axis=1)


@pytest.mark.parametrize("method", ["tvn", "whiten_all"])
def test_a_whitening_of_many_rows_is_that_of_all_at_once(method):
    table = many_rows()
    result, info = normalise(table, method=method, regularisation=0)
    features = features_of(table)
    fitted = features[table["Metadata_Control"]] if method == "tvn" else features
    scaled = fitted / fitted.std(axis=0)
    assert info["num_fitted"] == len(fitted) > 16_384
    _, singular, axes = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)
    axes *= np.sign(axes[np.arange(5), np.abs(axes).argmax(axis=1)])[:, None]
    white = (features / fitted.std(axis=0) - scaled.mean(axis=0)) @ (axes.T / singular)
    expected = white * np.sqrt(len(fitted) - 1)
    np.testing.assert_allclose(features_of(result), expected, rtol=0, atol=1e-9)


def test_what_is_made_plate_by_plate_is_what_pandas_makes():
    table = many_rows()
    names, plates = feature_columns(table), table["Metadata_Plate"]
    features = table[names].astype(np.float64)
    controls = features[table["Metadata_Control"]].groupby(plates)
    mean, deviation = controls.mean().loc[plates], controls.std(ddof=0).loc[plates]
    centred = features.to_numpy() - mean.to_numpy()
    each = normalise(table, method="plate")[0][names]
    np.testing.assert_allclose(each, centred / deviation.to_numpy(), rtol=0, atol=1e-9)
    pooled = normalise(table, method="plate_controls")[0][names]
    expected = centred / centred[table["Metadata_Control"]].std(axis=0)
    np.testing.assert_allclose(pooled, expected, rtol=0, atol=1e-9)
    whole = normalise(table, method="standardise_all")[0][names]
    expected = (features - features.mean()) / features.std(ddof=0)
    np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-9)
