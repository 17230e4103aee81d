"""The specification of a model; :mod:`wsdino.model.building` makes its networks."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

import pydantic
from annotated_types import Gt, Le, MinLen
from typing_extensions import TypedDict

from wsdino.errors import ModelError
from wsdino.model.names import SMALL_VIT, ChannelMode, PoolName, StemName
from wsdino.model.packaged import starter_folder
from wsdino.model.scaling import InputScaling
from wsdino.outside import parse_json
from wsdino.runfolder import ModelPaths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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


def require_unset(source: object, given: Mapping[str, object]) -> None:
    """Refuse what would have no effect on a model that brings it along.

    Parameters
    ----------
    source
        The model, as the user names it.
    given
        Arguments by name, None where they weren't given.

    Raises
    ------
    ModelError
        One was given.
    """
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise ModelError(f"{source}: brings its own {' and '.join(names)}; leave that out")
