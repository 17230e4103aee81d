"""Detecting whether self-distillation collapsed, from its training curves.

DINO has two ways to fail (arXiv 2104.14294, section 5.3): the teacher spreads every image evenly
over all prototypes, or gives every image the same one. Its embedding may also shrink to a point
or to a line while the loss looks harmless. Training names a collapse as it happens by the same
rule (:mod:`wsdino.train.collapse`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from wsdino.train.collapse import name_collapse

if TYPE_CHECKING:
    import pandas as pd

# Mean teacher entropy as a share of log K: in runs that learnt little from scratch it stayed near
# 0.87.
SOFT_SHARE = 0.85
LINE_RANK = 1.5
# The last part of a run that is averaged, so that one odd batch doesn't decide.
TAIL_SHARE = 0.05

_DIAGNOSTICS = (
    "teacher_entropy",
    "teacher_entropy_max",
    "assignment_entropy",
    "embedding_std",
    "embedding_rank",
    "plate_clustering",
)


@dataclass(frozen=True)
class Verdict:
    """Conclusion from the training curves.

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
        Training curves (:func:`wsdino.runrecord.read_metrics`) with any of the columns
        `loss`, `teacher_entropy`, `teacher_entropy_max`, `assignment_entropy`, `embedding_std`,
        `embedding_rank` and `plate_clustering`.

    Returns
    -------
    Verdict
        `unknown` if none of the columns needed to decide is there.
    """
    end = dict.fromkeys(_DIAGNOSTICS, math.nan)
    end |= {name: _end_of(metrics[name]) for name in _DIAGNOSTICS if name in metrics}
    facts = _facts(end)
    if "loss" in metrics and not math.isfinite(_end_of(metrics["loss"])):
        return Verdict("bad", "Training diverged", f"The last losses are not finite. {facts}")
    # Absent diagnostics are NaN, which is on neither side of a threshold.
    collapse = name_collapse(end)
    if collapse:
        title, reason = collapse.split(": ", 1)
        return Verdict("bad", _sentence(title), f"{_sentence(reason)}. {facts}")
    if end["embedding_rank"] < LINE_RANK:
        return Verdict(
            "bad", "Collapse to a line", f"The embedding varies in one direction only. {facts}"
        )
    if end["teacher_entropy"] > SOFT_SHARE * end["teacher_entropy_max"]:
        return Verdict(
            "warning",
            "No collapse, but soft targets",
            f"The teacher's targets stay close to uniform, so they teach little. {facts}",
        )
    if not facts:
        return Verdict(
            "unknown",
            "No verdict on collapse",
            "The curves hold neither the teacher's entropy nor the embedding's spread.",
        )
    return Verdict("good", "No sign of collapse", facts)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _end_of(values: pd.Series[float]) -> float:
    """Average the finite values near the end; NaN if there are none."""
    tail = values.to_numpy(dtype=np.float64)[-max(1, math.ceil(TAIL_SHARE * len(values))) :]
    known = tail[np.isfinite(tail)]
    return float(known.mean()) if len(known) else math.nan


def _facts(end: dict[str, float]) -> str:
    """List the known numbers at the end of the run."""
    ceiling, parts = end["teacher_entropy_max"], []
    if math.isfinite(end["teacher_entropy"]) and ceiling > 0:
        parts.append(
            f"teacher entropy {end['teacher_entropy']:.2f} of at most {ceiling:.2f} nats "
            f"({100 * end['teacher_entropy'] / ceiling:.0f} %)"
        )
    if math.isfinite(end["assignment_entropy"]) and ceiling > 0:
        parts.append(
            f"assignment entropy {100 * end['assignment_entropy'] / ceiling:.0f} % of the maximum"
        )
    if math.isfinite(end["embedding_std"]):
        parts.append(f"embedding spread {end['embedding_std']:.3g}")
    if math.isfinite(end["embedding_rank"]):
        parts.append(f"effective rank {end['embedding_rank']:.1f}")
    if math.isfinite(end["plate_clustering"]):
        parts.append(f"plates against labels {end['plate_clustering']:+.2f}")
    return f"At the end: {', '.join(parts)}." if parts else ""
