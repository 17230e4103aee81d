"""Checkpoints: everything that a run needs to resume to the same result.

A checkpoint holds the step, student and teacher with heads, the centre, the optimiser, the records,
and the options that it was trained with. Everything else needs no saving: images,
partners, crops, jitter and stochastic depth are functions of (seed, step, rank)
(:mod:`wsdino.train.plan`), so that there is neither a position of the sampler nor the state of a
generator; learning rate, weight decay, temperature and momentum are functions of the step; bfloat16
needs no loss scaler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from wsdino.atomic import writing
from wsdino.progress import say

if TYPE_CHECKING:
    from pathlib import Path

State = dict[str, Any]
NUM_KEPT = 2


def save_checkpoint(folder: Path, step: int, state: State) -> Path:
    """Write a checkpoint atomically; keep the newest two.

    Raises
    ------
    OutputError
        If it can't be written; earlier checkpoints are kept.
    """
    path = folder / f"step_{step:08d}.pt"
    # On a full disk PyTorch's writer raises an error of its own.
    with (
        writing(path, durable=True, failures=(RuntimeError,)) as partial,
        partial.open("wb") as file,
    ):
        torch.save(state, file)
    for old in checkpoints(folder)[NUM_KEPT:]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """List all checkpoints in a folder, newest first."""
    return sorted(folder.glob("step_*.pt"), reverse=True)


def load_newest(folder: Path) -> State | None:
    """Read the newest readable checkpoint; report the damaged ones that are skipped."""
    for path in checkpoints(folder):
        try:
            state: State = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 damage shows in many exceptions
            say(
                f"warning: {path}: damaged checkpoint ({type(error).__name__}), trying the one "
                "before"
            )
            continue
        return state
    return None
