from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from helpers_train import TINY
from wsdino.errors import ImageError, ModelError
from wsdino.model.building import build_networks
from wsdino.model.model import Model, load_model
from wsdino.model.scaling import InputScaling
from wsdino.model.spec import Architecture, ModelSpec
from wsdino.model.tiles import tile_starts

if TYPE_CHECKING:
    from pathlib import Path

    from wsdino.screen.store import Store

CHANNELS = ("DAPI", "Actin")
SPEC = ModelSpec(CHANNELS, mode="per_channel", architecture=TINY)


def model_of(**changes: Any) -> Model:
    torch.manual_seed(0)
    spec = replace(SPEC, **changes)
    networks = build_networks(spec)
    for parameter in networks.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape))
    return Model(spec, networks)


def images_of(
    num: int = 3, *, height: int = 32, width: int = 40, dtype: type = np.uint16
) -> np.ndarray:
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    return rng.integers(0, top, (num, 2, height, width), endpoint=True, dtype=dtype)


def naive_tiles(model: Model, images: np.ndarray) -> np.ndarray:
    """Scale in float64, cut tile by tile, embed each by itself: (tiles, N, F)."""
    scaling = model.spec.scaling
    x = images.astype(np.float64)
    if scaling.method == "fixed":
        x = (x - scaling.low) / (scaling.high - scaling.low)
    else:
        x = (x - x.mean(axis=(2, 3), keepdims=True)) / x.std(axis=(2, 3), keepdims=True)
    x = torch.from_numpy(x.clip(*scaling.clip).astype(np.float32))
    tile, grid = model.spec.tile, model.spec.tile_grid or (None, None)
    rows = tile_starts(x.shape[2], tile, grid[0])
    columns = tile_starts(x.shape[3], tile, grid[1])
    with torch.no_grad():
        return np.stack(
            [
                model.networks(x[:, :, top : top + tile, left : left + tile]).numpy()
                for top in rows
                for left in columns
            ]
        )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("method", ["fixed", "field"])
@pytest.mark.parametrize("grid", [None, (1, 2), (3, 3)])
def test_embedding_is_the_mean_over_tiles(
    dtype: type, method: str, grid: tuple[int, int] | None
) -> None:
    scaling = InputScaling(method, low=5, high=np.iinfo(dtype).max / 2)
    model = model_of(tile=16, tile_grid=grid, scaling=scaling)
    images = images_of(dtype=dtype)
    embedding = model.embed(images)
    assert embedding.dtype == np.float32
    np.testing.assert_array_equal(model.embed(torch.from_numpy(images)), embedding)
    assert embedding.shape == (3, 32) == (3, len(model.feature_names))
    np.testing.assert_allclose(
        embedding, naive_tiles(model, images).mean(axis=0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("grid", [(1, 3), (2, 2)])
def test_the_median_of_an_even_number_is_the_lower_middle(grid: tuple[int, int]) -> None:
    model, images = model_of(tile=16, tile_grid=grid, tile_summary="median"), images_of()
    tiles = np.sort(naive_tiles(model, images), axis=0)
    expected = tiles[(len(tiles) - 1) // 2]
    np.testing.assert_allclose(model.embed(images), expected, rtol=1e-4, atol=1e-5)


def test_without_tiles_the_whole_patches_of_the_field_are_seen() -> None:
    model, images = model_of(tile=None), images_of(height=35, width=44)
    cropped = images[:, :, :32, :40]
    offset, gain = model.spec.scaling.for_images(torch.from_numpy(images.astype(np.int32)))
    np.testing.assert_array_equal(
        model.embed(images), model.embed(cropped, offset=offset, gain=gain)
    )
    assert model.attention(images).shape == (3, 2, 2, 4, 5)


@pytest.mark.parametrize("mode", ["per_channel", "shared", "joint"])
def test_the_batch_size_has_no_influence(mode: str) -> None:
    model, images = model_of(mode=mode, tile=16), images_of(5)
    whole = model.embed(images)
    single = np.concatenate([model.embed(images[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(single, whole, rtol=1e-4, atol=1e-5)


def test_given_offset_and_gain_are_used(store: Store) -> None:
    scaling = InputScaling("plate")
    model = model_of(scaling=scaling, tile=16)
    offset, gain = (torch.from_numpy(x[:2]) for x in scaling.for_store(store))
    images = store.read([0, 1])
    found = model.embed(images, offset=offset, gain=gain)
    scaled = (images - offset.numpy()[..., None, None]) * gain.numpy()[..., None, None]
    scaled = torch.from_numpy(scaled.clip(-4, 8).astype(np.float32))
    with torch.no_grad():
        tiles = [
            model.networks(scaled[:, :, top : top + 16, left : left + 16]).numpy()
            for top in (0, 16)
            for left in (0, 12, 24)
        ]
    np.testing.assert_allclose(found, np.mean(tiles, axis=0), rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="scales by plate"):
        model.embed(images)


def test_brightness_is_no_feature_under_field_scaling() -> None:
    model, images = model_of(tile=16), images_of() // 4
    np.testing.assert_allclose(model.embed(images * 3 + 50), model.embed(images), atol=1e-4)


def test_attention_is_a_map_per_channel_and_head() -> None:
    model, images = model_of(), images_of()
    maps = model.attention(images)
    assert maps.shape == (3, 2, 2, 4, 5)
    assert maps.dtype == np.float32
    assert model.network_names == list(CHANNELS)
    assert (maps > 0).all()
    assert (maps.sum(axis=(3, 4)) < 1).all()


def test_patches_have_features_for_each_channel_in_the_place_of_attention() -> None:
    model, images = model_of(), images_of()
    features = model.patches(images)
    assert features.shape[:4] == (*model.attention(images).shape[:2], 4, 5)
    assert features.dtype == np.float32
    # Those of a field don't depend on others.
    np.testing.assert_allclose(model.patches(images[1:2])[0], features[1], atol=1e-5)


@pytest.mark.parametrize("mode", ["per_channel", "shared", "joint"])
def test_a_saved_model_embeds_bit_for_bit_the_same(tmp_path: Path, mode: str) -> None:
    model = model_of(
        mode=mode, tile=16, tile_grid=(2, 3), tile_summary="median", scaling=InputScaling("fixed")
    )
    run = tmp_path / "run"
    model.save(run / "model")
    assert not list(run.rglob("*partial*"))
    for source in (run, run / "model", str(run)):
        loaded = load_model(source)
        assert loaded.spec == model.spec
        np.testing.assert_array_equal(loaded.embed(images_of()), model.embed(images_of()))
        np.testing.assert_array_equal(loaded.attention(images_of()), model.attention(images_of()))


def test_specs_survive_json() -> None:
    for spec in (SPEC, replace(SPEC, tile=16, tile_grid=(1, 2), scaling=InputScaling("plate"))):
        assert ModelSpec.from_json(spec.to_json()) == spec
        assert json.loads(spec.to_json())["channels"] == list(CHANNELS)


def test_a_damaged_model_is_refused_in_one_line(tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(ModelError, match=match) as caught:
            load_model(tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)

    refused("neither a finished run nor an exported model")
    model_of().save(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused("not a readable model|no such file")
    weights.unlink()
    refused("not a readable model|no such file")
    weights.write_bytes(whole)
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace('"dim": 16', '"dim": 32'), encoding="utf-8")
    refused("not a readable model|no such file")
    config.write_text(text[:50], encoding="utf-8")
    refused("not a readable model|no such file")
    config.write_text(text, encoding="utf-8")
    load_model(tmp_path)


def test_sources_that_say_too_little_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="need the names of the channels"):
        load_model("vit_tiny_patch16_224")
    with pytest.raises(ModelError, match="no such weight file"):
        load_model(tmp_path / "absent.pth", channels=CHANNELS, backbone="vit_tiny_patch16_224")


def test_tiles_must_fit_field_and_patch() -> None:
    with pytest.raises(ModelError, match=r"embed.tile 40 px is larger than the field's side of 32"):
        model_of(tile=40).embed(images_of())
    with pytest.raises(ModelError, match=r"embed.tile 20 px: not a multiple .* patch of 8"):
        model_of(tile=20)


def test_other_channels_are_refused() -> None:
    with pytest.raises(ImageError, match=r"\(N, 2, H, W\), .* DAPI, Actin; found \(1, 3, 16, 16\)"):
        model_of().embed(np.zeros((1, 3, 16, 16), dtype=np.uint8))


ARCHITECTURES: dict[str, Any] = {
    "backbone": "vit_tiny_patch16_224",
    "image_size": 32,
    "patch_size": 4,
    "dim": 32,
    "depth": 3,
    "num_heads": 4,
    "stem": "linear",
    "pool": "avg",
    "positions": "dino",
    "expects": "imagenet",
}


@pytest.mark.parametrize("name", [option.name for option in fields(Architecture)])
def test_no_option_of_the_architecture_is_ignored(name: str) -> None:
    before = TINY
    if name == "expects":
        # What our own network expects nobody states.
        before = replace(TINY, backbone="vit_tiny_patch16_224", image_size=32)
    changed = model_of(architecture=replace(before, **{name: ARCHITECTURES[name]}))
    base, images = model_of(architecture=before), images_of(width=32)

    def looks(model: Model) -> tuple[Any, ...]:
        shapes = {key: value.shape for key, value in model.networks.state_dict().items()}
        return shapes, model.attention(images).shape, model.embed(images).tobytes()

    assert looks(base) == looks(model_of(architecture=before))
    assert looks(base) != looks(changed)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "shared"},
        {"scaling": InputScaling("fixed")},
        {"tile": 8},
        {"tile_grid": (4, 4)},
        {"tile_summary": "median"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_no_option_of_the_spec_is_ignored(change: dict[str, Any]) -> None:
    found = [model_of(**{"tile": 16, **given}).embed(images_of()) for given in ({}, change)]
    assert (found[0] != found[1]).any()


@pytest.mark.parametrize("key", ["mode", "scaling", "positions", "backbone"])
def test_what_a_model_brings_along_can_not_be_given(key):
    value = {"mode": "joint", "scaling": InputScaling(), "positions": "timm", "backbone": "vit"}[
        key
    ]
    with pytest.raises(ModelError, match=f"starter: brings its own {key}; leave that out"):
        load_model("starter", channels=CHANNELS, **{key: value})
