"""What a model says of one site: its attention, and the features of its patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wsdino.errors import InputError
from wsdino.screen.measures import foreground_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsdino.report.images import Fields


class Attentive(Protocol):
    """The part of a model's interface that attention maps and components use."""

    @property
    def network_names(self) -> Sequence[str]:
        """Name of each network, such as its channel."""

    def attention(self, images: Any, /, *, offset: Any = ..., gain: Any = ...) -> Any:
        """(B, C, H, W) integers -> (B, networks, heads, h, w), softmax attention of [CLS]."""

    def patches(self, images: Any, /, *, offset: Any = ..., gain: Any = ...) -> Any:
        """(B, C, H, W) integers -> (B, networks, h, w, D), features of each patch."""


def site_maps(model: Attentive, store: Fields, site: int) -> np.ndarray:
    """Compute the attention maps of one site.

    Parameters
    ----------
    model
        Anything with the methods of :class:`Attentive`.
    store
        An open store.
    site
        Row of the manifest.

    Returns
    -------
    numpy.ndarray
        float32 (networks, heads, h, w).

    Raises
    ------
    InputError
        The store has no such site.
    """
    return _of_site(model.attention, model, store, site)


def site_patches(model: Attentive, store: Fields, site: int) -> np.ndarray:
    """Compute the features of each patch of one site, float32 (networks, h, w, D).

    Parameters and errors are those of :func:`site_maps`.
    """
    return _of_site(model.patches, model, store, site)


def patch_side(image: np.ndarray, grid: tuple[int, ...]) -> int:
    """Return the side in px of the patches of an image (C, H, W) that fill a grid (h, w)."""
    return int(min(image.shape[1] // grid[0], image.shape[2] // grid[1]))


def on_foreground(
    maps: np.ndarray, image: np.ndarray, channels: Sequence[str], network: str
) -> tuple[float, float] | None:
    """Measure how much of a network's attention lies on foreground.

    Parameters
    ----------
    maps
        Float (heads, h, w), as :func:`site_maps` returns them for each network.
    image
        The field (C, H, W), uint8 or uint16.
    channels
        The C channel names.
    network
        Its foreground is that of the channel of this name, else what is foreground in any; see
        :func:`wsdino.screen.measures.foreground_of`.

    Returns
    -------
    tuple or None
        Share of the attention, mean over heads, and of the area; None where nothing is foreground.
    """
    height, width = maps.shape[1:]
    patch = patch_side(image, (height, width))
    planes = [list(channels).index(network)] if network in channels else range(len(channels))
    small = np.any([foreground_mask(image[plane]) for plane in planes], axis=0)
    # A pixel of four each; the last row and column of an odd field repeat those before.
    mask = np.pad(
        small.repeat(2, axis=0).repeat(2, axis=1),
        [(0, side % 2) for side in image.shape[1:]],
        "edge",
    )[: height * patch, : width * patch]
    shares = mask.reshape(height, patch, width, patch).mean(axis=(1, 3))
    if not shares.any():
        return None
    mean = maps.mean(axis=0, dtype=np.float64)
    return float((mean * shares).sum() / mean.sum()), float(shares.mean())


def _of_site(compute: Callable[..., Any], model: Attentive, store: Fields, site: int) -> np.ndarray:
    if not 0 <= site < len(store):
        raise InputError(f"site {site}: the store has the sites 0 to {len(store) - 1}")
    images = np.asarray(store[site])[None]
    # Our models scale a site as for its embedding, which may need its whole plate.
    spec = getattr(model, "spec", None)
    if spec is None:
        found = compute(images)
    else:
        import torch

        offset, gain = (torch.from_numpy(x[[site]]) for x in spec.scaling.for_store(store))
        found = compute(images, offset=offset, gain=gain)
    # A tensor may be on a GPU; the method `cpu` distinguishes it from an array.
    found = found.detach().cpu().float().numpy() if hasattr(found, "cpu") else found
    first: np.ndarray = np.asarray(found, dtype=np.float32)[0]
    return first
