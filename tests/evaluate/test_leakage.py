from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from helpers_tables import synthetic_design
from wsdino.evaluate import probe as probing
from wsdino.evaluate.confounders import CONFOUNDERS, cells_of, leakage_level, leakage_sentences
from wsdino.evaluate.held_out import deal
from wsdino.evaluate.leakage import leakage_of
from wsdino.evaluate.probe import linear_probe
from wsdino.profile.normalise import normalise

NUM_FEATURES = 10


def wells(**effects: float) -> pd.DataFrame:
    """A design whose features are noise, with an offset by each of the columns named."""
    design = synthetic_design(num_compounds=24, num_treatments=48, num_batches=4, num_sites=1)
    design["Metadata_Count_Cells"] = np.random.default_rng(5).integers(20, 200, len(design))
    features = np.random.default_rng(0).normal(size=(len(design), NUM_FEATURES))
    known = {
        "edge": design["Metadata_Well"].str[0].isin(["B", design["Metadata_Well"].str[0].max()]),
        "cells": pd.qcut(design["Metadata_Count_Cells"], 3, labels=False),
    } | {name: design[f"Metadata_{name}"] for name in ("Batch", "Plate")}
    for number, (name, size) in enumerate(effects.items()):
        codes = pd.factorize(known[name])[0]
        offsets = np.random.default_rng(number + 1).normal(size=(codes.max() + 1, NUM_FEATURES))
        features += size * offsets[codes]
    return pd.concat([design, pd.DataFrame(features).add_prefix("emb_D_")], axis=1)


def test_the_probe_is_shrunk_discriminant_analysis_with_equal_priors() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 3, 400)
    features = rng.normal(size=(400, 6)) + rng.normal(size=(3, 6))[codes]
    groups = np.arange(400) % 80
    found = linear_probe(features, {"label": codes}, groups)["label"]
    folds = deal(sorted(map(str, range(80))), probing.NUM_FOLDS, 0)
    fold = np.array([folds[str(group)] for group in groups])
    told = np.empty(400)
    for each in range(probing.NUM_FOLDS):
        rule = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 3] * 3)
        told[fold == each] = rule.fit(features[fold != each], codes[fold != each]).predict(
            features[fold == each]
        )
    theirs = np.mean([(told[codes == each] == each).mean() for each in range(3)])
    assert found.accuracy == pytest.approx(theirs, abs=0.03)
    assert 0.5 < found.accuracy < 1
    assert (found.chance, found.num_classes, found.num_wells) == (1 / 3, 3, 400)


def test_a_label_that_only_replicates_tell_is_told_by_chance() -> None:
    """A compound's wells look alike and have one label; compounds differ at random."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 6)
    codes = rng.integers(0, 2, 60)[groups]
    features = rng.normal(size=(60, 40))[groups] * 5 + rng.normal(size=(360, 40))
    grouped = linear_probe(features, {"label": codes}, groups)["label"]
    leaking = linear_probe(features, {"label": codes}, np.arange(360))["label"]
    assert abs(grouped.accuracy - 0.5) < 0.15
    assert leaking.accuracy > 0.75


def test_classes_count_alike_and_those_of_one_group_are_left_out() -> None:
    rng = np.random.default_rng(1)
    codes = np.r_[np.zeros(300, int), np.ones(30, int), [2] * 5, [-1] * 5]
    groups = np.r_[np.arange(330), [330] * 5, np.arange(331, 336)]
    features = rng.normal(size=(len(codes), 5))
    found = linear_probe(features, {"label": codes, "none": codes * 0}, groups)
    assert (found["label"].num_classes, found["label"].num_wells) == (2, 330)
    assert abs(found["label"].accuracy - 0.5) < 0.15
    assert found["none"] is None


def test_of_many_wells_the_probe_takes_a_named_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "MAX_WELLS", 50)
    codes = np.arange(200) % 2
    found = linear_probe(np.eye(2)[codes], {"label": codes}, np.arange(200), seed=3)["label"]
    assert found.sample == "50 of 200 wells, drawn with seed 3"
    assert (found.num_wells, found.accuracy) == (50, 1.0)


@pytest.mark.parametrize(
    ("effect", "told"),
    [("Batch", {"batch", "plate"}), ("edge", {"row", "edge"}), ("cells", {"density"})],
)
def test_each_effect_is_found_where_it_was_put(effect: str, told: set[str]) -> None:
    table = wells(**{effect: 3.0})
    found = leakage_of(table, table)
    assert {name for name, own in found.items() if leakage_level(own) != "good"} == told
    (sentence,) = leakage_sentences(found)
    for each in CONFOUNDERS:
        assert (f"{each.shared} in " in sentence) == (each.name in told)
    for name in told:
        own = found[name]
        assert own["lift"] == own["accuracy"] / own["chance"] > 1.2
        assert own["probe"]["accuracy"] > 1.5 * own["probe"]["chance"]


def test_nothing_is_said_where_there_is_nothing() -> None:
    table = wells()
    found = leakage_of(table, table)
    assert leakage_sentences(found) == []
    for own in found.values():
        assert own["lift"] == pytest.approx(1, abs=0.5)
        assert abs(own["probe"]["accuracy"] - own["probe"]["chance"]) < 0.12


def test_normalising_takes_a_plate_effect_away_and_both_are_told() -> None:
    # On all wells of a plate: three controls would leave their own noise on it.
    table = wells(Plate=4.0).assign(Metadata_Control=False)
    found = leakage_of(table, normalise(table, method="plate")[0])["plate"]
    assert found["before"]["probe"]["accuracy"] > 0.8 > 0.3 > found["probe"]["accuracy"]
    assert found["before"]["lift"] > 5 > 2 > found["lift"]


def test_what_a_table_does_not_have_is_none() -> None:
    table = wells().drop(columns=["Metadata_Batch", "Metadata_Count_Cells"])
    found = leakage_of(table, table)
    assert [name for name, own in found.items() if own is None] == ["batch", "density"]
    assert set(leakage_of(*[table.drop(columns="Metadata_Well")] * 2).values()) == {None}


def test_cells_are_counted_by_the_same_column_in_any_order_of_columns() -> None:
    preferred = [
        *("Cells_Count", "Metadata_Count_Cells", "num_cells", "Image_Count_Nuclei", "Nuclei_Count"),
        *("Cells_Number_Object_Number", "Nuclei_Number_Object_Number"),
    ]
    table = pd.DataFrame({name: [float(i), i + 0.5] for i, name in enumerate(preferred)})
    table["Metadata_QC_Foreground_DNA"] = [0.1, 0.2]
    for i in range(len(preferred)):
        for columns in (preferred[i:], preferred[: i - 1 : -1] if i else preferred[::-1]):
            np.testing.assert_array_equal(
                cells_of(table[[*columns, "Metadata_QC_Foreground_DNA"]]), [i, i + 0.5]
            )
    np.testing.assert_array_equal(cells_of(table.iloc[:, -1:]), [0.1, 0.2])
    empty = table.assign(Cells_Count=np.nan)
    np.testing.assert_array_equal(cells_of(empty), [1, 1.5])


def test_the_share_of_foreground_stands_in_for_a_cell_count() -> None:
    table = wells(cells=3.0).rename(columns={"Metadata_Count_Cells": "Metadata_QC_Foreground_DNA"})
    assert leakage_level(leakage_of(table, table)["density"]) != "good"
