"""Pairs: views of an image and of its partner must find each other among other labels' images."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from wsdino.job import gather
from wsdino.train.learners.base import StudentTeacher, spread_and_rank, together_heads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from wsdino.model.networks import ChannelNetworks
    from wsdino.train.objectives.base import Measured, Metrics
    from wsdino.train.objectives.pairs import Options


class Pairs(StudentTeacher):
    """Each view of the student must find the teacher's other views of the same anchor.

    A view may come from the anchor's partner, another image with its weak label
    (`pairing.partner_global_views`): then what finds its like is what the label's images share.
    The other candidates are the teacher's views of all images of the batch with other labels. That
    is NT-Xent (SimCLR, arXiv 2002.05709) against a momentum teacher (MoCo v3, arXiv 2104.02057);
    images of the same label are neither positives nor negatives. The head sees an image's channels
    together: what tells compounds apart lies between channels, too.

    Parameters
    ----------
    student, teacher
        Networks of the same shape; the teacher starts as a copy of the student.
    options
        Head, student and teacher.
    epochs
        Length of the run, for the schedules.
    """

    def __init__(
        self,
        student: ChannelNetworks,
        teacher: ChannelNetworks,
        *,
        options: Options,
        epochs: float,
    ) -> None:
        heads = together_heads(options, student, bottleneck_dim=options.head_bottleneck_dim)
        super().__init__(student, teacher, heads=heads, options=options, epochs=epochs)
        self.options = options
        # The teacher's images of all processes, (images, V, D) of each network, and their labels.
        self._others: list[Tensor] = []
        self._labels = torch.zeros(0, dtype=torch.int64)

    @torch.no_grad()
    def target(self, views: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Return the teacher's global views (V, B, D) of each network, then the labels (1, B)."""
        self._features, scores = self.teacher(views[:1])
        own = [vectors for (vectors,) in scores]
        self._others = [gather(vectors.transpose(0, 1)) for vectors in own]
        self._labels = gather(labels)
        return [*own, labels[None]]

    def loss(
        self, trainable: nn.Module, views: Sequence[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Measured]:
        """Cross-entropy, mean over pairs of views, summed over networks, plus the shared terms."""
        features, scores = trainable(views)
        *owns, labels = targets
        losses, right = [], []
        for (vectors,), own, others in zip(scores, owns, self._others, strict=True):
            pairs = [
                pair_logits(
                    view,
                    own[other],
                    others,
                    labels[0],
                    self._labels,
                    temp=self.options.student_temp,
                )
                for number, view in enumerate(vectors)
                for other in range(len(own))
                if other != number
            ]
            logits = torch.cat(pairs)
            first = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
            losses.append(functional.cross_entropy(logits, first))
            right.append((logits.detach().argmax(dim=-1) == first).float().mean())
        total, metrics = self.with_terms(torch.stack(losses).sum(), features)
        return total, metrics | {"accuracy": torch.stack(right).mean()}

    def diagnostics(self) -> Metrics:
        """Spread and rank of the embedding."""
        return spread_and_rank(self._features)


def pair_logits(
    vectors: Tensor, own: Tensor, others: Tensor, labels: Tensor, known: Tensor, *, temp: float
) -> Tensor:
    """Cosines of the student's vectors to their like and to images of other labels.

    Parameters
    ----------
    vectors
        (B, D) float32 of unit length: the student's, one view of each of B images.
    own
        (B, D) of unit length: the teacher's, another view of the same.
    others
        (M, V, D) of unit length: the teacher's V views of M images, the B ones among them.
    labels, known
        (B,) and (M,) int64: weak labels of `vectors` and of `others`.
    temp
        Temperature.

    Returns
    -------
    Tensor
        (B, 1 + M * V) float32, the right one first; minus infinity where an image has the
        vector's own label.
    """
    # Half precision is too coarse for cosines that a small temperature divides.
    with torch.autocast(vectors.device.type, enabled=False):
        like = (vectors * own).sum(dim=-1, keepdim=True)
        unlike = vectors @ others.flatten(0, 1).T
    is_own = (labels[:, None] == known).repeat_interleave(others.shape[1], dim=1)
    return torch.cat([like, unlike.masked_fill(is_own, -math.inf)], dim=1) / temp
