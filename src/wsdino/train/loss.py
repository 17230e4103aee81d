"""The self-distillation loss and the teacher's targets (DINO, arXiv 2104.14294, eq. 1 to 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from wsdino.job import all_reduce_max, all_reduce_mean, all_reduce_sum
from wsdino.train.head import prototype_scale


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

    Examples
    --------
    >>> import wsdino
    >>> import torch
    >>> logits = torch.zeros(2, 8, 16)
    >>> loss = wsdino.dino_loss(logits, logits, torch.zeros(16))
    >>> round(float(loss), 3)  # as log(16): nothing is told apart
    2.773
    """
    targets = centered_targets(teacher, center, temp=teacher_temp)
    return cross_view_entropy(student, targets, student_temp=student_temp)


def centered_targets(teacher: Tensor, center: Tensor, *, temp: float) -> Tensor:
    """Turn teacher logits (T, N, K) into probabilities by centring and sharpening, float32."""
    return ((teacher.float() - center) / temp).softmax(dim=-1)


def cross_view_entropy(student: Tensor, targets: Tensor, *, student_temp: float) -> Tensor:
    """Cross-entropy of targets (T, N, K) and student logits (S, N, K), skipping equal views.

    For a student view s the sum over teacher views t != s of -p_t . log softmax(z_s) equals
    (number of t) * logsumexp(z_s) - (sum of p_t) . z_s, so one log-sum-exp and one product per
    student view suffice, and nothing of the size of views x views is allocated.

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


CHUNK_LOGITS = 2**24
"""Number of student logits in memory at a time (64 MiB of float32), unless one image has more."""


def factored_cross_view_entropy(
    vectors: Tensor, prototypes: Tensor, gain: Tensor, targets: Tensor, *, student_temp: float
) -> Tensor:
    """Compute `cross_view_entropy` of cosines to prototypes, without ever holding them all.

    Images are processed in chunks, with all views together; as the loss is a scalar, its gradient
    is computed at once, so that nothing is stored or computed twice. Normalised prototypes are
    never allocated either: products are scaled, and the component of the gradient along a prototype
    is removed. Under autocast the products are computed in its type, everything else in float32.

    Parameters
    ----------
    vectors
        (S, N, D) of S student views, of unit length; the first T of them are the teacher's views.
    prototypes, gain
        (K, D) of any length and (K, 1); the logits are :func:`~wsdino.train.head.logits`.
    targets
        (T, N, K) probabilities, without gradient.
    student_temp
        Temperature.

    Returns
    -------
    Tensor
        Scalar float32, mean over images and pairs.
    """
    device = vectors.device.type
    rounded = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if rounded else torch.float32
    with torch.autocast(device, enabled=False):
        loss: Tensor = _CrossViewEntropy.apply(
            vectors, prototypes, gain, targets, student_temp, dtype
        )
    return loss


class _CrossViewEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        vectors: Tensor,
        prototypes: Tensor,
        gain: Tensor,
        targets: Tensor,
        student_temp: float,
        dtype: torch.dtype,
    ) -> Tensor:
        (num_views, num_images, _), num_targets = vectors.shape, len(targets)
        mean = 1 / (num_images * num_targets * (num_views - 1))
        axes = prototypes.to(dtype)
        scale, length = prototype_scale(prototypes, gain)
        scale = scale / student_temp
        # Number of teacher views that each student view is compared with.
        others = vectors.new_full((num_views, 1, 1), num_targets)
        others[:num_targets] -= 1
        loss, by_vectors, by_prototypes = vectors.new_zeros(()), [], None
        size = max(1, CHUNK_LOGITS // (num_views * len(prototypes)))
        for chunk, own in zip(vectors.split(size, 1), targets.split(size, 1), strict=True):
            rows, total = chunk.flatten(0, 1), own.sum(dim=0)
            # Rows of one matrix: torch would copy the prototypes for every view of a batch of them.
            z = functional.linear(rows.to(dtype), axes).float().view(num_views, -1, len(axes))
            z = z.mul_(scale)
            normaliser = z.logsumexp(dim=-1, keepdim=True)
            loss += (others * normaliser).sum()
            loss -= torch.einsum("snk,nk->", z, total)
            loss += torch.einsum("tnk,tnk->", z[:num_targets], own)
            # In place: others * softmax(z) - sum of the other views' targets.
            gradient = z.sub_(normaliser).exp_().mul_(others).sub_(total)
            gradient[:num_targets] += own
            errors = gradient.flatten(0, 1)
            part = (errors.to(dtype).T @ (rows * mean).to(dtype)).float()
            by_prototypes = part if by_prototypes is None else by_prototypes.add_(part)
            by_vectors.append((errors.mul_(scale).to(dtype) @ axes).float().view_as(chunk) * mean)
        assert by_prototypes is not None, "there is at least one image"
        along = torch.einsum("kd,kd->k", by_prototypes, prototypes) / length
        by_prototypes.addcmul_(prototypes, (along / length)[:, None], value=-1)
        ctx.save_for_backward(
            torch.cat(by_vectors, dim=1), by_prototypes, scale, along / student_temp
        )
        return loss * mean

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        by_vectors, by_prototypes, scale, along = ctx.saved_tensors
        incoming = gradients[0]
        return (
            by_vectors * incoming,
            by_prototypes * (scale * incoming)[:, None],
            (along * incoming)[:, None],
            None,
            None,
            None,
        )


def koleo_loss(features: Tensor) -> Tensor:
    """Push each image away from its nearest neighbour in the batch, to use all directions.

    Minus the mean log distance of L2-normalised features to their nearest neighbour: the
    Kozachenko-Leonenko estimate of their entropy, up to constants (arXiv 1806.03198, eq. 2; used
    for DINO in arXiv 2304.07193). Without it a network trained from scratch may spread along very
    few directions.

    Parameters
    ----------
    features
        (N, D), from one process and one part of its batch.

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
    # Equal images would give an infinite gradient.
    return -(distance + 1e-8).log().mean()


def attention_loss(weights: Tensor, brightness: Tensor) -> Tensor:
    """Draw the attention of [CLS] to foreground.

    Minus the log of the share of the attention, mean over heads, that lies on foreground patches.
    Left alone, small transformers gather what they know of a field in its empty patches, where the
    class token then reads it (arXiv 2309.16588): maps of attention show background. Foreground are
    patches that are brighter than the threshold of their image, of all its views together, that
    maximises the variance between two classes (Otsu 1979).

    Parameters
    ----------
    weights
        (V, N, heads, P), attention to the P patches of V views of N images, from one process and
        one part of its batch.
    brightness
        (V, N, P), mean of each patch.

    Returns
    -------
    Tensor
        Scalar float32, mean over the views that have foreground; zero where none has.
    """
    with torch.no_grad():
        ordered = brightness.float().transpose(0, 1).flatten(1).sort(dim=1).values
        num = ordered.shape[1]
        below = torch.arange(1, num, device=ordered.device)
        sums, total = ordered.cumsum(dim=1)[:, :-1], ordered.sum(dim=1, keepdim=True)
        distance = sums / below - (total - sums) / (num - below)
        at = (below * (num - below) * distance.square()).argmax(dim=1, keepdim=True)
        foreground = brightness > ordered.gather(1, at)
        has_any = foreground.any(dim=2)
    mean = weights.float().mean(dim=2)
    # The class token may attend to itself alone.
    share = (mean * foreground).sum(dim=2) / mean.sum(dim=2).clamp(min=1e-8)
    # Attention that has left the foreground altogether would give an infinite gradient.
    lost = -(share + 1e-8).log() * has_any
    return lost.sum() / has_any.sum().clamp(min=1)


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
