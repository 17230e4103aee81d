from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from wsdino.errors import ModelError
from wsdino.model.backbone import cls_attention, patch_features, small_vit, timm_backbone

TINY: dict[str, Any] = {
    "in_channels": 2,
    "image_size": 32,
    "patch_size": 8,
    "dim": 16,
    "depth": 2,
    "num_heads": 4,
    "stem": "conv",
    "pool": "token",
    "drop_path": 0.0,
}


def vit_of(**changes: Any) -> Any:
    torch.manual_seed(0)
    vit = small_vit(**{**TINY, **changes}).eval()
    # timm starts [CLS] and biases at almost nothing: what is zero could not be missed.
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return vit


def images_of(size: int = 32, *, num: int = 3, channels: int = 2) -> Tensor:
    return torch.randn((num, channels, size, size), generator=torch.Generator().manual_seed(1))


def run_blocks(vit: Any, tokens: Tensor) -> Tensor:
    for block in vit.blocks:
        tokens = block(tokens)
    return vit.norm(tokens)


@pytest.mark.parametrize("stem", ["conv", "linear"])
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_at_native_size_positions_are_simply_added(stem: str, pool: str) -> None:
    vit, images = vit_of(stem=stem, pool=pool), images_of()
    patches = vit.patch_embed(images)
    assert patches.shape == (3, 4, 4, 16), "rows, columns, channels"
    tokens = torch.cat([vit.cls_token.expand(3, -1, -1), patches.reshape(3, 16, 16)], dim=1)
    tokens = run_blocks(vit, tokens + vit.pos_embed) if pool == "token" else tokens
    if pool == "token":
        expected = tokens[:, 0]
    else:
        tokens = tokens + vit.pos_embed
        for block in vit.blocks:
            tokens = block(tokens)
        expected = vit.fc_norm(tokens[:, 1:].mean(dim=1))
    torch.testing.assert_close(vit(images), expected)


@pytest.mark.parametrize("stem", ["conv", "linear"])
@pytest.mark.parametrize("size", [16, 48])
def test_at_another_size_positions_are_interpolated(stem: str, size: int) -> None:
    vit, images, grid = vit_of(stem=stem), images_of(size), size // 8
    assert vit(images).shape == (3, 16)
    positions = vit.pos_embed[:, 1:].reshape(1, 4, 4, 16).permute(0, 3, 1, 2)
    positions = torch.nn.functional.interpolate(
        positions, (grid, grid), mode="bicubic", antialias=True
    )
    positions = positions.permute(0, 2, 3, 1).reshape(1, grid**2, 16)
    patches = vit.patch_embed(images).reshape(3, grid**2, 16) + positions
    first = (vit.cls_token + vit.pos_embed[:, :1]).expand(3, -1, -1)
    expected = run_blocks(vit, torch.cat([first, patches], dim=1))[:, 0]
    torch.testing.assert_close(vit(images), expected)


def test_fields_need_not_be_square() -> None:
    images = torch.randn(2, 2, 16, 40)
    assert vit_of()(images).shape == (2, 16)
    assert cls_attention(vit_of(), images).shape == (2, 4, 2, 5)


@pytest.mark.parametrize(("patch", "num_convolutions"), [(4, 3), (8, 4), (16, 5)])
def test_the_convolutional_stem_halves_until_the_patch_is_reached(
    patch: int, num_convolutions: int
) -> None:
    vit = vit_of(patch_size=patch)
    kernels = [m for m in vit.patch_embed.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(kernels) == num_convolutions
    assert vit.patch_embed(images_of()).shape == (3, 32 // patch, 32 // patch, 16)
    assert vit.pos_embed.shape == (1, 1 + (32 // patch) ** 2, 16)


def test_a_view_is_embedded_by_itself() -> None:
    """No statistics over the batch: what else is in it must not matter."""
    vit, images = vit_of().train(), images_of()
    torch.testing.assert_close(vit(images)[:1], vit(images[:1]))


def test_wrong_shapes_are_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"architecture.patch_size 6: .* power of two"):
        vit_of(patch_size=6)
    with pytest.raises(ModelError, match=r"dim 16: not a multiple of architecture.num_heads 3"):
        vit_of(num_heads=3)


# Attention.


def recorded_attention(vit: Any, images: Tensor) -> Tensor:
    """Weights of the last block as timm computes them where it does not fuse."""
    attention = vit.blocks[-1].attn
    attention.fused_attn = False
    kept = []
    handle = attention.attn_drop.register_forward_hook(lambda _m, _a, out: kept.append(out))
    with torch.no_grad():
        vit(images)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("stem", ["conv", "linear"])
@pytest.mark.parametrize("size", [32, 48])
def test_attention_is_what_timm_computes(stem: str, size: int) -> None:
    vit, images, grid = vit_of(stem=stem), images_of(size), size // 8
    maps = cls_attention(vit, images)
    assert maps.shape == (3, 4, grid, grid)
    weights = recorded_attention(vit, images)
    torch.testing.assert_close(maps, weights[:, :, 0, 1:].reshape(3, 4, grid, grid))
    torch.testing.assert_close(maps.sum(dim=(2, 3)), 1 - weights[:, :, 0, 0])
    assert not maps.requires_grad


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_attention_of_timm_models_leaves_out_every_prefix_token(name: str) -> None:
    vit = timm_backbone(
        name, in_channels=1, image_size=32, pool="token", drop_path=0.0, pretrained=False
    ).eval()
    images = images_of(channels=1)
    maps, weights = cls_attention(vit, images), recorded_attention(vit, images)
    assert maps.shape == (3, 3, 2, 2)
    torch.testing.assert_close(maps.flatten(2), weights[:, :, 0, -4:])


@pytest.mark.parametrize(
    "name", ["resnet10t", "vit_relpos_small_patch16_224", "beit_base_patch16_224"]
)
def test_attention_of_anything_else_is_refused(name: str) -> None:
    import timm

    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    with pytest.raises(ModelError, match="need a vision transformer with a class token") as caught:
        cls_attention(model, images_of())
    assert type(model).__name__ in str(caught.value)


@pytest.mark.parametrize("stem", ["conv", "linear"])
def test_patch_features_are_timm_s_last_tokens_in_their_places(stem: str) -> None:
    vit, images = vit_of(stem=stem), images_of(48)[..., :32, :]
    found = patch_features(vit, images)
    assert found.shape == (3, 4, 6, 16)
    torch.testing.assert_close(found.flatten(1, 2), vit.forward_features(images)[:, 1:])
    # What is fed to a single patch of the last block comes out at its place.
    tokens = vit._pos_embed(vit.patch_embed(images))  # noqa: SLF001 timm has no public name
    expected = run_blocks(vit, vit.norm_pre(tokens))[:, 1 + 2 * 6 + 5]
    torch.testing.assert_close(found[:, 2, 5], expected)
    assert not found.requires_grad


def test_patch_features_of_a_network_without_patches_are_refused() -> None:
    resnet = timm_backbone(
        "resnet10t", in_channels=2, image_size=32, pool="token", drop_path=0.0, pretrained=False
    )
    with pytest.raises(ModelError, match="need a vision transformer, and this model's backbone"):
        patch_features(resnet.eval(), images_of())


# timm.


def test_timm_models_take_other_sizes_and_channels() -> None:
    vit = timm_backbone(
        "vit_tiny_patch16_224",
        in_channels=2,
        image_size=32,
        pool="avg",
        drop_path=0.0,
        pretrained=False,
    ).eval()
    assert vit(images_of()).shape == vit(images_of(48)).shape == (3, 192)
    resnet = timm_backbone(
        "resnet10t", in_channels=2, image_size=32, pool="token", drop_path=0.0, pretrained=False
    )
    assert resnet.eval()(images_of()).shape == (3, 512)


def test_unknown_names_are_refused_in_one_line() -> None:
    with pytest.raises(ModelError, match=r"backbone 'vit_gigantic'.*list_models") as caught:
        timm_backbone(
            "vit_gigantic",
            in_channels=1,
            image_size=32,
            pool="token",
            drop_path=0.0,
            pretrained=False,
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vit_relpos_small_patch16_224", "vit_medium_patch16_gap_256"])
def test_models_that_can_t_be_built_so_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(
        ModelError, match=f"architecture.backbone '{name}': does not support"
    ) as caught:
        timm_backbone(
            name, in_channels=1, image_size=32, pool="token", drop_path=0.0, pretrained=False
        )
    assert "\n" not in str(caught.value)
