"""Pairs: views of an image and of its partner must find each other among other labels' images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic

from wsdino.train.objectives.base import STRICT, Objective, StudentOptions, two_views

if TYPE_CHECKING:
    from wsdino.train.objectives.base import Parts, TrainingObjective


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Options(StudentOptions):
    """Pairs have no options beyond those of head, student and teacher."""

    name: Literal["pairs"] = "pairs"


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
