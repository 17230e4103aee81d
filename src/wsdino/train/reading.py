"""Reading numbers from a device."""

from __future__ import annotations

import torch
from torch import Tensor


class Reading:
    """Reads a tensor from its device without delaying work queued after it.

    Parameters
    ----------
    numbers
        (n,) floats; what is queued on the device later does not delay them.
    """

    def __init__(self, numbers: Tensor) -> None:
        self._copy = numbers.detach().to("cpu", non_blocking=True)
        self._arrived: torch.cuda.Event | None = None
        if numbers.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(numbers.device))

    def result(self) -> list[float]:
        """Wait for the numbers."""
        if self._arrived is not None:
            self._arrived.synchronize()
        values: list[float] = self._copy.tolist()
        return values
