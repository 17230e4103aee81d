"""Positions and boxes as the WS-DINO code has them, against forward passes written here."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers_train import TINY
from helpers_weights import rgb_vit, save_dino, save_ws_dino
from wsdino.config import load_config
from wsdino.errors import ModelError
from wsdino.model.building import build_networks
from wsdino.model.model import Model, load_model
from wsdino.model.scaling import InputScaling
from wsdino.model.spec import Architecture, ModelSpec
from wsdino.model.tiles import tile_boxes
from wsdino.pipeline import model_spec

if TYPE_CHECKING:
    from pathlib import Path

DINO_VIT = Architecture(
    image_size=224, patch_size=8, dim=48, depth=2, num_heads=3, stem="linear", positions="dino"
)
SIZES = [(64, 64), (96, 96), (224, 224), (256, 256), (224, 256)]


def dino_forward(state: dict[str, Tensor], images: Tensor, *, patch: int, heads: int) -> Tensor:
    """DINO's vision transformer from its weights alone, step by step: (N, 3, H, W) -> (N, D)."""
    x = functional.conv2d(
        images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=patch
    )
    rows, columns = x.shape[-2:]
    x = x.flatten(2).transpose(1, 2)
    num, _, dim = x.shape
    x = torch.cat([state["cls_token"].expand(num, 1, dim), x], dim=1)
    side = math.isqrt(state["pos_embed"].shape[1] - 1)
    positions = state["pos_embed"]
    if not (rows * columns == side * side and rows == columns):
        grid = positions[:, 1:].reshape(1, side, side, dim).permute(0, 3, 1, 2)
        scale = ((rows + 0.1) / side, (columns + 0.1) / side)
        grid = functional.interpolate(grid, scale_factor=scale, mode="bicubic")
        assert grid.shape[-2:] == (rows, columns)
        positions = torch.cat(
            [positions[:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, dim)], dim=1
        )
    x = x + positions
    for block in range(sum(name.endswith("norm1.weight") for name in state)):
        own = {
            name.removeprefix(f"blocks.{block}."): value
            for name, value in state.items()
            if name.startswith(f"blocks.{block}.")
        }
        y = norm(x, own["norm1.weight"], own["norm1.bias"])
        qkv = y @ own["attn.qkv.weight"].T + own["attn.qkv.bias"]
        q, k, v = qkv.reshape(num, -1, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(dim // heads)).softmax(dim=-1)
        y = (weights @ v).transpose(1, 2).reshape(num, -1, dim)
        x = x + y @ own["attn.proj.weight"].T + own["attn.proj.bias"]
        y = norm(x, own["norm2.weight"], own["norm2.bias"])
        y = functional.gelu(y @ own["mlp.fc1.weight"].T + own["mlp.fc1.bias"])
        x = x + y @ own["mlp.fc2.weight"].T + own["mlp.fc2.bias"]
    return norm(x, state["norm.weight"], state["norm.bias"])[:, 0]


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return functional.layer_norm(x, (x.shape[-1],), weight, bias, eps=1e-6)


def shaken(module: nn.Module) -> None:
    """Give every weight a value of its own, so that nothing hides behind zeros."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape))


def model_of(**changes: object) -> Model:
    """A network for each channel, fixed scaling: the paper's way, small."""
    spec = ModelSpec(
        ("DAPI", "Actin"),
        mode="per_channel",
        architecture=DINO_VIT,
        scaling=InputScaling("fixed", low=0, high=10_000),
    )
    spec = replace(spec, **changes)
    networks = build_networks(spec)
    shaken(networks)
    return Model(spec, networks)


def expected_of(model: Model, scaled: Tensor) -> Tensor:
    """What the independent pass makes of scaled images (N, C, H, W), channel by channel."""
    blocks = []
    for channel, network in enumerate(model.networks.networks):
        state = dict(network.state_dict())
        grey = scaled[:, channel : channel + 1]
        blocks.append(dino_forward(state, grey, patch=8, heads=3))
    return torch.cat(blocks, dim=1)


def fields(height: int, width: int) -> np.ndarray:
    shape = (2, 2, height, width)
    return np.random.default_rng(0).integers(0, 12_000, shape, dtype=np.uint16)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_positions_follow_dinos_rule_at_every_size(size: tuple[int, int]) -> None:
    model, images = model_of(), fields(*size)
    scaled = torch.from_numpy(images.astype(np.float32)).clamp(0, 10_000) / 10_000
    expected = expected_of(model, scaled).numpy()
    np.testing.assert_allclose(model.embed(images), expected, rtol=0, atol=1e-5)
    # The rule matters, but at the native size.
    other = model_of(architecture=replace(DINO_VIT, positions="timm"))
    other.networks.load_state_dict(model.networks.state_dict())
    gap = np.abs(other.embed(images) - expected).max()
    assert gap > 1e-4 if size != (224, 224) else gap < 1e-5


@torch.no_grad()
def test_the_papers_boxes_are_those_of_its_code() -> None:
    model = model_of(tile=224, tile_grid="paper", tile_summary="median")
    images = fields(512, 640)
    scaled = torch.from_numpy(images.astype(np.float32)).clamp(0, 10_000) / 10_000
    crops = [
        scaled[:, :, 32:256, 64:320],
        scaled[:, :, 32:256, 320:544],
        scaled[:, :, 256:480, 64:320],
        scaled[:, :, 256:480, 320:544],
    ]
    expected = torch.stack([expected_of(model, crop) for crop in crops]).median(dim=0).values
    np.testing.assert_allclose(model.embed(images), expected.numpy(), rtol=0, atol=1e-5)
    corners = replace(model.spec, tile_grid=(2, 2))
    assert np.abs(Model(corners, model.networks).embed(images) - expected.numpy()).max() > 1e-3


def test_the_papers_boxes_are_refused_elsewhere() -> None:
    boxes = tile_boxes((512, 640), 224, "paper")
    assert [(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in boxes] == [
        (32, 256, 64, 320),
        (32, 256, 320, 544),
        (256, 480, 64, 320),
        (256, 480, 320, 544),
    ]
    with pytest.raises(ModelError, match=r"fields of 512 x 640 px .* these are 1024 x 1280"):
        tile_boxes((1024, 1280), 224, "paper")
    for tile in (96, None):
        with pytest.raises(ModelError, match=rf"embed.tile {tile}: .* tiles of 224 px"):
            tile_boxes((512, 640), tile, "paper")
    with pytest.raises(ModelError, match=r"embed.tile 256 px: not a multiple .* patch of 14"):
        model_of(
            architecture=replace(DINO_VIT, patch_size=14),
            tile=224,
            tile_grid="paper",
        )


def test_the_rule_is_saved_with_the_model_and_the_old_one_where_it_is_not(tmp_path: Path) -> None:
    model, images = model_of(), fields(96, 96)
    model.save(tmp_path)
    again = load_model(tmp_path)
    assert again.spec.architecture.positions == "dino"
    np.testing.assert_array_equal(again.embed(images), model.embed(images))
    # What an earlier version saved doesn't say: such a model keeps timm's rule.
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del saved["architecture"]["positions"]
    (tmp_path / "config.json").write_text(json.dumps(saved), encoding="utf-8")
    old = load_model(tmp_path)
    vit = timm.models.VisionTransformer(
        img_size=224, patch_size=8, in_chans=1, num_classes=0, embed_dim=48, depth=2, num_heads=3,
        global_pool="token", dynamic_img_size=True,
    ).eval()  # fmt: skip
    vit.load_state_dict(old.networks.networks[0].state_dict())
    scaled = torch.from_numpy(images.astype(np.float32)).clamp(0, 10_000) / 10_000
    with torch.no_grad():
        expected = vit(scaled[:, :1]).numpy()
    np.testing.assert_allclose(old.embed(images)[:, :48], expected, rtol=0, atol=1e-5)
    assert np.abs(old.embed(images) - model.embed(images)).max() > 1e-4


@torch.no_grad()
def test_checkpoints_of_ws_dino_embed_as_its_code_does(tmp_path: Path) -> None:
    """Three grey channels, as its loader makes them, at the two sizes of its boxes."""
    vit = rgb_vit(size=224)
    save_ws_dino(vit, tmp_path / "checkpoint.pth")
    arch = Architecture(
        image_size=224, patch_size=16, dim=192, depth=2, num_heads=3, stem="linear",
        positions="dino",
    )  # fmt: skip
    spec = ModelSpec(("DAPI",), mode="per_channel", architecture=arch)
    networks = build_networks(spec, weights=tmp_path / "checkpoint.pth").eval()
    for size in SIZES:
        grey = torch.rand((1, 1, *size), generator=torch.Generator().manual_seed(0))
        expected = dino_forward(dict(vit.state_dict()), grey.repeat(1, 3, 1, 1), patch=16, heads=3)
        torch.testing.assert_close(networks(grey), expected, rtol=0, atol=1e-4)
    # A file for another native size would be resized twice.
    with pytest.raises(
        ModelError, match=r"grid of 14 x 14 patches.* give architecture.image_size 224"
    ):
        build_networks(
            replace(spec, architecture=replace(arch, image_size=96)),
            weights=tmp_path / "checkpoint.pth",
        )


def test_weights_by_timm_s_name_follow_the_rule_of_who_trained_them(tmp_path: Path) -> None:
    save_dino(rgb_vit(depth=12, size=224), tmp_path / "dino.pth")
    source, given = tmp_path / "dino.pth", {"channels": ("a",), "backbone": "vit_tiny_patch16_224"}
    assert load_model(source, **given).spec.architecture.positions == "timm"
    assert load_model(source, **given, positions="dino").spec.architecture.positions == "dino"
    from wsdino.model.building import position_rule_of

    assert position_rule_of("vit_small_patch8_224.dino") == "dino"
    assert position_rule_of("vit_base_patch16_224.augreg_in21k") == "timm"
    assert position_rule_of("vit") == "timm"
    # Refused before anything is fetched.
    arch = Architecture(backbone="vit_small_patch8_224.dino", image_size=96, positions="dino")
    with pytest.raises(ModelError, match=r"architecture.image_size 96: .* give 224"):
        build_networks(ModelSpec(("a",), architecture=arch), weights="timm")
    arch = Architecture(backbone="resnet18", positions="dino")
    with pytest.raises(ModelError, match="positions dino: resnet18 is not a plain vision"):
        build_networks(ModelSpec(("a",), architecture=arch))


def test_a_copied_network_keeps_its_rule_and_its_gradients() -> None:
    networks = build_networks(
        ModelSpec(("a",), architecture=replace(TINY, positions="dino"), mode="joint")
    )
    shaken(networks)
    teacher = copy.deepcopy(networks)
    images = torch.rand((2, 1, 32, 40))
    torch.testing.assert_close(teacher(images), networks(images))
    networks(images).sum().backward()
    gradient = networks.networks[0].pos_embed.grad
    assert gradient is not None
    assert (gradient != 0).any(dim=-1).all()


def test_only_the_paper_preset_asks_for_dinos_rule_and_boxes() -> None:
    for name in ("cpu", "default", "demo", "imagenet"):
        spec = model_spec(load_config(name), ("a",))
        assert (spec.architecture.positions, spec.tile_grid) == ("timm", None)
    spec = model_spec(load_config("paper"), ("a",))
    assert (spec.architecture.positions, spec.tile, spec.tile_grid) == ("dino", 224, "paper")
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_trainings_of_before_the_option_are_known_for_what_they_are() -> None:
    assert "positions" not in Architecture().identity()
    assert {**DINO_VIT.identity(), "expects": "scaled"} == asdict(DINO_VIT)
