"""Contrast: weak labels as prototypes, computed by a teacher from the images of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic

from wsdino.train.objectives.base import STRICT, Objective, StudentOptions, labelled

if TYPE_CHECKING:
    from wsdino.train.objectives.base import Parts, TrainingObjective


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Options(StudentOptions):
    """Contrast has no options beyond those of head, student and teacher."""

    name: Literal["contrast"] = "contrast"


def _build(options: Options, parts: Parts) -> TrainingObjective:
    from wsdino.train.learners.contrast import Contrast

    return labelled(Contrast, options, parts)


CONTRAST = Objective(
    help="images against a teacher's prototype of each weak label",
    options=Options,
    build=_build,
    needs_label=True,
    takes_partners=False,
    takes_local_views=True,
)
