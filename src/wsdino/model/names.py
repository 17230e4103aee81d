"""The names that a model's parts are chosen by; nothing here needs PyTorch."""

from __future__ import annotations

from typing import Literal

SMALL_VIT = "vit"
"""The name that selects :func:`~wsdino.model.backbone.small_vit` instead of a timm model."""
ChannelMode = Literal["per_channel", "shared", "joint"]
"""How channels are divided among networks, see :class:`~wsdino.model.networks.ChannelNetworks`."""
StemName = Literal["conv", "linear"]
"""How patches become tokens."""
PoolName = Literal["token", "avg"]
"""How tokens become one vector, timm's ``global_pool``: [CLS], or their mean."""
Precision = Literal["auto", "float32", "bfloat16"]
"""In what products are computed while training, see :mod:`wsdino.model.precision`."""


def is_vision_transformer(backbone: str) -> bool:
    """Whether a backbone is the small ViT or, by its name, one of timm's that takes any size."""
    return backbone == SMALL_VIT or backbone.startswith(("vit_", "deit"))
