"""Cross-entropy on the weak label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsdino.train.learners.base import COMPILED, HeadedNetworks, by_image, spread_and_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsdino.model.networks import ChannelNetworks
    from wsdino.train.objectives.base import Measured, Metrics


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

    def begin(self) -> None:
        """Nothing more is needed."""

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
