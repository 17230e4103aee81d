"""What is exported as ONNX gives torch's embedding, where there is no torch."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from wsdino.errors import ModelError
from wsdino.model.building import build_networks
from wsdino.model.model import Model
from wsdino.model.onnx import onnx_files
from wsdino.model.positions import keep_one_size
from wsdino.model.scaling import InputScaling
from wsdino.model.spec import Architecture, ModelSpec
from wsdino.model.tiles import PAPER

if TYPE_CHECKING:
    from wsdino.model.networks import ChannelNetworks

# onnxscript is torch's, for its export.
onnx, onnxruntime, _ = (
    pytest.importorskip(name, reason="needs the extra onnx")
    for name in ("onnx", "onnxruntime", "onnxscript")
)

CHANNELS = ("DAPI", "Actin")
VIT = Architecture(
    image_size=32, patch_size=8, dim=32, depth=2, num_heads=2, stem="linear", positions="dino"
)
SPEC = ModelSpec(CHANNELS, architecture=VIT, scaling=InputScaling("fixed", 0, 10_000), tile=48)


def model_of(spec: ModelSpec) -> Model:
    torch.manual_seed(0)
    return Model(spec, build_networks(spec))


def run_onnx(content: bytes, **given: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(["embedding"], given)
    return np.asarray(found)


def fields(num: int, height: int, width: int) -> np.ndarray:
    chance = np.random.default_rng(0)
    return chance.integers(0, 12_000, (num, len(CHANNELS), height, width), dtype=np.uint16)


def test_onnxruntime_embeds_tiles_as_torch_does() -> None:
    """Tiles that aren't of the native size: their positions are in the graph."""
    model = model_of(SPEC)
    ((name, content),) = onnx_files(model).items()
    assert name == "model.onnx"
    for num in (1, 4):
        images = fields(num, 48, 48)
        offset, gain = np.zeros((num, 2), np.float32), np.full((num, 2), 1e-4, np.float32)
        found = run_onnx(content, images=images.astype(np.float32), offset=offset, gain=gain)
        np.testing.assert_allclose(found, model.embed(images), rtol=1e-4, atol=1e-4)
    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto, full_check=True)
    (said,) = [each.value for each in proto.metadata_props if each.key == "wsdino"]
    assert ModelSpec.from_json(said) == SPEC
    assert json.loads(said)["channels"] == list(CHANNELS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": replace(VIT, positions="timm", stem="conv"), "mode": "per_channel"},
        {"architecture": Architecture(backbone="test_efficientnet"), "mode": "joint"},
        {"architecture": Architecture(backbone="vit_small_patch16_dinov3_qkvb", image_size=64)},
        {
            "architecture": Architecture(
                backbone="vit_small_patch16_channel_agnostic",
                image_size=256,
                pool="avg",
                expects="instance_norm",
            ),
            "mode": "joint",
            "tile": 256,
            "scaling": InputScaling("fixed", 0, 12_000),
        },
    ],
    ids=["timm's positions", "convolutional", "dinov3", "channel-agnostic"],
)
def test_other_networks_too(changes: dict[str, Any]) -> None:
    spec = replace(SPEC, **({"scaling": InputScaling("field")} | changes))
    model = model_of(spec)
    images = fields(2, spec.tile or 0, spec.tile or 0)
    offset, gain = (each.numpy() for each in spec.scaling.for_images(torch.from_numpy(images)))
    (content,) = onnx_files(model).values()
    found = run_onnx(content, images=images.astype(np.float32), offset=offset, gain=gain)
    np.testing.assert_allclose(found, model.embed(images), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_each_size_of_the_paper_s_tiles_gets_a_graph() -> None:
    model = model_of(replace(SPEC, tile=224, tile_grid=PAPER, tile_summary="median"))
    found = onnx_files(model)
    assert list(found) == ["model_224x224.onnx", "model_224x256.onnx"]
    images, scaling = fields(1, 512, 640), np.zeros((1, 2), np.float32)
    boxes = [(32, 64, 256), (32, 320, 224), (256, 64, 256), (256, 320, 224)]
    tiles = [
        run_onnx(
            found[f"model_224x{width}.onnx"],
            images=images[..., top : top + 224, left : left + width].astype(np.float32),
            offset=scaling,
            gain=scaling + np.float32(1e-4),
        )
        for top, left, width in boxes
    ]
    # Of four values the lower of the middle two.
    median = np.sort(np.stack(tiles), axis=0)[1]
    np.testing.assert_allclose(median, model.embed(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("positions", ["dino", "timm"])
@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_a_network_of_one_size_is_the_same_network(positions: Any, shape: tuple[int, int]) -> None:
    spec = replace(SPEC, architecture=replace(VIT, positions=positions))
    networks: ChannelNetworks = build_networks(spec).eval()
    images = torch.rand(2, 2, *shape)
    with torch.inference_mode():
        before = networks(images)
    keep_one_size(networks.networks[0], shape)
    with torch.inference_mode():
        torch.testing.assert_close(networks(images), before)


def test_what_can_t_be_exported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="this model sees whole fields"):
        onnx_files(model_of(replace(SPEC, tile=None)))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"needs the package onnxruntime, .* 'wsdino\[onnx\]'"):
        onnx_files(model_of(SPEC))
