"""Clustering by plate: a naive loop as the oracle, and screens of which we know the answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers_screen import write_bbbc021_folder
from helpers_train import CHANNELS, options_of, read_records
from wsdino.model.scaling import InputScaling
from wsdino.screen.images import Planes
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest
from wsdino.train.checkpoint import load_newest
from wsdino.train.collapse import PLATES_WIN, name_collapse
from wsdino.train.train import train
from wsdino.train.watch import MIN_ANCHORS, NUM_RECENT, PlateWatch, plate_clustering

if TYPE_CHECKING:
    from pathlib import Path

    from wsdino.screen.store import Store


def naive(features: np.ndarray, plates: np.ndarray, labels: np.ndarray) -> float:
    centred = features - features.mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    shares, images = [], range(len(features))
    for i in images:
        others = [j for j in images if plates[j] == plates[i] and labels[j] != labels[i]]
        alike = [k for k in images if plates[k] != plates[i] and labels[k] == labels[i]]
        if others and alike:
            pairs = [
                np.sign(np.round(unit[i] @ unit[j] - unit[i] @ unit[k], 10))
                for j in others
                for k in alike
            ]
            shares.append(np.mean(pairs))
    return float(np.mean(shares)) if len(shares) >= MIN_ANCHORS else math.nan


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), num=st.integers(30, 60), coarse=st.booleans())
def test_it_equals_a_loop_over_triplets(seed: int, num: int, coarse: bool) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(num, 3)).astype(np.float64)
    if coarse:
        features = np.round(features)  # ties
    plates, labels = rng.integers(0, 4, num), rng.integers(0, 5, num)
    np.testing.assert_allclose(
        plate_clustering(features, plates, labels), naive(features, plates, labels), atol=1e-6
    )


def screen(
    *, by_plate: float, by_label: float, confounded: bool = False, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """512 images of 24 labels on 12 plates; a label on 4 plates, or on one."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 24, 512)
    plates = labels % 12 if confounded else (labels + 3 * rng.integers(0, 4, 512)) % 12
    directions = rng.normal(size=(2, 24, 32))
    features = rng.normal(size=(512, 32))
    features += by_plate * directions[0][plates] + by_label * directions[1][labels]
    return features.astype(np.float32), plates, labels


def test_plates_alone_are_named() -> None:
    found = plate_clustering(*screen(by_plate=2.0, by_label=0.3))
    assert found > 0.9
    named = name_collapse({"plate_clustering": found})
    assert named is not None
    assert named.startswith("clustering by plate: images of one plate lie closer together")


@pytest.mark.parametrize("by_label", [0.0, 0.5, 2.0])
def test_without_plates_nothing_is_named(by_label: float) -> None:
    found = [plate_clustering(*screen(by_plate=0.0, by_label=by_label, seed=s)) for s in range(5)]
    assert max(found) < 0.1
    assert by_label or min(found) > -0.1, "chance is 0"
    assert by_label < 1 or max(found) < -0.9
    assert name_collapse({"plate_clustering": max(found)}) is None


def test_plates_that_matter_less_than_the_label_are_no_alarm() -> None:
    assert plate_clustering(*screen(by_plate=1.0, by_label=1.0)) < PLATES_WIN


@pytest.mark.parametrize("by_plate", [0.0, 2.0])
def test_labels_on_one_plate_each_cry_no_wolf(by_plate: float) -> None:
    """There it can't be told whether images are alike by plate or by compound."""
    found = plate_clustering(*screen(by_plate=by_plate, by_label=1.0, confounded=True))
    assert math.isnan(found)
    assert name_collapse({"plate_clustering": found}) is None


def test_a_point_is_a_tie() -> None:
    _, plates, labels = screen(by_plate=0.0, by_label=0.0)
    assert plate_clustering(np.ones((512, 8), np.float32), plates, labels) == 0


def test_it_rises_with_the_plate() -> None:
    found = [plate_clustering(*screen(by_plate=x, by_label=1.0)) for x in (0.0, 0.5, 1.0, 2.0, 4.0)]
    assert found == sorted(found)


def test_the_watch_measures_the_most_recent_images_and_goes_on_from_its_state() -> None:
    features, plates, labels = screen(by_plate=1.0, by_label=0.5)
    order = np.random.default_rng(1).permutation(np.tile(np.arange(512), 2)).reshape(-1, 2, 16)
    watch, said = PlateWatch(plates, labels), []
    for step, sites in enumerate(order):
        if step == 20:
            state = watch.state_dict()
            watch = PlateWatch(plates, labels)
            watch.load_state_dict(state)
        said.append(watch.measure(sites, torch.from_numpy(features[sites])))
    recent = order.reshape(-1)[-NUM_RECENT:]
    expected = plate_clustering(features[recent], plates[recent], labels[recent])
    assert said[0] == {}, "one batch tells nothing"
    assert said[-1] == {"plate_clustering": pytest.approx(expected)}


def test_broken_features_are_passed_over() -> None:
    features, plates, labels = screen(by_plate=1.0, by_label=0.5)
    watch, sites = PlateWatch(plates, labels), np.arange(256)[None]
    before = watch.measure(sites, torch.from_numpy(features[sites]))
    assert before
    assert watch.measure(sites, torch.full((1, 256, 32), torch.nan)) == before


@pytest.mark.parametrize("objective", ["distill", "classify"])
def test_training_records_it(store: Store, tmp_path: Path, objective: str) -> None:
    changes = {"epochs": 3, "accumulate": 2}
    train(store, tmp_path, **options_of(optimisation=changes, objective={"name": objective}))
    records = read_records(tmp_path)
    assert all(-1 <= record["plate_clustering"] <= 1 for record in records[-5:])
    state = load_newest(tmp_path / "checkpoints")
    assert state is not None
    # Views of whole images: two channels of 16 features each.
    assert state["watch"]["features"].shape[1] == 32


@pytest.mark.parametrize("by_plate", [True, False])
def test_it_is_said_while_it_happens(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], by_plate: bool
) -> None:
    """Fields that show nothing but noise, and perhaps their plate's brightness."""
    screen, rng = tmp_path / "screen", np.random.default_rng(0)
    write_bbbc021_folder(screen, channels=CHANNELS, num_dmso_wells=1)
    manifest = read_manifest(screen)
    plates = pd.factorize(manifest["Metadata_Plate"])[0]
    for planes, plate in zip(Planes(manifest), plates, strict=True):
        noise = rng.integers(0, 300, (len(planes), 32, 40))
        images = (1000 + 2000 * by_plate * plate + noise).astype(np.uint16)
        for plane, image in zip(planes, images, strict=True):
            tifffile.imwrite(plane.path, image)
    store = ingest(screen, tmp_path / "store")
    changes = {"epochs": 6, "learning_rate": 1e-9, "final_learning_rate": 0.0}
    options = options_of(
        optimisation=changes,
        spec={"scaling": InputScaling("fixed")},
        weak_positives={"partner_from": "image"},
    )
    train(store, tmp_path / "run", **options)
    said = [line for line in capfd.readouterr().err.splitlines() if "clustering by plate" in line]
    assert len(said) == by_plate
    assert all(line.startswith("warning: step ") for line in said)
    last = read_records(tmp_path / "run")[-1]["plate_clustering"]
    assert last > 0.9 if by_plate else abs(last) < 0.2
