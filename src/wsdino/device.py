"""The machine's resources for this process: CPUs, memory, GPUs."""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from wsdino.errors import ConfigError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

ROOT = Path("/")
# What the config and the command line take.
DEVICE = r"auto|cpu|cuda(:\d+)?"


def num_cpus(root: Path = ROOT) -> int:
    """Return how many CPUs this process may use: its affinity, and the limits of its cgroups.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` lie.
    """
    has_affinity = hasattr(os, "sched_getaffinity")
    num = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    limits = [
        *(_quota(folder / "cpu.max") for folder in _cgroups("", root)),
        *(
            _quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us")
            for folder in _cgroups("cpu", root)
        ),
    ]
    return max(1, min([num, *(math.ceil(limit) for limit in limits if limit is not None)]))


def resolve_device(wanted: str) -> str:
    """Turn ``auto`` into ``cuda`` where there is one, else ``cpu``.

    Raises
    ------
    ConfigError
        If there is no such device.
    """
    import torch

    if not re.fullmatch(DEVICE, wanted):
        raise ConfigError(f"device {wanted!r}: no such device; use auto, cpu, cuda or cuda:NUMBER")
    num_devices, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"config key device: {wanted!r}, but there is no CUDA device; use cpu")
    if wanted == "cuda" and local >= num_devices:
        raise ConfigError(
            f"config key device: this process has local rank {local}, but the host has only "
            f"{num_devices} CUDA device(s); use torchrun --nproc-per-node {num_devices}"
        )
    return wanted


def free_memory(device: torch.device) -> int:
    """Bytes that are free for this process: every process of a host keeps its own fields."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return _own_host_memory()


def _own_host_memory() -> int:
    return free_host_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def free_host_memory(root: Path = ROOT) -> int:
    """Bytes of main memory that may still be taken, by the host and by this process's cgroups.

    Parameters
    ----------
    root
        Where ``proc`` and ``sys`` lie.
    """
    return min([_free_on_host(root), *_free_in_cgroups(root)])


def require_memory(what: str, needed: int, *, advice: str) -> None:
    """Refuse, before it begins, what won't fit.

    Parameters
    ----------
    what
        For the message, such as `embedding 16 fields at a time`.
    needed
        Bytes, estimated.
    advice
        What to do about it.

    Raises
    ------
    InputError
        Less is free.
    """
    free = _own_host_memory()
    if needed > free:
        raise InputError(
            f"{what} takes about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are "
            f"free; {advice}"
        )


def _free_on_host(root: Path) -> int:
    fields = _fields(root / "proc" / "meminfo")
    if "MemAvailable:" in fields:
        return fields["MemAvailable:"] * 1024
    page = os.sysconf("SC_PAGE_SIZE")
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * page
    # macOS doesn't report free memory; leave half to the system and other programs.
    return os.sysconf("SC_PHYS_PAGES") * page // 2


def _free_in_cgroups(root: Path) -> Iterator[int]:
    """Yield what remains of each limit; cached files can be dropped and count as free."""
    names = (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    for controller, limit_name, usage_name, cache_name in names:
        for folder in _cgroups(controller, root):
            limit, usage = _number(folder / limit_name), _number(folder / usage_name)
            if limit is not None and usage is not None:
                cache = _fields(folder / "memory.stat").get(cache_name, 0)
                yield max(0, limit - usage + cache)


def _cgroups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of this process's cgroup and of all above it.

    Parameters
    ----------
    controller
        Of version 1; empty for version 2, which has one tree for all.
    root
        Where ``proc`` and ``sys`` lie.
    """
    top = root / "sys" / "fs" / "cgroup" / controller
    for line in _lines(root / "proc" / "self" / "cgroup"):
        _, controllers, path = [*line.split(":", maxsplit=2), "", ""][:3]
        if controller in controllers.split(","):
            own = top / path.lstrip("/")
            # In a container the path may be the host's, which is mounted as the root.
            inside = top if ".." in own.parts else own
            yield from (each for each in (inside, *inside.parents) if each.is_relative_to(top))


def _quota(quota: Path, period: Path | None = None) -> float | None:
    """CPUs that a cgroup may use; None without a limit."""
    words = [
        word for path in (quota, period) if path for line in _lines(path) for word in line.split()
    ]
    with suppress(ValueError, ZeroDivisionError):
        if len(words) == 2 and int(words[0]) > 0:
            return int(words[0]) / int(words[1])
    return None


def _number(path: Path) -> int | None:
    with suppress(ValueError, IndexError):
        return int(_lines(path)[0])
    return None


def _fields(path: Path) -> dict[str, int]:
    """Return the first number behind each word that a line begins with."""
    pairs = (line.split()[:2] for line in _lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _lines(path: Path) -> list[str]:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    return []
