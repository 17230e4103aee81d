"""Weight files as DINO, WS-DINO and timm leave them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wsdino.model.spec import Architecture, ModelSpec
from wsdino.train.head import DINOHead

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME, SIZE = "vit_tiny_patch16_224", 32
CHANNELS = ("DAPI", "Actin")
SPEC = ModelSpec(CHANNELS, architecture=Architecture(backbone=NAME, image_size=SIZE))


def rgb_vit(*, seed: int = 0, size: int = SIZE, depth: int = 2) -> nn.Module:
    """What DINO trains: three channels, its own patch embedding and positions."""
    torch.manual_seed(seed)
    vit = timm.create_model(
        NAME, num_classes=0, img_size=size, dynamic_img_size=True, depth=depth
    ).eval()
    for parameter in vit.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape))
    return vit


def small_spec() -> ModelSpec:
    """Our own ViT with timm's linear stem, which a two-block `rgb_vit` fits."""
    architecture = Architecture(
        image_size=SIZE, patch_size=16, dim=192, depth=2, num_heads=3, stem="linear"
    )
    return ModelSpec(CHANNELS, architecture=architecture)


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def images_of(num: int = 2, channels: int = 2) -> Tensor:
    return torch.randn((num, channels, SIZE, SIZE), generator=torch.Generator().manual_seed(1))


def embedding_of_grey(vit: nn.Module, images: Tensor) -> Tensor:
    """Each channel replicated to RGB, as the paper does, features concatenated."""
    blocks = [vit(images[:, i : i + 1].repeat(1, 3, 1, 1)) for i in range(images.shape[1])]
    return torch.cat(blocks, dim=1)


def save_dino(vit: nn.Module, path: Path) -> None:
    """As DINO's main_dino.py: teacher without, student with DistributedDataParallel's prefix."""
    head = DINOHead(192, 8, hidden_dim=4, bottleneck_dim=4).state_dict()
    student = rgb_vit(seed=9).state_dict()
    torch.save(
        {
            "student": prefixed(student, "module.backbone.") | prefixed(head, "module.head."),
            "teacher": prefixed(vit.state_dict(), "backbone.") | prefixed(head, "head."),
            "optimizer": torch.optim.AdamW(vit.parameters()).state_dict(),
            "epoch": 7,
            "args": argparse.Namespace(arch="vit_tiny", patch_size=16),
            "dino_loss": {"center": torch.zeros(1, 8)},
        },
        path,
    )


def save_ws_dino(vit: nn.Module, path: Path) -> None:
    """Both networks wrapped by DistributedDataParallel, heads included."""
    student = prefixed(rgb_vit(seed=9).state_dict(), "module.backbone.")
    teacher = prefixed(vit.state_dict(), "module.backbone.")
    teacher["module.head.mlp.0.weight"] = torch.zeros(4, 192)
    torch.save({"student": student, "teacher": teacher, "epoch": 1}, path)


def save_plain(vit: nn.Module, path: Path) -> None:
    """A state dict alone, with a classifier, as timm's models have."""
    torch.save({**vit.state_dict(), "head.weight": torch.zeros(10, 192)}, path)


def save_compiled(vit: nn.Module, path: Path) -> None:
    torch.save({"state_dict": prefixed(vit.state_dict(), "_orig_mod.encoder.")}, path)


def save_safetensors(vit: nn.Module, path: Path) -> None:
    save_file(vit.state_dict(), path)


FORMATS: dict[str, Callable[[nn.Module, Path], None]] = {
    "dino.pth": save_dino,
    "ws_dino.pth": save_ws_dino,
    "timm.pt": save_plain,
    "compiled.pth": save_compiled,
    "model.safetensors": save_safetensors,
}
