"""SPC: images against class vectors on the unit sphere that don't repel each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import pydantic
from annotated_types import Gt, Le

from wsdino.train.objectives.base import STRICT, Objective, StudentOptions, labelled

if TYPE_CHECKING:
    from wsdino.train.objectives.base import Parts, TrainingObjective


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Options(StudentOptions):
    """Head, student, teacher, and the pace of the class vectors."""

    name: Literal["spc"] = "spc"
    # Degrees that a class vector turns towards its images in a step; never past them.
    class_angle: Annotated[float, Gt(0), Le(180)] = 5.0


def _build(options: Options, parts: Parts) -> TrainingObjective:
    from wsdino.train.learners.spc import SPC

    return labelled(SPC, options, parts)


SPC_OBJECTIVE = Objective(
    help="an image against class vectors that follow their images and may overlap",
    options=Options,
    build=_build,
    needs_label=True,
    takes_partners=False,
    takes_local_views=True,
)
