"""The parts of every objective: options, requirements, and the interface to the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pydantic

from wsdino.errors import ConfigError
from wsdino.model.spec import Count  # noqa: TC001 pydantic reads it
from wsdino.train.options import Fraction, NonNegative, Positive  # noqa: TC001 pydantic reads it

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from wsdino.model.networks import ChannelNetworks
    from wsdino.train.learners.base import HeadedNetworks
    from wsdino.train.views import ViewPlan

Metrics = dict[str, float]
"""What is logged."""
Measured = dict[str, "Tensor"]
"""Metrics that are still on the device: reading them would make it wait."""
STRICT = pydantic.ConfigDict(extra="forbid")


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class Options:
    """Base of the options of an objective."""

    # Name of the objective; each class has its own as the default.
    name: str


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class TeacherOptions(Options):
    """Options of every objective whose teacher follows a student, and embeds in the end."""

    # Widths of the projection head's MLP and of the vector that it gives.
    head_hidden_dim: Count = 512
    head_bottleneck_dim: Count = 128
    # Batch normalisation in the head: unsticks a small network that starts from scratch.
    head_batch_norm: bool = False
    # Momentum of the teacher's moving average, cosine from the first to the second.
    teacher_momentum: Fraction = 0.996
    final_teacher_momentum: Fraction = 1.0
    # Weight of wsdino.train.loss.koleo_loss of each global view; 0: not used.
    koleo_weight: NonNegative = 0.0
    # Weight of wsdino.train.loss.attention_loss of the global views, which draws the attention of
    # the class token to foreground; 0: not used.
    attention_weight: NonNegative = 0.0


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=STRICT)
class StudentOptions(TeacherOptions):
    """Options of every objective in which a student must choose among candidates."""

    # Temperature of the student.
    student_temp: Positive = 0.1


@dataclass(frozen=True)
class Parts:
    """The parts that an objective is built from.

    Parameters
    ----------
    student
        The networks to train.
    teacher
        Builds networks of the same shape, for objectives that have a teacher.
    num_labels
        Number of weak labels.
    epochs
        Length of the run, for schedules.
    label_profiles
        Embeds the screen by the networks as they are at the start, and returns the profile of each
        weak label in so many components, (num_labels, components) float32 of unit length.
    """

    student: ChannelNetworks
    teacher: Callable[[], ChannelNetworks]
    num_labels: int
    epochs: float
    label_profiles: Callable[[int], NDArray[np.float32]]


@dataclass(frozen=True)
class Given:
    """The setting of a training, for an objective to check.

    Parameters
    ----------
    views
        Global views, then local views where there are any.
    epochs
        Length of the run.
    section
        Config section of the objective's options.
    """

    views: Sequence[ViewPlan]
    epochs: float
    section: str = "objective"


def nothing_more(options: Options, given: Given) -> None:
    """Require nothing beyond what an :class:`Objective` declares."""


def two_views(options: Options, given: Given) -> None:
    """Refuse less than two views of an image.

    Raises
    ------
    ConfigError
        There is one.
    """
    if sum(view.num_views for view in given.views) < 2:
        raise ConfigError(
            f"{given.section}.name {options.name}: needs at least two views of an image, and there "
            "is one; raise crops.global_views.num_views or crops.local_views.num_views"
        )


@dataclass(frozen=True)
class Objective:
    """A row of the table of objectives.

    Parameters
    ----------
    help
        One-line description.
    options
        Its class of options; the default of their ``name`` is the objective's name.
    build
        Makes what is trained, a module of :mod:`wsdino.train.learners`, from the options and the
        :class:`Parts`. It imports that module itself, so that a config needs no PyTorch.
    needs_label
        Whether it needs a weak label that images share.
    takes_partners
        Whether views may come from partners; otherwise each comes from the anchor.
    takes_local_views
        Whether it uses local views; otherwise only global ones.
    uses_profiles
        Whether it needs :attr:`Parts.label_profiles`, so that how fields are tiled when they are
        embedded matters to training.
    requires
        Raises :class:`~wsdino.errors.ConfigError` if its options don't fit what it is
        :class:`Given`.
    """

    help: str
    options: type[Options]
    build: Callable[[Any, Parts], TrainingObjective]
    needs_label: bool
    takes_partners: bool
    takes_local_views: bool
    uses_profiles: bool = False
    requires: Callable[[Any, Given], None] = nothing_more

    @property
    def name(self) -> str:
        """Its name in the config."""
        return self.options.name


def labelled(
    learner: Callable[..., TrainingObjective], options: Options, parts: Parts
) -> TrainingObjective:
    """Build a learner with student, teacher and the number of labels."""
    return learner(
        parts.student,
        parts.teacher(),
        options=options,
        epochs=parts.epochs,
        num_labels=parts.num_labels,
    )


class TrainingObjective(Protocol):
    """The interface of an objective, which is also a module, to the training loop."""

    trainable: HeadedNetworks

    def begin(self) -> None:
        """Make ready for the first step of a run that isn't resumed."""

    def compile_parts(self) -> None:
        """Compile, in place, what a step computes; names in the state stay as they are."""

    def target(self, views: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Targets of a process's share of the batch, without gradient."""

    def loss(
        self, trainable: nn.Module, views: Sequence[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Measured]:
        """Scalar loss of a part of the batch, and what to log of it."""

    def before_step(self, epoch: float) -> Metrics:
        """Set what follows a schedule; return it for the log."""

    def after_backward(self, epoch: float) -> None:
        """Alter gradients before they are clipped and applied."""

    def after_step(self) -> None:
        """Follow the trainable weights once they have changed."""

    def diagnostics(self) -> Metrics:
        """Slower measures of the last batch, for the log."""

    def image_features(self) -> Tensor:
        """Embedding (V, n, F) of the first resolution's views of the last n images."""

    def exported(self) -> ChannelNetworks:
        """Return the networks that embed."""
