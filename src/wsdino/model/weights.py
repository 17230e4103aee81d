"""Reading weight files: ours, timm's, and those of the DINO and WS-DINO code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wsdino.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.")


def read_state_dict(path: Path, *, key: str = "teacher") -> dict[str, Tensor]:
    """Read a backbone's tensors from ``.safetensors`` or a torch checkpoint.

    Checkpoints of DINO and WS-DINO hold ``student`` and ``teacher``, each with prefixes such as
    ``module.backbone.``; the head is left out.

    Raises
    ------
    ModelError
        If the file is missing, damaged, or holds no tensors.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such weight file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(f"{path}: not a readable weight file ({type(error).__name__})") from error
    for inner in (key, "model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(inner), dict):
            state = state[inner]
    tensors = {
        _without_prefixes(name): value for name, value in state.items() if torch.is_tensor(value)
    }
    tensors = {name: value for name, value in tensors.items() if not name.startswith("head.")}
    if not tensors:
        raise ModelError(f"{path}: holds no backbone weights under {key!r}, 'model' or at its top")
    return tensors


def _without_prefixes(name: str) -> str:
    shorter = next((name.removeprefix(p) for p in PREFIXES if name.startswith(p)), name)
    return name if shorter == name else _without_prefixes(shorter)


def load_backbone_weights(backbone: nn.Module, state: dict[str, Tensor], *, origin: str) -> None:
    """Copy weights into a backbone, adapting input channels and positional embedding.

    One input channel gets the sum over the file's channels (a grey image replicated to RGB gives
    the same result); positional embeddings are interpolated to the backbone's native grid.

    Raises
    ------
    ModelError
        If a tensor is missing or has another shape.
    """
    from timm.layers import resample_abs_pos_embed
    from timm.models import adapt_input_conv

    target, state = backbone.state_dict(), dict(state)
    first = "patch_embed.proj.weight"
    if first in state and first in target and state[first].ndim == 4:
        given, wanted = state[first].shape[1], target[first].shape[1]
        if given != wanted:
            state[first] = adapt_input_conv(wanted, state[first], base_chans=given)
    if "pos_embed" in target and "pos_embed" in state:
        state["pos_embed"] = resample_abs_pos_embed(
            state["pos_embed"],
            new_size=list(backbone.patch_embed.grid_size),  # type: ignore[union-attr,arg-type]
            num_prefix_tokens=int(backbone.num_prefix_tokens),  # type: ignore[arg-type]
        )
    wrong = [
        name
        for name, value in target.items()
        if name not in state or state[name].shape != value.shape
    ]
    if wrong:
        raise ModelError(
            f"{origin}: does not fit this backbone: {len(wrong)} of {len(target)} tensors are "
            f"missing or of another shape, first {wrong[0]}"
        )
    backbone.load_state_dict({name: state[name] for name in target})
