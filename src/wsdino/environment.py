"""What a run ran on: versions, hardware, git commit, command and seed."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from wsdino.device import resolve_device


def environment(*, seed: int, device: str) -> dict[str, Any]:
    """Say what a run ran on: versions, hardware, git commit, command and seed."""
    import torch

    wanted = ("wsdino", "torch", "timm", "numpy", "pandas", "scikit-learn", "zarr")
    git = subprocess.run(  # noqa: S603 fixed arguments
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "command": ["wsdino", *sys.argv[1:]],
        "seed": seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "num_threads": torch.get_num_threads(),
        "device": resolve_device(device),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": git.stdout.strip() or None,
        "versions": {name: metadata.version(name) for name in wanted},
    }
