"""Diagnostics of training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def entropy(probabilities: Tensor) -> Tensor:
    """Shannon entropy in nats over the last axis."""
    terms: Tensor = torch.special.xlogy(probabilities, probabilities)
    return -terms.sum(dim=-1)


def spread(features: Tensor) -> Tensor:
    """Spread of L2-normalised features (N, D) around their mean.

    Root mean square distance from the mean: 0 when all point the same way, 1 when they point
    anywhere.
    """
    unit = functional.normalize(features, dim=-1)
    return (unit - unit.mean(dim=0)).square().sum(dim=-1).mean().sqrt()


def effective_rank(features: Tensor) -> Tensor:
    """Exponential of the entropy of the covariance's normalised eigenvalues (N, D) -> scalar.

    Between 1 and min(N - 1, D) (Roy and Vetterli 2007, on squared singular values); NaN where a
    feature is not finite.
    """
    centred = features - features.mean(dim=0)
    if not centred.isfinite().all():
        return centred.new_tensor(float("nan"), dtype=torch.float64)
    centred = centred.double()
    # Rows or columns, whichever are fewer: the non-zero eigenvalues are the same.
    wide = centred.shape[0] < centred.shape[1]
    products = centred @ centred.T if wide else centred.T @ centred
    eigenvalues = torch.linalg.eigvalsh(products).clamp_min(0)
    total = eigenvalues.sum()
    return entropy(eigenvalues / total.clamp_min(1e-30)).exp()
