"""Schedules as closed forms: a value at a step needs no state."""

from __future__ import annotations

import math


def cosine(step: int, *, start: float, end: float, total: int, warmup: int = 0) -> float:
    """Half a cosine from `start` to `end`, after a linear rise from zero.

    Parameters
    ----------
    step
        0 for the first update.
    start, end
        Values right after the warm-up and at step `total`.
    total, warmup
        Numbers of steps, warm-up included.
    """
    if step < warmup:
        return start * (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def linear_then_constant(step: int, *, start: float, end: float, warmup: int) -> float:
    """Straight line from `start` to `end` over `warmup` steps, then `end`."""
    return end if step >= warmup else start + (end - start) * step / warmup
