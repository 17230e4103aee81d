"""Checkpoints: everything that a run needs to resume to the same result.

A checkpoint holds the step, student and teacher with heads, the centre, the optimiser, the records,
and the options that it was trained with. Everything else needs no saving: images,
partners, crops, jitter and stochastic depth are functions of (seed, step, rank)
(:mod:`wsdino.train.plan`), so that there is neither a position of the sampler nor the state of a
generator; learning rate, weight decay, temperature and momentum are functions of the step; bfloat16
needs no loss scaler.

PyTorch loads a damaged file without a word, and the CRCs of a zip archive cover what its directory
names, which may itself be damaged: so the archive's comment has the digest of all that precedes it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
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
_HASH, _NUM_DIGITS = "sha256", 64
_LENGTH_BYTES = 2  # of a zip archive's comment
PARTS = ("step", "fingerprint", "objective", "optimiser", "watch", "records")


def save_checkpoint(folder: Path, step: int, state: State) -> Path:
    """Write a checkpoint atomically; keep the newest two.

    Raises
    ------
    OutputError
        If it can't be written; earlier checkpoints are kept.
    """
    path = folder / f"step_{step:08d}.pt"
    with writing(path, durable=True) as partial:
        with partial.open("wb") as file:
            torch.save(state, file)
        _seal(partial)
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


def _seal(path: Path) -> None:
    """Give a zip archive without a comment, which ends in its length, the digest of the rest."""
    with path.open("r+b") as file:
        file.seek(-_LENGTH_BYTES, os.SEEK_END)
        file.write(_NUM_DIGITS.to_bytes(_LENGTH_BYTES, "little"))
        file.flush()
        file.seek(0)
        digest = hashlib.file_digest(file, _HASH).hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(digest.encode())


def _require_seal(path: Path) -> None:
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with content, memoryview(content) as view:
            digest = hashlib.new(_HASH, view[:-_NUM_DIGITS]).hexdigest()
            is_whole = view[-_NUM_DIGITS:] == digest.encode()
    if not is_whole:
        raise ValueError("its bytes are not those that were written")


def _load(path: Path) -> State:
    """Read a checkpoint whose every byte is as it was written."""
    with reading(path, ModelError, "damaged checkpoint"):
        _require_seal(path)
        state: State = torch.load(path, map_location="cpu", weights_only=True)
        require_shape(state, dict[str, Any])
        if missing := [part for part in PARTS if part not in state]:
            raise ValueError(f"it has no {missing[0]}")
        return state
