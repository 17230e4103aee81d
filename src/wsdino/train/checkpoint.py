"""Checkpoints: everything that a run needs to resume to the same result.

A checkpoint holds the step, student and teacher with heads, the centre, the optimiser, the records,
and the options that it was trained with. Everything else needs no saving: images,
partners, crops, jitter and stochastic depth are functions of (seed, step, rank)
(:mod:`wsdino.train.plan`), so that there is neither a position of the sampler nor the state of a
generator; learning rate, weight decay, temperature and momentum are functions of the step; bfloat16
needs no loss scaler.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Any

import torch

from wsdino.atomic import writing
from wsdino.errors import ModelError
from wsdino.outside import reading, require_shape
from wsdino.progress import say

if TYPE_CHECKING:
    from pathlib import Path

State = dict[str, Any]
NUM_KEPT = 2
PARTS = ("step", "fingerprint", "objective", "optimiser", "watch", "records")


def save_checkpoint(folder: Path, step: int, state: State) -> Path:
    """Write a checkpoint atomically; keep the newest two.

    Raises
    ------
    OutputError
        If it can't be written; earlier checkpoints are kept.
    """
    path = folder / f"step_{step:08d}.pt"
    with writing(path, durable=True) as partial, partial.open("wb") as file:
        torch.save(state, file)
    for old in checkpoints(folder)[NUM_KEPT:]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """List all checkpoints in a folder, newest first."""
    return sorted(folder.glob("step_*.pt"), reverse=True)


def load_newest(folder: Path) -> State | None:
    """Read the newest undamaged checkpoint; report the damaged ones that are skipped."""
    for path in checkpoints(folder):
        try:
            return _load(path)
        except ModelError as error:
            say(f"warning: {error}; trying the one before")
    if checkpoints(folder):
        say(f"warning: {folder}: no checkpoint can be read; training starts again from step 0")
    return None


def _load(path: Path) -> State:
    """Read a checkpoint whose every byte is as it was written: PyTorch itself doesn't check."""
    with reading(path, ModelError, "damaged checkpoint"):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} fails its CRC")
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        require_shape(state, dict[str, Any])
        if missing := [part for part in PARTS if part not in state]:
            raise ValueError(f"it has no {missing[0]}")
        return state
