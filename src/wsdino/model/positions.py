"""Positional embeddings at other sizes than the native one, by the rule of DINO's code.

timm resizes the grid of positions with antialiasing to exactly the wanted size; DINO's code scales
it by (n + 0.1) / native without. A network gives its own numbers only under the rule that it was
trained with: the two differ by some hundredths of an embedding's size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from wsdino.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence


def dino_positions(positions: Tensor, grid: Sequence[int], *, num_prefix: int) -> Tensor:
    """Resize positions as ``interpolate_pos_encoding`` of facebookresearch/dino does.

    Parameters
    ----------
    positions
        (1, prefix + side * side, D).
    grid
        Rows and columns of patches.
    num_prefix
        Leading tokens that lie nowhere, such as [CLS].

    Returns
    -------
    Tensor
        (1, prefix + rows * columns, D); the given ones where the grid is the native one.
    """
    side = round((positions.shape[1] - num_prefix) ** 0.5)
    if tuple(grid) == (side, side):
        return positions
    square = positions[:, num_prefix:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    # The tenth keeps rounding from losing a row; it also shifts where the grid is read.
    resized = functional.interpolate(
        square, scale_factor=[(num + 0.1) / side for num in grid], mode="bicubic"
    )
    return torch.cat([positions[:, :num_prefix], resized.flatten(2).transpose(1, 2)], dim=1)


class PlacedTokens(VisionTransformer):  # type: ignore[misc]  # timm has no types
    """timm's vision transformer with positions as a subclass gives them for a grid."""

    def positions(self, grid: Sequence[int], *, num_prefix: int) -> Tensor:  # noqa: ARG002
        """Return the native positions (1, prefix + patches, D), whatever the grid."""
        assert self.pos_embed is not None, "checked when made"
        native: Tensor = self.pos_embed
        return native

    def _pos_embed(self, x: Tensor) -> Tensor:
        """Add positions to tokens: (N, rows, columns, D) -> (N, prefix + rows * columns, D)."""
        prefix = [
            token.expand(x.shape[0], -1, -1)
            for token in (self.cls_token, self.reg_token)
            if token is not None
        ]
        num_prefix = 0 if self.no_embed_class else self.num_prefix_tokens
        positions = self.positions(x.shape[1:3], num_prefix=num_prefix)
        tokens = x.flatten(1, 2)
        if self.no_embed_class:
            placed = torch.cat([*prefix, tokens + positions], dim=1)
        else:
            placed = torch.cat([*prefix, tokens], dim=1) + positions
        dropped: Tensor = self.pos_drop(placed)
        return dropped


class DinoPositions(PlacedTokens):
    """timm's vision transformer with positions by DINO's rule; made by :func:`use_dinos_rule`."""

    def positions(self, grid: Sequence[int], *, num_prefix: int) -> Tensor:
        """Resize the native positions (1, prefix + patches, D) to a grid by DINO's rule."""
        return dino_positions(
            super().positions(grid, num_prefix=num_prefix), grid, num_prefix=num_prefix
        )


def use_dinos_rule(backbone: nn.Module, *, name: str) -> None:
    """Let a vision transformer resize its positions by DINO's rule from now on.

    Raises
    ------
    ModelError
        If it is none, has no learned positions, or takes one image size only.
    """
    plain = type(backbone) is VisionTransformer
    if not plain or backbone.pos_embed is None or not backbone.dynamic_img_size:
        raise ModelError(
            f"architecture.positions dino: {name} is not a plain vision transformer with learned "
            "positions; use timm"
        )
    # timm builds the object; only its way of placing tokens changes.
    backbone.__class__ = DinoPositions


def keep_one_size(backbone: nn.Module, size: tuple[int, int]) -> None:
    """Let a vision transformer see images of one size only, so that nothing is resized any more.

    Networks that resize nothing, or in other ways, stay as they are.

    Parameters
    ----------
    backbone
        Is changed.
    size
        Height and width in px.
    """
    plain = type(backbone) in {VisionTransformer, DinoPositions}
    if not plain or backbone.pos_embed is None or not backbone.dynamic_img_size:
        return
    from timm.layers import resample_abs_pos_embed

    vit: Any = backbone
    patch = vit.patch_embed.patch_size
    grid = [side // each for side, each in zip(size, patch, strict=True)]
    num_prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    if isinstance(vit, DinoPositions):
        placed = vit.positions(grid, num_prefix=num_prefix)
    else:
        placed = resample_abs_pos_embed(vit.pos_embed, new_size=grid, num_prefix_tokens=num_prefix)
    vit.pos_embed = nn.Parameter(placed.detach(), requires_grad=False)
    vit.__class__ = PlacedTokens
