"""Published models: each gives the embedding that its own code would give."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from helpers_published import (
    dinov2_state,
    dinov3_state,
    openphenom_embedding,
    openphenom_state,
    vit_embedding,
    vit_state,
)
from wsdino.errors import ModelError
from wsdino.exchange import config_like
from wsdino.model.backbone import timm_backbone
from wsdino.model.building import build_networks
from wsdino.model.channel_agnostic import MAX_CHANNELS
from wsdino.model.layouts import in_timms_layout
from wsdino.model.model import Model, load_model
from wsdino.model.published import PUBLISHED, PublishedModel, find_published
from wsdino.model.scaling import InputScaling
from wsdino.model.units import Standardised
from wsdino.model.weights import read_state_dict
from wsdino.trainings import model_spec

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SMALL = {"dim": 384, "depth": 12}
# The same layouts in a network that is quickly made.
TINY = {"dim": 32, "depth": 4}
CHANNELS = ("DNA", "RNA", "ER", "AGP", "Mito")
EIGHT_BITS = InputScaling("fixed", 0, 255)


def entry(name: str) -> PublishedModel:
    found = find_published(name)
    assert found is not None
    return found


def tiny(model: PublishedModel, *, patch: int) -> PublishedModel:
    """A published model in all but size."""
    small = replace(
        model.architecture,
        backbone="vit",
        patch_size=patch,
        dim=TINY["dim"],
        depth=TINY["depth"],
        num_heads=2,
        stem="linear",
        # Of photographs' units timm knows nothing where the network is ours; they are ImageNet's.
        expects=model.architecture.expects.replace("imagenet", "scaled"),
    )
    return replace(model, architecture=small)


def fields(num_channels: int, height: int, width: int, *, dtype: Any) -> NDArray[Any]:
    """Dim fields with a few pixels that are far brighter than all others."""
    chance = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    images = chance.integers(0, top // 8, (1, num_channels, height, width), dtype=dtype)
    images[..., 3:5, 7:9] = top
    return images


def in_rgb(scores: torch.Tensor) -> list[torch.Tensor]:
    """Each channel as grey levels in all three colours."""
    return [scores[:, i : i + 1].repeat(1, 3, 1, 1) for i in range(scores.shape[1])]


def close(ours: object, theirs: torch.Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(ours), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_with_and_without_registers(tmp_path: Path, registers: int) -> None:
    model = entry("dinov2_vits14_reg" if registers else "dinov2_vits14")
    shape = SMALL if registers else TINY
    state = dinov2_state(registers=registers, patch=14, positions=37 * 37, **shape)
    torch.save(state, tmp_path / "dinov2.pth")
    spec = model.spec(("a", "b"))
    if not registers:
        spec = tiny(model, patch=14).spec(("a", "b"))
    networks = build_networks(spec, weights=tmp_path / "dinov2.pth").eval()
    # Standard scores, as of ImageNet's pixels; on a grid that isn't the native one.
    scores = torch.randn(1, 2, 42, 70, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        heads = 6 if registers else 2
        wanted = [vit_embedding(state, x, heads=heads, exact=registers > 0) for x in in_rgb(scores)]
        close(networks(scores), torch.cat(wanted, dim=1))


@pytest.mark.parametrize(
    ("name", "gated"),
    [("dinov3_vits16", False), pytest.param("dinov3_vits16plus", True, marks=pytest.mark.slow)],
)
def test_dinov3(tmp_path: Path, name: str, gated: bool) -> None:
    state = dinov3_state(patch=16, gated=gated, **SMALL)
    torch.save(state, tmp_path / "dinov3.pth")
    networks = build_networks(entry(name).spec(("a",)), weights=tmp_path / "dinov3.pth").eval()
    scores = torch.randn(1, 1, 48, 80, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        (grey,) = in_rgb(scores)
        close(networks(scores), vit_embedding(state, grey, heads=6, eps=1e-5))


def standardised(images: NDArray[Any]) -> torch.Tensor:
    """As the code of Cell-DINO does with images of 8 bits."""
    pixels = torch.from_numpy(images / 255)
    spread = pixels.std(dim=(2, 3), correction=0, keepdim=True)
    return ((pixels - pixels.mean(dim=(2, 3), keepdim=True)) / (spread + 1e-7)).float()


@pytest.mark.parametrize(
    ("name", "channels", "patch", "side"),
    [
        ("cell_dino_cp_vits8", 5, 8, 128),
        ("cell_dino_hpa_vitl16", 4, 16, 224),
        ("cell_dino_hpa_vitl14", 4, 14, 518),
        ("channel_adaptive_dino_vitl16", 1, 16, 224),
    ],
)
def test_cell_dino_in_its_chunks(
    tmp_path: Path, name: str, channels: int, patch: int, side: int
) -> None:
    positions = (side // patch) ** 2
    state = dinov2_state(patch=patch, positions=positions, channels=channels, chunks=4, **TINY)
    torch.save({"teacher": {f"backbone.{k}": v for k, v in state.items()}}, tmp_path / "t.pth")
    model, num = tiny(entry(name), patch=patch), max(channels, 2)
    # Not the native size, so that positions are resized.
    spec = model.spec(CHANNELS[:num], tile=7 * patch)
    ours = Model(spec, build_networks(spec, weights=tmp_path / "t.pth"))
    images = fields(num, 7 * patch, 7 * patch, dtype=np.uint16)
    with torch.inference_mode():
        seen = standardised(images).split(channels, dim=1)
        wanted = torch.cat([vit_embedding(state, x, heads=2) for x in seen], dim=1)
    close(ours.embed(images), wanted)
    if channels > 1:
        with pytest.raises(ModelError, match=f"sees exactly {channels} channels at once, in the"):
            model.spec(("DNA",))
        # Weights for several stains are not mixed into one.
        with pytest.raises(ModelError, match=f"its first layer sees {channels} channels at once"):
            build_networks(replace(spec, mode="shared"), weights=tmp_path / "t.pth")


def test_morphem_standardises_each_channel(tmp_path: Path) -> None:
    state = vit_state(patch=16, positions=14 * 14, channels=1, scales=False, **TINY)
    save_file(state, tmp_path / "model.safetensors")
    spec = tiny(entry("MorphEm"), patch=16).spec(("DNA",))
    model = Model(spec, build_networks(spec, weights=tmp_path / "model.safetensors"))
    images = fields(1, 224, 224, dtype=np.uint8)
    pixels = torch.from_numpy(images.astype(np.float64))
    spread = (pixels.var(correction=0) + 1e-7).sqrt()
    with torch.inference_mode():
        wanted = vit_embedding(state, ((pixels - pixels.mean()) / spread).float(), heads=2)
    close(model.embed(images), wanted)


def test_openphenom_sees_tokens_of_any_channels(tmp_path: Path) -> None:
    state = openphenom_state()
    # Its code saves a torch file under this name.
    path = tmp_path / "model.safetensors"
    torch.save({"state_dict": state}, path)
    model = load_model(path, channels=CHANNELS[:2], backbone="OpenPhenom", scaling=EIGHT_BITS)
    images = fields(2, 256, 256, dtype=np.uint8)
    # So dim that what is added to the variance counts.
    images[:, 1] //= 30
    with torch.inference_mode():
        wanted = openphenom_embedding(state, torch.from_numpy(images))
    close(model.embed(images), wanted)
    assert model.feature_names[-1] == "emb_joint_383"
    with pytest.raises(ModelError, match="attention maps need"):
        model.attention(images)
    with pytest.raises(ModelError, match=r"positions for 256 x 256 px only; set embed\.tile 256"):
        model.networks(torch.zeros(1, 2, 128, 128))
    with pytest.raises(ModelError, match=f"at most {MAX_CHANNELS}"):
        model.networks.networks[0](torch.zeros(1, MAX_CHANNELS + 1, 256, 256))
    with pytest.raises(ModelError, match=r"sees images of 8 bits, .* give --set input.high=VALUE"):
        load_model(path, channels=CHANNELS, backbone="OpenPhenom")
    state = read_state_dict(path)
    state["vit_backbone.pos_embed"][:, 300] += 1
    target = model.networks.networks[0].state_dict()
    with pytest.raises(
        ModelError, match="x: holds tensors of OpenPhenom, and its positions are no"
    ):
        in_timms_layout(state, target, origin="x")


# Width, blocks, heads, side of a patch and of the native image, as the code of each states them.
SIZES = {
    "dinov2_vits14": (384, 12, 6, 14, 518),
    "dinov2_vitb14": (768, 12, 12, 14, 518),
    "dinov2_vitl14": (1024, 24, 16, 14, 518),
    "dinov2_vitg14": (1536, 40, 24, 14, 518),
    "dinov3_vits16": (384, 12, 6, 16, 224),
    "dinov3_vits16plus": (384, 12, 6, 16, 224),
    "dinov3_vitb16": (768, 12, 12, 16, 224),
    "dinov3_vitl16": (1024, 24, 16, 16, 224),
    "dinov3_vith16plus": (1280, 32, 20, 16, 224),
    "cell_dino_cp_vits8": (384, 12, 6, 8, 128),
    "cell_dino_hpa_vitl16": (1024, 24, 16, 16, 224),
    "cell_dino_hpa_vitl14": (1024, 24, 16, 14, 518),
    "channel_adaptive_dino_vitl16": (1024, 24, 16, 16, 224),
    "uniDINO": (384, 12, 6, 16, 224),
    "MorphEm": (384, 12, 6, 16, 224),
    "OpenPhenom": (384, 12, 6, 16, 256),
}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(
            model,
            id=model.name,
            marks=[pytest.mark.slow] * (SIZES[model.name.removesuffix("_reg")][0] > 384),
        )
        for model in PUBLISHED
    ],
)
def test_each_is_built_in_the_size_that_its_code_states(model: PublishedModel) -> None:
    with torch.device("meta"):
        network: Any = timm_backbone(
            model.architecture.backbone,
            in_channels=1,
            image_size=model.architecture.image_size,
            pool=model.architecture.pool,
            drop_path=0,
            pretrained=False,
        )
    dim, depth, heads, patch, image = SIZES[model.name.removesuffix("_reg")]
    block = network.blocks[0]
    found_heads = getattr(block, "num_heads", None) or block.attn.num_heads
    assert (network.embed_dim, len(network.blocks), found_heads) == (dim, depth, heads)
    assert network.patch_embed.patch_size[0] == patch
    assert network.patch_embed.grid_size[0] == image // patch
    with_registers = model.name.endswith("_reg") or model.name.startswith("dinov3")
    assert (network.reg_token is not None) == with_registers
    assert model.licence.link.startswith("https://")


@pytest.mark.parametrize("model", PUBLISHED, ids=lambda model: model.name)
def test_a_config_like_it_is_it(model: PublishedModel) -> None:
    channels = CHANNELS[: model.num_channels or 2]
    given = [] if model.scaling else ["input.high=255"]
    config, found = config_like(model.name, given, per_channel=False)
    assert found is model
    scaling = None if model.scaling else EIGHT_BITS
    spec = model.spec(channels, scaling=scaling)
    assert replace(model_spec(config, channels), origin=model.name) == spec


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (
            {"embeddings.patch_embeddings.projection.weight": torch.zeros(1)},
            "as the package transformers names them",
        ),
        ({"patch_embed.channel_embed": torch.zeros(1)}, "the tensors of a ChannelViT"),
        ({"downsample_layers.0.0.weight": torch.zeros(1)}, "the tensors of a ConvNeXt"),
    ],
)
def test_what_can_t_be_read_is_named(
    tmp_path: Path, state: dict[str, torch.Tensor], reason: str
) -> None:
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=reason):
        load_model(tmp_path / "other.pth", channels=CHANNELS, backbone="uniDINO")


def test_biases_that_a_network_lacks_are_not_dropped() -> None:
    state = dinov3_state(patch=16, dim=64, depth=1)
    biased = {"blocks.0.attn.q_bias": torch.zeros(64)}
    assert "blocks.0.attn.v_bias" in in_timms_layout(state, biased, origin="x")
    with pytest.raises(ModelError, match=r"biases other than zero, .* whose name ends in _qkvb"):
        in_timms_layout(state, {}, origin="x")
    name = "blocks.0.attn.qkv.bias"
    without = state | {name: torch.zeros(192)}
    assert not any(
        "bias" in each for each in in_timms_layout(without, {}, origin="x") if "qkv" in each
    )
    state |= {f"{name}_mask": torch.ones(192), name: torch.ones(192)}
    with pytest.raises(ModelError, match="x: holds tensors of DINOv3, and its keys have a bias"):
        in_timms_layout(state, biased, origin="x")


def test_brightest_pixels_are_not_cut_off_before_they_are_standardised() -> None:
    spec = tiny(entry("MorphEm"), patch=16).spec(("DNA",), scaling=InputScaling("field"))
    with pytest.raises(ModelError, match=r"expects standardised: .* use input\.method fixed"):
        build_networks(spec)
    # An empty image stays empty, whatever its level.
    assert Standardised()(torch.full((1, 1, 64, 64), 0.3)).abs().max() < 0.1


def test_timm_knows_the_network_that_it_lacks() -> None:
    name = "vit_small_patch16_channel_agnostic"
    assert name in timm.list_models("vit_small_patch16_*")
    with pytest.raises(ModelError, match="the mean over patches; use avg"):
        timm_backbone(
            name, in_channels=1, image_size=256, pool="token", drop_path=0, pretrained=False
        )
    with pytest.raises(ModelError, match="no weights of timm's"):
        timm_backbone(name, in_channels=1, image_size=256, pool="avg", drop_path=0, pretrained=True)
