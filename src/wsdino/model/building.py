"""Building the networks of a model from its specification."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from wsdino.errors import ModelError
from wsdino.model.backbone import small_vit, timm_backbone
from wsdino.model.names import SMALL_VIT
from wsdino.model.networks import ChannelNetworks
from wsdino.model.packaged import find_packaged
from wsdino.model.spec import PRETRAINED
from wsdino.model.units import units_of
from wsdino.model.weights import load_backbone_weights, local_weights, read_state_dict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from wsdino.model.spec import ModelSpec, PositionRule


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
        ``starter``: the backbone that the package ships, for the architecture of
        :func:`~wsdino.model.spec.starter_spec`; the name of a package with weights
        (:data:`~wsdino.model.packaged.PACKAGED`), for that of
        :func:`~wsdino.model.spec.packaged_spec`; a file or an http(s) URL: the same for every
        network; a mapping: one for each channel.

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


def require_same_shapes(spec: ModelSpec, state: dict[str, Tensor]) -> None:
    """Refuse a config that isn't of these weights, before it asks for memory.

    Other backbones than ours have sizes of their own.

    Parameters
    ----------
    spec
        What the config asks for.
    state
        Weights by name, such as the (outputs, inputs) of a linear layer.

    Raises
    ------
    ValueError
        A tensor is missing, or has another shape.
    """
    if spec.architecture.backbone != SMALL_VIT:
        return
    with torch.device("meta"):
        wanted = build_networks(spec).state_dict()
    for name in wanted.keys() | state.keys():
        found, asked = (each[name].shape if name in each else None for each in (state, wanted))
        if found != asked:
            raise ValueError(f"{name} is {found}, and its config asks for {asked}")
