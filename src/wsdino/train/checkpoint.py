"""Checkpoints: everything that a run needs to go on to the same result."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pathlib import Path

State = dict[str, Any]
NUM_KEPT = 2


def save_checkpoint(folder: Path, step: int, state: State) -> Path:
    """Write a checkpoint so that it is there whole or not at all; keep the newest two."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:08d}.pt"
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    for old in checkpoints(folder)[NUM_KEPT:]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a folder, newest first."""
    return sorted(folder.glob("step_*.pt"), reverse=True)


def load_newest(folder: Path) -> State | None:
    """Read the newest checkpoint that can be read; warn of each damaged one that is passed over."""
    for path in checkpoints(folder):
        try:
            state: State = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 damage shows in many exceptions
            warnings.warn(
                f"{path}: damaged checkpoint ({type(error).__name__}), trying the one before",
                stacklevel=2,
            )
            continue
        return state
    return None
