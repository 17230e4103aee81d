"""Projection heads between a network's features and the loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from wsdino.job import sum_over_ranks, world_size


class BatchNorm(nn.Module):
    """Batch normalisation (arXiv 1502.03167), always by the statistics of the batch at hand.

    Heads are only used in training, so running averages are not needed, even for a teacher. The
    batch is that of all processes, or one part of an accumulated batch.

    Parameters
    ----------
    dim
        Number of features.
    eps
        Added to the variance.
    """

    def __init__(self, dim: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, features: Tensor) -> Tensor:
        """Normalise features (..., D), float32, over all other axes, equal on every process."""
        centred = features.float() - _mean(features.float())
        return centred * (_mean(centred.square()) + self.eps).rsqrt() * self.weight + self.bias


def _mean(rows: Tensor) -> Tensor:
    rows = rows.flatten(0, -2)
    return sum_over_ranks(rows.sum(dim=0)) / (len(rows) * world_size())


class ProjectionHead(nn.Module):
    """MLP and L2 normalisation (arXiv 2104.14294, app. C).

    Parameters
    ----------
    dim
        Length of the backbone's features.
    hidden_dim, bottleneck_dim
        Widths of the MLP and of the normalised vector.
    batch_norm
        Whether :class:`BatchNorm` comes before each GELU, as the original does with convolutional
        networks. A small network that starts from scratch gives nearly the same vector for every
        image at first, and learns much faster if the head removes what they have in common.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width_in in (dim, hidden_dim):
            layers.append(nn.Linear(width_in, hidden_dim))
            if batch_norm:
                layers.append(BatchNorm(hidden_dim))
            layers.append(nn.GELU())
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden_dim, bottleneck_dim))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    @property
    def last_layer(self) -> list[nn.Parameter]:
        """Parameters that stay frozen during the first epochs."""
        return []

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Project features (N, D) to vectors (N, bottleneck), float32: a tuple of these alone."""
        # Half precision is too coarse for lengths; products take it from here.
        return (functional.normalize(self.mlp(features).float(), dim=-1),)


class TogetherHead(ProjectionHead):
    """A projection head that sees all channels of an image at once.

    Parameters
    ----------
    dim
        Length of the backbone's features.
    num_inputs
        Inputs of an image: its channels in mode ``shared``, else one.
    hidden_dim, bottleneck_dim, batch_norm
        See :class:`ProjectionHead`.
    """

    def __init__(
        self,
        dim: int,
        num_inputs: int,
        *,
        hidden_dim: int,
        bottleneck_dim: int,
        batch_norm: bool,
    ) -> None:
        super().__init__(
            dim * num_inputs,
            hidden_dim=hidden_dim,
            bottleneck_dim=bottleneck_dim,
            batch_norm=batch_norm,
        )
        self.num_inputs = num_inputs

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Project features (V, B * C, D), image by image, to (V, B, bottleneck): a tuple."""
        return super().forward(features.unflatten(-2, (-1, self.num_inputs)).flatten(-2))


class DINOHead(ProjectionHead):
    """A projection head and a layer of prototypes that only count by their direction.

    Parameters
    ----------
    dim, hidden_dim, bottleneck_dim, batch_norm
        See :class:`ProjectionHead`.
    num_prototypes
        Outputs K (the paper: 65,536).
    norm_last_layer
        Whether each prototype's gain stays at one; the paper's code lets it learn.
    """

    def __init__(
        self,
        dim: int,
        num_prototypes: int,
        *,
        hidden_dim: int = 2048,
        bottleneck_dim: int = 256,
        batch_norm: bool = False,
        norm_last_layer: bool = True,
    ) -> None:
        super().__init__(
            dim, hidden_dim=hidden_dim, bottleneck_dim=bottleneck_dim, batch_norm=batch_norm
        )
        self.prototypes = nn.Parameter(torch.empty(num_prototypes, bottleneck_dim))
        nn.init.trunc_normal_(self.prototypes, std=0.02)
        self.gain = nn.Parameter(torch.ones(num_prototypes, 1), requires_grad=not norm_last_layer)

    @property
    def last_layer(self) -> list[nn.Parameter]:
        """Parameters that stay frozen during the first epochs."""
        return [self.prototypes, self.gain]

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        """Project features (N, D) to vectors of unit length (N, bottleneck) in float32.

        Returns
        -------
        vectors, prototypes, gain
            (N, bottleneck), (K, bottleneck) of any length, and (K, 1); the logits come of them by
            :func:`logits`. A loss that never needs all logits at once takes the factors.
        """
        return *super().forward(features), self.prototypes, self.gain


def logits(vectors: Tensor, prototypes: Tensor, gain: Tensor) -> Tensor:
    """Cosines (..., K) of unit vectors (..., D) to prototypes (K, D), times their gain (K, 1).

    There are far fewer products than entries of prototypes, so the products are normalised
    instead of the prototypes.
    """
    scale, _ = prototype_scale(prototypes, gain)
    return functional.linear(vectors, prototypes).float() * scale


def prototype_scale(prototypes: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors for products with prototypes (K, D), and the prototypes' lengths: (K,)."""
    length = torch.linalg.vector_norm(prototypes, dim=1).clamp_min(1e-12)
    return gain[:, 0] / length, length
