"""What the machine has: CPUs, memory, GPUs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from wsdino.errors import ConfigError

if TYPE_CHECKING:
    import torch


def num_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resolve_device(wanted: str) -> str:
    """Turn ``auto`` into ``cuda`` where there is one, else ``cpu``."""
    import torch

    num_devices, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"config key device: {wanted!r}, but no CUDA device is there; use cpu")
    if wanted == "cuda" and local >= num_devices:
        raise ConfigError(
            f"config key device: a process has number {local} on this host, which has "
            f"{num_devices} CUDA device(s); use torchrun --nproc-per-node {num_devices}"
        )
    return wanted


def free_memory(device: torch.device) -> int:
    """Bytes that are free for this process: every process of a host keeps fields of its own."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
