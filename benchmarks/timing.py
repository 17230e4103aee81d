"""Fair timing: contenders take turns, medians count, and the machine's peak is measured between."""

from __future__ import annotations

import platform
import statistics
import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def synchronise(device: torch.device) -> None:
    """Wait until a device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, the device's part included."""
    synchronise(device)
    before = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - before


def take_turns(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Time every contender once a round, after one call of each that doesn't count.

    Returns
    -------
    dict
        Name -> wall time in seconds of each round.
    """
    for work in contenders.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            times[name].append(seconds(work, device))
    return times


def matrix_product(
    dtype: torch.dtype, device: torch.device, *, size: int
) -> tuple[Callable[[], object], float]:
    """Return one product of square matrices, and its floating point operations."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return lambda: a @ b, 2.0 * size**3


def spread_of(values: list[float]) -> str:
    """Median and range of values, three digits each."""
    middle = statistics.median(values)
    return f"{middle:.3g} ({min(values):.3g} to {max(values):.3g})"


def machine(device: torch.device) -> str:
    """Name what ran the benchmark."""
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}; {threads}"
    name = torch.cpu.get_capabilities().get("cpu_name", platform.processor())
    amx = " with AMX" if torch.cpu._is_amx_tile_supported() else ""  # noqa: SLF001 no public name
    return f"{name}{amx}; {threads}"
