"""The specification of a model, and building its networks from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

import pydantic
from annotated_types import Gt, Le, MinLen
from typing_extensions import TypedDict

from wsdino.errors import ModelError
from wsdino.model.backbone import (
    POOLS,
    SMALL_VIT,
    STEMS,
    small_vit,
    timm_backbone,
)
from wsdino.model.networks import ChannelMode, ChannelNetworks
from wsdino.model.packaged import find_packaged
from wsdino.model.scaling import InputScaling
from wsdino.model.units import units_of
from wsdino.model.weights import (
    load_backbone_weights,
    local_weights,
    read_state_dict,
    starter_folder,
)
from wsdino.outside import parse_json
from wsdino.runfolder import ModelPaths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from wsdino.model.packaged import PackagedWeights
    from wsdino.model.tiles import TileGrid

PositionRule = Literal["timm", "dino"]
Expects = Literal["scaled", "imagenet", "standardised", "instance_norm"]
TileSummary = Literal["mean", "median"]
PRETRAINED = "timm"
"""The value of ``weights`` that selects timm's own weights for the backbone."""
STARTER_TILE = 64
"""Side in px of the starter's tiles, close to that of its training crops."""


Count = Annotated[int, Gt(0)]
# Layers, their widths, and sides in px: far above any in use.
Size = Annotated[int, Gt(0), Le(2**14)]
if TYPE_CHECKING:
    StemName = str
    PoolName = str
else:
    StemName = Literal[tuple(stem.name for stem in STEMS)]
    PoolName = Literal[POOLS]


@pydantic.dataclasses.dataclass(frozen=True)
class Architecture:
    """The architecture of a backbone; `patch_size` to `stem` apply only to the small ViT.

    Parameters
    ----------
    backbone
        ``vit`` for the small vision transformer, or timm's name of another, or of a convolutional
        network.
    image_size
        Side in px at which the positional embedding is native; of vision transformers.
    patch_size
        Side of a patch in px.
    dim, depth, num_heads
        Features per token, number of transformer blocks, and attention heads per block.
    stem
        How patches become tokens: by convolutions (``conv``), which learn faster from few samples,
        or by one linear map (``linear``).
    pool
        One vector of all tokens: [CLS] (``token``) or their mean (``avg``); of vision transformers.
    positions
        How the positional embedding is resized to other sizes: as ``timm`` does, or as the code of
        ``dino`` does (:mod:`wsdino.model.positions`). Weights of DINO and WS-DINO want the latter;
        a model that was saved without this option was trained with the former.
    expects
        What the backbone expects: values as ``scaled`` by :class:`InputScaling`; these in the
        units of ``imagenet`` (:func:`wsdino.model.units.imagenet_units`), as weights of
        photographs do; or each image that the network sees (a tile or crop) as standard scores of
        its own, channel by channel: ``standardised``, or as torch's ``instance_norm`` does, which
        adds 1e-5 to the variance of values in [0, 1].

    Raises
    ------
    pydantic.ValidationError
        If a value is out of range or unknown.
    """

    backbone: str = SMALL_VIT
    image_size: Size = 64
    patch_size: Size = 8
    dim: Size = 192
    depth: Size = 6
    num_heads: Size = 3
    stem: StemName = "conv"
    pool: PoolName = "token"
    positions: PositionRule = "timm"
    expects: Expects = "scaled"

    def identity(self) -> dict[str, Any]:
        """Return all options by name, to tell trainings apart.

        `positions` and `expects` came later: at their defaults they are left out, so that trainings
        of before are still known for what they are.
        """
        options = asdict(self)
        for name, default in {"positions": "timm", "expects": "scaled"}.items():
            if options[name] == default:
                del options[name]
        return options


class _Values(TypedDict):
    """What a model's config holds; architecture and scaling check themselves."""

    channels: Annotated[list[str], MinLen(1)]
    mode: ChannelMode
    architecture: dict[str, Any]
    scaling: dict[str, Any]
    tile: Size | None
    tile_grid: Literal["paper"] | tuple[Size, Size] | None
    tile_summary: TileSummary
    normaliser: NotRequired[dict[str, Any]]


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to rebuild a model, except its weights.

    Parameters
    ----------
    channels
        Names, in the order of the image's channel axis.
    mode
        Channel mode, see :class:`~wsdino.model.networks.ChannelNetworks`.
    architecture
        Architecture of each network's backbone.
    scaling
        Input scaling.
    tile
        Side in px of the tiles of a field; None: the whole field at once.
    tile_grid
        Rows and columns of tiles, or ``paper``, see :func:`~wsdino.model.tiles.tile_boxes`; None:
        as few as cover the field.
    tile_summary
        ``mean`` or element-wise ``median`` over tiles (for an even number, the lower of the two
        middle values, as in the paper's code).
    origin
        Name of the published model (:data:`~wsdino.model.published.PUBLISHED`) whose weights these
        are, as they were published; None for any other.
    """

    channels: tuple[str, ...]
    mode: ChannelMode = "shared"
    architecture: Architecture = field(default_factory=Architecture)
    scaling: InputScaling = field(default_factory=InputScaling)
    tile: int | None = None
    tile_grid: TileGrid | None = None
    tile_summary: TileSummary = "mean"
    origin: str | None = None

    def to_json(self, *, normaliser: Mapping[str, Any] | None = None) -> str:
        """Serialise as indented JSON, with what is said of a normalisation beside the model."""
        values = asdict(self)
        if self.origin is None:
            # It came later: what was made with a model of before is still known as made with it.
            del values["origin"]
        if normaliser:
            values["normaliser"] = dict(normaliser)
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Inverse of :meth:`to_json`, without the normaliser.

        Raises
        ------
        ValueError, TypeError, RecursionError
            The text is not such JSON, or a value is out of range or unknown.
        """
        values = parse_json(text, _Values)
        values.pop("normaliser", None)
        values["architecture"] = Architecture(**values["architecture"])
        values["scaling"] = InputScaling(**values["scaling"])
        values["channels"] = tuple(values["channels"])
        if isinstance(values["tile_grid"], list):
            values["tile_grid"] = tuple(values["tile_grid"])
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
        The specification.
    drop_path
        Stochastic depth rate of the last block, rising linearly from zero (training only).
    weights
        None: random, from torch's generator; ``timm``: what timm has for the backbone's name;
        ``starter``: the backbone that the package ships (needs :func:`starter_spec`'s
        architecture); the name of a package with weights
        (:data:`~wsdino.model.packaged.PACKAGED`; needs :func:`packaged_spec`'s architecture); a
        file or an http(s) URL: the same for every network; a mapping: one for each channel.

    Raises
    ------
    ModelError
        If the backbone or the weights don't exist, or don't match.
    """
    arch = spec.architecture

    def build(in_channels: int) -> nn.Module:
        network = build_backbone(in_channels)
        if arch.positions == "dino":
            from wsdino.model.positions import use_dinos_rule

            use_dinos_rule(network, name=arch.backbone)
        return network

    def build_backbone(in_channels: int) -> nn.Module:
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
            resample=arch.positions == "timm",
        )

    units = units_of(arch.expects, backbone=arch.backbone, method=spec.scaling.method)
    networks = ChannelNetworks(spec.channels, spec.mode, build, units=units)
    if weights is None or weights == PRETRAINED:
        return networks
    for network, source in zip(networks.networks, _sources(spec, weights), strict=True):
        if packaged := find_packaged(source):
            packaged.require(backbone=arch.backbone, expects=arch.expects)
        state = read_state_dict(local_weights(source))
        load_backbone_weights(network, state, origin=str(source))
    return networks


def position_rule_of(name: str) -> PositionRule:
    """Tell by which rule the weights that timm has under a name resize their positions."""
    import timm

    known = timm.get_pretrained_cfg(name)
    return "dino" if known is not None and known.tag == "dino" else "timm"


def _sources(spec: ModelSpec, weights: str | Path | Mapping[str, str | Path]) -> list[str | Path]:
    if isinstance(weights, str | Path):
        return [weights] * (len(spec.channels) if spec.mode == "per_channel" else 1)
    if spec.mode != "per_channel" or set(weights) != set(spec.channels):
        raise ModelError(
            f"model.weights names {', '.join(weights)}: one file per channel requires model.mode "
            f"per_channel and exactly the channels {', '.join(spec.channels)}"
        )
    return [weights[channel] for channel in spec.channels]


def starter_spec(channels: Sequence[str], *, tile: int | None = STARTER_TILE) -> ModelSpec:
    """Specify the starter backbone for a screen's channels.

    A small vision transformer that sees one channel at a time, pretrained on simulated cells of
    random biology, stains and optics; its model card is `docs/starter.md`.

    Parameters
    ----------
    channels
        Names, in the order of the image's channel axis; any number.
    tile
        As in :class:`ModelSpec`.
    """
    spec = ModelSpec.from_json(ModelPaths(starter_folder()).config.read_text())
    return replace(spec, channels=tuple(channels), tile=tile)


def packaged_spec(
    weights: PackagedWeights, channels: Sequence[str], *, tile: int | None = None
) -> ModelSpec:
    """Specify the network of another package's weights for a screen's channels.

    It sees one channel at a time, as grey levels of a photograph with each field standardised by
    itself.

    Parameters
    ----------
    weights
        An entry of :data:`~wsdino.model.packaged.PACKAGED`.
    channels
        Names, in the order of the image's channel axis; any number.
    tile
        As in :class:`ModelSpec`.
    """
    architecture = Architecture(backbone=weights.backbone, expects="imagenet")
    return ModelSpec(tuple(channels), architecture=architecture, tile=tile)
