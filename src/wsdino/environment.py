"""What a run ran on: versions, hardware, git commit, command and seed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from wsdino.device import resolve_device

PACKAGES = ("wsdino", "torch", "timm", "numpy", "pandas", "scikit-learn", "zarr")


def environment(*, seed: int, device: str) -> dict[str, Any]:
    """Describe what a run ran on: versions, hardware, git commit, command and seed."""
    import torch

    return {
        "command": ["wsdino", *sys.argv[1:]],
        "seed": seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "num_threads": torch.get_num_threads(),
        "device": resolve_device(device),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": git_commit(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
    }


def git_commit(package: Path = Path(__file__).parent) -> str | None:
    """Return the commit that a package's source was checked out at.

    Parameters
    ----------
    package
        Folder of the package.

    Returns
    -------
    str or None
        None if the source isn't in its own repository (an installed package may lie in someone
        else's), or if git is missing or fails.
    """
    # A git hook that starts a run sets these for its own repository.
    variables = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        found = subprocess.run(  # noqa: S603 fixed arguments
            ["git", "-C", str(package), "rev-parse", "--show-toplevel", "HEAD"],  # noqa: S607
            capture_output=True,
            check=False,
            env=variables,
        )
        # A path may have letters that the locale lacks.
        lines = os.fsdecode(found.stdout).splitlines()
        if found.returncode or len(lines) != 2:
            return None
        is_ours = (Path(lines[0]) / "src" / package.name).samefile(package)
    except OSError:
        return None
    return lines[1] if is_ours else None
