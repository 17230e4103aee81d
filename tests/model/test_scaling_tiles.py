from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wsdino.errors import ModelError
from wsdino.model.scaling import InputScaling
from wsdino.model.tiles import tile_starts
from wsdino.model.upload import as_float, as_tensor

if TYPE_CHECKING:
    from wsdino.screen.store import Store


def apply(pixels: np.ndarray, offset: np.ndarray, gain: np.ndarray) -> np.ndarray:
    return (pixels - offset[..., None, None]) * gain[..., None, None]


def test_fixed_scaling_maps_its_bounds_to_zero_and_one(store: Store) -> None:
    scaling = InputScaling("fixed", low=100, high=1100)
    offset, gain = scaling.for_store(store)
    assert offset.shape == gain.shape == (64, 2)
    assert offset.dtype == gain.dtype == np.float32
    pixels = np.array([100.0, 600.0, 1100.0]).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(apply(pixels, offset[:1, :1], gain[:1, :1]).ravel(), [0, 0.5, 1])
    assert scaling.clip == (0, 1)


def test_field_scaling_standardises_each_field_and_channel(store: Store) -> None:
    scaling = InputScaling("field")
    images = store.read(range(len(store)))
    scaled = apply(images, *scaling.for_store(store))
    np.testing.assert_allclose(scaled.mean(axis=(2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=(2, 3)), 1, atol=1e-4)
    assert scaling.clip == (-4, 8)


def naive_plate_moments(
    images: np.ndarray, manifest: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of all pixels of the plate's controls (or sites) thrown together."""
    mean, std = np.empty(images.shape[:2]), np.empty(images.shape[:2])
    for site, plate in enumerate(manifest["Metadata_Plate"]):
        rows = (manifest["Metadata_Plate"] == plate) & manifest["Metadata_Control"]
        if not rows.any():
            rows = manifest["Metadata_Plate"] == plate
        pixels = images[rows.to_numpy()].astype(np.float64).swapaxes(0, 1).reshape(2, -1)
        mean[site], std[site] = pixels.mean(axis=1), pixels.std(axis=1)
    return mean, std


@dataclass
class ScreenInMemory:
    """What scaling asks of a store."""

    manifest: pd.DataFrame
    statistics: dict[str, np.ndarray]
    channels: tuple[str, ...] = ("a", "b")

    def __len__(self) -> int:
        return len(self.manifest)


def test_plate_scaling_uses_the_controls_or_else_all_sites() -> None:
    rng = np.random.default_rng(0)
    levels = rng.uniform(100, 5000, (12, 2, 1, 1))
    images = rng.poisson(levels, (12, 2, 6, 8)).astype(np.uint16)
    manifest = pd.DataFrame({"Metadata_Plate": ["P1", "P2", "P3"] * 4})
    manifest["Metadata_Control"] = False
    manifest.loc[[0, 3, 7], "Metadata_Control"] = True  # two on P1, one on P2, none on P3
    statistics = {
        "mean": images.mean(axis=(2, 3)).astype(np.float32),
        "std": images.std(axis=(2, 3)).astype(np.float32),
    }
    offset, gain = InputScaling("plate").for_store(ScreenInMemory(manifest, statistics))
    mean, std = naive_plate_moments(images, manifest)
    np.testing.assert_allclose(offset, mean, rtol=1e-5)
    np.testing.assert_allclose(1 / gain, std, rtol=1e-4)
    assert offset.dtype == gain.dtype == np.float32


def test_plates_that_are_scaled_without_controls_are_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    manifest = pd.DataFrame({"Metadata_Plate": ["P1", "P2", "P3"] * 2})
    manifest["Metadata_Control"] = manifest["Metadata_Plate"] == "P2"
    InputScaling("plate").report(ScreenInMemory(manifest, {}))
    assert "input.method plate: 2 of 3 plates (P1, P3) without controls" in capsys.readouterr().err
    manifest["Metadata_Control"] = False
    InputScaling("plate").report(ScreenInMemory(manifest, {}))
    assert "3 of 3 plates (P1, P2, P3) without controls" in capsys.readouterr().err
    InputScaling("field").report(ScreenInMemory(manifest, {}))
    manifest["Metadata_Control"] = True
    InputScaling("plate").report(ScreenInMemory(manifest, {}))
    assert not capsys.readouterr().err


def test_plate_scaling_of_a_real_store(store: Store) -> None:
    offset, gain = InputScaling("plate").for_store(store)
    mean, std = naive_plate_moments(store.read(range(len(store))), store.manifest)
    np.testing.assert_allclose(offset, mean, rtol=1e-4)
    np.testing.assert_allclose(1 / gain, std, rtol=1e-3)


@pytest.mark.parametrize("method", ["fixed", "field"])
def test_images_alone_are_scaled_as_in_their_store(store: Store, method: str) -> None:
    scaling = InputScaling(method)
    offset, gain = scaling.for_images(as_tensor(store.read([3, 5])))
    expected = scaling.for_store(store)
    np.testing.assert_allclose(offset, expected[0][[3, 5]], rtol=1e-5)
    np.testing.assert_allclose(gain, expected[1][[3, 5]], rtol=1e-4)
    assert offset.dtype == gain.dtype == torch.float32


def test_an_empty_field_is_scaled_to_zeros() -> None:
    blank = torch.full((1, 2, 8, 8), 37, dtype=torch.uint8)
    offset, gain = InputScaling("field").for_images(blank)
    scaled = (blank - offset[..., None, None]) * gain[..., None, None]
    assert (scaled == 0).all()


def test_images_alone_have_no_plate() -> None:
    with pytest.raises(ModelError, match="scales by plate: embed a store"):
        InputScaling("plate").for_images(torch.zeros(1, 1, 2, 2, dtype=torch.uint8))


def test_wrong_scaling_is_refused() -> None:
    with pytest.raises(ModelError, match=r"input.method 'max': use one of fixed, plate, field"):
        InputScaling("max")
    with pytest.raises(ModelError, match=r"input.high 5 must exceed input.low 5"):
        InputScaling("fixed", low=5, high=5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_keep_their_values(dtype: type) -> None:
    images = np.arange(0, np.iinfo(dtype).max + 1, 5, dtype=dtype)
    read_only = images.copy()
    read_only.flags.writeable = False
    for array in (images, read_only, images[::-1]):
        np.testing.assert_array_equal(as_float(as_tensor(array)), array.astype(np.float32))


@settings(max_examples=100, deadline=None)
@given(length=st.integers(1, 80), tile=st.integers(1, 80), num=st.none() | st.integers(1, 6))
def test_tiles_lie_in_the_field_and_cover_it(length: int, tile: int, num: int | None) -> None:
    if tile > length:
        with pytest.raises(ModelError, match=f"embed.tile {tile} px is larger than .* {length} px"):
            tile_starts(length, tile, num)
        return
    starts = tile_starts(length, tile, num)
    assert len(starts) == (num or -(-length // tile))
    assert starts == sorted(starts)
    assert min(starts) >= 0
    assert max(starts) + tile <= length
    if len(starts) > 1:
        assert starts[0] == 0
        assert starts[-1] == length - tile
        assert max(np.diff(starts)) - min(np.diff(starts)) <= 1, "evenly spread"
    if num is None:
        covered = {pixel for start in starts for pixel in range(start, start + tile)}
        assert covered == set(range(length))


def test_one_tile_lies_in_the_middle() -> None:
    assert tile_starts(20, 10, 1) == [5]
    assert tile_starts(512, 224, 2) == [0, 288]
