"""Input scaling: from stored integers to a network's inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from wsdino.counting import counted
from wsdino.errors import ModelError, option
from wsdino.progress import say

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from wsdino.screen.store import Store

ScalingMethod = Literal["fixed", "plate", "field"]


@dataclass(frozen=True)
class InputScaling:
    """How intensities are scaled before a network sees them.

    Parameters
    ----------
    method
        ``fixed``: clip to [low, high] and map to [0, 1] (the paper: 0 to 10,000); ``plate``:
        standard scores by the mean and standard deviation of the plate's controls, or of all its
        sites if it has no controls, which :meth:`report` says; ``field``: standard scores within
        each field. The last two are clipped to [-4, 8] standard deviations.
    low, high
        Bounds in stored units, for ``fixed``.
    """

    method: ScalingMethod = "field"
    low: float = 0.0
    high: float = 10_000.0

    def __post_init__(self) -> None:
        if self.method not in get_args(ScalingMethod):
            raise ModelError(
                f"input.method {self.method!r}: use one of {', '.join(get_args(ScalingMethod))}"
            )
        if not -math.inf < self.low < self.high < math.inf:
            raise ModelError(f"input.high {self.high} must exceed input.low {self.low}")

    @property
    def clip(self) -> tuple[float, float]:
        """Range of scaled values."""
        return (0.0, 1.0) if self.method == "fixed" else (-4.0, 8.0)

    def for_store(self, store: Store) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Offset and gain of every site and channel of a store, each (N, C) float32."""
        if self.method == "fixed":
            return self._fixed((len(store), len(store.channels)))
        if self.method == "plate":
            plate_mean, plate_std = _plate_moments(store)
            return plate_mean, _inverse(plate_std)
        return store.statistics["mean"], _inverse(store.statistics["std"])

    def report(self, store: Store) -> None:
        """Say which plates ``plate`` scales by all of their sites.

        Parameters
        ----------
        store
            The screen may have no controls there, or a condition of what to keep has none of them.
        """
        if self.method != "plate":
            return
        has_controls = store.manifest.groupby("Metadata_Plate")["Metadata_Control"].any()
        without = has_controls.index[~has_controls]
        if len(without):
            more = f" and {len(without) - 6} more" if len(without) > 6 else ""
            named = ", ".join(map(str, without[:6])) + more
            say(
                f"input.method plate: {len(without)} of {counted(len(has_controls), 'plate')} "
                f"({named}) without controls among the sites that are used, scaled by all of "
                f"these; keep or name their controls, with {option('--keep')} or "
                f"{option('--control')}, or take input.method field"
            )

    def for_images(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Offset and gain, each (N, C) float32, of images (N, C, H, W) that are not in a store.

        Raises
        ------
        ModelError
            For ``plate``: the plate of a single image is unknown.
        """
        import torch

        from wsdino.model.upload import as_float

        if self.method == "plate":
            raise ModelError(
                "this model scales by plate: embed a store, or give each image's offset and gain"
            )
        if self.method == "fixed":
            offset, gain = self._fixed(images.shape[:2])
            return torch.from_numpy(offset), torch.from_numpy(gain)
        pixels = as_float(images).flatten(2).double()
        std, mean = torch.std_mean(pixels, dim=2, correction=0)
        return mean.float(), 1 / std.float().clamp_min(1e-6)

    def _fixed(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return (
            np.full(shape, self.low, np.float32),
            np.full(shape, 1 / (self.high - self.low), np.float32),
        )


def _inverse(std: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.reciprocal(np.maximum(std, np.float32(1e-6)))


def _plate_moments(store: Store) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pooled mean and standard deviation of each site's plate, from its controls."""
    mean: NDArray[np.float64] = store.statistics["mean"].astype(np.float64)
    std: NDArray[np.float64] = store.statistics["std"].astype(np.float64)
    plates = store.manifest["Metadata_Plate"].to_numpy()
    controls = store.manifest["Metadata_Control"].to_numpy(dtype=bool)
    plate_mean, plate_std = np.empty_like(mean), np.empty_like(std)
    for plate in np.unique(plates):
        on_plate = plates == plate
        reference = on_plate & controls if (on_plate & controls).any() else on_plate
        centre = mean[reference].mean(axis=0)
        within, between = (std[reference] ** 2).mean(axis=0), mean[reference].var(axis=0)
        plate_mean[on_plate], plate_std[on_plate] = centre, np.sqrt(within + between)
    return plate_mean.astype(np.float32), plate_std.astype(np.float32)
