"""A trained model: networks, input scaling and tiles, with the two things one asks of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from wsdino.errors import ModelError
from wsdino.model.backbone import SMALL_VIT, small_vit, timm_backbone
from wsdino.model.networks import ChannelMode, ChannelNetworks
from wsdino.model.scaling import InputScaling, as_float, as_tensor
from wsdino.model.tiles import tile_starts
from wsdino.model.weights import (
    STARTER,
    is_url,
    load_backbone_weights,
    local_weights,
    read_state_dict,
    starter_folder,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Images = Tensor | NDArray[np.generic]

TileSummary = Literal["mean", "median"]
PRETRAINED = "timm"
"""The value of ``weights`` that asks timm for the weights belonging to the backbone's name."""
STARTER_TILE = 64
"""Side in px of the tiles by which the starter sees fields, near that of its training crops."""


@dataclass(frozen=True)
class Architecture:
    """What a backbone looks like; all but `backbone` and `pool` shape the small ViT alone.

    Parameters
    ----------
    backbone
        ``vit`` for the small vision transformer, or a timm name.
    image_size
        Side in px at which the positional embedding is native.
    patch_size, dim, depth, num_heads, stem
        See :func:`wsdino.model.backbone.small_vit`.
    pool
        ``token`` or ``avg``.
    """

    backbone: str = SMALL_VIT
    image_size: int = 64
    patch_size: int = 8
    dim: int = 192
    depth: int = 6
    num_heads: int = 3
    stem: str = "conv"
    pool: str = "token"


@dataclass(frozen=True)
class ModelSpec:
    """All that is needed to build a model again, but for its weights.

    Parameters
    ----------
    channels
        Names, in the order of the image's channel axis.
    mode
        Channel mode, see :class:`~wsdino.model.networks.ChannelNetworks`.
    architecture
        What each network's backbone looks like.
    scaling
        Input scaling.
    tile
        Side in px of the tiles that a field is seen by; None: the whole field at once.
    tile_grid
        Rows and columns of tiles; None: as few as cover the field.
    tile_summary
        ``mean`` or element-wise ``median`` over tiles (of an even number the lower of the two
        middle values, as in the paper's code).
    """

    channels: tuple[str, ...]
    mode: ChannelMode = "shared"
    architecture: Architecture = field(default_factory=Architecture)
    scaling: InputScaling = field(default_factory=InputScaling)
    tile: int | None = None
    tile_grid: tuple[int, int] | None = None
    tile_summary: TileSummary = "mean"

    def to_json(self) -> str:
        """Serialise as indented JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Inverse of :meth:`to_json`."""
        values = json.loads(text)
        values["architecture"] = Architecture(**values["architecture"])
        values["scaling"] = InputScaling(**values["scaling"])
        values["channels"] = tuple(values["channels"])
        values["tile_grid"] = tuple(values["tile_grid"]) if values["tile_grid"] else None
        return cls(**values)


def build_networks(
    spec: ModelSpec,
    *,
    drop_path: float = 0.0,
    weights: str | Path | Mapping[str, str | Path] | None = None,
) -> ChannelNetworks:
    """Build the networks of a spec, from random or given weights.

    Parameters
    ----------
    spec
        What to build.
    drop_path
        Stochastic depth rate of the last block, rising linearly from zero (training only).
    weights
        None: random, from torch's generator; ``timm``: what timm has for the backbone's name;
        ``starter``: the backbone that the package ships (needs :func:`starter_spec`'s
        architecture); a file or an http(s) URL: the same for every network; a mapping: one for each
        channel.

    Raises
    ------
    ModelError
        If the backbone or the weights aren't there, or don't fit each other.
    """
    arch = spec.architecture

    def build(in_channels: int) -> nn.Module:
        if arch.backbone == SMALL_VIT:
            vit: nn.Module = small_vit(
                in_channels=in_channels,
                image_size=arch.image_size,
                patch_size=arch.patch_size,
                dim=arch.dim,
                depth=arch.depth,
                num_heads=arch.num_heads,
                stem=arch.stem,
                pool=arch.pool,
                drop_path=drop_path,
            )
            return vit
        return timm_backbone(
            arch.backbone,
            in_channels=in_channels,
            image_size=arch.image_size,
            pool=arch.pool,
            drop_path=drop_path,
            pretrained=weights == PRETRAINED,
        )

    networks = ChannelNetworks(spec.channels, spec.mode, build)
    if weights is None or weights == PRETRAINED:
        return networks
    for network, source in zip(networks.networks, _sources(spec, weights), strict=True):
        state = read_state_dict(local_weights(source))
        load_backbone_weights(network, state, origin=str(source))
    return networks


def _sources(spec: ModelSpec, weights: str | Path | Mapping[str, str | Path]) -> list[str | Path]:
    if isinstance(weights, str | Path):
        return [weights] * (len(spec.channels) if spec.mode == "per_channel" else 1)
    if spec.mode != "per_channel" or set(weights) != set(spec.channels):
        raise ModelError(
            f"model.weights names {', '.join(weights)}: a file per channel needs model.mode "
            f"per_channel and exactly the channels {', '.join(spec.channels)}"
        )
    return [weights[channel] for channel in spec.channels]


def starter_spec(channels: Sequence[str], *, tile: int | None = STARTER_TILE) -> ModelSpec:
    """Describe the starter backbone on a screen's channels.

    A small vision transformer that sees one channel at a time, pretrained on simulated cells of
    random biology, stains and optics; its model card is `docs/starter.md`.

    Parameters
    ----------
    channels
        Names, in the order of the image's channel axis; any number.
    tile
        As in :class:`ModelSpec`.
    """
    spec = ModelSpec.from_json((starter_folder() / "config.json").read_text())
    return replace(spec, channels=tuple(channels), tile=tile)


class Model:
    """Embeds and explains fields of view.

    Parameters
    ----------
    spec
        How the networks are built and fed.
    networks
        The networks, moved to `device` and set to evaluation.
    device
        Where they compute.

    Raises
    ------
    ModelError
        If the tile is not a multiple of the backbone's patch.
    """

    def __init__(
        self, spec: ModelSpec, networks: ChannelNetworks, *, device: str | torch.device = "cpu"
    ) -> None:
        self.spec, self.device = spec, torch.device(device)
        self.networks = networks.to(self.device).eval()
        if spec.tile:
            networks.require_whole_patches(spec.tile, option="embed.tile")

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names, in the order of the image's channel axis."""
        return self.spec.channels

    @property
    def feature_names(self) -> list[str]:
        """Names of the embedding's columns."""
        return self.networks.feature_names

    @property
    def network_names(self) -> list[str]:
        """What each attention map belongs to: a channel, or ``joint``."""
        return self.networks.input_names

    @torch.inference_mode()
    def embed(
        self, images: Images, *, offset: Tensor | None = None, gain: Tensor | None = None
    ) -> NDArray[np.float32]:
        """Embed whole fields by tiles at native scale.

        Parameters
        ----------
        images
            (N, C, H, W) uint8 or uint16, unscaled, channels as in :attr:`channels`.
        offset, gain
            (N, C) float32 of a store's input scaling; by default computed from the images, which
            scaling by plate does not allow.

        Returns
        -------
        ndarray
            (N, F) float32.
        """
        scaled = self._scale(images, offset, gain)
        tiles = torch.stack([self._forward(tile) for tile in self._tiles(scaled)])
        if self.spec.tile_summary == "median":
            return tiles.median(dim=0).values.cpu().numpy()
        return tiles.mean(dim=0).cpu().numpy()

    @torch.inference_mode()
    def attention(
        self, images: Images, *, offset: Tensor | None = None, gain: Tensor | None = None
    ) -> NDArray[np.float32]:
        """Self-attention of [CLS] in the last block over the whole field.

        Parameters
        ----------
        images, offset, gain
            As for :meth:`embed`.

        Returns
        -------
        ndarray
            (N, networks, heads, h, w) float32 with h = H // patch: softmax weights; a map sums to
            one less what [CLS] gives to itself.
        """
        height, width = self._whole(images.shape[-2], images.shape[-1])
        scaled = self._scale(images, offset, gain)[..., :height, :width]
        return self.networks.attention(scaled).float().cpu().numpy()

    def _forward(self, tile: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            return self.networks(tile).float()  # type: ignore[no-any-return]

    def _scale(self, images: Images, offset: Tensor | None, gain: Tensor | None) -> Tensor:
        pixels = images if isinstance(images, Tensor) else as_tensor(np.asarray(images))
        if offset is None or gain is None:
            offset, gain = self.spec.scaling.for_images(pixels)
        offset, gain = (x.to(self.device)[:, :, None, None] for x in (offset, gain))
        return ((as_float(pixels.to(self.device)) - offset) * gain).clamp(*self.spec.scaling.clip)

    def _whole(self, height: int, width: int) -> tuple[int, int]:
        patch = self.networks.patch_size
        return height // patch * patch, width // patch * patch

    def _tiles(self, scaled: Tensor) -> list[Tensor]:
        height, width = scaled.shape[-2:]
        if self.spec.tile is None:
            rows, columns = self._whole(height, width)
            return [scaled[..., :rows, :columns]]
        tile, grid = self.spec.tile, self.spec.tile_grid or (None, None)
        return [
            scaled[..., top : top + tile, left : left + tile]
            for top in tile_starts(height, tile, grid[0])
            for left in tile_starts(width, tile, grid[1])
        ]

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` (both atomically) to a folder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name: value.contiguous().cpu() for name, value in self.networks.state_dict().items()
        }
        partial = folder / "model.safetensors.partial"
        save_file(state, partial, metadata={"format": "pt"})
        partial.replace(folder / "model.safetensors")
        partial = folder / "config.json.partial"
        partial.write_text(self.spec.to_json())
        partial.replace(folder / "config.json")


def load_model(
    source: str | Path,
    *,
    channels: Sequence[str] | None = None,
    backbone: str | None = None,
    mode: ChannelMode = "shared",
    scaling: InputScaling | None = None,
    tile: int | None = None,
    device: str | torch.device = "cpu",
) -> Model:
    """Load a model from a run folder, an exported model, a checkpoint file or timm.

    Parameters
    ----------
    source
        A run folder; a folder with ``config.json`` and ``model.safetensors``; a ``.pth``, ``.pt``
        or ``.safetensors`` file of DINO, WS-DINO or timm, or its http(s) URL (needs `channels` and
        `backbone`); ``starter``, the backbone that the package ships (needs `channels`); or a timm
        name, whose weights timm fetches (needs `channels`).
    channels, backbone, mode, scaling, tile
        For weights without a config, as in :class:`ModelSpec` and :class:`Architecture`; a run and
        an exported model bring their own, and the starter all but the channels and the tile.
    device
        Where the model computes.

    Raises
    ------
    ModelError
        If the source is none of these, or lacks what it needs.
    """
    path = Path(source)
    if source == STARTER and channels:
        spec = starter_spec(channels, tile=tile or STARTER_TILE)
        return Model(spec, build_networks(spec, weights=STARTER), device=device)
    folder = next((f for f in (path / "model", path) if (f / "config.json").is_file()), None)
    if folder:
        return _load_exported(folder, device)
    if path.is_dir():
        raise ModelError(f"{path}: neither a finished run nor an exported model (no config.json)")
    if not channels:
        raise ModelError(
            f"{source}: weights without a config need the channels' names, and a file the backbone"
        )
    is_file = path.is_file() or is_url(source) or path.suffix in {".pth", ".pt", ".safetensors"}
    if is_file and not backbone:
        raise ModelError(f"{source}: a weight file needs the name of its timm backbone")
    name = backbone if is_file and backbone else str(source)
    spec = ModelSpec(
        channels=tuple(channels),
        mode=mode,
        architecture=Architecture(backbone=name, image_size=224),
        scaling=scaling or InputScaling(),
        tile=tile,
    )
    weights = source if is_file else PRETRAINED
    return Model(spec, build_networks(spec, weights=weights), device=device)


def _load_exported(folder: Path, device: str | torch.device) -> Model:
    from safetensors.torch import load_file

    try:
        spec = ModelSpec.from_json((folder / "config.json").read_text())
        state = load_file(folder / "model.safetensors")
        networks = build_networks(spec)
        networks.load_state_dict(state)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{folder}: not a readable model ({reason})") from error
    return Model(spec, networks, device=device)
