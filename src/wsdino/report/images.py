"""Fields as small images for a page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from wsdino.report.style import channel_colours

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from PIL import Image

K = TypeVar("K")
STRETCH_PERCENTILES = (0.5, 99.7)
# Of large fields only the middle is shown, so that cells remain visible.
MAX_WINDOW_PX = 512
THUMBNAIL_PX = 240
JPEG_QUALITY = 80
# What a plane of typical fields takes; only a first guess at the size.
_BYTES_PER_PX = 0.5
_TRIED = 200


class Fields(Protocol):
    """The part of a store's interface that the report uses."""

    @property
    def channels(self) -> Sequence[str]:
        """Channel names."""

    @property
    def manifest(self) -> pd.DataFrame:
        """One row per site."""

    @property
    def pixel_sizes(self) -> np.ndarray:
        """(n,) width of a pixel of each site in micrometres; NaN: unknown."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def stretch(image: np.ndarray) -> np.ndarray:
    """Stretch each channel between two of its percentiles.

    Parameters
    ----------
    image
        Any real dtype (C, H, W).

    Returns
    -------
    numpy.ndarray
        float32 (C, H, W) in [0, 1]; a channel without contrast is 0.
    """
    low, high = np.percentile(image, STRETCH_PERCENTILES, axis=(1, 2), keepdims=True)
    width = np.where(high > low, high - low, np.inf)
    stretched: np.ndarray = np.clip((image - low) / width, 0.0, 1.0)
    return stretched.astype(np.float32)


def composite(image: np.ndarray, channels: Sequence[str]) -> np.ndarray:
    """Combine the channels of one field into a colour image.

    Parameters
    ----------
    image
        Any real dtype (C, H, W).
    channels
        The C channel names; they decide the colours
        (:func:`wsdino.report.style.channel_colours`).

    Returns
    -------
    numpy.ndarray
        uint8 (H, W, 3): sum of the stretched channels in their colours, clipped.
    """
    mixed: np.ndarray = np.einsum(
        "chw,cr->hwr", stretch(image), np.array(channel_colours(channels))
    )
    picture: np.ndarray = (255 * np.clip(mixed, 0.0, 1.0)).round().astype(np.uint8)
    return picture


def middle(image: np.ndarray, side: int = MAX_WINDOW_PX) -> np.ndarray:
    """Cut the middle square out of a field.

    Parameters
    ----------
    image
        (C, H, W).
    side
        Largest side of the square in pixels.

    Returns
    -------
    numpy.ndarray
        (C, s, s) with s the smallest of H, W and `side`; a view.
    """
    height, width = image.shape[1:]
    s = min(height, width, side)
    top, left = (height - s) // 2, (width - s) // 2
    return image[:, top : top + s, left : left + s]


def data_uri(picture: np.ndarray, *, max_px: int = THUMBNAIL_PX) -> str:
    """Encode a picture as a JPEG inside a URI.

    Parameters
    ----------
    picture
        uint8 (H, W, 3).
    max_px
        The picture is scaled down until its longer side has at most this many pixels.

    Returns
    -------
    str
        `data:image/jpeg;base64,...`.
    """
    from PIL import Image

    return as_uri(jpeg(Image.fromarray(picture), max_px, quality=JPEG_QUALITY))


def jpeg(frame: Image.Image, max_px: int, *, quality: int, are_planes: bool = False) -> bytes:
    """Encode a picture as a JPEG whose longer side has at most `max_px` pixels.

    Parameters
    ----------
    frame
        The picture; it is not changed.
    max_px
        It is scaled down to this.
    quality
        Of the JPEG, up to 95.
    are_planes
        Whether its planes are no colours, which JPEG would otherwise store at half the resolution.
    """
    small, buffer = frame.copy(), io.BytesIO()
    small.thumbnail((max_px, max_px))
    sampled = {"subsampling": 0} if are_planes else {}
    small.save(buffer, "JPEG", quality=quality, optimize=True, **sampled)
    return buffer.getvalue()


def as_uri(content: bytes) -> str:
    """Write a JPEG as `data:image/jpeg;base64,...`."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def packed_map(labels: Sequence[Any], planes: Sequence[np.ndarray] | np.ndarray) -> dict[str, Any]:
    """Write maps of patches for the page's CSV, each value in two bytes.

    Parameters
    ----------
    labels
        What stands before each value of a row.
    planes
        Real (h, w) each, all of one shape.

    Returns
    -------
    dict
        `labels`, `rows`, `columns` and `planes`, each with `low`, `high` and `data`: in base64,
        little-endian, 0 is low and 65,535 high.
    """
    shown = []
    for plane in planes:
        low, high = float(plane.min()), float(plane.max())
        shares = (plane - low) / (high - low) if high > low else np.zeros(plane.shape)
        content = np.rint(65_535 * shares).astype("<u2").tobytes()
        shown.append({"low": low, "high": high, "data": base64.b64encode(content).decode("ascii")})
    rows, columns = planes[0].shape
    return {"labels": [*labels], "rows": rows, "columns": columns, "planes": shown}


def uris_within(
    frames: Mapping[K, Image.Image],
    allowed: int,
    *,
    px: tuple[int, int],
    quality: int,
    are_planes: bool = False,
) -> tuple[dict[K, str], int]:
    """Encode pictures, all of one size, so that together they take so many bytes, or as near.

    Parameters
    ----------
    frames
        By any key.
    allowed
        Bytes of all URIs.
    px
        The least longer side, which they may not fit with, and the largest.
    quality, are_planes
        See :func:`jpeg`.

    Returns
    -------
    uris : dict
        `data:image/jpeg;base64,...` by the frames' keys.
    shown_px : int
        The longer side.
    """
    side = float(np.clip(np.sqrt(allowed / max(1, len(frames)) / _BYTES_PER_PX), *px))
    every = list(frames)
    # Of very many some tell about how large they may be.
    for keys in (every[:: len(every) // _TRIED], every) if len(every) > 2 * _TRIED else (every,):
        while True:
            uris = {
                key: as_uri(jpeg(frames[key], round(side), quality=quality, are_planes=are_planes))
                for key in keys
            }
            size = sum(map(len, uris.values())) * len(every) / max(1, len(keys))
            if size <= allowed or side <= px[0]:
                break
            side = max(px[0], 0.95 * side * float(np.sqrt(allowed / size)))
    return uris, round(side)


def example_sites(manifest: pd.DataFrame, *, num: int) -> list[int]:
    """Choose sites with diverse metadata.

    Repeatedly take the site with the compound shown least so far, then by treatment, plate and
    well; ties go to the first row. The choice is deterministic.

    Parameters
    ----------
    manifest
        Rows of a manifest to choose from, with any index.
    num
        Maximum number.

    Returns
    -------
    list of int
        Distinct positions (not index values) in `manifest`.
    """
    columns = [f"Metadata_{name}" for name in ("Compound", "Concentration", "Plate", "Well")]
    keys = [name for name in columns if name in manifest]
    # A number per row for its compound, its treatment, its treatment on this plate, ...
    groups = [
        manifest.groupby(keys[: depth + 1], dropna=False, sort=False).ngroup().to_numpy()
        for depth in range(len(keys))
    ]
    chosen: list[int] = []
    for _ in range(min(num, len(manifest))):
        shown = [np.bincount(group[chosen], minlength=len(manifest))[group] for group in groups]
        taken = np.isin(np.arange(len(manifest)), chosen)
        chosen.append(int(np.lexsort([*shown[::-1], taken])[0]))
    return chosen
