"""The self-distillation loss and the teacher's targets (DINO, arXiv 2104.14294, eq. 1 to 4)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from wsdino.train.distributed import all_reduce_max, all_reduce_mean, all_reduce_sum


def dino_loss(
    student: Tensor,
    teacher: Tensor,
    center: Tensor,
    *,
    student_temp: float = 0.1,
    teacher_temp: float = 0.04,
) -> Tensor:
    """Cross-entropy between teacher and student over all pairs of different views.

    Parameters
    ----------
    student
        Logits (S, N, K) of S views; the first T of them are the teacher's views.
    teacher
        Logits (T, N, K) of the T global views, T <= S.
    center
        (K,), subtracted from the teacher's logits.
    student_temp, teacher_temp
        Temperatures; the original's defaults.

    Returns
    -------
    Tensor
        Scalar: mean over the N images and the T * S - T pairs with different views.
    """
    targets = centered_targets(teacher, center, temp=teacher_temp)
    return cross_view_entropy(student, targets, student_temp=student_temp)


def centered_targets(teacher: Tensor, center: Tensor, *, temp: float) -> Tensor:
    """Turn teacher logits (T, N, K) into probabilities by centring and sharpening, float32."""
    return ((teacher.float() - center) / temp).softmax(dim=-1)


def cross_view_entropy(student: Tensor, targets: Tensor, *, student_temp: float) -> Tensor:
    """Contract targets (T, N, K) with student logits (S, N, K); skip a view's pair with itself.

    For a student view s the sum over teacher views t != s of -p_t . log softmax(z_s) equals
    (number of t) * logsumexp(z_s) - (sum of p_t) . z_s, so one log-sum-exp and one product per
    student view do, and nothing of the size of views x views comes to be.

    Returns
    -------
    Tensor
        Scalar, mean over images and pairs.
    """
    num_views, num_targets = len(student), len(targets)
    logits = student.float() / student_temp
    total = targets.sum(dim=0)
    normaliser = logits.logsumexp(dim=-1)
    per_view = num_targets * normaliser - (logits * total).sum(dim=-1)
    own = normaliser[:num_targets] - (logits[:num_targets] * targets).sum(dim=-1)
    num_pairs = num_targets * (num_views - 1)
    return (per_view.sum(dim=0) - own.sum(dim=0)).mean() / num_pairs


def koleo_loss(features: Tensor) -> Tensor:
    """Push each image away from its nearest neighbour in the batch, so that all directions count.

    Minus the mean log distance of L2-normalised features to their nearest neighbour: the
    Kozachenko-Leonenko estimate of their entropy, up to constants (arXiv 1806.03198, eq. 2; used
    for DINO in arXiv 2304.07193). Without it a network trained from scratch may spread along very
    few directions.

    Parameters
    ----------
    features
        (N, D); of one process and one part of its batch.

    Returns
    -------
    Tensor
        Scalar float32; zero for a single image.
    """
    if len(features) < 2:
        return features.float().sum().mul(0)
    unit = functional.normalize(features.float(), dim=-1)
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2).argmax(dim=1)
    distance: Tensor = (unit - unit[nearest]).norm(dim=-1)
    # Equal images would ask for an infinite push.
    return -(distance + 1e-8).log().mean()


@torch.no_grad()
def sinkhorn_targets(teacher: Tensor, *, temp: float, num_iterations: int = 3) -> Tensor:
    """Turn teacher logits (T, N, K) into targets that use all prototypes equally.

    Sinkhorn-Knopp (SwAV, arXiv 2006.09882, eq. 3; used for DINO in arXiv 2304.07193): rows and
    columns of exp(logits / temp) are normalised in turn, over the images of all ranks and the
    views together, so that each image sums to one and each prototype to images / K.

    Returns
    -------
    Tensor
        (T, N, K) float32.
    """
    log_weights = teacher.float().flatten(0, -2) / temp
    for _ in range(num_iterations):
        # In logarithms nothing under- or overflows. Prototypes come first, as in the papers; what
        # they are scaled to cancels when images are.
        per_prototype = _log_sum_over_images(log_weights)
        log_weights = (log_weights - per_prototype).log_softmax(dim=-1)
    return log_weights.exp().reshape(teacher.shape)


def _log_sum_over_images(log_weights: Tensor) -> Tensor:
    highest = all_reduce_max(log_weights.amax(dim=0))
    return all_reduce_sum((log_weights - highest).exp().sum(dim=0)).log() + highest


@torch.no_grad()
def updated_center(center: Tensor, teacher: Tensor, *, momentum: float) -> Tensor:
    """Return the centre (K,) after a batch of teacher logits (T, N, K), eq. 4, over all ranks."""
    batch_mean = all_reduce_mean(teacher.float().flatten(0, -2).mean(dim=0))
    return center * momentum + batch_mean * (1 - momentum)
