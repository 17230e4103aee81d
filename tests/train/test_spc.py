"""Class vectors on the unit sphere, against loops and what geometry says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers_train import TINY
from wsdino.model.spec import ModelSpec
from wsdino.train.learners.spc import SPC, class_logits, class_overlap, turned_towards
from wsdino.train.objectives.spc import Options
from wsdino.train.train import initial_networks

LABELS = torch.tensor([4, 1, 4, 7, 1, 4])
NUM_LABELS = 9


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(shape, generator=generator, dtype=torch.float64)
    return functional.normalize(vectors, dim=-1)


def angle_between(one: Tensor, other: Tensor) -> Tensor:
    return 2 * torch.asin(((one - other).norm(dim=-1) / 2).clamp(max=1))


@pytest.mark.parametrize("degrees", [1e-4, 5.0, 60.0, 179.0])
def test_a_vector_turns_by_the_angle_and_no_further_than_its_goal(degrees: float) -> None:
    vectors, goals = unit(50, 6), unit(50, 6, seed=1)
    angle = math.radians(degrees)
    turned = turned_towards(vectors, 3.7 * goals, angle=angle)
    before = angle_between(vectors, goals)
    torch.testing.assert_close(turned.norm(dim=-1), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(
        angle_between(turned, vectors), before.clamp(max=angle), rtol=1e-6, atol=1e-9
    )
    # It stays on the great circle: what is turned by and what is left add up.
    torch.testing.assert_close(
        angle_between(turned, goals) + before.clamp(max=angle), before, rtol=1e-6, atol=1e-7
    )


def test_a_vector_at_its_goal_stays_and_so_does_one_without() -> None:
    vectors = unit(4, 6)
    torch.testing.assert_close(turned_towards(vectors, 2 * vectors, angle=0.1), vectors)
    assert torch.equal(turned_towards(vectors, torch.zeros(4, 6), angle=0.1), vectors)
    opposite = turned_towards(vectors, -vectors, angle=0.1)
    torch.testing.assert_close(opposite.norm(dim=-1), torch.ones(4, dtype=torch.float64))


def test_logits_are_cosines_to_classes_and_images_of_other_labels() -> None:
    vectors, classes, others = unit(6 * 3, 5), unit(NUM_LABELS, 3, 5, seed=1), unit(6, 3, 5, seed=2)
    rows = LABELS.repeat_interleave(3)
    found = class_logits(vectors, classes, others, rows, LABELS, temp=0.2)
    assert found.shape == (18, NUM_LABELS + 6)
    for row in range(18):
        for label in range(NUM_LABELS):
            torch.testing.assert_close(
                found[row, label], vectors[row] @ classes[label, row % 3] / 0.2
            )
        for image in range(6):
            value = found[row, NUM_LABELS + image]
            if LABELS[image] == rows[row]:
                assert value == -math.inf
            else:
                torch.testing.assert_close(value, vectors[row] @ others[image, row % 3] / 0.2)


def module_of(mode: str = "shared", **options: float) -> SPC:
    torch.manual_seed(0)
    spec = ModelSpec(("a", "b", "c"), mode=mode, architecture=TINY)
    settings = Options(head_hidden_dim=16, head_bottleneck_dim=8, teacher_momentum=0.5, **options)
    student, teacher = (initial_networks(spec, seed=seed) for seed in (0, 1))
    return SPC(student, teacher, options=settings, epochs=2, num_labels=NUM_LABELS)


def views_of(num_images: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, num_images, 3, size, size, generator=generator) for size in (16, 8)]


@pytest.mark.parametrize("mode", ["shared", "per_channel", "joint"])
def test_the_loss_is_the_cross_entropy_of_every_image(mode: str) -> None:
    module, views = module_of(mode), views_of()
    targets = module.target(views, LABELS)
    loss, metrics = module.loss(module.trainable, views, targets)
    per_image = module.trainable.networks.views_per_image
    _, student = module.trainable(views)
    _, teacher = module.teacher(views[:1])
    expected = []
    for index, ((ours,), (theirs,)) in enumerate(zip(student, teacher, strict=True)):
        losses = []
        for row in range(6 * per_image):
            image, channel = divmod(row, per_image)
            z = ours[:, row].mean(dim=0)
            z = z / z.norm()
            scores = [
                z @ module.class_vectors[index, label, channel] for label in range(NUM_LABELS)
            ]
            for other in range(6):
                if LABELS[other] != LABELS[image]:
                    u = theirs[:, other * per_image + channel].sum(dim=0)
                    scores.append(z @ (u / u.norm()))
            each = torch.stack(scores) / module.options.student_temp
            losses.append(torch.logsumexp(each, 0) - each[LABELS[image]])
        expected.append(torch.stack(losses).mean())
    torch.testing.assert_close(loss, torch.stack(expected).sum())
    assert 0 <= float(metrics["accuracy"]) <= 1


def test_class_vectors_follow_their_images_and_get_no_gradient() -> None:
    module, views = module_of(class_angle=10.0), views_of()
    before = module.class_vectors.clone()
    targets = module.target(views, LABELS)
    loss, _ = module.loss(module.trainable, views, targets)
    loss.backward()
    assert not module.class_vectors.requires_grad
    torch.testing.assert_close(module.class_vectors, before, rtol=0, atol=0)
    module.after_step()
    turned = np.degrees(angle_between(module.class_vectors, before).numpy())
    present = [1, 4, 7]
    np.testing.assert_allclose(turned[:, present], 10.0, atol=1e-3)
    assert (np.delete(turned, present, axis=1) == 0).all()
    assert all(parameter.grad is not None for parameter in module.trainable.heads.parameters())


def test_overlap_is_the_cosine_to_the_nearest() -> None:
    vectors = unit(2, 5, 3, 4)
    expected = np.mean(
        [
            max(float(vectors[n, i, c] @ vectors[n, j, c]) for j in range(5) if j != i)
            for n in range(2)
            for c in range(3)
            for i in range(5)
        ]
    )
    assert class_overlap(vectors) == pytest.approx(expected)
