"""What this machine has, what is missing on it, and what we recommend for it."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from wsdino.atomic import write_error
from wsdino.device import free_host_memory, num_cpus
from wsdino.environment import PACKAGES
from wsdino.errors import InputError
from wsdino.extras import extras, is_installed

LARGE_FILE_BYTES = 32 * 2**20
NUM_SMALL_FILES = 200
SMALL_FILE_BYTES = 4096
# Below these a screen of a few plates becomes a nuisance; they are rules of thumb.
LITTLE_MEMORY = 6 * 10**9
LITTLE_DISK = 20 * 10**9
FEW_FILES_PER_SECOND = 200


def examine(folder: Path) -> dict[str, Any]:
    """Look at the machine, the installation and the disk of a folder.

    Parameters
    ----------
    folder
        Where stores and runs are to be; some 33 MB are written there and deleted.

    Returns
    -------
    dict
        ``versions`` of packages, None for those that are missing; ``machine`` (platform, Python,
        number of CPUs, free memory in bytes); ``cpu_capability``, the vector instructions that
        PyTorch uses; ``gpu`` (name and memory in bytes) or None; ``extras``, for each whether
        it is installed; ``disk`` (free bytes, bytes written per second, small files written and
        read per second); ``preset``, the one to begin with; ``advice``, sentences.

    Raises
    ------
    InputError
        There is no such folder.
    OutputError
        Nothing can be written there.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    found: dict[str, Any] = {
        "versions": _versions(),
        "machine": _machine(),
        **_device(),
        "extras": {name: all(map(is_installed, needed)) for name, needed in extras().items()},
        "disk": _disk(folder),
    }
    found["preset"] = "cpu" if found["gpu"] is None else "default"
    found["advice"] = _advice(found)
    return found


def _versions() -> dict[str, str | None]:
    """Return the versions of packages; None where one isn't installed."""
    found: dict[str, str | None] = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = None
            found[name] = metadata.version(name)
    return found


def _machine() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "num_cpus": num_cpus(),
        "free_memory_bytes": free_host_memory(),
    }


def _device() -> dict[str, Any]:
    try:
        import torch
    except ModuleNotFoundError:
        return {"cpu_capability": None, "gpu": None}
    gpu = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = {"name": properties.name, "memory_bytes": int(properties.total_memory)}
    return {"cpu_capability": torch.backends.cpu.get_cpu_capability(), "gpu": gpu}


def _disk(folder: Path) -> dict[str, Any]:
    """Measure how quickly a folder takes one large file, and small ones."""
    try:
        with tempfile.TemporaryDirectory(prefix=".wsdino-", dir=folder) as scratch:
            large, small = Path(scratch) / "large", bytes(SMALL_FILE_BYTES)
            block = os.urandom(2**20)
            start = time.perf_counter()
            with large.open("wb") as file:
                for _ in range(LARGE_FILE_BYTES // len(block)):
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            large_seconds = time.perf_counter() - start
            start = time.perf_counter()
            for number in range(NUM_SMALL_FILES):
                path = Path(scratch) / str(number)
                path.write_bytes(small)
                path.read_bytes()
            small_seconds = time.perf_counter() - start
    except OSError as error:
        raise write_error(folder, error) from error
    return {
        "folder": str(folder.resolve()),
        "free_bytes": shutil.disk_usage(folder).free,
        "written_bytes_per_second": round(LARGE_FILE_BYTES / large_seconds),
        "small_files_per_second": round(NUM_SMALL_FILES / small_seconds),
    }


def _advice(found: dict[str, Any]) -> list[str]:
    machine, disk = found["machine"], found["disk"]
    advice = []
    if found["gpu"] is None:
        advice.append(
            "no GPU: begin with the preset cpu, and embed with the starter; a training of the "
            "preset paper takes weeks on a CPU"
        )
        if found["extras"].get("images") and shutil.which("nvidia-smi"):
            advice.append(
                "there is a GPU, but this PyTorch can't use it: install one that is built for CUDA "
                "(https://pytorch.org/get-started)"
            )
    if machine["free_memory_bytes"] < LITTLE_MEMORY:
        advice.append(
            f"{machine['free_memory_bytes'] / 1e9:.1f} GB of free memory are little: lower "
            "embed.batch_size and --workers if a command is killed"
        )
    if disk["free_bytes"] < LITTLE_DISK:
        advice.append(
            f"{disk['free_bytes'] / 1e9:.1f} GB of free disk are little: wsdino inspect PLATES "
            "says how large a store will be"
        )
    if disk["small_files_per_second"] < FEW_FILES_PER_SECOND:
        advice.append(
            "small files are slow here, as on many network disks: keep stores and runs on a local "
            "disk (--out)"
        )
    advice += [
        f"{name} is not installed: pip install 'wsdino[{name}]'"
        for name, is_there in found["extras"].items()
        if not is_there
    ]
    return advice
