"""Staining and optics, varied from view to view: what differs between wells and is no biology.

Plates differ in how stains take and how light is collected, and so, by chance or by their
chemistry, do compounds. A network that is trained to find an image's like among views that differ
in all of this has to look at cells. What is varied, each channel on its own and by amounts that are
uniform between none and the most: light of the next channels, saturation, uneven stain, haze,
texture of the background, crystals of unbound stain, focus. A crop keeps its mean and deviation;
brightness and contrast are varied by options of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Amount:
    """How much of one thing a view may have at strength one: uniform between `least` and `most`."""

    name: str
    most: float
    least: float = 0.0


AMOUNTS = (
    Amount("next_channel", 0.12),  # share of the next channel's values that is added
    Amount("channel_after", 0.12),
    Amount("saturation", 0.6, -0.6),  # compressed above, expanded below zero
    Amount("mottle_coarse", 0.25),  # deviation of the logarithm of how much stain took
    Amount("mottle_fine", 0.25),
    Amount("haze", 0.4),  # share of the light that is also spread over 12 px
    Amount("texture_coarse", 0.15),  # the rest in units of the crop's deviation
    Amount("texture_medium", 0.15),
    Amount("texture_fine", 0.15),
    Amount("crystals", 0.0008),  # share of pixels
    Amount("crystal_brightness", 6.0),
    Amount("focus", 0.9, -0.5),  # blurred above, sharpened below zero
)
GRAINS = {
    "mottle_coarse": 24,
    "mottle_fine": 6,
    "texture_coarse": 12,
    "texture_medium": 4,
    "texture_fine": 2,
}
"""Noise that is looked up in a sheet, and the length in px over which it varies."""
_CRYSTALS = len(GRAINS)  # the sheet of values between 0 and 1
NUM_SHEETS = len(GRAINS) + 1
_SHEET_SIDE = 480  # a multiple of every length
_HAZE_PX = 12


def draw_stains(
    shape: tuple[int, ...], strength: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw how crops are stained.

    Parameters
    ----------
    shape
        Of the crops with their channels, such as (V, B, C).
    strength
        Multiplies all of :data:`AMOUNTS`; with 0 nothing is drawn.
    rng
        Random generator.

    Returns
    -------
    amounts : ndarray
        (*shape, K) float32, in the order of :data:`AMOUNTS`; K is 0 without any.
    places : ndarray
        (*shape, 2 * sheets) int64: top and left of each sheet of noise.
    """
    if not strength:
        return np.zeros((*shape, 0), np.float32), np.zeros((*shape, 0), np.int64)
    least, most = (np.array([getattr(a, end) for a in AMOUNTS]) for end in ("least", "most"))
    uniform = rng.random((*shape, len(AMOUNTS)))
    amounts = strength * (least + (most - least) * uniform)
    places = rng.integers(0, _SHEET_SIDE, (*shape, 2 * NUM_SHEETS))
    return amounts.astype(np.float32), places


def stained(crops: Tensor, amounts: Tensor, places: Tensor) -> Tensor:
    """Stain crops anew.

    Parameters
    ----------
    crops
        (n, C, h, w) float32 of any scale.
    amounts
        (n, C, K) float32, as :func:`draw_stains` draws them.
    places
        (n, C, 2 * sheets) int64.

    Returns
    -------
    Tensor
        (n, C, h, w) float32; each channel of a crop keeps its mean and its deviation. A constant
        channel stays as it is.
    """
    of = {each.name: amounts[:, :, index, None, None] for index, each in enumerate(AMOUNTS)}
    mean, deviation = _moments(crops)
    light = crops
    if crops.shape[1] > 1:
        light = light + of["next_channel"] * crops.roll(-1, dims=1)
    if crops.shape[1] > 2:
        light = light + of["channel_after"] * crops.roll(-2, dims=1)
    light = light - light.amin(dim=(2, 3), keepdim=True)
    light = _saturated(light, of["saturation"])
    noise = {name: _window(crops, places, sheet) for sheet, name in enumerate(GRAINS)}
    mottle = of["mottle_coarse"] * noise["mottle_coarse"] + of["mottle_fine"] * noise["mottle_fine"]
    light = light * mottle.exp()
    light = light + of["haze"] * _spread(light, _HAZE_PX)
    for name in ("texture_coarse", "texture_medium", "texture_fine"):
        light = light + of[name] * deviation * noise[name]
    crystal = (_window(crops, places, _CRYSTALS) < of["crystals"]).float()
    crystal = functional.max_pool2d(crystal, 3, stride=1, padding=1)
    light = light + crystal * of["crystal_brightness"] * deviation
    light = light + of["focus"] * (_blurred(light) - light)
    own_mean, own_deviation = _moments(light)
    scale = torch.where(deviation > 0, deviation / own_deviation.clamp_min(1e-12), 0.0)
    return (light - own_mean) * scale + mean


def _moments(crops: Tensor) -> tuple[Tensor, Tensor]:
    mean = crops.mean(dim=(2, 3), keepdim=True)
    return mean, (crops - mean).square().mean(dim=(2, 3), keepdim=True).sqrt()


def _saturated(light: Tensor, amount: Tensor) -> Tensor:
    """Compress (above zero) or expand light (0 to its most), which keeps its ends."""
    share = light / light.amax(dim=(2, 3), keepdim=True).clamp_min(1e-12)
    much = amount.abs()
    compressed, expanded = (1 + much) / (1 + much * share), (1 + much * share) / (1 + much)
    return light * torch.where(amount > 0, compressed, expanded)


def _spread(light: Tensor, length: int) -> Tensor:
    """Spread light evenly over about so many px."""
    height, width = light.shape[2:]
    coarse = functional.adaptive_avg_pool2d(
        light, (max(1, height // length), max(1, width // length))
    )
    return functional.interpolate(
        coarse, size=(height, width), mode="bilinear", align_corners=False
    )


def _blurred(light: Tensor) -> Tensor:
    padded = functional.pad(light, (1, 1, 1, 1), mode="replicate")
    return functional.avg_pool2d(padded, 3, stride=1)


def _window(crops: Tensor, places: Tensor, sheet: int) -> Tensor:
    """Cut (n, C, h, w) windows out of a sheet of noise, which goes on at its other side."""
    noise = _sheets(crops.device)[sheet]
    side = len(noise)
    top, left = places[:, :, 2 * sheet], places[:, :, 2 * sheet + 1]
    rows = (top[..., None] + torch.arange(crops.shape[2], device=crops.device)) % side
    columns = (left[..., None] + torch.arange(crops.shape[3], device=crops.device)) % side
    return noise[rows[..., :, None], columns[..., None, :]]


@cache
def _sheets(device: torch.device) -> Tensor:
    """Noise (sheets, side, side), the same everywhere: smooth of unit variance, uniform at last."""
    rng, sheets = np.random.default_rng(0), []
    for length in GRAINS.values():
        cells = _SHEET_SIDE // length
        coarse = torch.from_numpy(rng.normal(size=(1, 1, cells, cells)))
        # Wrapped, so that the sheet has no seam.
        wrapped = functional.pad(coarse, (3, 3, 3, 3), mode="circular")
        smooth = functional.interpolate(
            wrapped, scale_factor=length, mode="bicubic", align_corners=False
        )
        edge = 3 * length
        inside = smooth[0, 0, edge : edge + _SHEET_SIDE, edge : edge + _SHEET_SIDE]
        sheets.append((inside - inside.mean()) / inside.std(correction=0))
    sheets.append(torch.from_numpy(rng.random((_SHEET_SIDE, _SHEET_SIDE))))
    return torch.stack(sheets).float().to(device)
