"""Contrast: weak labels as prototypes, computed by a teacher from the images of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from wsdino.job import all_reduce_sum
from wsdino.train.learners.base import StudentTeacher, projection_head, spread_and_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from wsdino.model.networks import ChannelNetworks
    from wsdino.train.objectives.base import Measured, Metrics
    from wsdino.train.objectives.contrast import Options


class Contrast(StudentTeacher):
    """A student's image must match the teacher's prototype of other images with its weak label.

    The teacher is the student's moving average (DINO, arXiv 2104.14294), the mean of its vectors
    over a label's images is that label's prototype, and the student's image, the mean over its
    views as an embedding is the mean over tiles, must be nearer to the prototype of its own label
    than to any other of the batch. That is the supervised contrastive loss (arXiv 2004.11362) with
    a momentum teacher (MoCo, arXiv 1911.05722). The image itself is left out of its label's
    prototype, so that only what images of a label share helps.

    Parameters
    ----------
    student, teacher
        Networks of the same shape; the teacher starts as a copy of the student.
    options
        Head, student and teacher.
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
        # The weak labels are the prototypes: the heads have none.
        heads = [projection_head(options, student.dim) for _ in student.networks]
        super().__init__(student, teacher, heads=heads, options=options, epochs=epochs)
        self.options = options
        self.num_labels = num_labels
        # Nothing is in it, but checkpoints have the name.
        self.register_buffer("center", torch.zeros(len(heads), 0))
        self._prototypes: list[Tensor] = []

    @torch.no_grad()
    def target(self, views: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Positives (1, N, D) of each network, then rows (1, N) of the prototypes for each."""
        self._features, scores = self.teacher(views[:1])
        positives, rows = [], []
        self._prototypes = []
        for (vectors,) in scores:
            by_channel = vectors.unflatten(1, (len(labels), -1))
            means, own, present = label_prototypes(by_channel, labels, num_labels=self.num_labels)
            self._prototypes.append(means)
            positives.append(own.flatten(0, 1)[None])
            row = torch.searchsorted(present, labels)
            rows.append(row.repeat_interleave(by_channel.shape[2])[None])
        return positives + rows

    def loss(
        self, trainable: nn.Module, views: Sequence[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Measured]:
        """Cross-entropy between images and labels, summed over networks, plus the shared terms."""
        features, scores = trainable(views)
        num = len(scores)
        losses, right = [], []
        for (vectors,), means, own, rows in zip(
            scores, self._prototypes, targets[:num], targets[num:], strict=True
        ):
            image = functional.normalize(vectors.mean(dim=0), dim=-1)
            logits = label_logits(image, means, own[0], rows[0], temp=self.options.student_temp)
            losses.append(functional.cross_entropy(logits, rows[0]))
            right.append((logits.detach().argmax(dim=-1) == rows[0]).float().mean())
        total, metrics = self.with_terms(torch.stack(losses).sum(), features)
        return total, metrics | {"accuracy": torch.stack(right).mean()}

    def diagnostics(self) -> Metrics:
        """Accuracy by chance, spread and rank of the embedding."""
        chance = 1 / len(self._prototypes[0])
        return {"accuracy_by_chance": chance} | spread_and_rank(self._features)


@torch.no_grad()
def label_prototypes(
    vectors: Tensor, labels: Tensor, *, num_labels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Average the teacher's vectors over the images of each label, of all ranks.

    Parameters
    ----------
    vectors
        (T, B, C, D) float32 of unit length: T views of B images by C channels.
    labels
        (B,) int64.
    num_labels
        Number of labels there are.

    Returns
    -------
    prototypes
        (L, C, D) of unit length, of the L labels that are present, in ascending order.
    own
        (B, C, D) of unit length: each image's prototype of its own label, without the image itself
        where its label has others.
    present
        (L,) int64: the labels that are present.
    """
    of_image = vectors.sum(dim=0)
    sums = of_image.new_zeros(num_labels, *of_image.shape[1:]).index_add_(0, labels, of_image)
    counts = torch.bincount(labels, minlength=num_labels)
    sums, counts = all_reduce_sum(sums), all_reduce_sum(counts)
    present = counts.nonzero()[:, 0]
    has_others = (counts[labels] > 1)[:, None, None]
    own = torch.where(has_others, sums[labels] - of_image, sums[labels])
    return functional.normalize(sums[present], dim=-1), functional.normalize(own, dim=-1), present


def label_logits(
    vectors: Tensor, prototypes: Tensor, own: Tensor, rows: Tensor, *, temp: float
) -> Tensor:
    """Cosines of the student's vectors to the prototypes of their channel, over a temperature.

    Parameters
    ----------
    vectors
        (B * C, D) float32 of unit length: B images by C channels, image by image.
    prototypes
        (L, C, D).
    own
        (B * C, D): takes the place of each image's own label's prototype.
    rows
        (B * C,) int64: which prototype that is.
    temp
        Temperature.

    Returns
    -------
    Tensor
        (B * C, L) float32.
    """
    by_channel = vectors.unflatten(0, (-1, prototypes.shape[1]))
    # Half precision is too coarse for cosines that a small temperature divides.
    with torch.autocast(vectors.device.type, enabled=False):
        cosines = torch.einsum("bcd,lcd->bcl", by_channel, prototypes).flatten(0, 1)
    positive = (vectors * own).sum(dim=-1, keepdim=True)
    return cosines.scatter(-1, rows[:, None], positive) / temp
