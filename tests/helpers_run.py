"""A config as small as can be, and the command line as people use it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

import pytest
import yaml

from helpers_fork import FIXED, fork
from wsdino.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

    from helpers_fork import Forked

COMMAND = "from wsdino.cli.main import main; main()"
# Plain types: a test that changes a value writes it as in a YAML file.
TINY = {
    "preset": "cpu",
    "model": {"mode": "joint", "weights": None},
    "architecture": {"image_size": 16, "dim": 16, "depth": 1, "num_heads": 2},
    "crops": {
        "global_views": {"size": 16, "staining": 0.0},
        "local_views": {"num_views": 1, "size": 16, "staining": 0.0},
    },
    "train": {"epochs": 1, "batch_size": 16, "warmup_epochs": 0, "log_every": 1},
    "objective": {
        "num_prototypes": 16,
        "head_hidden_dim": 16,
        "head_bottleneck_dim": 8,
        "attention_weight": 0.0,
    },
    "embed": {"tile": 32},
    "profile": {"num_components": 4},
    "evaluate": {"num_permutations": 10, "beside": []},
    "baselines": {
        "names": ["classical", "untrained", "classifier", "dino"],
        "classifier": {"epochs": 1},
        "classifier_views": {"num_views": 1, "size": 16, "staining": 0.0},
    },
    "report": {"num_example_fields": 1, "attention_sites": [0]},
}


def write_tiny_config(path: Path, **changes: object) -> Path:
    """Write the tiny config with whole sections replaced."""
    path.write_text(yaml.safe_dump(TINY | changes), encoding="utf-8")
    return path


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command line in this process; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["wsdino", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def ended(*arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process; return what :func:`finish` would."""
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
    ):
        patch.setenv("COLUMNS", "80")
        status = call(patch, *arguments)
    return status, out.getvalue(), err.getvalue()


def start(
    *arguments: object, code: str = COMMAND, variables: dict[str, str] | None = None
) -> Forked:
    """Start the command line as a process of its own, one thread, both streams piped.

    `code` is run instead of it; `variables` are further environment variables. The process is a
    fork of one that has imported everything.
    """
    return fork(code, list(map(str, arguments)), variables or {})


def start_anew(*arguments: object, code: str | None = None) -> subprocess.Popen[str]:
    """Start it as people do, in a Python of its own, for what only that shows; seconds of CPU."""
    program = ["-c", code] if code else ["-m", "wsdino"]
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        env=os.environ | FIXED,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(
    process: Forked | subprocess.Popen[str], *, timeout_s: float = 250
) -> tuple[int, str, str]:
    """Wait for a process; return its exit status, output and error output."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        raise
    return process.returncode, out, err
