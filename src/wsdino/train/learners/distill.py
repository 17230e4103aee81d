"""Self-distillation: DINO or, with views of partners, WS-DINO."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wsdino.job import all_reduce_mean
from wsdino.train.head import DINOHead, logits
from wsdino.train.learners.base import (
    COMPILED,
    StudentTeacher,
    spread_and_rank,
    thousandths,
)
from wsdino.train.loss import (
    centered_targets,
    factored_cross_view_entropy,
    sinkhorn_targets,
    updated_center,
)
from wsdino.train.metrics import entropy
from wsdino.train.schedules import linear_then_constant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from wsdino.model.networks import ChannelNetworks
    from wsdino.train.objectives.base import Measured, Metrics
    from wsdino.train.objectives.distill import Options


# What a head gives for the distillation: vectors, prototypes and gain.
NUM_FACTORS = 3


class SelfDistillation(StudentTeacher):
    """DINO: a student learns to predict a teacher that is its own moving average.

    With partners in the views it is WS-DINO (arXiv 2209.07819). Every network has its own centre.

    Parameters
    ----------
    student, teacher
        Networks of the same shape; the teacher starts as a copy of the student.
    options
        Head, targets and teacher.
    epochs
        Length of the run, for the schedules.
    heads
        The student's, one for each network; they give what a :class:`~wsdino.train.head.DINOHead`
        gives first, and may give more. None: such heads and no more.
    """

    def __init__(
        self,
        student: ChannelNetworks,
        teacher: ChannelNetworks,
        *,
        options: Options,
        epochs: float,
        heads: Sequence[DINOHead] | None = None,
    ) -> None:
        if heads is None:
            heads = [
                DINOHead(student.dim, **options.prototype_head_options) for _ in student.networks
            ]
        super().__init__(student, teacher, heads=heads, options=options, epochs=epochs)
        self.options = options
        self.center: Tensor
        self.register_buffer("center", torch.zeros(len(heads), options.num_prototypes))
        self._teacher_temp = options.teacher_temp
        self._next_center = self.center
        # The targets of the last batch, (T, N, K) of each network.
        self._targets: list[Tensor] = []
        self._cross_entropy = factored_cross_view_entropy

    def compile_parts(self) -> None:
        """Compile student, teacher and loss; schedules change, so their numbers stay outside."""
        super().compile_parts()
        self._cross_entropy = torch.compile(factored_cross_view_entropy, **COMPILED)

    def before_step(self, epoch: float) -> Metrics:
        """Set teacher temperature and momentum."""
        opt = self.options
        self._teacher_temp = linear_then_constant(
            thousandths(epoch),
            start=opt.warmup_teacher_temp,
            end=opt.teacher_temp,
            warmup=thousandths(opt.teacher_temp_warmup_epochs),
        )
        return {"teacher_temp": self._teacher_temp} | super().before_step(epoch)

    @torch.no_grad()
    def target(self, views: Sequence[Tensor], labels: Tensor) -> list[Tensor]:  # noqa: ARG002
        """Teacher's targets (T, N, K) of the global views, one tensor for each network."""
        self._features, scores = self.teacher(views[:1])
        targets, centers = [], []
        for index, factors in enumerate(scores):
            z = logits(*factors[:NUM_FACTORS])
            if self.options.targets == "sinkhorn":
                p = sinkhorn_targets(z, temp=self._teacher_temp)
            else:
                p = centered_targets(z, self.center[index], temp=self._teacher_temp)
                centers.append(
                    updated_center(self.center[index], z, momentum=self.options.center_momentum)
                )
            targets.append(p)
        # Taken over with the step: one that is skipped must not leave its NaN in the centre.
        self._next_center = torch.stack(centers) if centers else self.center
        self._targets = targets
        return targets

    def loss(
        self, trainable: nn.Module, views: Sequence[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Measured]:
        """Cross-entropy between different views, summed over networks, plus the shared terms."""
        features, scores = trainable(views)
        return self.with_terms(self.distillation(scores, targets), features)

    def distillation(
        self, scores: Sequence[tuple[Tensor, ...]], targets: Sequence[Tensor]
    ) -> Tensor:
        """Sum over the networks of the cross-entropy between different views.

        Parameters
        ----------
        scores
            What each network's head gives: vectors (V, N, D), prototypes and gain first.
        targets
            The teacher's (T, N, K) for each network.
        """
        losses = [
            self._cross_entropy(
                vectors, prototypes, gain, p, student_temp=self.options.student_temp
            )
            for (vectors, prototypes, gain, *_), p in zip(scores, targets, strict=True)
        ]
        return torch.stack(losses).sum()

    def after_backward(self, epoch: float) -> None:
        """Keep the prototypes as they are during the first epochs."""
        if epoch < self.options.freeze_last_layer_epochs:
            for head in self.trainable.heads:
                for parameter in head.last_layer:  # type: ignore[union-attr]
                    parameter.grad = None

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the teacher towards the student, and the centre towards the last batch."""
        self.center.copy_(self._next_center)
        super().after_step()

    def diagnostics(self) -> Metrics:
        """Entropy of the targets, use of the prototypes, spread and rank of the embedding."""
        per_network = []
        for features, p in zip(self._features, self._targets, strict=True):
            assigned = all_reduce_mean(p.flatten(0, 1).mean(dim=0))
            per_network.append(
                {
                    "teacher_entropy": float(all_reduce_mean(entropy(p).mean())),
                    "assignment_entropy": float(entropy(assigned)),
                    **spread_and_rank([features]),
                }
            )
        mean = {key: sum(m[key] for m in per_network) / len(per_network) for key in per_network[0]}
        return mean | {"teacher_entropy_max": math.log(self.options.num_prototypes)}
