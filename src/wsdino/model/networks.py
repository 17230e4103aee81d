"""Channel modes: how the channels of an image are divided among one or several networks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, get_args

import torch
from torch import Tensor, nn

from wsdino.errors import ModelError
from wsdino.model.backbone import cls_attention, patch_features, width_of
from wsdino.model.names import ChannelMode
from wsdino.model.units import InputUnits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsdino.model.units import Units


class ChannelNetworks(nn.Module):
    """One or several backbones over the channels of an image.

    ==============  ========  ====================================  ==================
    mode            networks  what a network sees                   embedding of a site
    ==============  ========  ====================================  ==================
    ``per_channel``  C        its own channel (the paper)           C x D, concatenated
    ``shared``       1        each channel alone, one after another C x D, concatenated
    ``joint``        1        all channels at once                  D
    ==============  ========  ====================================  ==================

    Layers that keep running statistics, such as batch normalisation, always use those that they
    came with, in training too: what a network makes of an image doesn't depend on the batch or on
    the number of processes, a step that is skipped leaves nothing behind, and crops of two sizes
    don't share an average. Their gains and biases are trained.

    Parameters
    ----------
    channels
        Names, in the order of the image's channel axis.
    mode
        One of the above.
    build
        Builds a backbone for a number of input channels.
    units
        What the networks are given of scaled values.
    """

    def __init__(
        self,
        channels: Sequence[str],
        mode: ChannelMode,
        build: Callable[[int], nn.Module],
        *,
        units: Units | None = None,
    ) -> None:
        super().__init__()
        if mode not in get_args(ChannelMode):
            raise ModelError(f"model.mode {mode!r}: use one of {', '.join(get_args(ChannelMode))}")
        self.channels, self.mode = tuple(channels), mode
        inputs = {"per_channel": [1] * len(channels), "shared": [1], "joint": [len(channels)]}[mode]
        self.networks = nn.ModuleList(build(num) for num in inputs)
        self.units: Units = units or InputUnits()
        # Whether batch normalisation goes by the batch at hand while the networks train.
        self.learns_statistics = False
        if self.is_convolutional:
            # The channels of a pixel side by side: convolutions are faster so.
            self.to(memory_format=torch.channels_last)
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Set the mode, of layers that keep running statistics only if they are to learn them."""
        super().train(mode)
        if not self.learns_statistics:
            for module in self.with_statistics():
                module.eval()
        return self

    @property
    def is_convolutional(self) -> bool:
        """Whether no network cuts images into patches."""
        return not any(hasattr(network, "patch_embed") for network in self.networks)

    def with_statistics(self) -> list[nn.Module]:
        """Return the layers that keep running statistics: those of batch normalisation."""
        return [
            module
            for module in self.networks.modules()
            if getattr(module, "running_var", None) is not None
        ]

    @property
    def views_per_image(self) -> int:
        """How many inputs of one network an image makes (``shared``: one per channel)."""
        return len(self.channels) if self.mode == "shared" else 1

    @property
    def input_names(self) -> list[str]:
        """Name of each embedding block and attention map: a channel, or ``joint``."""
        return ["joint"] if self.mode == "joint" else list(self.channels)

    @property
    def dim(self) -> int:
        """Length D of one network's feature vector."""
        return width_of(self.networks[0])

    @property
    def patch_size(self) -> int:
        """Pixels per token along one axis; 1 for networks without patches."""
        embedding = getattr(self.networks[0], "patch_embed", None)
        return int(getattr(embedding, "patch_size", (1, 1))[0])

    def require_whole_patches(self, size: int, *, option: str) -> None:
        """Refuse a side in px that is not a multiple of the patch.

        Raises
        ------
        ModelError
            Names the option that `size` comes from.
        """
        if size % self.patch_size:
            raise ModelError(
                f"{option} {size} px: not a multiple of the backbone's patch of "
                f"{self.patch_size} px"
            )

    @property
    def feature_names(self) -> list[str]:
        """Names of the embedding's columns, ``emb_<channel or joint>_<index>``."""
        return [f"emb_{name}_{i}" for name in self.input_names for i in range(self.dim)]

    def split(self, images: Tensor) -> list[Tensor]:
        """Divide scaled images among the networks, in the units that these expect.

        Parameters
        ----------
        images
            (N, C, H, W).

        Returns
        -------
        list of Tensor
            One per network: (N, 1, H, W), (N * C, 1, H, W) image by image, or (N, C, H, W).
        """
        if images.shape[1] != len(self.channels):
            raise ModelError(
                f"images have {images.shape[1]} channels, the model was made for "
                f"{len(self.channels)}: {', '.join(self.channels)}"
            )
        images = self.units(images)
        if self.mode == "joint":
            return [images]
        if self.mode == "shared":
            return [images.flatten(0, 1).unsqueeze(1)]
        return list(images.split(1, dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """Embed scaled images: (N, C, H, W) float -> (N, F), blocks in order of `input_names`."""
        parts = [net(x) for net, x in zip(self.networks, self.split(images), strict=True)]
        return torch.cat(
            [part.unflatten(0, (images.shape[0], -1)).flatten(1) for part in parts], dim=1
        )

    def attention(self, images: Tensor) -> Tensor:
        """[CLS] attention of scaled images: (N, C, H, W) -> (N, inputs, heads, h, w)."""
        maps = [
            cls_attention(net, x).unflatten(0, (len(images), -1))
            for net, x in zip(self.networks, self.split(images), strict=True)
        ]
        return torch.cat(maps, dim=1)

    def patches(self, images: Tensor) -> Tensor:
        """Features of each patch of scaled images: (N, C, H, W) -> (N, inputs, h, w, D)."""
        features = [
            patch_features(net, x).unflatten(0, (len(images), -1))
            for net, x in zip(self.networks, self.split(images), strict=True)
        ]
        return torch.cat(features, dim=1)
