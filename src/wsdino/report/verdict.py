"""Whether self-distillation collapsed, in plain words, from its training curves.

DINO has two ways to fail (arXiv 2104.14294, section 5.3): the teacher spreads every image evenly
over all prototypes, or gives every image the same one. Its embedding may also shrink to a point
or to a line while the loss looks harmless.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

# Mean teacher entropy as a share of log K. In runs that learnt little from scratch it stayed near
# 0.87; targets that are spread over all prototypes sit within rounding of one.
UNIFORM_SHARE = 0.98
SOFT_SHARE = 0.85
# Entropy of the batch-mean assignment as a share of log K below which few prototypes are in use.
ONE_PROTOTYPE_SHARE = 0.1
# Spread of the embedding: absolute, and as a share of the widest it was in this run.
POINT_SPREAD = 1e-4
POINT_SHARE = 0.01
LINE_RANK = 1.5
# The last part of a run that is averaged, so that one odd batch doesn't decide.
TAIL_SHARE = 0.05


@dataclass(frozen=True)
class Verdict:
    """What the curves say.

    Attributes
    ----------
    level
        `good`, `warning`, `bad` or `unknown`.
    title
        The verdict in a few words.
    detail
        The numbers it rests on, in one or two sentences.
    """

    level: str
    title: str
    detail: str


def collapse_verdict(metrics: pd.DataFrame) -> Verdict:
    """Judge from the end of the training curves whether a run collapsed.

    Parameters
    ----------
    metrics
        Training curves (:func:`wsdino.report.runfolder.read_metrics`) with any of the columns
        `loss`, `teacher_entropy`, `teacher_entropy_max`, `assignment_entropy`, `embedding_std`
        and `embedding_rank`.

    Returns
    -------
    Verdict
        `unknown` where none of the columns that could tell is there.
    """
    end = {name: _end_of(metrics[name]) for name in metrics.columns}
    spread, rank = end.get("embedding_std", math.nan), end.get("embedding_rank", math.nan)
    ceiling = end.get("teacher_entropy_max", math.nan)
    entropy = end.get("teacher_entropy", math.nan)
    share = entropy / ceiling if ceiling > 0 else math.nan
    used = end.get("assignment_entropy", math.nan) / ceiling if ceiling > 0 else math.nan
    widest = float(metrics["embedding_std"].max()) if "embedding_std" in metrics else math.nan
    facts = _facts(entropy, ceiling, used, spread, rank)
    if "loss" in metrics and not math.isfinite(metrics["loss"].iloc[-1]):
        return Verdict("bad", "Training diverged", f"The last loss is not a finite number. {facts}")
    if spread < max(POINT_SPREAD, POINT_SHARE * widest):
        return Verdict(
            "bad", "Collapsed to a point", f"All images get nearly the same embedding. {facts}"
        )
    if used < ONE_PROTOTYPE_SHARE:
        return Verdict(
            "bad",
            "Collapsed to one prototype",
            f"The teacher gives nearly every image the same target. {facts}",
        )
    if share > UNIFORM_SHARE:
        return Verdict(
            "bad",
            "Collapsed to uniform",
            f"The teacher's targets are spread evenly over all prototypes and teach nothing. "
            f"{facts}",
        )
    if rank < LINE_RANK:
        return Verdict(
            "bad", "Collapsed to a line", f"The embedding varies in one direction only. {facts}"
        )
    if share > SOFT_SHARE:
        return Verdict(
            "warning",
            "No collapse, but soft targets",
            f"The teacher stays undecided, so there is little to learn from. {facts}",
        )
    if not facts:
        return Verdict(
            "unknown",
            "No verdict on collapse",
            "The curves hold neither the teacher's entropy nor the embedding's spread.",
        )
    return Verdict("good", "No sign of collapse", facts)


def _end_of(values: pd.Series[float]) -> float:
    known = values.to_numpy(dtype=np.float64)
    known = known[np.isfinite(known)]
    return (
        float(known[-max(1, math.ceil(TAIL_SHARE * len(known))) :].mean())
        if len(known)
        else (math.nan)
    )


def _facts(entropy: float, ceiling: float, used: float, spread: float, rank: float) -> str:
    """Say the numbers at the end of the run that are known."""
    parts = []
    if math.isfinite(entropy) and ceiling > 0:
        parts.append(
            f"teacher entropy {entropy:.2f} of at most {ceiling:.2f} nats "
            f"({100 * entropy / ceiling:.0f} %)"
        )
    if math.isfinite(used):
        parts.append(f"assignment entropy {100 * used:.0f} % of the maximum")
    if math.isfinite(spread):
        parts.append(f"embedding spread {spread:.3g}")
    if math.isfinite(rank):
        parts.append(f"effective rank {rank:.1f}")
    return f"At the end: {', '.join(parts)}." if parts else ""
