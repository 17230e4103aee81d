from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from helpers_tables import synthetic_design, with_features
from wsdino.errors import TableError
from wsdino.evaluate.held_out import HeldOut, deal, held_out
from wsdino.evaluate.intervals import mean_average_precision
from wsdino.evaluate.matching import match_moa
from wsdino.profile.aggregate import aggregate_treatments
from wsdino.profile.weak_label import fit_weak_label
from wsdino.tables.features import feature_columns, features_of


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    design = synthetic_design(
        num_treatments=36, num_compounds=18, num_moas=6, num_batches=4, num_plates=2, num_sites=2
    )
    return with_features(design, signal=0.4)


def unchanged(table: pd.DataFrame):
    features = features_of(table)
    return lambda _: features


def test_a_transform_that_learns_nothing_has_the_numbers_of_all_treatments(table):
    found = held_out(table, unchanged(table), num_seeds=2)
    profiles = aggregate_treatments(table)
    nsc, nscb = (match_moa(profiles, exclude_shared_batch=batches) for batches in (False, True))
    assert 0.3 < nsc.accuracy < 1
    assert found.nsc == (nsc.accuracy,) * 2
    assert found.nscb == (nscb.accuracy,) * 2
    assert (found.nsc_total, found.nscb_total) == (nsc.num_total, nscb.num_total)
    assert found.map == pytest.approx((mean_average_precision(profiles)[0],) * 2)


def test_every_compound_is_left_out_once_a_deal_and_controls_never(table):
    seen: list[np.ndarray] = []

    def watching(used):
        seen.append(used)
        return features_of(table)

    held_out(table, watching, num_folds=3, num_seeds=2)
    assert len(seen) == 6
    controls = table["Metadata_Control"].to_numpy()
    compounds = table["Metadata_Compound"].to_numpy()
    for used in seen:
        assert used[controls].all()
        assert not set(compounds[used]) & set(compounds[~used])
    for start in (0, 3):
        left_out = np.sum([~used for used in seen[start : start + 3]], axis=0)
        assert (left_out == ~controls).all()
    assert any((one != two).any() for one, two in zip(seen[:3], seen[3:], strict=True))


def test_only_the_compounds_left_out_are_asked(table):
    """A transform that puts the rows it was not fitted on beside the next MoA's."""
    moas = pd.factorize(table["Metadata_MoA"])[0]  # -1: controls, which take no part
    compounds = pd.factorize(table["Metadata_Compound"])[0]
    right, own = np.eye(moas.max() + 1)[moas], np.eye(compounds.max() + 1)[compounds]
    seen = np.hstack([right, 0 * own])
    # Nearer to what was fitted than to each other, however the folds fall.
    unseen = np.hstack([np.roll(right, 1, axis=1) + 0.1 * np.roll(right, 2, axis=1), own])
    assert held_out(table, lambda _: seen, num_seeds=1).nsc == (1.0,)
    found = held_out(table, lambda used: np.where(used[:, None], seen, unseen), num_seeds=1)
    assert found.nsc == (0.0,)


def test_labels_that_carry_no_signal_flatter_the_transductive_number_alone(table):
    """Whitening hundreds of random features makes replicates equal where it has seen them."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(table), 300)).astype(np.float64)
    labels = table["Metadata_Compound"].to_numpy(object)
    # The label that leaks: which MoA each row has.
    leaking = table["Metadata_MoA"].to_numpy(object)
    controls = table["Metadata_Control"].to_numpy()

    def fit(used: np.ndarray) -> np.ndarray:
        known = np.where(used, leaking, None)
        return fit_weak_label(features, known, controls=controls, ridge=0.003).transform(features)

    columns = table.drop(columns=feature_columns(table))
    every = pd.DataFrame(fit(np.ones(len(labels), bool))).add_prefix("emb_x_")
    transductive = match_moa(aggregate_treatments(pd.concat([columns, every], axis=1)))
    held = held_out(columns, fit, num_seeds=2)
    assert transductive.accuracy > 0.6
    assert np.mean(held.nsc) < 0.3


def test_the_same_seeds_give_the_same_numbers_whatever_the_order_of_rows(table):
    def fit(rows: pd.DataFrame):
        features = features_of(rows)
        # Depends on the fold, but not on the order.
        return lambda used: features - features[used].mean(axis=0)

    shuffled = table.sample(frac=1, random_state=3)
    one = held_out(table, fit(table), num_folds=2, num_seeds=2)
    two = held_out(shuffled, fit(shuffled), num_folds=2, num_seeds=2)
    assert (one.nsc, one.nscb) == (two.nsc, two.nscb)
    assert held_out(table, fit(table), num_folds=2, num_seeds=1, first_seed=1).nsc == one.nsc[1:]


def test_without_batches_nscb_is_left_out(table):
    plain = table.drop(columns="Metadata_Batch")
    found = held_out(plain, unchanged(plain), num_seeds=1)
    assert (found.nscb, found.nscb_total) == ((), 0)
    assert found.as_dict()["nscb"] is None


def test_the_deal_is_even():
    names = [f"c{i}" for i in range(11)]
    folds = deal(names, 4, seed=5)
    assert sorted(folds) == sorted(names)
    assert sorted(np.bincount(list(folds.values()))) == [2, 3, 3, 3]
    assert folds == deal(names, 4, seed=5)
    assert folds != deal(names, 4, seed=6)


def test_means_and_deviations_of_deals():
    found = HeldOut(4, (0.9, 0.8), (0.5, 0.7), (0.25, 0.35), 103, 92)
    plain = found.as_dict()
    assert (plain["nsc"], plain["nscb"], plain["map"]) == pytest.approx((0.85, 0.6, 0.3))
    assert (plain["nsc_sd"], plain["nscb_sd"]) == pytest.approx((0.05, 0.1))
    assert (plain["nsc_each"], plain["num_seeds"], plain["num_folds"]) == ([0.9, 0.8], 2, 4)
    assert (plain["nsc_total"], plain["nscb_total"]) == (103, 92)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"num_folds": 1}, "1 folds and 5 seeds"), ({"num_seeds": 0}, "4 folds and 0 seeds")],
)
def test_options_out_of_range_are_named(table, options, words):
    with pytest.raises(TableError, match=words):
        held_out(table, unchanged(table), **options)


def test_one_compound_can_not_be_left_out(table):
    one = table[table["Metadata_Control"] | (table["Metadata_Compound"] == "c00")]
    with pytest.raises(TableError, match="the table has 1 compounds"):
        held_out(one, unchanged(one))
