"""SPC: images against class vectors on the unit sphere that don't repel each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from wsdino.job import all_reduce_sum, gather
from wsdino.train.learners.base import StudentTeacher, projection_head, spread_and_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from wsdino.model.networks import ChannelNetworks
    from wsdino.train.objectives.base import Measured, Metrics
    from wsdino.train.objectives.spc import Options


class SPC(StudentTeacher):
    """Spherical phenotype clustering, after Nightingale et al. (bioRxiv 2024.04.19.590313).

    Every weak label has a class vector on the unit sphere. An image must be nearer to the vector of
    its own label than to those of other labels and to images of other labels (NT-Xent, arXiv
    2002.05709). The class vectors get no gradient: after each step those of the labels at hand turn
    by a fixed angle towards the mean direction of their images. They are attracted and never
    repelled, so that the vectors of labels with similar images may end up close together.

    Unlike in the paper, the other images are embedded by a momentum teacher, which the class
    vectors follow too, so that parts of an accumulated batch and several processes come to the same
    step; images of the same label are neither positives nor negatives; and the class vectors start
    at random.

    Parameters
    ----------
    student, teacher
        Networks of the same shape; the teacher starts as a copy of the student.
    options
        Head, student, teacher and the angle.
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
        heads = [projection_head(options, student.dim) for _ in student.networks]
        super().__init__(student, teacher, heads=heads, options=options, epochs=epochs)
        self.options = options
        self._angle = math.radians(options.class_angle)
        shape = (len(heads), num_labels, student.views_per_image, options.head_bottleneck_dim)
        self.class_vectors: Tensor
        self.register_buffer("class_vectors", functional.normalize(torch.randn(shape), dim=-1))
        self._next_vectors = self.class_vectors
        # The teacher's images of all processes, (images, C, D) of each network, and their labels.
        self._others: list[Tensor] = []
        self._labels = torch.zeros(0, dtype=torch.int64)

    @torch.no_grad()
    def target(self, views: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Labels (1, N) of the inputs of the networks."""
        self._features, scores = self.teacher(views[:1])
        self._labels, self._others = gather(labels), []
        turned = []
        for (vectors,), current in zip(scores, self.class_vectors, strict=True):
            images = functional.normalize(
                vectors.unflatten(1, (len(labels), -1)).sum(dim=0), dim=-1
            )
            self._others.append(gather(images))
            sums = all_reduce_sum(torch.zeros_like(current).index_add_(0, labels, images))
            turned.append(turned_towards(current, sums, angle=self._angle))
        # Taken over with the step: one that is skipped must leave the class vectors as they are.
        self._next_vectors = torch.stack(turned)
        return [labels.repeat_interleave(self.trainable.networks.views_per_image)[None]]

    def loss(
        self, trainable: nn.Module, views: Sequence[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Measured]:
        """Cross-entropy between images and classes, summed over networks, plus the shared terms."""
        features, scores = trainable(views)
        rows = targets[0][0]
        losses, right = [], []
        for (vectors,), classes, others in zip(
            scores, self.class_vectors, self._others, strict=True
        ):
            image = functional.normalize(vectors.mean(dim=0), dim=-1)
            logits = class_logits(
                image, classes, others, rows, self._labels, temp=self.options.student_temp
            )
            losses.append(functional.cross_entropy(logits, rows))
            best = logits.detach()[:, : len(classes)].argmax(dim=-1)
            right.append((best == rows).float().mean())
        total, metrics = self.with_terms(torch.stack(losses).sum(), features)
        return total, metrics | {"accuracy": torch.stack(right).mean()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the teacher towards the student, and class vectors towards their images."""
        self.class_vectors.copy_(self._next_vectors)
        super().after_step()

    def diagnostics(self) -> Metrics:
        """Cosine of each class vector to its nearest other, spread and rank of the embedding."""
        return {"class_overlap": class_overlap(self.class_vectors)} | spread_and_rank(
            self._features
        )


@torch.no_grad()
def turned_towards(vectors: Tensor, goals: Tensor, *, angle: float) -> Tensor:
    """Turn vectors on the unit sphere towards goals, along the shortest way.

    Parameters
    ----------
    vectors
        (..., D) of unit length.
    goals
        (..., D) of any length; a vector whose goal is zero stays.
    angle
        Radians to turn by; a goal that is nearer is reached and not passed.

    Returns
    -------
    Tensor
        (..., D) of unit length.
    """
    has_goal = torch.linalg.vector_norm(goals, dim=-1, keepdim=True) > 0
    goals = functional.normalize(goals, dim=-1)
    along = (vectors * goals).sum(dim=-1, keepdim=True)
    across = goals - along * vectors
    # Exact for small angles too, where the arc cosine is not.
    length = torch.linalg.vector_norm(across, dim=-1, keepdim=True)
    step = torch.atan2(length, along).clamp(max=angle)
    # An opposite goal has no shortest way; the vector stays until its images move.
    direction = across / length.clamp_min(1e-12)
    turned = functional.normalize(step.cos() * vectors + step.sin() * direction, dim=-1)
    return torch.where(has_goal & (length > 0), turned, vectors)


def class_logits(
    vectors: Tensor, classes: Tensor, others: Tensor, rows: Tensor, labels: Tensor, *, temp: float
) -> Tensor:
    """Cosines of the student's vectors to class vectors and to images of other labels.

    Parameters
    ----------
    vectors
        (B * C, D) float32 of unit length: B images by C channels, image by image.
    classes
        (L, C, D) of unit length.
    others
        (M, C, D) of unit length: images, the B ones among them.
    rows
        (B * C,) int64: label of each vector.
    labels
        (M,) int64: label of each of the others.
    temp
        Temperature.

    Returns
    -------
    Tensor
        (B * C, L + M) float32; minus infinity where an image has the vector's own label.
    """
    by_channel = vectors.unflatten(0, (-1, classes.shape[1]))
    # Half precision is too coarse for cosines that a small temperature divides.
    with torch.autocast(vectors.device.type, enabled=False):
        candidates = torch.cat([classes, others])
        cosines = torch.einsum("bcd,lcd->bcl", by_channel, candidates).flatten(0, 1) / temp
    is_own = torch.cat([rows.new_zeros(len(rows), len(classes)), rows[:, None] == labels], dim=1)
    return cosines.masked_fill(is_own.bool(), -math.inf)


def class_overlap(class_vectors: Tensor) -> float:
    """Mean cosine of each class vector (networks, L, C, D) to its nearest other one; L >= 2."""
    each = class_vectors.transpose(1, 2).flatten(0, 1)
    cosines = each @ each.transpose(1, 2)
    cosines.diagonal(dim1=1, dim2=2).fill_(-1)
    return float(cosines.max(dim=-1).values.mean())
