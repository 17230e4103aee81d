"""Self-distillation: DINO or, with views of partners, WS-DINO."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import pydantic

from wsdino.errors import ConfigError
from wsdino.model.spec import Count  # noqa: TC001 pydantic reads it
from wsdino.train.objectives.base import STRICT, Objective, StudentOptions, two_views
from wsdino.train.options import Fraction, NonNegative, Positive  # noqa: TC001 pydantic reads it

if TYPE_CHECKING:
    from wsdino.train.objectives.base import Given, Parts, TrainingObjective


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Options(StudentOptions):
    """Head, targets and teacher of self-distillation (arXiv 2104.14294)."""

    name: Literal["distill"] = "distill"
    # Outputs of the head (the paper: 65,536).
    num_prototypes: Count = 4096
    # Whether each prototype's gain stays at one; the paper's code lets it learn.
    norm_last_layer: bool = True
    # "center": centring and sharpening; "sinkhorn": Sinkhorn-Knopp.
    targets: Literal["center", "sinkhorn"] = "sinkhorn"
    # Temperature of the teacher: linear from the first to the second over so many epochs.
    warmup_teacher_temp: Positive = 0.04
    teacher_temp: Positive = 0.04
    teacher_temp_warmup_epochs: NonNegative = 0.0
    # Momentum of the centre; not used by Sinkhorn-Knopp.
    center_momentum: Fraction = 0.9
    # Epochs during which the prototypes keep their initial values.
    freeze_last_layer_epochs: NonNegative = 1.0

    @property
    def prototype_head_options(self) -> dict[str, Any]:
        """Arguments of a head with prototypes beside the length of the features."""
        return {
            "num_prototypes": self.num_prototypes,
            "hidden_dim": self.head_hidden_dim,
            "bottleneck_dim": self.head_bottleneck_dim,
            "batch_norm": self.head_batch_norm,
            "norm_last_layer": self.norm_last_layer,
        }


def _build(options: Options, parts: Parts) -> TrainingObjective:
    from wsdino.train.learners.distill import SelfDistillation

    return SelfDistillation(parts.student, parts.teacher(), options=options, epochs=parts.epochs)


def requires(options: Options, given: Given) -> None:
    """Refuse less than two views, and a warm-up of the temperature that is longer than the run."""
    two_views(options, given)
    if options.teacher_temp_warmup_epochs > given.epochs:
        raise ConfigError(
            f"{given.section}.teacher_temp_warmup_epochs {options.teacher_temp_warmup_epochs:g}: "
            f"longer than the run, which has train.epochs {given.epochs:g}; give at most that"
        )


DISTILL = Objective(
    help="self-distillation: DINO or, with partners, WS-DINO",
    options=Options,
    build=_build,
    needs_label=False,
    takes_partners=True,
    takes_local_views=True,
    requires=requires,
)
