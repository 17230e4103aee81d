"""Reading weight files: ours, timm's, those of DINO and WS-DINO, and those of other packages."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from wsdino.errors import ModelError
from wsdino.model.layouts import in_timms_layout
from wsdino.model.packaged import STARTER, find_packaged, starter_folder
from wsdino.outside import reading
from wsdino.runfolder import ModelPaths

if TYPE_CHECKING:
    from collections.abc import Mapping

WEIGHT_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.")
# First layer of a linear patch embedding, and of our convolutional stem.
FIRST_LAYERS = ("patch_embed.proj", "patch_embed.proj.0")
NUM_COLOURS = 3


def is_url(source: str | Path) -> bool:
    """Whether weights must be downloaded first."""
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def local_weights(source: str | Path) -> Path:
    """Return a weight file's path; a URL is downloaded once, into torch's own cache.

    ``starter`` is the backbone shipped with the package; names of
    :data:`~wsdino.model.packaged.PACKAGED` stand for the file in that package.

    Raises
    ------
    ModelError
        If it can't be downloaded, or the package isn't installed.
    """
    if source == STARTER:
        return ModelPaths(starter_folder()).weights
    if packaged := find_packaged(source):
        return packaged.path()
    if not is_url(source):
        return Path(source)
    url = str(source)
    # Different files online share names such as checkpoint.pth.
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}_{Path(urlsplit(url).path).name}"
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        advice = "give model.weights a file instead"
        with reading(f"model.weights {url}", ModelError, "can't be downloaded", advice=advice):
            torch.hub.download_url_to_file(url, str(path), progress=False)
    return path


def read_state_dict(path: Path, *, key: str = "teacher") -> dict[str, Tensor]:
    """Read a backbone's tensors from ``.safetensors`` or a torch checkpoint.

    Checkpoints of DINO and WS-DINO hold ``student`` and ``teacher``, each with prefixes such as
    ``module.backbone.``.

    Raises
    ------
    ModelError
        If the file is missing, damaged, or holds no tensors.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such weight file")
    with reading(path, ModelError, "not a readable weight file"):
        if not _is_torchs(path) and path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            # DINO's training checkpoints also hold the parsed command line. An open file, unlike a
            # path, torch doesn't take for one of safetensors by its name.
            with path.open("rb") as file, torch.serialization.safe_globals([argparse.Namespace]):
                state = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise ModelError(f"{path}: holds a {type(state).__name__} instead of a dict of tensors")
    for inner in (key, "model", "state_dict"):
        if isinstance(state.get(inner), dict):
            state = state[inner]
    tensors = {
        _without_prefixes(name): value for name, value in state.items() if torch.is_tensor(value)
    }
    if all(name.startswith("head.") for name in tensors):
        raise ModelError(f"{path}: no backbone weights under {key!r}, 'model' or at the top level")
    return tensors


def _is_torchs(path: Path) -> bool:
    """Whether torch saved a file, whatever it is called: OpenPhenom's is a ``.safetensors``."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def require_finite(tensors: Mapping[str, Tensor], *, origin: str) -> None:
    """Refuse weights that hold NaN or infinite values: every embedding would be NaN.

    Raises
    ------
    ModelError
        Names the first such tensor.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and not (finite := value.isfinite()).all():
            num = int((~finite).sum())
            raise ModelError(
                f"{origin}: {num} of {value.numel()} values of {name} are NaN or infinite: the "
                "training that wrote it diverged, or the file is damaged; use an earlier one"
            )


def _without_prefixes(name: str) -> str:
    shorter = next((name.removeprefix(p) for p in PREFIXES if name.startswith(p)), name)
    return name if shorter == name else _without_prefixes(shorter)


def load_backbone_weights(backbone: nn.Module, state: dict[str, Tensor], *, origin: str) -> None:
    """Copy weights into a backbone, adapting input channels and positional embedding.

    Layouts of other code are read (:data:`~wsdino.model.layouts.LAYOUTS`). If the number of input
    channels differs from a file's for photographs, or for one channel, each gets an equal part of
    the sum over the file's channels, so that an image that is equal in all channels gives the same
    result; weights for several stains are not mixed. Positional embeddings are interpolated to the
    backbone's native grid. Heads that the backbone lacks are left out.

    Raises
    ------
    ModelError
        If a tensor is missing, has another shape, or belongs to blocks that the backbone lacks, or
        the first layer's channels are not those of the backbone.
    """
    target = backbone.state_dict()
    # Their own layouts may mark by NaN what is to be left out.
    state = in_timms_layout(state, target, origin=origin)
    require_finite(state, origin=origin)
    state = {
        name: value
        for name, value in state.items()
        if name in target or not name.startswith("head.")
    }
    for first in _first_layers(backbone):
        if first not in state or first not in target or state[first].ndim != 4:
            continue
        given, wanted = state[first].shape[1], target[first].shape[1]
        if given not in {1, NUM_COLOURS, wanted}:
            raise ModelError(
                f"{origin}: does not fit this backbone: its first layer sees {given} channels at "
                f"once, each with its own weights, and this one {wanted}; give model.mode joint "
                f"and exactly {given} channels, in the order of its training"
            )
        if given != wanted:
            grey = state[first].sum(dim=1, keepdim=True)
            state[first] = grey.expand(-1, wanted, -1, -1) / wanted
    if "pos_embed" in target and "pos_embed" in state:
        state["pos_embed"] = _fitted_positions(backbone, state["pos_embed"], origin=origin)
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
    # Whole parts that the backbone lacks (another head, a decoder) don't matter.
    parts = {name.split(".")[0] for name in target}
    more = [name for name in state if name not in target and name.split(".")[0] in parts]
    if more:
        raise ModelError(
            f"{origin}: does not fit this backbone: {len(more)} of its {len(state)} tensors don't "
            f"belong to it, first {more[0]}"
        )
    backbone.load_state_dict({name: state[name] for name in target})


def _first_layers(backbone: nn.Module) -> set[str]:
    """Name the weights that may be the first to meet an image."""
    known = getattr(backbone, "pretrained_cfg", {}).get("first_conv") or ()
    own = (known,) if isinstance(known, str) else known
    return {f"{layer}.weight" for layer in (*FIRST_LAYERS, *own)}


def _fitted_positions(backbone: nn.Module, positions: Tensor, *, origin: str) -> Tensor:
    from timm.layers import resample_abs_pos_embed

    from wsdino.model.positions import DinoPositions

    num_prefix = 0 if getattr(backbone, "no_embed_class", False) else backbone.num_prefix_tokens
    side = (positions.shape[1] - int(num_prefix)) ** 0.5  # type: ignore[arg-type]
    native = backbone.patch_embed.grid_size[0]  # type: ignore[union-attr,index]
    if isinstance(backbone, DinoPositions) and side.is_integer() and side != native:
        patch = int(backbone.patch_embed.patch_size[0])
        raise ModelError(
            f"{origin}: does not fit this backbone: its positions are a grid of {side:g} x "
            f"{side:g} patches, which architecture.positions dino keeps as it is; for patches of "
            f"{patch} px give architecture.image_size {side * patch:g} (crops and tiles may have "
            "any size)"
        )
    problem = (
        f"does not fit this backbone: pos_embed of shape {tuple(positions.shape)} is not a square "
        "grid of patches after the class token"
    )
    with reading(origin, ModelError, problem):
        return resample_abs_pos_embed(  # type: ignore[no-any-return]
            positions,
            new_size=list(backbone.patch_embed.grid_size),  # type: ignore[union-attr,arg-type]
            num_prefix_tokens=int(num_prefix),  # type: ignore[arg-type]
        )
