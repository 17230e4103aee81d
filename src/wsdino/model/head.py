"""Projection heads: what a network's features pass through on their way to the loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ProjectionHead(nn.Module):
    """MLP and L2 normalisation (arXiv 2104.14294, app. C).

    Parameters
    ----------
    dim
        Length of the backbone's features.
    hidden_dim, bottleneck_dim
        Widths of the MLP and of the normalised vector.
    """

    def __init__(self, dim: int, *, hidden_dim: int = 2048, bottleneck_dim: int = 256) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
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


class DINOHead(ProjectionHead):
    """A projection head and a layer of prototypes of unit length.

    Parameters
    ----------
    dim, hidden_dim, bottleneck_dim
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
        norm_last_layer: bool = True,
    ) -> None:
        super().__init__(dim, hidden_dim=hidden_dim, bottleneck_dim=bottleneck_dim)
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
        vectors, prototypes
            (N, bottleneck) and (K, bottleneck); their products are the logits, see
            :func:`logits`. A loss that never needs all of them at once takes the factors.
        """
        return *super().forward(features), functional.normalize(self.prototypes) * self.gain


def logits(vectors: Tensor, prototypes: Tensor) -> Tensor:
    """Cosines (..., K) of vectors (..., D) to prototypes (K, D), times the prototypes' gain."""
    return functional.linear(vectors, prototypes)
