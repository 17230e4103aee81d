"""Profiles: a view must tell the profile of its weak label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic

from wsdino.train.objectives.base import STRICT, Objective, TeacherOptions
from wsdino.train.options import Fraction  # noqa: TC001 pydantic reads it

if TYPE_CHECKING:
    from wsdino.train.objectives.base import Parts, TrainingObjective


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Options(TeacherOptions):
    """Head and teacher, with defaults of their own; profiles have at most `head_bottleneck_dim`."""

    name: Literal["profiles"] = "profiles"
    head_batch_norm: bool = True
    # The same throughout, for the reason that `pairs` gives.
    teacher_momentum: Fraction = 0.98
    final_teacher_momentum: Fraction = 0.98


def _build(options: Options, parts: Parts) -> TrainingObjective:
    from wsdino.train.learners.profiles import Profiles

    return Profiles(
        parts.student,
        parts.teacher(),
        options=options,
        epochs=parts.epochs,
        num_labels=parts.num_labels,
        label_profiles=parts.label_profiles,
    )


PROFILES = Objective(
    help="each view tells its label's profile, as the network at the start and the labels have it",
    options=Options,
    build=_build,
    needs_label=True,
    takes_partners=False,
    takes_local_views=True,
    uses_profiles=True,
)
