from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from wsdino.errors import TableError
from wsdino.profile.shrinkage import RULE, Choice, choose_shrinkage, factorised, recognition_score
from wsdino.profile.weak_label import DEFAULT_RIDGE, RIDGES, fit_weak_label
from wsdino.profile.within_label import (
    mean_of_labels,
    robust_moments,
    spanned,
    symmetric_whitening,
    within_covariance,
)

PLAIN = {"softening": None, "centre": False}


def screen(
    *,
    num_labels: int = 16,
    num_plates: int = 3,
    num_features: int = 10,
    noise: float = 1.0,
    nuisance: float = 4.0,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Each label twice on each plate, four controls; replicates vary most in one direction."""
    rng = np.random.default_rng(seed)
    names = [*(f"c{i:02d}" for i in range(num_labels) for _ in range(2)), *["DMSO"] * 4]
    labels = np.array(names * num_plates, dtype=object)
    plates = np.repeat([f"p{i}" for i in range(num_plates)], len(names)).astype(object)
    controls = labels == "DMSO"
    means = {name: rng.normal(size=num_features) for name in sorted(set(names))}
    along = rng.normal(size=num_features)
    offsets = dict(zip(np.unique(plates), rng.normal(size=(num_plates, num_features)), strict=True))
    features = np.stack([means[name] for name in labels])
    features += noise * rng.normal(size=features.shape)
    features += nuisance * rng.normal(size=(len(features), 1)) * along
    features += np.stack([offsets[plate] for plate in plates]) + 20
    return {"features": features, "labels": labels, "controls": controls, "plates": plates}


def fit(data: dict[str, np.ndarray], **options):
    return fit_weak_label(
        data["features"],
        data["labels"],
        controls=data["controls"],
        plates=data["plates"],
        **options,
    )


def transform(whitening, data: dict[str, np.ndarray]) -> np.ndarray:
    return whitening.transform(data["features"], plates=data["plates"], controls=data["controls"])


def cosines(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit @ unit.T


def pooled_by_loop(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    total, freedom = np.zeros((rows.shape[1], rows.shape[1])), 0
    for label in set(labels):
        own = rows[labels == label]
        for row in own:
            difference = row - own.mean(axis=0)
            total += np.outer(difference, difference)
        freedom += len(own) - 1
    return total / freedom


# what it computes


def test_the_covariance_within_labels_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    rows, codes = rng.normal(size=(30, 4)) + 5, np.array([*range(6)] * 4 + [6] * 5 + [7])
    np.testing.assert_allclose(within_covariance(rows, codes), pooled_by_loop(rows, codes))


@pytest.mark.parametrize("softening", [None, 2.0])
@pytest.mark.parametrize("centre", [True, False])
def test_without_a_ridge_the_covariance_within_labels_becomes_the_identity(softening, centre):
    data = screen()
    white = transform(fit(data, ridge=0, softening=softening, centre=centre), data)
    np.testing.assert_allclose(pooled_by_loop(white, data["labels"]), np.eye(10), atol=1e-8)


def test_distances_are_those_of_linear_discriminant_analysis():
    data = screen()
    labels = data["labels"].astype(str)
    lda = LinearDiscriminantAnalysis(solver="eigen").fit(data["features"], labels)
    # With more labels than features LDA keeps every axis, so that it is a whitening too; its
    # covariance within labels has n in the denominator.
    theirs = lda.transform(data["features"])
    ours = transform(fit(data, ridge=0, **PLAIN), data)
    scale = np.sqrt(len(labels) / (len(labels) - len(set(labels))))
    ours, theirs = (ours - ours.mean(axis=0)) * scale, theirs - theirs.mean(axis=0)
    np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, rtol=1e-6, atol=1e-6)


def test_the_origin_is_the_mean_of_the_labels_means_without_the_controls():
    data = screen()
    # One label with ten times as many rows counts as much as any other.
    again = np.flatnonzero(data["labels"] == "c00").repeat(9)
    more = {name: np.concatenate([values, values[again]]) for name, values in data.items()}
    white = transform(fit(more, ridge=0.03, **PLAIN), more)
    means = pd.DataFrame(white).groupby(more["labels"]).mean().drop(index="DMSO")
    np.testing.assert_allclose(means.mean(), 0, atol=1e-9)


def test_the_controls_mean_counts_where_there_is_one_other_label():
    rows, control = np.array([[0.0], [2.0], [9.0]]), np.array([False, False, True])
    assert mean_of_labels(rows, np.array([0, 0, 1]), control) == 5.0
    assert mean_of_labels(rows, np.array([0, 1, 2]), control) == 1.0


def test_the_whitening_is_the_symmetric_one_and_a_ridge_shrinks_narrow_axes_most():
    rng = np.random.default_rng(2)
    root = rng.normal(size=(5, 5))
    covariance = root @ root.T
    plain = symmetric_whitening(covariance, 0.0)
    np.testing.assert_allclose(plain, plain.T)
    np.testing.assert_allclose(plain @ covariance @ plain, np.eye(5), atol=1e-9)
    variances, axes = np.linalg.eigh(covariance)
    shrunk = axes.T @ symmetric_whitening(covariance, 0.5) @ axes
    expected = np.diag(1 / np.sqrt(variances + 0.5 * variances.mean()))
    np.testing.assert_allclose(shrunk, expected, atol=1e-9)


@pytest.mark.parametrize("ridge", [0.0, 0.03])
def test_of_more_features_than_rows_the_whitening_is_the_same(ridge):
    rng = np.random.default_rng(4)
    rows, codes = rng.normal(size=(12, 30)) + 3, np.arange(12) % 4
    coordinates, basis = spanned(rows)
    assert coordinates.shape == (12, 12)
    np.testing.assert_allclose(coordinates @ basis.T, rows)
    np.testing.assert_allclose(coordinates @ coordinates.T, rows @ rows.T)
    inside = symmetric_whitening(within_covariance(coordinates, codes), ridge, basis=basis)
    plain = symmetric_whitening(within_covariance(rows, codes), ridge)
    np.testing.assert_allclose(inside, plain, atol=1e-8)
    assert spanned(rows.T) == (pytest.approx(rows.T), None)


def test_of_more_features_than_rows_fit_and_choice_are_those_of_the_whole_covariance():
    data = screen(num_features=150)
    control = data["controls"]
    # The controls' label is the last.
    codes = np.where(control, 16, factorised(np.where(control, None, data["labels"])))
    rows = data["features"] - np.median(data["features"], axis=0)
    rows /= np.sqrt(within_covariance(rows, codes).diagonal())
    assert rows.shape[1] > rows.shape[0]

    def naive(used):
        left = np.unique(codes[used], return_inverse=True)[1]
        covariance = within_covariance(rows[used], left)
        centred = rows - mean_of_labels(rows[used], left, control[used])
        return lambda ridge: centred @ symmetric_whitening(covariance, ridge)

    asked = np.where(control, None, codes)
    expected = choose_shrinkage(
        naive, labels=asked, plates=data["plates"], candidates=RIDGES, default=DEFAULT_RIDGE
    )
    found = fit(data, **PLAIN)
    assert found.choice.value == expected.value
    np.testing.assert_allclose(found.choice.scores, expected.scores, rtol=1e-8)
    everything = np.ones(len(rows), dtype=bool)
    np.testing.assert_allclose(
        transform(found, data), naive(everything)(expected.value), rtol=1e-7, atol=1e-7
    )


def test_axes_along_which_replicates_do_not_vary_are_kept_by_a_ridge_alone():
    data = screen(num_features=12)
    data["features"][:, 11] = 2 * data["features"][:, 3]
    kept, dropped = (fit(data, ridge=ridge, **PLAIN) for ridge in (0.03, 0))
    assert np.linalg.matrix_rank(kept.projection) == 12
    assert np.linalg.matrix_rank(dropped.projection) == 11


def test_robust_moments_are_those_of_normal_values_whatever_outliers_do():
    rng = np.random.default_rng(3)
    rows = rng.normal(loc=7, scale=3, size=(20001, 3))
    rows[:500, 1] = 1e6
    rows[:, 2] = 0
    rows[:100, 2] = 4
    location, scale = robust_moments(rows)
    np.testing.assert_allclose(location[:2], 7, atol=0.15)
    np.testing.assert_allclose(scale[:2], 3, rtol=0.05)
    # More than half of the values are alike: the median deviation is 0.
    assert scale[2] == pytest.approx(rows[:, 2].std())


# properties


@pytest.mark.parametrize("ridge", ["auto", 0.01])
def test_the_order_of_rows_does_not_matter(ridge):
    data = screen()
    order = np.random.default_rng(4).permutation(len(data["labels"]))
    shuffled = {name: values[order] for name, values in data.items()}
    one, two = fit(data, ridge=ridge), fit(shuffled, ridge=ridge)
    assert one.choice.value == two.choice.value
    np.testing.assert_allclose(
        transform(one, data)[order], transform(two, shuffled), rtol=1e-7, atol=1e-8
    )


@pytest.mark.parametrize("ridge", ["auto", 0.03])
def test_units_and_offsets_of_features_do_not_matter(ridge):
    data = screen()
    rng = np.random.default_rng(5)
    factors, shift = 10.0 ** rng.integers(-3, 4, 10) * rng.choice([-1, 1], 10), rng.normal(size=10)
    scaled = data | {"features": data["features"] * factors + shift * factors}
    one, two = transform(fit(data, ridge=ridge), data), transform(fit(scaled, ridge=ridge), scaled)
    np.testing.assert_allclose(one * np.sign(factors), two, rtol=1e-6, atol=1e-7)


def test_without_ridge_and_softening_any_linear_map_of_features_leaves_cosines_alone():
    data = screen()
    mixing = np.random.default_rng(6).normal(size=(10, 10))
    mixed = data | {"features": data["features"] @ mixing + 3}
    one, two = (transform(fit(each, ridge=0, **PLAIN), each) for each in (data, mixed))
    np.testing.assert_allclose(cosines(one), cosines(two), atol=1e-7)


def test_plates_offsets_do_not_matter_where_plates_are_centred():
    data = screen()
    moved = data["features"] + 50 * (data["plates"] == "p1")[:, None]
    one = transform(fit(data, ridge=0.03), data)
    two = transform(fit(data | {"features": moved}, ridge=0.03), data | {"features": moved})
    np.testing.assert_allclose(one, two, atol=1e-8)
    apart = fit(data | {"features": moved}, ridge=0.03, centre=False)
    assert not np.allclose(one, transform(apart, data | {"features": moved}), atol=0.1)


def test_a_wild_value_in_each_feature_changes_little_where_features_are_softened():
    data = screen(num_labels=30)
    wild = data["features"].copy()
    rows = np.arange(0, 50, 5)
    wild[rows, np.arange(10)] = 1e4
    others = np.setdiff1d(np.flatnonzero(~data["controls"]), rows)

    def agreement(**options) -> float:
        one, two = (
            cosines(transform(fit(each, ridge=0.03, centre=False, **options), each)[others])
            for each in (data, data | {"features": wild})
        )
        return float(np.corrcoef(one.ravel(), two.ravel())[0, 1])

    assert agreement() > agreement(softening=None) + 0.3


def test_whitening_by_labels_finds_other_plates_replicates_where_that_by_nothing_does_not():
    data = screen(nuisance=30, seed=7)
    codes = factorised(np.where(data["controls"], None, data["labels"]))
    rows = codes >= 0
    plates = factorised(data["plates"])[rows]
    raw = data["features"] - data["features"].mean(axis=0)
    before = recognition_score(raw[rows], codes[rows], plates)
    after = recognition_score(transform(fit(data), data)[rows], codes[rows], plates)
    assert after > before + 1


# what it is fitted on


def test_rows_without_a_label_are_transformed_and_not_fitted():
    data = screen()
    left_out = data["labels"] == "c03"
    hidden = data | {"labels": np.where(left_out, None, data["labels"])}
    fewer = {name: values[~left_out] for name, values in data.items()}
    one, two = fit(hidden), fit(fewer)
    assert one.choice == two.choice
    np.testing.assert_allclose(one.projection, two.projection, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one.origin, two.origin, rtol=1e-9, atol=1e-12)
    assert (one.num_fitted, one.num_labels) == ((~left_out).sum(), 15)
    assert transform(one, hidden).shape == data["features"].shape
    nan = np.where(left_out, np.nan, data["labels"])
    np.testing.assert_array_equal(fit(data | {"labels": nan}).projection, one.projection)


def test_controls_are_one_label_whatever_they_are_called():
    data = screen()
    several = data["labels"].copy()
    several[data["controls"]] = [f"c{i:02d}" for i in range(data["controls"].sum())]
    one, two = fit(data), fit(data | {"labels": several})
    np.testing.assert_array_equal(one.projection, two.projection)
    assert (one.num_labels, one.num_controls) == (16, 12)


def test_a_label_with_one_row_adds_nothing_to_the_covariance():
    rng = np.random.default_rng(8)
    rows, codes = rng.normal(size=(13, 3)), np.array([0] * 6 + [1] * 6 + [2])
    np.testing.assert_allclose(
        within_covariance(rows, codes), within_covariance(rows[:12], codes[:12])
    )


def test_a_table_without_controls_and_plates_is_whitened_too():
    data = screen()
    whitening = fit_weak_label(data["features"], data["labels"], ridge=0)
    white = whitening.transform(data["features"])
    np.testing.assert_allclose(pooled_by_loop(white, data["labels"]), np.eye(10), atol=1e-8)
    assert "no controls" in whitening.describe()
    assert "plates not centred: none are known" in whitening.describe()


def test_plates_are_centred_where_every_plate_has_controls_and_a_note_says_where_not():
    data = screen()
    lacking = data | {"controls": data["controls"] & (data["plates"] != "p2")}
    found = fit(lacking)
    assert not found.centred
    assert fit(data).centred
    assert "plates not centred: 1 of 3 plates have no controls (such as p2)" in found.describe()
    with pytest.raises(TableError, match=r"1 of 3 plates have no controls \(such as p2\)"):
        fit(lacking, centre=True)
    assert "3 plates each centred on their controls' means" in fit(data).describe()


def test_of_more_features_than_rows_plates_are_centred_after_whitening():
    data = screen(num_features=150)
    found = fit(data, ridge=0.1)
    assert found.centred_last
    assert "3 plates each centred on their controls' means; centred after whitening" in (
        found.describe()
    )
    # Another way: whiten without centring, then centre, then move the labels' mean to the origin.
    expected = transform(fit(data, ridge=0.1, centre=False), data)
    for plate in np.unique(data["plates"]):
        own = data["plates"] == plate
        expected[own] -= expected[own & data["controls"]].mean(axis=0)
    means = [expected[data["labels"] == f"c{i:02d}"].mean(axis=0) for i in range(16)]
    expected -= np.mean(means, axis=0)
    np.testing.assert_allclose(transform(found, data), expected, atol=1e-8)
    # A new plate is centred on its own controls, whatever its offset does.
    plate = {name: values[data["plates"] == "p1"] for name, values in data.items()}
    again = plate | {"plates": np.full(len(plate["plates"]), "p9", dtype=object)}
    own = expected[data["plates"] == "p1"]
    np.testing.assert_allclose(transform(found, again), own, atol=1e-8)
    assert not fit(screen(), ridge=0.1).centred_last
    first = fit(data, ridge=0.1, centre_last=False)
    assert not first.centred_last
    assert not np.allclose(transform(first, data), expected, atol=0.1)


def test_the_ridge_is_chosen_among_rows_that_are_centred_as_they_will_be():
    data = screen(num_features=150)
    control, plates = data["controls"], data["plates"]
    codes = np.where(control, 16, factorised(np.where(control, None, data["labels"])))
    rows = data["features"] - np.median(data["features"], axis=0)
    rows /= np.sqrt(within_covariance(rows, codes).diagonal())

    def naive(used):
        left = np.unique(codes[used], return_inverse=True)[1]

        def whitened(ridge):
            white = rows @ symmetric_whitening(within_covariance(rows[used], left), ridge)
            for plate in np.unique(plates):
                white[plates == plate] -= white[(plates == plate) & control].mean(axis=0)
            return white - mean_of_labels(white[used], left, control[used])

        return whitened

    expected = choose_shrinkage(
        naive,
        labels=np.where(control, None, codes),
        plates=plates,
        candidates=RIDGES,
        default=DEFAULT_RIDGE,
    )
    found = fit(data, softening=None)
    assert found.choice.value == expected.value
    np.testing.assert_allclose(found.choice.scores, expected.scores, rtol=1e-7)


def test_technical_directions_are_seen_where_controls_differ_along_them_from_plate_to_plate():
    """Compounds differ along what plates differ along: the stain, which is no biology."""
    rng = np.random.default_rng(11)
    num_moas, num_compounds, num_plates, num_features = 4, 24, 8, 300
    moa = np.arange(num_compounds) % num_moas
    # A few technical directions, and the mechanisms' own.
    stains = rng.normal(size=(5, num_features))
    mechanisms = rng.normal(size=(num_moas, num_features)) * 0.7
    compounds = mechanisms[moa] + rng.normal(size=(num_compounds, 5)) @ stains
    offsets = rng.normal(size=(num_plates, 5)) @ stains
    names = np.array([*(f"c{i:02d}" for i in range(num_compounds)), *["DMSO"] * 4], dtype=object)
    labels, plates = np.tile(names, num_plates), np.repeat(np.arange(num_plates), len(names))
    means = np.concatenate([compounds, np.zeros((4, num_features))])
    features = np.tile(means, (num_plates, 1)) + offsets[plates]
    features += rng.normal(size=features.shape)
    data = {
        "features": features,
        "labels": labels,
        "controls": labels == "DMSO",
        "plates": plates.astype(str),
    }

    def right(**options) -> float:
        white = transform(fit(data, ridge=0.1, **options), data)
        profiles = np.stack([white[labels == name].mean(axis=0) for name in names[:num_compounds]])
        alike = cosines(profiles) - 9 * np.eye(num_compounds)
        return float((moa[alike.argmax(axis=1)] == moa).mean())

    assert right() > 0.9
    assert right(centre_last=False) < 0.6


def test_blocks_are_whitened_each_on_its_own():
    data = screen()
    blocks = [[0, 1, 2, 3], [7, 6, 5, 4]]
    white = fit(data, ridge=0, blocks=blocks, **PLAIN)
    assert white.kept.tolist() == list(range(8))
    assert "2 of 10 features left out" in white.describe()
    result = pooled_by_loop(transform(white, data), data["labels"])
    for start in (0, 4):
        block = slice(start, start + 4)
        np.testing.assert_allclose(result[block, block], np.eye(4), atol=1e-8)
        alone = data | {"features": data["features"][:, block]}
        np.testing.assert_allclose(
            transform(white, data)[:, block],
            transform(fit(alone, ridge=0, **PLAIN), alone),
            atol=1e-9,
        )
    assert np.abs(result[:4, 4:]).max() > 0.05


def test_constant_features_are_left_out_and_said():
    data = screen()
    constant = np.full((len(data["labels"]), 1), 0.1)
    wider = data | {"features": np.hstack([constant, data["features"], 3e8 + constant])}
    whitening = fit(wider)
    assert whitening.kept.tolist() == list(range(1, 11))
    assert "2 of 12 features left out" in whitening.describe()
    np.testing.assert_allclose(transform(whitening, wider), transform(fit(data), data), atol=1e-9)


def test_fewer_rows_than_features_are_whitened():
    data = screen(num_features=300)
    white = transform(fit(data), data)
    assert white.shape == (108, 300)
    assert np.isfinite(white).all()


# new plates


def test_every_plate_is_centred_on_its_own_controls_be_it_new_or_not():
    data = screen()
    whitening = fit(data)
    rows = data["plates"] == "p1"
    own = {name: values[rows] for name, values in data.items()}
    np.testing.assert_array_equal(transform(whitening, own), transform(whitening, data)[rows])
    # A plate of another screen may have the same name.
    for name in ("new", "p1"):
        names = np.array([name] * rows.sum())
        other = own | {"features": own["features"] + 9, "plates": names}
        np.testing.assert_allclose(
            transform(whitening, other), transform(whitening, own), atol=1e-9
        )
        with pytest.raises(TableError, match=f"plate {name} has no controls to be centred on"):
            whitening.transform(other["features"], plates=names)
    with pytest.raises(TableError, match="plates were not given"):
        whitening.transform(own["features"], controls=own["controls"])


def test_numbers_and_text_name_the_same_plate():
    data = screen()
    codes = factorised(data["plates"])
    whitening = fit(data | {"plates": codes})
    np.testing.assert_array_equal(
        whitening.transform(data["features"], plates=codes.astype(str), controls=data["controls"]),
        whitening.transform(data["features"], plates=codes, controls=data["controls"]),
    )


# errors


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"features": np.full((108, 3), np.nan)}, {}, "3 of 3 have missing"),
        ({"features": np.ones(108)}, {}, r"found shape \(108,\)"),
        ({"features": np.full((108, 3), 7.1)}, {}, "every feature is constant"),
        ({"labels": np.array(["a"])}, {}, "1 labels for 108 rows"),
        ({"plates": np.array(["a"])}, {}, "1 plates for 108 rows"),
        ({"plates": np.array(["a", None] * 54)}, {}, "plate is missing in 54 of 108 rows"),
        ({"controls": np.array([True])}, {}, "1 entries say which of 108 rows"),
        ({"labels": np.array([None] * 108)}, {}, "found 1 .controls count as one."),
        ({}, {"ridge": "big"}, "ridge is 'big'; expected auto or a number"),
        ({}, {"ridge": -0.1}, "ridge is -0.1"),
        ({}, {"ridge": float("nan")}, "ridge is nan"),
        ({}, {"softening": 0}, "softening is 0"),
        ({}, {"blocks": [[0, 1], [1]]}, "at most once"),
        ({}, {"blocks": [[0, 99]]}, "blocks must hold"),
    ],
)
def test_what_can_not_be_fitted_is_named(change, options, words):
    with pytest.raises(TableError, match=words):
        fit(screen() | change, **options)


def test_labels_without_replicates_are_named():
    with pytest.raises(TableError, match=r"found 3 .*, 0 with replicates"):
        fit_weak_label(np.eye(3), np.array(["a", "b", "c"]))
    twice = np.repeat(np.eye(3), 2, axis=0)
    with pytest.raises(TableError, match="no label's replicates differ"):
        fit_weak_label(twice, np.repeat(["a", "b", "c"], 2))


def test_other_features_are_refused_at_transforming():
    whitening = fit_weak_label(screen()["features"], screen()["labels"])
    with pytest.raises(TableError, match=r"\(2, 3\) can't be whitened; expected \(rows, 10\)"):
        whitening.transform(np.ones((2, 3)))
    with pytest.raises(TableError, match="1 of 10 have missing, infinite or larger values"):
        whitening.transform(np.where(np.arange(10) == 4, np.inf, 1.0)[None])


# the ridge


def test_the_score_is_that_of_a_loop():
    rng = np.random.default_rng(9)
    vectors = rng.normal(size=(40, 5))
    labels, plates = rng.integers(0, 6, 40), rng.integers(0, 4, 40)
    cosine = cosines(vectors)

    def at(scale: float) -> float:
        logs = []
        for i in range(40):
            logits = {}
            for label in range(6):
                others = [j for j in range(40) if labels[j] == label and plates[j] != plates[i]]
                if others:
                    logits[label] = scale * np.mean(cosine[i, others])
            if labels[i] in logits:
                total = np.log(sum(np.exp(value) for value in logits.values()))
                logs.append(logits[labels[i]] - total)
        return float(np.mean(logs))

    expected = max(at(scale) for scale in (4, 8, 16, 32, 64))
    assert recognition_score(vectors, labels, plates) == pytest.approx(expected)


def test_the_score_has_known_values():
    vectors = np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    labels, plates = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    assert recognition_score(vectors, labels, plates) == pytest.approx(-np.log1p(np.exp(-64)))
    assert recognition_score(np.ones((4, 2)), labels, plates) == pytest.approx(-np.log(2))
    assert np.isnan(recognition_score(vectors, labels, labels))


def test_the_score_takes_rounding_errors_for_zeros():
    vectors = np.random.default_rng(3).normal(size=(40, 5))
    labels, plates = np.arange(40) % 8, np.arange(40) // 8
    zero, wild = vectors.copy(), vectors.copy()
    zero[7], vectors[7] = 0, vectors[7] * 1e-16
    expected = recognition_score(zero, labels, plates)
    assert recognition_score(vectors, labels, plates) == expected
    zero[7], wild[7] = wild[7], wild[7] * 1e15
    assert recognition_score(wild, labels, plates) == pytest.approx(
        recognition_score(zero, labels, plates)
    )


def test_the_ridge_is_the_one_under_which_left_out_labels_are_recognised_best():
    data = screen(num_labels=24, num_features=60, seed=10)
    choice = fit(data).choice
    assert choice.rule == RULE
    assert choice.candidates == RIDGES
    assert choice.value == RIDGES[int(np.argmax(choice.scores))]
    assert max(choice.scores) < 0
    # With fewer features the same rows tell the covariance better.
    assert fit(screen(num_labels=24, num_features=20, seed=10)).choice.value < choice.value


def test_the_fit_never_sees_the_labels_that_are_asked():
    labels = np.array([f"l{i % 9}" for i in range(36)] + [None] * 4, dtype=object)
    plates = np.arange(40) // 9
    seen = []

    def never(used: np.ndarray):
        seen.append(used)
        return lambda _: np.eye(40)

    choice = choose_shrinkage(
        never, labels=labels, plates=plates, candidates=[0.3, 0.1], default=1.0
    )
    assert len(seen) == 4
    for used in seen:
        assert used[36:].all()
        assert not set(labels[used]) & set(labels[~used])
    # Every row is left out once; of equal scores the larger shrinkage wins.
    assert (np.sum(~np.array(seen), axis=0) == [1] * 36 + [0] * 4).all()
    assert (choice.value, choice.candidates) == (0.3, (0.1, 0.3))


def test_too_few_labels_to_choose_by_get_the_default_and_a_note():
    whitening = fit(screen(num_labels=7))
    assert whitening.choice == Choice(
        DEFAULT_RIDGE, "default", note="7 labels on two plates are too few to choose by"
    )
    assert "7 labels on two plates are too few to choose by" in whitening.describe()


def test_what_was_fitted_is_said_in_words():
    said = fit(screen(), ridge=0.01).describe()
    assert said == (
        "whitened by the scatter within 16 labels with replicates and 12 rows of controls; "
        "ridge 0.01 (given); 3 plates each centred on their controls' means; features softened "
        "from 2 deviations on"
    )
    chosen = fit(screen())
    assert f"ridge {chosen.choice.value:g} ({RULE})" in chosen.describe()
