"""Cross-entropy on the weak label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pydantic

from wsdino.train.objectives import base
from wsdino.train.objectives.base import STRICT, Objective

if TYPE_CHECKING:
    from wsdino.train.objectives.base import Parts, TrainingObjective


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Options(base.Options):
    """A classifier has no options of its own."""

    name: Literal["classify"] = "classify"


def _build(options: Options, parts: Parts) -> TrainingObjective:  # noqa: ARG001
    from wsdino.train.learners.classify import Classification

    return Classification(parts.student, num_labels=parts.num_labels)


CLASSIFY = Objective(
    help="cross-entropy on the weak label",
    options=Options,
    build=_build,
    # Where each image is its own label, each is a class.
    needs_label=False,
    takes_partners=False,
    takes_local_views=False,
)
