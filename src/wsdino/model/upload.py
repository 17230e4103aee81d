"""Arrays as tensors, and copying them to a device without waiting for its computations."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def as_float(pixels: Tensor) -> Tensor:
    """Turn stored integers into float32; int16 holds the bits of uint16 (see `as_tensor`)."""
    if pixels.dtype == torch.int16:
        return (pixels.to(torch.int32) & 0xFFFF).to(torch.float32)
    return pixels.to(torch.float32)


def as_tensor(images: NDArray[np.generic]) -> Tensor:
    """Wrap stored integers without a copy: uint8 unchanged, uint16 as int16 with the same bits.

    Torch can index and copy int16 everywhere, uint16 only in some operations.
    """
    images = np.ascontiguousarray(images)
    if not images.flags.writeable:
        images = images.copy()
    return torch.from_numpy(images.view(np.int16) if images.dtype == np.uint16 else images)


def numbered(device: str | torch.device) -> torch.device:
    """Return a device with its index, because ``cuda`` alone differs between threads.

    Parameters
    ----------
    device
        ``cuda`` is the current thread's GPU; in a job, each process has its own.
    """
    if torch.device(device) == torch.device("cuda"):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(device)


def host_memory(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """Return a host tensor for repeated copying, pinned for a GPU.

    Parameters
    ----------
    values
        (N, ...), any shape; uint16 as in :func:`as_tensor`.
    device
        Destination of the copies.
    """
    if device.type != "cuda":
        return as_tensor(values)
    # In another thread a different GPU may be current, and would be initialised.
    with torch.cuda.device(device):
        return as_tensor(values).pin_memory()


def send(values: NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """Queue the copy of a small array to a device, behind the work already queued there.

    Parameters
    ----------
    values
        (N, ...), any shape.
    device
        Where they are needed, by the current stream.
    """
    tensor = values if isinstance(values, torch.Tensor) else as_tensor(values)
    if device.type != "cuda":
        return tensor.to(device)
    # From unpinned memory, torch would first wait for the stream to finish.
    return tensor.pin_memory().to(device, non_blocking=True)


def upload(values: NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """Copy a large array to a device, ahead of the work queued there; return when it has arrived.

    It uses a separate stream, so that a thread can fetch the next fields while kernels process the
    previous ones.

    Parameters
    ----------
    values
        (N, ...), any shape; uint16 as in :func:`as_tensor`.
    device
        Where they are needed, by the default stream.
    """
    if device.type != "cuda":
        return send(values, device)
    stream = _copy_stream(device)
    with torch.cuda.stream(stream):
        moved = send(values, device)
    stream.synchronize()
    # Its memory must not be reused for the next copy before the kernels that read it have finished.
    moved.record_stream(torch.cuda.default_stream(device))
    return moved


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
