"""What a model says of one site: its attention, and the features of its patches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wsdino.errors import InputError

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
