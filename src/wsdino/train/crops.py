"""Crops: all views of a batch in one batched resampling of stored integers on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wsdino.model.upload import as_float, send
from wsdino.train.staining import draw_stains, stained
from wsdino.train.views import crop_side, require_fit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsdino.train.views import ViewPlan


@dataclass(frozen=True)
class CropDraw:
    """Crops of V views of B images: their positions and augmentations.

    Parameters
    ----------
    side, top, left
        (V, B) int64, px of the field.
    flip_y, flip_x, transpose
        (V, B) bool.
    factor, shift
        (V, B, C) float32 photometric jitter.
    stains, grains
        (V, B, C, K) float32 and (V, B, C, L) int64: amounts and places of
        :func:`wsdino.train.staining.draw_stains`; K and L are 0 where nothing is stained.
    """

    side: NDArray[np.int64]
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    flip_y: NDArray[np.bool_]
    flip_x: NDArray[np.bool_]
    transpose: NDArray[np.bool_]
    factor: NDArray[np.float32]
    shift: NDArray[np.float32]
    stains: NDArray[np.float32]
    grains: NDArray[np.int64]

    def part(self, images: slice) -> CropDraw:
        """Return the crops of some of the images."""
        return CropDraw(*(getattr(self, name)[:, images] for name in self.__dataclass_fields__))


def draw_crops(
    plan: ViewPlan,
    num_images: int,
    *,
    field_shape: tuple[int, int],
    num_channels: int,
    rng: np.random.Generator,
) -> CropDraw:
    """Draw the crops of a batch.

    Parameters
    ----------
    plan
        Description of the views.
    num_images
        Images in the batch.
    field_shape
        Height and width of a field in px.
    num_channels
        Channels of a field, each with a jitter of its own.
    rng
        Random generator.

    Raises
    ------
    ConfigError
        If the largest crop that can be drawn does not fit the field.
    """
    require_fit(plan, field_shape)
    height, width = field_shape
    shape = (plan.num_views, num_images)
    if plan.area is None:
        side = np.full(shape, plan.size, dtype=np.int64)
    else:
        side = crop_side(rng.uniform(*plan.area, size=shape) * height * width)
    top, left = (rng.integers(0, length - side + 1) for length in (height, width))
    flip_y, flip_x = ((rng.random(shape) < 0.5) & plan.flip for _ in range(2))
    transpose = (rng.random(shape) < 0.5) & plan.rotate
    factor = _jitter(1, plan.contrast, (*shape, num_channels), rng)
    shift = _jitter(0, plan.brightness, (*shape, num_channels), rng)
    stains, grains = draw_stains((*shape, num_channels), plan.staining, rng)
    return CropDraw(
        side, top, left, flip_y, flip_x, transpose, factor, shift, stains=stains, grains=grains
    )


def _jitter(
    middle: float, amount: float, shape: tuple[int, ...], rng: np.random.Generator
) -> NDArray[np.float32]:
    return (middle + amount * rng.uniform(-1, 1, shape)).astype(np.float32)


def cut(
    fields: Tensor,
    sites: NDArray[np.int64],
    draw: CropDraw,
    *,
    size: int,
    offset: Tensor,
    gain: Tensor,
    clip: tuple[float, float],
) -> Tensor:
    """Cut, scale, resize and augment crops.

    Only the pixels under the crops are touched and turned into floats. Resizing is bicubic with
    antialiasing and treats a crop's edge as the image's edge, as cutting first and resizing then
    would (``torch.nn.functional.interpolate(..., mode="bicubic", antialias=True)``).

    Parameters
    ----------
    fields
        (N, C, H, W) stored integers, see :func:`wsdino.model.upload.as_tensor`.
    sites
        (V, B) int64 rows of `fields`.
    draw
        Crops of V views of B images.
    size
        Side of the result in px.
    offset, gain
        (N, C) float32 input scaling of the fields: clip((pixel - offset) * gain).
    clip
        Smallest and largest scaled value.

    Returns
    -------
    Tensor
        (V * B, C, size, size) float32, view by view.
    """
    device = fields.device
    index, side, top, left, flip_y, flip_x, transpose = send(
        np.stack(
            [sites, draw.side, draw.top, draw.left, draw.flip_y, draw.flip_x, draw.transpose]
        ).reshape(7, -1),
        device,
    )
    jitter = np.stack([draw.factor, draw.shift])
    factor, shift = send(jitter.reshape(2, sites.size, -1, 1, 1), device)
    window = int(draw.side.max())
    pixel = torch.arange(window, device=device)
    # A crop smaller than the window repeats its last pixel; resizing gives the copies no weight.
    places = torch.minimum(pixel, side[:, None] - 1)
    mirrored = (side[:, None] - 1 - pixel).clamp_min(0)
    rows = top[:, None] + torch.where(flip_y[:, None] > 0, mirrored, places)
    columns = left[:, None] + torch.where(flip_x[:, None] > 0, mirrored, places)
    channels = torch.arange(fields.shape[1], device=device)
    pixels = fields[
        index[:, None, None, None],
        channels[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
    crops = as_float(pixels)
    crops = ((crops - offset[index][..., None, None]) * gain[index][..., None, None]).clamp_(*clip)
    if (draw.side != size).any():
        weights = resize_weights(side, size, window)
        crops = weights[:, None] @ crops @ weights[:, None].transpose(-1, -2)
    crops = torch.where(transpose[:, None, None, None] > 0, crops.transpose(-1, -2), crops)
    if draw.stains.size:
        num_channels = fields.shape[1]
        amounts = send(draw.stains.reshape(sites.size, num_channels, -1), device)
        places = send(draw.grains.reshape(sites.size, num_channels, -1), device)
        crops = stained(crops, amounts, places)
    altered: Tensor = crops * factor + shift
    return altered


def resize_weights(side: Tensor, size: int, window: int) -> Tensor:
    """Matrices that resize one axis: crop i of length side[i] becomes `size` px.

    Keys' bicubic kernel with a = -1/2, widened by the scale when shrinking, normalised per output
    pixel: what Pillow and ``torch.nn.functional.interpolate(antialias=True)`` do.

    Parameters
    ----------
    side
        (M,) int64, each at most `window`.
    size, window
        Length of the result and of the longest crop in px.

    Returns
    -------
    Tensor
        (M, size, window) float32; columns from side[i] on are zero.
    """
    scale = (side.double() / size)[:, None, None]
    widening = scale.clamp_min(1.0)
    centre = (torch.arange(size, device=side.device) + 0.5)[None, :, None] * scale
    # Only pixels within two (widened) units of the centre have weight.
    reach = 2 * max(window / size, 1.0)
    offsets = torch.arange(math.ceil(2 * reach) + 2, device=side.device)
    pixel = (centre - 2 * widening).floor().long() + offsets
    distance = ((pixel + 0.5 - centre) / widening).abs()
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    weights = torch.where((pixel >= 0) & (pixel < side[:, None, None]), weights, 0.0)
    weights = (weights / weights.sum(dim=-1, keepdim=True)).float()
    whole = weights.new_zeros(len(side), size, window)
    return whole.scatter_add_(2, pixel.clamp(0, window - 1), weights)
