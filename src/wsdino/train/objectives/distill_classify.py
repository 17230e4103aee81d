"""Self-distillation combined with cross-entropy on the weak label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic

from wsdino.train.objectives import distill
from wsdino.train.objectives.base import STRICT, Objective, labelled
from wsdino.train.options import NonNegative  # noqa: TC001 pydantic reads it

if TYPE_CHECKING:
    from wsdino.train.objectives.base import Parts, TrainingObjective


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Options(distill.Options):
    """Options of self-distillation, and the weight of the labels."""

    name: Literal["distill_classify"] = "distill_classify"  # type: ignore[assignment]
    # Weight of the cross-entropy on the weak label beside that of the distillation.
    label_weight: NonNegative = 1.0


def _build(options: Options, parts: Parts) -> TrainingObjective:
    from wsdino.train.learners.distill_classify import DistillClassify

    return labelled(DistillClassify, options, parts)


DISTILL_CLASSIFY = Objective(
    help="self-distillation combined with cross-entropy on the weak label",
    options=Options,
    build=_build,
    needs_label=True,
    takes_partners=True,
    takes_local_views=True,
    requires=distill.requires,
)
