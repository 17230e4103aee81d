"""Pairs: views of an image and of its partner must find each other among other labels' images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic

from wsdino.train.objectives.base import STRICT, Objective, StudentOptions, two_views
from wsdino.train.options import Fraction, Positive  # noqa: TC001 pydantic reads it

if TYPE_CHECKING:
    from wsdino.train.objectives.base import Parts, TrainingObjective


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Options(StudentOptions):
    """Options of head, student and teacher, with defaults of their own."""

    name: Literal["pairs"] = "pairs"
    head_batch_norm: bool = True
    student_temp: Positive = 0.2
    # Momentum of the teacher's moving average, cosine from the first to the second: the same
    # throughout, since one that rises to 1 keeps much of the start in a run of some hundred steps.
    teacher_momentum: Fraction = 0.98
    final_teacher_momentum: Fraction = 0.98


def _build(options: Options, parts: Parts) -> TrainingObjective:
    from wsdino.train.learners.pairs import Pairs

    return Pairs(parts.student, parts.teacher(), options=options, epochs=parts.epochs)


PAIRS = Objective(
    help="views of an image and of its partner find each other among other labels' images",
    options=Options,
    build=_build,
    needs_label=False,
    takes_partners=True,
    takes_local_views=True,
    requires=two_views,
)
