"""What backbones are given of scaled values: as they are, in ImageNet's units, or standardised."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

import torch

from wsdino.errors import ModelError
from wsdino.model.names import SMALL_VIT

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_STD = 1e-6
"""Standard deviation below which an image counts as empty: 1/15 of a grey level of 16 bits."""
INSTANCE_NORM_EPS = 1e-5
"""What torch's ``InstanceNorm2d`` adds to a variance."""


class Units(Protocol):
    """Converts scaled images (N, C, H, W) to what a backbone expects, of the same shape."""

    def __call__(self, images: Tensor) -> Tensor:
        """Convert images."""
        ...


@dataclass(frozen=True)
class InputUnits:
    """What a backbone is given of scaled values: ``gain * value + shift``.

    Parameters
    ----------
    gain, shift
        By default, the values as they are.
    """

    gain: float = 1.0
    shift: float = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """Convert scaled images, any shape."""
        as_they_are = self.gain == 1 and self.shift == 0
        return images if as_they_are else images * self.gain + self.shift


def imagenet_units(name: str, *, standard_scores: bool) -> InputUnits:
    """Convert scaled values to what a network sees of ImageNet's photographs.

    timm states by which mean m and standard deviation s of RGB values in [0, 1] the images of a
    network's training were standardised. A channel stands for all three colours, so their averages
    are taken. A standard score of a field stands for that of a pixel among ImageNet's, of which the
    mean is 0.449 and the standard deviation 0.226: for networks that were trained with these it
    stays as it is.

    Parameters
    ----------
    name
        timm's name of the network.
    standard_scores
        Whether values are standard scores; otherwise grey levels in [0, 1].

    Raises
    ------
    ModelError
        If timm doesn't state them.
    """
    import timm
    from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    known = None if name == SMALL_VIT else timm.get_pretrained_cfg(name, allow_unregistered=True)
    if known is None or not known.mean or not known.std:
        raise ModelError(
            f"architecture.expects imagenet: timm doesn't state what {name!r} was trained on; "
            "use scaled"
        )
    mean, std = fmean(known.mean), fmean(known.std)
    if not standard_scores:
        return InputUnits(gain=1 / std, shift=-mean / std)
    centre, spread = fmean(IMAGENET_DEFAULT_MEAN), fmean(IMAGENET_DEFAULT_STD)
    return InputUnits(gain=spread / std, shift=(centre - mean) / std)


@dataclass(frozen=True)
class Standardised:
    """Standard scores of each image that a network sees, channel by channel.

    The image is a tile or crop, or a field that is seen as a whole.

    Parameters
    ----------
    smallest_std
        Lower bound of a standard deviation.
    eps
        What is added to a variance.
    """

    smallest_std: float = SMALLEST_STD
    eps: float = 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """Standardise scaled images (N, C, H, W), in [0, 1]."""
        var, mean = torch.var_mean(images, dim=(-2, -1), correction=0, keepdim=True)
        return (images - mean) / (var + self.eps).sqrt().clamp_min(self.smallest_std)


def units_of(expects: str, *, backbone: str, method: str) -> Units:
    """Return the units that an architecture's `expects` stands for.

    Parameters
    ----------
    expects, backbone
        As in :class:`~wsdino.model.spec.Architecture`.
    method
        Of the input scaling.

    Raises
    ------
    ModelError
        If they don't go together.
    """
    if expects == "imagenet":
        return imagenet_units(backbone, standard_scores=method != "fixed")
    if expects == "scaled":
        return InputUnits()
    if method != "fixed":
        raise ModelError(
            f"architecture.expects {expects}: each image is standardised by itself, after "
            f"input.method {method}, which would cut off its brightest pixels; use input.method "
            "fixed"
        )
    return {
        "standardised": Standardised(),
        "instance_norm": Standardised(smallest_std=0, eps=INSTANCE_NORM_EPS),
    }[expects]
