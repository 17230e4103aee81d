"""How weight files name and lay out tensors, and turning each layout into timm's.

What a layout is called by other code was looked up there: facebookresearch/dinov2
(``dinov2/models/vision_transformer.py``; Cell-DINO and channel-adaptive DINO are its
``hub/cell_dino/backbones.py``), facebookresearch/dinov3 (``dinov3/models/vision_transformer.py``)
and recursionpharma/maes_microscopy (``vit.py``, ``mae_modules.py``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from wsdino.errors import ModelError
from wsdino.model.packaged import timm_names

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """A layout of weight files: one entry of :data:`LAYOUTS`.

    Parameters
    ----------
    name
        Whose it is.
    recognises
        Whether tensors, by their names, are in this layout.
    convert
        Gives the tensors of a file, and those of a timm network, to what that network should hold;
        names without a counterpart may stay.
    """

    name: str
    recognises: Callable[[State], bool]
    convert: Callable[[State, State], State]


def in_timms_layout(state: State, target: State, *, origin: str) -> State:
    """Give the tensors of a file the names and shapes that a timm network has for them.

    Parameters
    ----------
    state
        The file's tensors by name, any shapes; those of timm or DINO stay as they are.
    target
        The network's.
    origin
        The file, for messages.

    Raises
    ------
    ModelError
        If it is known that the file's network is not one that timm has, or the network of
        `target` can't hold all of it.
    """
    for mark, reason in UNREADABLE.items():
        if any(mark in name for name in state):
            raise ModelError(f"{origin}: {reason}")
    row = next((layout for layout in LAYOUTS if layout.recognises(state)), None)
    if row is None:
        return dict(state)
    try:
        return row.convert(state, target)
    except ModelError as error:
        raise ModelError(f"{origin}: holds tensors of {row.name}, and {error}") from error


def _from_dinov2(state: State, target: State) -> State:
    """Convert DINOv2's: blocks in chunks, registers after [CLS]'s position, scaled layers."""
    # blocks.CHUNK.BLOCK counts blocks from the first of all.
    found = {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", k): v for k, v in state.items()}
    del found["mask_token"]
    if "register_tokens" in found:
        # In timm only patches have positions here, so [CLS]'s goes into the token itself.
        positions = found["pos_embed"]
        found["reg_token"] = found.pop("register_tokens")
        found["cls_token"] = found["cls_token"] + positions[:, :1]
        found["pos_embed"] = positions[:, 1:]
    found = {
        k.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): v
        for k, v in found.items()
    }
    return found if "blocks.0.ls1.gamma" in target else _with_scales_folded(found)


def _with_scales_folded(state: State) -> State:
    """Multiply each layer by the scale that follows it, for networks without such scales."""
    found = dict(state)
    for scale, layer in (("ls1", "attn.proj"), ("ls2", "mlp.fc2")):
        for name in [name for name in state if name.endswith(f".{scale}.gamma")]:
            gamma, block = found.pop(name), name.removesuffix(f"{scale}.gamma")
            found[f"{block}{layer}.weight"] = gamma[:, None] * state[f"{block}{layer}.weight"]
            found[f"{block}{layer}.bias"] = gamma * state[f"{block}{layer}.bias"]
    return found


_DINOV3_NAMES = {
    "storage_tokens": "reg_token",
    ".ls1.gamma": ".gamma_1",
    ".ls2.gamma": ".gamma_2",
    ".mlp.w1.": ".mlp.fc1_g.",
    ".mlp.w2.": ".mlp.fc1_x.",
    ".mlp.w3.": ".mlp.fc2.",
}


def _from_dinov3(state: State, target: State) -> State:
    """Convert DINOv3's: a third of the bias, that of the keys, is masked out."""
    found: State = {}
    for name, value in state.items():
        if name.endswith((".bias_mask", ".periods")) or name == "mask_token":
            continue
        if name.endswith(".attn.qkv.bias"):
            block = name.removesuffix("qkv.bias")
            found |= _biases(block, value, state.get(f"{name}_mask"), target)
            continue
        for theirs, timms in _DINOV3_NAMES.items():
            name = name.replace(theirs, timms)  # noqa: PLW2901 one name after another
        found[name] = value
    return found


def _biases(block: str, bias: Tensor, mask: Tensor | None, target: State) -> State:
    # Of what is masked out the value doesn't matter, not even that it is no number.
    used = bias if mask is None else torch.where(mask == 0, torch.zeros_like(bias), bias * mask)
    query, key, value = used.chunk(3)
    if key.any() or not used.isfinite().all():
        raise ModelError("its keys have a bias, which is not the case in DINOv3's published models")
    if f"{block}q_bias" in target:
        return {f"{block}q_bias": query, f"{block}v_bias": value}
    if used.any():
        raise ModelError(
            "its queries and values have biases other than zero, which this network lacks; use the "
            "architecture.backbone whose name ends in _qkvb"
        )
    return {}


CA_MAE_PREFIX = "vit_backbone."


def _from_ca_mae(state: State, target: State) -> State:
    """Convert OpenPhenom's encoder: fixed positions, the same ones for each channel."""
    found = {
        name.removeprefix(CA_MAE_PREFIX): value
        for name, value in state.items()
        if name.startswith(CA_MAE_PREFIX)
    }
    positions = found["pos_embed"]
    native = target["pos_embed"].shape[1] - 1 if "pos_embed" in target else 0
    channels, rest = divmod(positions.shape[1] - 1, native) if native else (0, 1)
    repeated = None if rest else positions[:, 1:].unflatten(1, (channels, native))
    if repeated is None or not torch.equal(repeated, repeated[:, :1].expand_as(repeated)):
        raise ModelError(
            "its positions are not the same for each channel; use architecture.backbone "
            "vit_small_patch16_channel_agnostic and architecture.image_size 256"
        )
    found["pos_embed"] = positions[:, : native + 1]
    return found


LAYOUTS = (
    Layout("EfficientNet-PyTorch", lambda state: "_conv_stem.weight" in state, timm_names),
    Layout("DINOv3", lambda state: "storage_tokens" in state, _from_dinov3),
    Layout("DINOv2", lambda state: {"mask_token", "pos_embed"} <= set(state), _from_dinov2),
    Layout("OpenPhenom", lambda state: f"{CA_MAE_PREFIX}pos_embed" in state, _from_ca_mae),
)
UNREADABLE = {
    "embeddings.patch_embeddings.": (
        "holds tensors as the package transformers names them, which are not read; give the file "
        "of the model's own code, or timm's"
    ),
    "channel_embed": (
        "holds the tensors of a ChannelViT, whose tokens know their channel; timm has no such "
        "network, and wsdino doesn't read it"
    ),
    "downsample_layers.0.0.weight": (
        "holds the tensors of a ConvNeXt as its own code (and DINOv3's) names them, which are not "
        "read; give timm's file of the network"
    ),
}
"""Parts of names that give networks away which can't be read, and what to say of them."""
