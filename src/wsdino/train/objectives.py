"""What is minimised: self-distillation, or cross-entropy on the weak label."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsdino.job import all_reduce_mean, gather
from wsdino.train.head import DINOHead, ProjectionHead, logits
from wsdino.train.loss import (
    centered_targets,
    factored_cross_view_entropy,
    koleo_loss,
    sinkhorn_targets,
    updated_center,
)
from wsdino.train.metrics import effective_rank, entropy, spread
from wsdino.train.schedules import cosine, linear_then_constant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsdino.model.networks import ChannelNetworks
    from wsdino.train.options import Distillation

Metrics = dict[str, float]
# What would break a graph fails instead of being slow without a word; shapes never change.
COMPILED: dict[str, Any] = {"fullgraph": True, "dynamic": False}
Measured = dict[str, Tensor]
"""Metrics that are still on the device: reading them would make it wait."""


class HeadedNetworks(nn.Module):
    """Backbones, each with a head of its own.

    Parameters
    ----------
    networks
        The backbones.
    heads
        One for each of them.
    """

    def __init__(self, networks: ChannelNetworks, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks, self.heads = networks, nn.ModuleList(heads)

    def forward(self, views: Sequence[Tensor]) -> tuple[list[Tensor], list[Any]]:
        """Run each resolution once through each network.

        Parameters
        ----------
        views
            One (V, B, C, h, w) tensor for each resolution.

        Returns
        -------
        features, scores
            For each network: features (V0, N, D) of the first resolution, and what its head makes
            of all (V, N, D), where N = B, or B * C for the shared network.
        """
        parts = [self.networks.split(x.flatten(0, 1)) for x in views]
        all_features, all_scores = [], []
        for index, (network, head) in enumerate(
            zip(self.networks.networks, self.heads, strict=True)
        ):
            features = [
                network(part[index]).unflatten(0, (len(x), -1))
                for part, x in zip(parts, views, strict=True)
            ]
            all_features.append(features[0])
            all_scores.append(head(torch.cat(features)))
        return all_features, all_scores


class TrainingObjective(Protocol):
    """What the training loop asks of an objective, which is also a module."""

    trainable: HeadedNetworks

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


class SelfDistillation(nn.Module):
    """DINO: a student learns to predict a teacher that is its own moving average.

    With partners in the views it is WS-DINO (arXiv 2209.07819). Every network has its own teacher,
    heads and centre, and the losses add up, so that ``per_channel`` networks train as if alone.

    Parameters
    ----------
    student, teacher
        Networks of the same shape; the teacher starts as a copy of the student.
    options
        Head, targets and teacher.
    epochs
        Length of the run, for the schedules.
    """

    def __init__(
        self,
        student: ChannelNetworks,
        teacher: ChannelNetworks,
        *,
        options: Distillation,
        epochs: float,
    ) -> None:
        super().__init__()
        self.options, self.epochs = options, epochs
        heads = [_head(student.dim, options) for _ in student.networks]
        self.trainable = HeadedNetworks(student, heads)
        self.teacher = HeadedNetworks(teacher, copy.deepcopy(heads))
        self.teacher.load_state_dict(self.trainable.state_dict())
        self.teacher.requires_grad_(requires_grad=False)
        # Stochastic depth is for the student alone.
        self.teacher.eval()
        self.center: Tensor
        self.register_buffer("center", torch.zeros(len(heads), options.num_prototypes))
        self._teacher_temp = options.teacher_temp
        self._momentum = options.teacher_momentum
        self._next_center = self.center
        self._last: list[tuple[Tensor, Tensor]] = []
        self._cross_entropy = factored_cross_view_entropy

    def compile_parts(self) -> None:
        """Compile student, teacher and loss; schedules change, so their numbers stay outside."""
        for headed in (self.trainable, self.teacher):
            headed.compile(**COMPILED)
        self._cross_entropy = torch.compile(factored_cross_view_entropy, **COMPILED)

    def train(self, mode: bool = True) -> SelfDistillation:
        """Set the student's mode; the teacher always evaluates."""
        self.trainable.train(mode)
        return self

    def before_step(self, epoch: float) -> Metrics:
        """Set teacher temperature and momentum."""
        opt = self.options
        # Schedules count in thousandths of an epoch, so that they don't depend on the batch size.
        step, total = round(epoch * 1000), round(self.epochs * 1000)
        self._teacher_temp = linear_then_constant(
            step,
            start=opt.warmup_teacher_temp,
            end=opt.teacher_temp,
            warmup=round(opt.teacher_temp_warmup_epochs * 1000),
        )
        self._momentum = cosine(
            step, start=opt.teacher_momentum, end=opt.final_teacher_momentum, total=total
        )
        return {"teacher_temp": self._teacher_temp, "teacher_momentum": self._momentum}

    @torch.no_grad()
    def target(self, views: Sequence[Tensor], labels: Tensor) -> list[Tensor]:  # noqa: ARG002
        """Teacher's targets (T, N, K) of the global views, one tensor for each network."""
        features, scores = self.teacher(views[:1])
        targets, centers = [], []
        self._last = []
        for index, factors in enumerate(scores):
            z = logits(*factors)
            if self.options.targets == "sinkhorn":
                p = sinkhorn_targets(z, temp=self._teacher_temp)
            else:
                p = centered_targets(z, self.center[index], temp=self._teacher_temp)
                centers.append(
                    updated_center(self.center[index], z, momentum=self.options.center_momentum)
                )
            targets.append(p)
            self._last.append((features[index], p))
        # Taken over with the step: one that is skipped must not leave its NaN in the centre.
        self._next_center = torch.stack(centers) if centers else self.center
        return targets

    def loss(
        self, trainable: nn.Module, views: Sequence[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Measured]:
        """Sum over the networks of the cross-entropy between different views, and KoLeo's."""
        features, scores = trainable(views)
        losses = [
            self._cross_entropy(
                vectors, prototypes, gain, p, student_temp=self.options.student_temp
            )
            for (vectors, prototypes, gain), p in zip(scores, targets, strict=True)
        ]
        return self._with_koleo(torch.stack(losses).sum(), features)

    def _with_koleo(self, total: Tensor, features: list[Tensor]) -> tuple[Tensor, Measured]:
        # Logged per network, so that channel modes compare.
        metrics = {"loss": total.detach() / len(features)}
        if self.options.koleo_weight:
            koleo = torch.stack([koleo_loss(view) for views in features for view in views]).sum()
            total = total + self.options.koleo_weight * koleo
            metrics["koleo"] = koleo.detach() / sum(len(views) for views in features)
        return total, metrics

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
        update_ema(self.teacher, self.trainable, momentum=self._momentum)

    def diagnostics(self) -> Metrics:
        """Entropy of the targets, use of the prototypes, spread and rank of the embedding."""
        per_network = []
        for features, p in self._last:
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

    def image_features(self) -> Tensor:
        """Teacher's embedding (V, n, F) of the global views of the last batch."""
        return by_image([features for features, _ in self._last], self.teacher.networks)

    def exported(self) -> ChannelNetworks:
        """Return the teacher's backbones."""
        return self.teacher.networks


def _head(dim: int, options: Distillation) -> ProjectionHead:
    mlp: dict[str, Any] = {
        "hidden_dim": options.head_hidden_dim,
        "bottleneck_dim": options.head_bottleneck_dim,
        "batch_norm": options.head_batch_norm,
    }
    if not options.num_prototypes:
        return ProjectionHead(dim, **mlp)
    norm = options.norm_last_layer
    return DINOHead(dim, options.num_prototypes, norm_last_layer=norm, **mlp)


class Classification(nn.Module):
    """Cross-entropy on the weak label: the weakly supervised baseline.

    As in Caicedo et al. 2018 (doi 10.1109/CVPR.2018.00970), but on crops of whole fields. Every
    network has a linear classifier of its own.

    Parameters
    ----------
    networks
        The backbones.
    num_labels
        Number of weak labels.
    """

    def __init__(self, networks: ChannelNetworks, *, num_labels: int) -> None:
        super().__init__()
        heads = [nn.Linear(networks.dim, num_labels) for _ in networks.networks]
        self.trainable = HeadedNetworks(networks, heads)
        self._last: list[Tensor] = []

    def compile_parts(self) -> None:
        """Compile the networks."""
        self.trainable.compile(**COMPILED)

    def before_step(self, epoch: float) -> Metrics:  # noqa: ARG002
        """Nothing follows a schedule."""
        return {}

    def target(self, views: Sequence[Tensor], labels: Tensor) -> list[Tensor]:
        """Labels (V, N) of every view, one tensor for each network."""
        num_views = sum(len(x) for x in views)
        per_image = self.trainable.networks.views_per_image
        expanded = labels.repeat_interleave(per_image).expand(num_views, -1)
        return [expanded] * len(self.trainable.heads)

    def loss(
        self, trainable: nn.Module, views: Sequence[Tensor], targets: list[Tensor]
    ) -> tuple[Tensor, Measured]:
        """Sum over the networks of the cross-entropy over all views."""
        features, scores = trainable(views)
        self._last = [x.detach() for x in features]
        losses = [
            functional.cross_entropy(z.float().flatten(0, 1), y.flatten())
            for z, y in zip(scores, targets, strict=True)
        ]
        total = torch.stack(losses).sum()
        right = [
            (z.argmax(dim=-1) == y).float().mean() for z, y in zip(scores, targets, strict=True)
        ]
        return total, {
            "loss": total.detach() / len(losses),
            "accuracy": torch.stack(right).mean(),
        }

    def after_backward(self, epoch: float) -> None:
        """Leave the gradients as they are."""

    def after_step(self) -> None:
        """Nothing follows."""

    def diagnostics(self) -> Metrics:
        """Spread and rank of the embedding of the first resolution."""
        return spread_and_rank(self._last)

    def image_features(self) -> Tensor:
        """Embedding (V, n, F) of the last part of the batch."""
        return by_image(self._last, self.trainable.networks)

    def exported(self) -> ChannelNetworks:
        """Return the backbones."""
        return self.trainable.networks


def spread_and_rank(features: Sequence[Tensor]) -> Metrics:
    """Measure the embedding (V, N, D) of each network over all processes; average the networks."""
    flat = [gather(x.float().flatten(0, 1)) for x in features]
    return {
        "embedding_std": sum(float(spread(x)) for x in flat) / len(flat),
        "embedding_rank": sum(float(effective_rank(x)) for x in flat) / len(flat),
    }


def by_image(features: Sequence[Tensor], networks: ChannelNetworks) -> Tensor:
    """One vector per image, from one (V, N, D) tensor for each network: (V, n, F)."""
    inputs = networks.views_per_image
    return torch.cat([x.unflatten(1, (-1, inputs)).flatten(2) for x in features], dim=2)


@torch.no_grad()
def update_ema(average: nn.Module, current: nn.Module, *, momentum: float) -> None:
    """Set average <- momentum * average + (1 - momentum) * current, for all parameters.

    Buffers are copied.
    """
    torch._foreach_lerp_(list(average.parameters()), list(current.parameters()), 1 - momentum)
    for ours, theirs in zip(average.buffers(), current.buffers(), strict=True):
        ours.copy_(theirs)
