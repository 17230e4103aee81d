"""Arrays on their way to a device: nothing here waits for what the device computes."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import torch

from wsdino.model.scaling import as_tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


def numbered(device: str | torch.device) -> torch.device:
    """Return a device with its number: what ``cuda`` means differs from thread to thread.

    Parameters
    ----------
    device
        ``cuda`` is the present thread's GPU, which is a process's own in a job of several.
    """
    if torch.device(device) == torch.device("cuda"):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(device)


def host_memory(values: NDArray[np.generic], device: torch.device) -> Tensor:
    """Return a tensor of the host to copy from again and again, pinned for a GPU.

    Parameters
    ----------
    values
        (N, ...), any shape; uint16 as in :func:`~wsdino.model.scaling.as_tensor`.
    device
        Where it is copied to.
    """
    if device.type != "cuda":
        return as_tensor(values)
    # In a thread of its own another GPU may be the present one, and would be woken up.
    with torch.cuda.device(device):
        return as_tensor(values).pin_memory()


def send(values: NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """Queue the copying of a small array to a device, behind what is queued there already.

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
    # From memory that isn't pinned, torch would first wait until the stream has run dry.
    return tensor.pin_memory().to(device, non_blocking=True)


def upload(values: NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """Copy a large array to a device, past what is queued there; returns when it is there.

    It travels on a stream of its own, so that a thread can fetch the next fields while kernels work
    on those before.

    Parameters
    ----------
    values
        (N, ...), any shape; uint16 as in :func:`~wsdino.model.scaling.as_tensor`.
    device
        Where they are needed, by the default stream.
    """
    if device.type != "cuda":
        return send(values, device)
    stream = _copy_stream(device)
    with torch.cuda.stream(stream):
        moved = send(values, device)
    stream.synchronize()
    # Its memory may not be given to the next copy before the kernels that read it are through.
    moved.record_stream(torch.cuda.default_stream(device))
    return moved


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
