"""Backbones: our own small vision transformer, or any timm model by name."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.random import fork_rng

from wsdino.errors import ModelError
from wsdino.model.names import is_vision_transformer
from wsdino.outside import reading

if TYPE_CHECKING:
    from timm.layers import Attention
    from timm.models.vision_transformer import VisionTransformer

    from wsdino.model.names import PoolName, StemName


class ConvStem(nn.Module):
    """Patch embedding by overlapping 3x3 convolutions of stride 2 instead of a linear map.

    Learns faster from few samples than a linear patch embedding ("Early convolutions help
    transformers see better", arXiv 2106.14881). Normalises over channels, not over the batch, so
    that the teacher needs no running statistics and ranks need not exchange any.

    Its signature is the one that timm's ``VisionTransformer`` expects of an ``embed_layer``.
    """

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        **_: object,
    ) -> None:
        super().__init__()
        from timm.layers import LayerNorm2d

        num_halvings = patch_size.bit_length() - 1
        if 2**num_halvings != patch_size or num_halvings < 1:
            raise ModelError(
                f"architecture.patch_size {patch_size}: architecture.stem conv needs a power of two"
            )
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        layers: list[nn.Module] = []
        width_in = in_chans
        for halving in range(num_halvings):
            width_out = max(embed_dim // 2 ** (num_halvings - 1 - halving), 8)
            layers += [
                nn.Conv2d(width_in, width_out, 3, stride=2, padding=1),
                LayerNorm2d(width_out),
                nn.GELU(),
            ]
            width_in = width_out
        self.proj = nn.Sequential(*layers, nn.Conv2d(width_in, embed_dim, 1))

    def feat_ratio(self) -> int:
        """Pixels per token along one axis."""
        return self.patch_size[0]

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, C, H, W) images to (N, H / patch, W / patch, D) tokens."""
        tokens: Tensor = self.proj(images)
        return tokens.permute(0, 2, 3, 1)


# Layers for timm's VisionTransformer; None for its own patch embedding.
EMBED_LAYERS: dict[StemName, type[nn.Module] | None] = {"conv": ConvStem, "linear": None}
PROBE = 96
"""Side in px of the image that a convolutional network is tried with."""


def small_vit(
    *,
    in_channels: int,
    image_size: int,
    patch_size: int,
    dim: int,
    depth: int,
    num_heads: int,
    stem: StemName,
    pool: PoolName,
    drop_path: float,
) -> VisionTransformer:
    """Build a vision transformer of a given size from timm's parts.

    Parameters
    ----------
    in_channels
        Number of input channels.
    image_size
        Side in px at which the positional embedding is native; other sizes are interpolated.
    patch_size
        Side of a patch in px.
    dim, depth, num_heads
        Features per token, number of transformer blocks, and attention heads per block.
    stem
        One of :data:`EMBED_LAYERS`.
    pool
        One of :data:`~wsdino.model.names.PoolName`.
    drop_path
        Stochastic depth rate of the last block, rising linearly from zero.
    """
    from timm.models.vision_transformer import VisionTransformer

    if dim % num_heads:
        raise ModelError(
            f"architecture.dim {dim}: not a multiple of architecture.num_heads {num_heads}"
        )
    embed_layer = EMBED_LAYERS[stem]
    options = {} if embed_layer is None else {"embed_layer": embed_layer}
    return VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        in_chans=in_channels,
        num_classes=0,
        global_pool=cast("Any", pool),
        embed_dim=dim,
        depth=depth,
        num_heads=num_heads,
        drop_path_rate=drop_path,
        dynamic_img_size=True,
        **options,
    )


def timm_backbone(
    name: str,
    *,
    in_channels: int,
    image_size: int,
    pool: str,
    drop_path: float,
    pretrained: bool,
    resample: bool = True,
) -> nn.Module:
    """Build a timm model without its classifier: a vision transformer, or a network that pools.

    Vision transformers take any image size that is a multiple of their patch, convolutional
    networks any; with ``pretrained=True`` and one input channel timm sums the weights over RGB,
    which is the same as replicating the channel three times. Unless `resample`, pretrained
    positions must fit `image_size` as they are. Only vision transformers use `image_size` and
    `pool`.

    Raises
    ------
    ModelError
        If timm has no such model, it can't be built this way, it doesn't make one vector of an
        image, or its weights can't be downloaded.
    """
    import timm

    import wsdino.model.channel_agnostic  # noqa: F401 a network for timm's registry

    if ":" in name:
        # timm would fetch what the architecture is, each time that a model is loaded.
        raise ModelError(
            f"architecture.backbone {name!r}: names a place on a hub or disk; give timm's name of "
            "the architecture, and the weights as a file (model.weights)"
        )
    # Some networks have no stochastic depth, which is no reason to refuse them without it.
    options: dict[str, Any] = {"drop_path_rate": drop_path} if drop_path else {}
    asked = f"train.drop_path {drop_path:g}"
    if is_vision_transformer(name):
        options |= {"dynamic_img_size": True, "img_size": image_size, "global_pool": pool}
        asked = f"architecture.image_size {image_size}, architecture.pool {pool!r} or {asked}"
        if pretrained and not resample:
            _require_native_size(name, image_size)
    key = f"architecture.backbone {name!r}"
    if not timm.is_model(name):
        raise ModelError(f"{key}: unknown model; use 'vit' or a name from timm.list_models()")
    build = partial(timm.create_model, name, num_classes=0, in_chans=in_channels, **options)
    # With pretrained weights this tells what fails; the random state stays that of one building.
    with (
        fork_rng(devices=[], enabled=pretrained),
        reading(key, ModelError, f"does not support {asked}"),
    ):
        model: nn.Module = build(pretrained=False)
    if pretrained:
        with reading(
            "model.weights 'timm'",
            ModelError,
            f"the weights of {name!r} can't be downloaded",
            advice="give model.weights a file instead",
        ):
            model = build(pretrained=True)
    _require_one_vector(model, name, in_channels=in_channels)
    return model


def width_of(backbone: nn.Module) -> int:
    """Length of the vector that a backbone makes of an image.

    Some of timm's networks widen after pooling: `num_features` is what they have before it.
    """
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)  # type: ignore[arg-type]


@torch.no_grad()
def _require_one_vector(backbone: nn.Module, name: str, *, in_channels: int) -> None:
    """Refuse what gives maps, tokens or lists, or sees neither other images nor its own."""
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(backbone, VisionTransformer):
        return
    native = getattr(backbone, "pretrained_cfg", {}).get("input_size", (0, PROBE, PROBE))[-2:]
    found: Any = None
    mode = backbone.training
    backbone.eval()
    # Some networks see images of one size only, which crops and tiles may have.
    for size in ((PROBE, PROBE), native):
        with suppress(Exception):
            found = backbone(torch.zeros(1, in_channels, *size))
            break
    backbone.train(mode)
    shape = tuple(found.shape) if isinstance(found, Tensor) else None
    if shape != (1, width_of(backbone)):
        made = f"makes {shape} of one image" if shape else "makes no vector of an image"
        raise ModelError(
            f"architecture.backbone {name!r}: {made}, and not {width_of(backbone)} features; use a "
            "network that pools, such as resnet18"
        )


def _require_native_size(name: str, image_size: int) -> None:
    import timm

    known = timm.get_pretrained_cfg(name)
    native = known.input_size[-1] if known else image_size
    if native != image_size:
        raise ModelError(
            f"architecture.image_size {image_size}: with architecture.positions dino the weights "
            f"of {name} keep their own grid, which is that of images of {native} px; give {native} "
            "(crops and tiles may have any size)"
        )


@torch.no_grad()
def patch_features(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Features of each patch after the last block.

    Parameters
    ----------
    vit
        The backbone.
    images
        (N, C, H, W), scaled as for the forward pass.

    Returns
    -------
    Tensor
        (N, H / patch, W / patch, D): the tokens of patches, as timm's last norm leaves them.

    Raises
    ------
    ModelError
        If the backbone isn't a vision transformer with one token for each patch.
    """
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(vit, VisionTransformer):
        raise ModelError(
            "features of patches need a vision transformer, and this model's backbone is of the "
            f"kind {type(vit).__name__}; nothing else needs one"
        )
    patch = vit.patch_embed.patch_size
    grid = (images.shape[-2] // patch[0], images.shape[-1] // patch[1])
    tokens = vit.forward_features(images)[:, vit.num_prefix_tokens :]
    if tokens.shape[1] != grid[0] * grid[1]:
        raise ModelError(
            f"features of patches: {tokens.shape[1]} tokens for {grid[0]} x {grid[1]} patches; "
            "expected a network with one token for each patch"
        )
    return cast("Tensor", tokens.unflatten(1, grid))


@torch.no_grad()
def cls_attention(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Attention of [CLS] to the patches in the last block.

    Parameters
    ----------
    vit
        The backbone.
    images
        (N, C, H, W), scaled as for the forward pass.

    Returns
    -------
    Tensor
        (N, heads, H / patch, W / patch): softmax over all tokens, then without the prefix tokens,
        so that a map sums to one minus the attention of [CLS] to itself.

    Raises
    ------
    ModelError
        If the backbone has no class token or no plain self-attention.
    """
    attention = plain_attention(vit, "attention maps need", "nothing else needs one")
    tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))  # noqa: SLF001 timm has no public name
    for block in vit.blocks[:-1]:
        tokens = block(tokens)
    weights = class_weights(attention, vit.blocks[-1].norm1(tokens))
    patch = vit.patch_embed.patch_size
    grid = (images.shape[-2] // patch[0], images.shape[-1] // patch[1])
    return cast("Tensor", weights[:, :, vit.num_prefix_tokens :].unflatten(-1, grid))


def plain_attention(backbone: nn.Module, what: str, advice: str) -> Attention:
    """Return the self-attention of the last block.

    Parameters
    ----------
    backbone
        The backbone.
    what
        Who needs it, and the verb: the beginning of the error's sentence.
    advice
        Its end.

    Raises
    ------
    ModelError
        If the backbone has no class token or no plain self-attention.
    """
    from timm.layers import Attention
    from timm.models.vision_transformer import VisionTransformer

    # Variants with other attention (relative positions, gates) would silently give wrong maps.
    if isinstance(backbone, VisionTransformer) and backbone.has_class_token:
        attention = getattr(backbone.blocks[-1], "attn", None)
        if type(attention) is Attention:
            return attention
    raise ModelError(
        f"{what} a vision transformer with a class token, and this model's "
        f"backbone is of the kind {type(backbone).__name__}; {advice}"
    )


def class_weights(attention: Attention, tokens: Tensor) -> Tensor:
    """Attention of [CLS] to all tokens: (N, T, D), the attention's input, to (N, heads, T)."""
    num, length, _ = tokens.shape
    qkv = attention.qkv(tokens).reshape(num, length, 3, attention.num_heads, -1)
    query, key, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    query, key = attention.q_norm(query), attention.k_norm(key)
    weights = ((query[:, :, :1] * attention.scale) @ key.transpose(-2, -1)).softmax(dim=-1)
    return cast("Tensor", weights[:, :, 0])
