from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wsdino.train import loss as loss_module
from wsdino.train.loss import (
    attention_loss,
    centered_targets,
    cross_view_entropy,
    dino_loss,
    factored_cross_view_entropy,
    koleo_loss,
    sinkhorn_targets,
    updated_center,
)


def naive_dino_loss(
    student: Tensor, teacher: Tensor, center: Tensor, student_temp: float, teacher_temp: float
) -> Tensor:
    """Equation 1 of the paper, pair by pair and image by image."""
    terms = []
    for t in range(len(teacher)):
        for s in range(len(student)):
            if s == t:
                continue
            for image in range(student.shape[1]):
                p = torch.softmax((teacher[t, image] - center) / teacher_temp, dim=0)
                q = torch.log_softmax(student[s, image] / student_temp, dim=0)
                terms.append(-(p * q).sum())
    return torch.stack(terms).mean()


def logits(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("num_teacher", "num_student"), [(1, 2), (1, 5), (2, 2), (2, 6), (3, 4)])
def test_loss_and_gradient_equal_the_double_loop(num_teacher: int, num_student: int) -> None:
    student = logits(num_student, 4, 7).float().requires_grad_()
    teacher, center = logits(num_teacher, 4, 7, seed=1).float(), logits(7, seed=2).float()
    expected = naive_dino_loss(student, teacher, center, 0.1, 0.05)
    (expected_gradient,) = torch.autograd.grad(expected, student)
    loss = dino_loss(student, teacher, center, student_temp=0.1, teacher_temp=0.05)
    (gradient,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_entropy_of_equal_views_is_the_targets_own() -> None:
    z = logits(1, 5, 9).float()
    p = centered_targets(z, torch.zeros(9), temp=0.5)
    loss = cross_view_entropy(z.expand(4, -1, -1), p.expand(2, -1, -1), student_temp=0.5)
    entropy = -(p * p.log()).sum(dim=-1).mean()
    torch.testing.assert_close(loss, entropy)


def test_targets_are_centred_and_sharpened() -> None:
    z, center = logits(2, 3, 5), logits(5, seed=1).float()
    p = centered_targets(z, center, temp=0.04)
    assert p.dtype == torch.float32
    torch.testing.assert_close(p, torch.softmax((z - center) / 0.04, -1).float())


def test_large_logits_stay_finite() -> None:
    student = logits(3, 4, 6, scale=1e4).float().requires_grad_()
    loss = dino_loss(student, logits(2, 4, 6, seed=1, scale=1e4).float(), torch.zeros(6))
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_half_precision_logits_are_contracted_in_float32() -> None:
    student, teacher = logits(3, 4, 6).bfloat16(), logits(2, 4, 6, seed=1).bfloat16()
    loss = dino_loss(student, teacher, torch.zeros(6))
    assert loss.dtype == torch.float32
    expected = naive_dino_loss(student.double(), teacher.double(), torch.zeros(6), 0.1, 0.04)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)


def factors(num_student: int, num_images: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors, prototypes and gains; one prototype counts for nothing yet."""
    vectors = torch.nn.functional.normalize(logits(num_student, num_images, 6), dim=-1)
    gain = torch.linspace(0, 2, 9)[:, None]
    return (
        vectors.float().requires_grad_(),
        logits(9, 6, seed=3).float().requires_grad_(),
        gain.requires_grad_(),
    )


def products(vectors: Tensor, prototypes: Tensor, gain: Tensor) -> Tensor:
    """Cosines to prototypes times their gain, as weight normalisation has them."""
    return vectors @ (torch.nn.functional.normalize(prototypes, dim=1) * gain).T


@pytest.mark.parametrize("chunk", [1, 2 * 6 * 9, 2**24])
@pytest.mark.parametrize(("num_teacher", "num_student"), [(1, 2), (2, 2), (2, 6), (3, 4)])
def test_loss_of_factors_equals_the_double_loop(
    num_teacher: int, num_student: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", chunk)
    given = factors(num_student)
    teacher, center = logits(num_teacher, 5, 9, seed=1).float(), logits(9, seed=2).float()
    expected = naive_dino_loss(products(*given), teacher, center, 0.1, 0.05)
    wanted = torch.autograd.grad(3 * expected, given)
    targets = centered_targets(teacher, center, temp=0.05)
    loss = factored_cross_view_entropy(*given, targets, student_temp=0.1)
    found = torch.autograd.grad(3 * loss, given)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_under_autocast_only_the_products_are_rounded() -> None:
    given = factors(4)
    targets = centered_targets(logits(2, 5, 9, seed=1), torch.zeros(9), temp=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        loss = factored_cross_view_entropy(*given, targets, student_temp=0.1)
    assert loss.dtype == torch.float32
    vectors, prototypes, gain = (x.detach() for x in given)
    rounded = vectors.bfloat16() @ prototypes.bfloat16().T
    scaled = rounded.float() * gain[:, 0] / prototypes.norm(dim=1)
    torch.testing.assert_close(loss, cross_view_entropy(scaled, targets, student_temp=0.1))
    exact = cross_view_entropy(products(*given), targets, student_temp=0.1)
    for ours, theirs in zip(
        torch.autograd.grad(loss, given), torch.autograd.grad(exact, given), strict=True
    ):
        assert ours.dtype == torch.float32
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def largest_tensor(num_views: int) -> int:
    """Elements of the largest tensor that comes to be in a forward and backward pass."""

    class Watch(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            for x in result if isinstance(result, tuple | list) else [result]:
                if isinstance(x, Tensor):
                    self.largest = max(self.largest, x.numel())
            return result

    vectors = torch.randn(num_views, 32, 4).requires_grad_()
    prototypes = torch.randn(256, 4).requires_grad_()
    gain, targets = torch.ones(256, 1).requires_grad_(), torch.rand(2, 32, 256)
    with Watch() as watch:
        factored_cross_view_entropy(vectors, prototypes, gain, targets, student_temp=0.1).backward()
    return watch.largest


def test_memory_does_not_grow_with_the_number_of_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_LOGITS", 10 * 256)
    # All logits at once would be 32 times as many.
    assert largest_tensor(4) <= largest_tensor(10) == 10 * 256


def naive_sinkhorn(scores: np.ndarray, temp: float, num_iterations: int) -> np.ndarray:
    weights = np.exp(scores.reshape(-1, scores.shape[-1]) / temp)
    num_images, num_prototypes = weights.shape
    for _ in range(num_iterations):
        for k in range(num_prototypes):
            weights[:, k] *= num_images / num_prototypes / weights[:, k].sum()
        for i in range(num_images):
            weights[i] /= weights[i].sum()
    return weights.reshape(scores.shape)


@pytest.mark.parametrize("num_iterations", [1, 3, 10])
def test_sinkhorn_equals_the_naive_loop(num_iterations: int) -> None:
    z = logits(2, 6, 5)
    p = sinkhorn_targets(z, temp=0.3, num_iterations=num_iterations)
    assert p.dtype == torch.float32
    np.testing.assert_allclose(p, naive_sinkhorn(z.numpy(), 0.3, num_iterations), rtol=2e-4)
    torch.testing.assert_close(p.sum(dim=-1), torch.ones(2, 6))


def test_sinkhorn_uses_all_prototypes_equally_in_the_end() -> None:
    z = logits(2, 8, 4)
    z[..., 0] += 3  # a prototype that everything prefers
    p = sinkhorn_targets(z, temp=0.5, num_iterations=100)
    torch.testing.assert_close(p.sum(dim=(0, 1)), torch.full((4,), 4.0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(p.sum(dim=-1), torch.ones(2, 8))


def test_sinkhorn_of_extreme_logits_is_finite() -> None:
    p = sinkhorn_targets(logits(2, 4, 6, scale=1e3), temp=0.04)
    assert p.isfinite().all()
    torch.testing.assert_close(p.sum(dim=-1), torch.ones(2, 4))


def test_centre_moves_towards_the_mean_logits() -> None:
    center, z = logits(5).float(), logits(2, 3, 5, seed=1).float()
    before = center.clone()
    moved = updated_center(center, z, momentum=0.8)
    expected = 0.8 * before + 0.2 * sum(z[v, i] for v in range(2) for i in range(3)) / 6
    torch.testing.assert_close(moved, expected)
    assert torch.equal(center, before), "a pure function changed its argument"


def test_koleo_equals_the_loop_over_neighbours() -> None:
    features = logits(9, 5, seed=3).requires_grad_()
    loss = koleo_loss(features)
    rows = [row / np.linalg.norm(row) for row in features.detach().double().numpy()]
    nearest = [
        min(np.linalg.norm(row - other) for j, other in enumerate(rows) if j != i)
        for i, row in enumerate(rows)
    ]
    assert loss.item() == pytest.approx(-np.mean(np.log(nearest)), rel=1e-5)
    loss.backward()
    moved = (features - 1e-3 * features.grad).detach()  # type: ignore[operator]
    assert koleo_loss(moved) < loss, "a step along the gradient spreads the features"


def test_koleo_of_equal_or_single_images_is_finite() -> None:
    for features in (torch.ones(4, 3), torch.ones(1, 3)):
        features.requires_grad_()
        loss = koleo_loss(features)
        loss.backward()
        assert loss.isfinite()
        assert features.grad is not None
        assert features.grad.isfinite().all()


def test_attention_loss_equals_the_loop_over_views() -> None:
    generator = torch.Generator().manual_seed(4)
    brightness = torch.rand(2, 3, 16, generator=generator)
    brightness[0, :, :4] += 3
    brightness[:, 2] = 1.0
    attention = torch.rand(2, 3, 5, 16, generator=generator).requires_grad_()
    loss = attention_loss(attention, brightness)
    expected = []
    for image in range(2):
        values = brightness[:, image].numpy()
        threshold = threshold_of(values.ravel())
        for view in range(2):
            if (foreground := values[view] > threshold).any():
                mean = attention.detach()[view, image].numpy().mean(axis=0)
                expected.append(-np.log(mean[foreground].sum() / mean.sum()))
    assert len(expected) == 2, "nothing in the other views is foreground"
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)
    loss.backward()
    assert attention.grad is not None
    moved = (attention - 0.1 * attention.grad).detach()
    assert attention_loss(moved, brightness) < loss, "a step moves attention to foreground"


def threshold_of(values: np.ndarray) -> float:
    """Otsu's: the value that leaves the least variance within those up to it and those above."""
    within = {
        value: sum(part.var() * len(part) for part in (values[values <= value], above))
        for value in np.unique(values)
        if len(above := values[values > value])
    }
    return float(min(within, key=lambda value: within[value]))


def test_attention_loss_of_flat_images_is_zero_and_of_none_on_foreground_finite() -> None:
    attention = torch.ones(1, 2, 1, 4).requires_grad_()
    attention_loss(attention, torch.ones(1, 2, 4)).backward()
    assert attention.grad is not None
    assert not attention.grad.any()
    nowhere = torch.tensor([[[[0.0, 1.0]]]]).requires_grad_()
    loss = attention_loss(nowhere, torch.tensor([[[1.0, 0.0]]]))
    loss.backward()
    assert loss.isfinite()
    assert nowhere.grad is not None
    assert nowhere.grad.isfinite().all()
