"""OpenPhenom's vision transformer, whose tokens are the patches of each channel.

Facts about it are from recursionpharma/maes_microscopy (``vit.py``, ``mae_modules.py`` and
``maes_microscopy/huggingface_mae.py``) and "Masked Autoencoders for Microscopy are Scalable
Learners of Cellular Biology" (arXiv 2404.10242).
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import register_model
from timm.models.vision_transformer import ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn

from wsdino.errors import ModelError

NATIVE_SIZE, PATCH_SIZE = 256, 16
MAX_CHANNELS = 11
"""As many as the published encoder has positions for."""


class ChannelPatches(nn.Module):
    """The same linear patch embedding for each channel.

    Its signature is the one that timm's ``VisionTransformer`` expects of an ``embed_layer``.
    """

    def __init__(self, img_size: int, patch_size: int, embed_dim: int, **_: object) -> None:
        super().__init__()
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.proj = nn.Conv2d(1, embed_dim, patch_size, stride=patch_size)

    def feat_ratio(self) -> int:
        """Pixels per token along one axis."""
        return self.patch_size[0]

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, C, H, W) images to (N, C * patches, D) tokens, channel by channel.

        Raises
        ------
        ModelError
            If there are more channels than it has positions for, or images of another size.
        """
        num, channels, height, width = images.shape
        if channels > MAX_CHANNELS:
            raise ModelError(
                f"images have {channels} channels, and this network sees at most {MAX_CHANNELS}"
            )
        native = self.grid_size[0] * self.patch_size[0]
        if (height, width) != (native, native):
            raise ModelError(
                f"images of {height} x {width} px: this network has positions for {native} x "
                f"{native} px only; set embed.tile {native}"
            )
        tokens: Tensor = self.proj(images.flatten(0, 1).unsqueeze(1))
        return tokens.flatten(2).transpose(1, 2).reshape(num, -1, tokens.shape[1])


class ChannelAgnostic(VisionTransformer):  # type: ignore[misc]  # timm has no types
    """timm's vision transformer with tokens for the patches of each channel."""

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Add each channel the same positions: (N, C * patches, D) -> (N, 1 + C * patches, D)."""
        assert self.pos_embed is not None, "always made"
        channels = x.shape[1] // (self.pos_embed.shape[1] - 1)
        token = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        placed: Tensor = self.pos_drop(x + self.pos_embed[:, 1:].repeat(1, channels, 1))
        return torch.cat([token, placed], dim=1)


def sine_positions(side: int, dim: int) -> Tensor:
    """Make the fixed positions of a square grid, after a zero for [CLS].

    Parameters
    ----------
    side
        Patches along an axis.
    dim
        Features D per token, a multiple of four.

    Returns
    -------
    Tensor
        (1, 1 + side * side, D): sines and cosines of the row, then of the column, each at D / 4
        frequencies from 1 down to almost 1 / 10,000.
    """
    along = torch.arange(side, dtype=torch.float32)
    frequencies = 1 / 10_000 ** (torch.arange(dim // 4, dtype=torch.float32) / (dim // 4))
    phases = torch.outer(along, frequencies)
    rows = phases[:, None].expand(side, side, -1).flatten(0, 1)
    columns = phases[None].expand(side, side, -1).flatten(0, 1)
    patches = torch.cat([rows.sin(), rows.cos(), columns.sin(), columns.cos()], dim=1)
    return torch.cat([torch.zeros(1, dim), patches])[None]


@register_model  # type: ignore[untyped-decorator]  # timm has no types
def vit_small_patch16_channel_agnostic(
    pretrained: bool = False,
    *,
    img_size: int = NATIVE_SIZE,
    global_pool: str = "avg",
    drop_path_rate: float = 0.0,
    depth: int = 12,
    **_: Any,
) -> ChannelAgnostic:
    """Build OpenPhenom's encoder for timm's registry; its embedding is the mean over all patches.

    Raises
    ------
    RuntimeError
        If pretrained weights are asked for, which timm doesn't have.
    ModelError
        If another embedding is asked for.
    """
    if pretrained:
        raise RuntimeError("it has no weights of timm's; give model.weights a file of OpenPhenom's")
    if global_pool != "avg":
        raise ModelError(
            f"architecture.pool {global_pool!r}: this network's embedding is the mean over "
            "patches; use avg"
        )
    model = ChannelAgnostic(
        img_size=img_size,
        patch_size=PATCH_SIZE,
        embed_dim=384,
        depth=depth,
        num_heads=6,
        num_classes=0,
        global_pool="avg",
        drop_path_rate=drop_path_rate,
        init_values=1e-4,
        qkv_bias=False,
        qk_norm=True,
        # The embedding is taken before the norm that follows in the published file.
        final_norm=False,
        block_fn=ParallelScalingBlock,
        embed_layer=ChannelPatches,
    )
    positions = sine_positions(model.patch_embed.grid_size[0], model.embed_dim)
    model.pos_embed = nn.Parameter(positions, requires_grad=False)
    return model
