"""Self-distillation combined with cross-entropy on the weak label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsdino.train.head import DINOHead
from wsdino.train.learners.distill import SelfDistillation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsdino.model.networks import ChannelNetworks
    from wsdino.train.objectives.base import Measured
    from wsdino.train.objectives.distill_classify import Options


class LabelledHead(DINOHead):
    """A head with prototypes, and a linear classifier of the features beside it.

    Parameters
    ----------
    dim
        Length of the backbone's features.
    num_labels
        Number of weak labels.
    options
        Those of the projection and the prototypes.
    """

    def __init__(self, dim: int, num_labels: int, options: Options) -> None:
        super().__init__(dim, **options.prototype_head_options)
        self.classifier = nn.Linear(dim, num_labels)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return what :class:`~wsdino.train.head.DINOHead` does, then scores (..., labels)."""
        return *super().forward(features), self.classifier(features)


class DistillClassify(SelfDistillation):
    """WS-DINO whose student must also name the weak label of every view.

    The loss is that of :class:`~wsdino.train.learners.distill.SelfDistillation` plus, with a
    weight, the cross-entropy of a linear classifier on the student's features of every view, global
    and local, as in :class:`~wsdino.train.learners.classify.Classification`. A partner has its
    anchor's label, so that this holds for views of partners too.

    Parameters
    ----------
    student, teacher
        Networks of the same shape; the teacher starts as a copy of the student.
    options
        Head, targets, teacher and weight of the labels.
    epochs
        Length of the run, for the schedules.
    num_labels
        Number of weak labels.
    """

    def __init__(
        self,
        student: ChannelNetworks,
        teacher: ChannelNetworks,
        *,
        options: Options,
        epochs: float,
        num_labels: int,
    ) -> None:
        heads = [LabelledHead(student.dim, num_labels, options) for _ in student.networks]
        super().__init__(student, teacher, options=options, epochs=epochs, heads=heads)
        self.label_weight = options.label_weight

    @torch.no_grad()
    def target(self, views: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Teacher's targets (T, N, K) for each network, then the labels (1, N)."""
        rows = labels.repeat_interleave(self.trainable.networks.views_per_image)
        return [*super().target(views, labels), rows[None]]

    def loss(
        self, trainable: nn.Module, views: Sequence[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Measured]:
        """Both cross-entropies, summed over networks, plus the shared terms."""
        *targets, rows = targets
        features, scores = trainable(views)
        named, right = [], []
        for *_, z in scores:
            labels = rows.expand(len(z), -1)
            named.append(functional.cross_entropy(z.float().flatten(0, 1), labels.flatten()))
            right.append((z.detach().argmax(dim=-1) == labels).float().mean())
        total = self.distillation(scores, targets) + self.label_weight * torch.stack(named).sum()
        total, metrics = self.with_terms(total, features)
        return total, metrics | {"accuracy": torch.stack(right).mean()}
