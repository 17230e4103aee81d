"""Normalisations that are fitted on some plates, saved, and used on others."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from helpers_tables import synthetic_design, with_features
from wsdino.errors import OutputError, TableError
from wsdino.profile.fitted import load_normalisation
from wsdino.profile.methods import NORMALISATIONS, find_normalisation, normalisation_names
from wsdino.profile.normalise import fit_normalisation, normalise
from wsdino.profile.whitening import fit_tvn
from wsdino.tables.features import feature_columns, features_of, metadata_of

each = pytest.mark.parametrize("method", normalisation_names())


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return with_features(synthetic_design(num_treatments=40, num_compounds=20, num_batches=4))


@each
def test_fit_and_transform_is_normalise(table, method):
    fitted = fit_normalisation(table, method=method)
    expected, info = normalise(table, method=method)
    pd.testing.assert_frame_equal(fitted.transform(table), expected, check_exact=True)
    assert fitted.info == info
    assert set(info["options"]) == set(find_normalisation(method).options)


@each
@pytest.mark.parametrize("prefix", ["emb_", "Cells_"])
def test_what_is_loaded_transforms_to_the_bit(table, method, prefix, tmp_path):
    table = table.rename(columns=lambda name: name.replace("emb_", prefix))
    fitted = fit_normalisation(table, method=method)
    fitted.save(tmp_path / "new" / "fit.npz")
    again = load_normalisation(tmp_path / "new" / "fit.npz")
    assert (again.normalisation, again.features, again.info) == (
        fitted.normalisation,
        fitted.features,
        fitted.info,
    )
    one, two = fitted.transform(table), again.transform(table)
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert features_of(one).tobytes() == features_of(two).tobytes()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["fit.npz"]
    # Whoever reads it needs no pickle, and what is saved again is the same file.
    again.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "new" / "fit.npz").read_bytes()


@each
def test_other_plates_are_transformed_as_if_they_stood_beside(table, method):
    """Rows of a plate don't depend on which other plates are in the table."""
    fitted = fit_normalisation(table, method=method)
    own = table["Metadata_Plate"].isin(["W0_1", "W3_2"])
    pd.testing.assert_frame_equal(
        fitted.transform(table[own]), fitted.transform(table)[own], rtol=1e-9
    )
    order = [*metadata_of(table).columns, *reversed(feature_columns(table))]
    pd.testing.assert_frame_equal(fitted.transform(table[order]), fitted.transform(table))


def test_new_plates_are_whitened_by_the_controls_of_the_old(table):
    new = table["Metadata_Batch"] == "W3"
    result = fit_normalisation(table[~new], method="tvn", per_channel=False).transform(table[new])
    block, deviation = features_of(table), features_of(table[~new & table["Metadata_Control"]])
    scale = deviation.std(axis=0)
    tvn = fit_tvn(deviation / scale)
    np.testing.assert_allclose(features_of(result), tvn.transform(block[new] / scale), rtol=1e-9)


def test_new_plates_are_centred_on_their_own_controls(table):
    new = table["Metadata_Batch"] == "W3"
    fitted = fit_normalisation(table[~new], method="plate_controls")
    shifted = table[new].copy()
    shifted[feature_columns(table)] += 7
    one, two = fitted.transform(table[new]), fitted.transform(shifted)
    np.testing.assert_allclose(features_of(one), features_of(two), atol=1e-4)
    with pytest.raises(TableError, match="plate_controls needs at least 1 control row on every"):
        fitted.transform(table[new & ~table["Metadata_Control"]])


def test_plates_of_one_name_in_two_batches_are_two(table):
    renamed = table.assign(Metadata_Plate=table["Metadata_Plate"].str.split("_").str[1])
    for method in ("plate", "plate_controls"):
        one, two = (features_of(normalise(t, method=method)[0]) for t in (table, renamed))
        np.testing.assert_array_equal(one, two)


def test_other_features_are_refused(table):
    fitted = fit_normalisation(table, method="tvn")
    with pytest.raises(TableError, match=r"emb_DAPI_0 is missing in the table \(2 in all\)"):
        fitted.transform(table.drop(columns=["emb_DAPI_0", "emb_DAPI_1"]))
    with pytest.raises(TableError, match=r"extra was not there when it was fitted \(1 in all\)"):
        fitted.transform(table.assign(extra=1.0))


def test_a_feature_that_is_constant_on_a_new_plate_is_named(table):
    fitted = fit_normalisation(table, method="plate")
    flat = table.copy()
    flat.loc[flat["Metadata_Plate"] == "W1_0", "emb_Actin_2"] = np.float32(1)
    with pytest.raises(TableError, match="feature emb_Actin_2 is constant on plate W1_0"):
        fitted.transform(flat)


def test_what_is_no_fitted_normalisation_is_named(table, tmp_path):
    fitted = fit_normalisation(table, method="plate")
    with pytest.raises(TableError, match=r"is saved as \.npz"):
        fitted.save(tmp_path / "fit.bin")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="can't be written"):
        fitted.save(tmp_path / "file" / "fit.npz")
    with pytest.raises(TableError, match="no such file"):
        load_normalisation(tmp_path / "none.npz")
    for name, content in (("text", b"tvn"), ("empty", b""), ("torn", b"PK\x03\x04abc")):
        (tmp_path / f"{name}.npz").write_bytes(content)
        with pytest.raises(TableError, match=f"{name}.npz: holds no fitted normalisation"):
            load_normalisation(tmp_path / f"{name}.npz")
    np.savez(tmp_path / "other.npz", a=np.ones(3))
    with pytest.raises(TableError, match=r"other.npz: holds no fitted normalisation"):
        load_normalisation(tmp_path / "other.npz")
    np.savez(tmp_path / "pickled.npz", header=np.array([{}], dtype=object))
    with pytest.raises(TableError, match=r"pickled.npz: holds no fitted normalisation"):
        load_normalisation(tmp_path / "pickled.npz")
    fitted.save(tmp_path / "fit.npz")
    with np.load(tmp_path / "fit.npz") as file:
        text = str(file["header"]).replace('"plate"', '"plait"')
    np.savez(tmp_path / "unknown.npz", header=np.array(text))
    with pytest.raises(TableError, match=r"unknown\.npz: .* is 'plait'; expected one of tvn"):
        load_normalisation(tmp_path / "unknown.npz")
    np.savez(tmp_path / "later.npz", header=np.array('{"format": 2}'))
    with pytest.raises(TableError, match="has format 2; this version reads 1"):
        load_normalisation(tmp_path / "later.npz")


def places(node, path=()):
    """Every entry of a state, however deep."""
    inside = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in inside:
        yield (*path, key)
        if isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict)):
            yield from places(value, (*path, key))


def changed(state, path, change):
    """A copy of a state with one entry changed, or left out where the change is None."""
    node = copy = deepcopy(state)
    for key in path[:-1]:
        node = node[key]
    if change is None:
        del node[path[-1]]
    else:
        node[path[-1]] = change(node[path[-1]])
    return copy


def with_one(value):
    """Put a value in the place of an array's first number."""
    return lambda array: np.array([value, *array.ravel()[1:]]).reshape(array.shape)


CHANGES = {
    "another dtype": lambda array: array.astype(np.float32),
    "shorter": lambda array: array[:-1],
    "one dimension more": lambda array: array[None],
    "NaN": with_one(np.nan),
    "infinite": with_one(np.inf),
    "a number": lambda _: 1.0,
}
POSITIVE = {"deviation", "scale", "eigenvalues"}


@each
@pytest.mark.parametrize("prefix", ["emb_", "Cells_"])
def test_states_that_no_fit_makes_are_refused(table, method, prefix, tmp_path):
    table = table.rename(columns=lambda name: name.replace("emb_", prefix))
    fitted = fit_normalisation(table, method=method)
    wrong = [fitted.state | {"other": 1}]
    for path in places(fitted.state):
        value = fitted.state
        for key in path:
            value = value[key]
        wrong.append(changed(fitted.state, path, None))
        if isinstance(value, np.ndarray) and value.dtype == np.float64:
            wrong += [changed(fitted.state, path, change) for change in CHANGES.values()]
        if path[-1] in POSITIVE and value is not None:
            wrong += [changed(fitted.state, path, with_one(number)) for number in (0.0, -1.0)]
        if path[-1] in {"kept", "positions"}:
            named = list(np.asarray(value).tolist())
            for other in ([], [*named, named[0]], [*named, 10**6], [*named[:-1], -1]):
                wrong.append(changed(fitted.state, path, lambda _, other=other: other))
    for number, state in enumerate(wrong):
        path = tmp_path / f"{number}.npz"
        replace(fitted, state=state).save(path)
        with pytest.raises(TableError, match=rf"{number}\.npz: holds no fitted normalisation"):
            load_normalisation(path)
    wrong_info = {"method": "other", "num_fitted": None, "note": 3}
    for name, value in wrong_info.items():
        replace(fitted, info=fitted.info | {name: value}).save(tmp_path / "info.npz")
        with pytest.raises(TableError, match="holds no fitted normalisation"):
            load_normalisation(tmp_path / "info.npz")


def test_what_grows_beyond_all_numbers_is_refused(table):
    fitted = fit_normalisation(table, method="standardise_all")
    fitted.state["deviation"][:] = 1e-300
    far = table.astype(dict.fromkeys(feature_columns(table), np.float64))
    far[feature_columns(table)] *= 1e140
    with pytest.raises(TableError, match="standardise_all: numbers grow beyond what there is"):
        fitted.transform(far)


def test_options_without_effect_are_refused(table):
    for entry in NORMALISATIONS:
        for option in {"num_components": 2, "regularisation": 0.1, "per_channel": False}.items():
            if option[0] in entry.options:
                assert entry.fit(table, **dict([option])).info["options"][option[0]] == option[1]
            else:
                with pytest.raises(TableError, match=f"{option[0]} .* has no effect with norm"):
                    entry.fit(table, **dict([option]))
        assert entry.fit(table, num_components=None).info["method"] == entry.name
    with pytest.raises(TableError, match="shrinkage 3 has no effect with normalisation tvn, which"):
        normalise(table, shrinkage=3)


def test_the_advice_works(table):
    """Every alternative that an error names can be followed."""
    bare = table[~table["Metadata_Control"]]
    for poor in (bare, bare.drop(columns="Metadata_Plate"), table.assign(Metadata_Plate=None)):
        for method in ("plate_controls", "plate", "tvn"):
            try:
                normalise(poor, method=method)
            except TableError as error:
                words = str(error).rpartition("use one of ")[2].split(", ")
                assert words
                for other in words:
                    assert normalise(poor, method=other)[1]["method"] == other
