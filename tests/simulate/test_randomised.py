"""Randomised screens: what is written can be ingested, is the same again, and differs where due."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from wsdino.errors import InputError
from wsdino.screen.ingest import ingest
from wsdino.simulate.phenotypes import MECHANISMS
from wsdino.simulate.randomised import (
    MANIFEST,
    NUISANCE,
    STAINS,
    USUAL,
    draw_screen,
    render_randomised,
    screen_sites,
    simulate_randomised,
)
from wsdino.simulate.traits import TRAITS, as_vector

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {"num_screens": 2, "num_phenotypes": 3, "fields_per_plate": 2, "size": 40, "seed": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_randomised(tmp_path_factory.mktemp("screens"), **SMALL, workers=2).parent


def files_of(folder: Path) -> dict[str, bytes]:
    paths = sorted(folder.rglob("*.tif"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_every_stain_is_a_batch_of_two_plates_with_labels_of_its_own(folder: Path) -> None:
    manifest = pd.read_parquet(folder / MANIFEST)
    assert len(manifest) == 2 * len(STAINS) * 2 * 3 * 2
    batches = manifest.groupby("Metadata_Batch")
    assert len(batches) == 2 * len(STAINS)
    assert (batches["Metadata_Plate"].nunique() == 2).all()
    assert (batches["Metadata_Compound"].nunique() == 3).all()
    labels = manifest.groupby("Metadata_Compound")
    assert (labels["Metadata_Batch"].nunique() == 1).all()
    assert (labels["Metadata_Plate"].nunique() == 2).all(), "every label has a partner plate"


def test_the_reader_reads_it(folder: Path, tmp_path: Path) -> None:
    store = ingest(folder / MANIFEST, tmp_path / "store")
    assert store.channels == ("Stain",)
    assert store.field_shape == (40, 40)
    assert store.dtype == np.uint16
    flat = store.read(range(len(store))).reshape(len(store), -1)
    assert len(np.unique(flat, axis=0)) == len(store), "no two fields are the same"


def test_the_same_files_for_any_number_of_workers_and_after_a_stop(
    folder: Path, tmp_path: Path
) -> None:
    first = simulate_randomised(tmp_path, **SMALL, workers=1).parent
    expected = files_of(folder)
    assert files_of(first) == expected
    lost = sorted(first.rglob("*.tif"))[1]
    lost.unlink()
    (first / MANIFEST).unlink()
    simulate_randomised(first, **SMALL, workers=1)
    assert files_of(first) == expected


def test_screens_differ_and_stay_within_biology() -> None:
    screens = [draw_screen(n, seed=1, size=64, num_phenotypes=8) for n in range(12)]
    assert len({screen.zoom for screen in screens}) == 12
    assert any(screen.squeeze < 1 for screen in screens)
    assert any((screen.mixing > 0).sum() > 3 for screen in screens)
    for screen in screens:
        np.testing.assert_allclose(screen.mixing.sum(axis=1), 1)
        assert not screen.phenotypes[0].any(), "the first phenotype is untreated"
        for _, site in screen_sites(screen, fields_per_plate=1):
            for value, trait in zip(site.traits, TRAITS.values(), strict=True):
                assert trait.low <= value <= trait.high


def test_nuisance_is_relative_to_what_the_starter_saw() -> None:
    for number in range(4):
        difficulty = draw_screen(number, seed=1, size=64, num_phenotypes=2).difficulty
        assert difficulty.compound_staining == USUAL.compound_staining
        assert difficulty.batch_response == 0
        low, high = (share * USUAL.batch_biology for share in NUISANCE)
        assert low <= difficulty.batch_biology <= high


def test_the_starters_screens_stay_as_they_are_drawn() -> None:
    """A screen of the starter's pretraining, beside what was noted of it in those days.

    Whatever the simulated screen's difficulties become, these numbers stay.
    """
    assert asdict(USUAL) == {
        "effect": 1.7, "penetrance": 0.9, "lean": 0.15, "signature": 0.5,
        "compound_density": 0.25, "compound_staining": 1.2,
        "batch_biology": 0.6, "plate_biology": 0.25, "well_biology": 0.8, "batch_response": 0.0,
        "batch_density": 0.1, "plate_density": 0.06, "well_density": 0.12,
        "batch_gain": 0.15, "plate_gain": 0.08, "well_gain": 0.08,
        "batch_blur": 0.08, "plate_blur": 0.06, "well_blur": 0.15,
        "batch_staining": 0.7, "plate_staining": 0.25, "well_staining": 0.6,
        "batch_background": 0.15, "plate_background": 0.08, "well_background": 0.15,
        "plate_shade": 0.06, "edge": 1.0, "defocus_rate": 0.02, "debris_rate": 0.25,
        "mottle": 1.0, "texture": 1.0, "bleed": 1.0, "precipitate": 1.0,
    }  # fmt: skip
    screen = draw_screen(7, seed=5000, size=96, num_phenotypes=32)
    assert screen.difficulty.batch_biology == pytest.approx(0.55254, abs=1e-5)
    assert screen.difficulty.debris_rate == pytest.approx(0.232661, abs=1e-5)
    assert (screen.zoom, screen.squeeze) == pytest.approx((1.097344, 0.827398), abs=1e-5)
    number, site = screen_sites(screen, fields_per_plate=1)[5]
    assert number == 5
    image = render_randomised(screen, site).astype(float)
    # rounding in other versions of the libraries may move a pixel, not a mean
    assert image.mean(axis=(1, 2)) == pytest.approx([607.827, 1218.948, 947.169], rel=1e-3)
    assert image.std(axis=(1, 2)) == pytest.approx([519.941, 851.156, 624.262], rel=1e-3)


def test_no_phenotype_is_one_of_the_named_mechanisms() -> None:
    drawn = np.concatenate(
        [draw_screen(n, seed=1, size=64, num_phenotypes=48).phenotypes[1:] for n in range(20)]
    )
    named = np.stack([as_vector(effects) for effects in MECHANISMS.values()])
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    named /= np.linalg.norm(named, axis=1, keepdims=True)
    assert (drawn @ named.T).max() < 0.999


def test_a_phenotype_shows() -> None:
    """Fields of a phenotype that empties the nuclei are darker than untreated ones."""
    screen = draw_screen(0, seed=1, size=64, num_phenotypes=2)
    effects = as_vector({"density": -2.0})
    screen.phenotypes[1] = effects
    screen.penetrance[1] = 1.0
    means = {0: [], 1: []}
    for k, site in screen_sites(screen, fields_per_plate=4):
        means[k].append(render_randomised(screen, site).astype(float).std())
    assert np.mean(means[1]) < np.mean(means[0])


@pytest.mark.parametrize(
    ("change", "named"),
    [({"num_screens": 0}, "num_screens"), ({"num_phenotypes": 97}, "num_phenotypes"),
     ({"fields_per_plate": 0}, "fields_per_plate"), ({"size": 8}, "size")],
)  # fmt: skip
def test_numbers_out_of_range_are_named(change: dict[str, int], named: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{named}: .*; give "):
        simulate_randomised(tmp_path / "out", **(SMALL | change))
    assert not (tmp_path / "out").exists()
