"""Pairs of views against loops over them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers_train import TINY
from wsdino.model.spec import ModelSpec
from wsdino.train.head import TogetherHead
from wsdino.train.learners.pairs import Pairs, pair_logits
from wsdino.train.objectives.pairs import Options
from wsdino.train.train import initial_networks

LABELS = torch.tensor([4, 1, 4, 7, 1, 4])


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(shape, generator=generator, dtype=torch.float64)
    return functional.normalize(vectors, dim=-1)


def module_of(mode: str = "shared", **change: bool) -> Pairs:
    torch.manual_seed(0)
    spec = ModelSpec(("a", "b", "c"), mode=mode, architecture=TINY)
    change = {"head_batch_norm": False} | change
    options = Options(head_hidden_dim=16, head_bottleneck_dim=8, teacher_momentum=0.5, **change)
    student, teacher = (initial_networks(spec, seed=seed) for seed in (0, 1))
    return Pairs(student, teacher, options=options, epochs=2)


def views_of(num_images: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, num_images, 3, size, size, generator=generator) for size in (16, 8)]


def test_logits_are_cosines_to_the_like_first_and_to_images_of_other_labels() -> None:
    vectors, own, others = unit(6, 5), unit(6, 5, seed=1), unit(6, 2, 5, seed=2)
    found = pair_logits(vectors, own, others, LABELS, LABELS, temp=0.2)
    assert found.shape == (6, 13)
    for row in range(6):
        torch.testing.assert_close(found[row, 0], vectors[row] @ own[row] / 0.2)
        for image in range(6):
            for view in range(2):
                value = found[row, 1 + 2 * image + view]
                if LABELS[image] == LABELS[row]:
                    assert value == -math.inf
                else:
                    torch.testing.assert_close(value, vectors[row] @ others[image, view] / 0.2)


def test_the_head_sees_the_channels_of_one_image_together() -> None:
    torch.manual_seed(0)
    # Without batch normalisation, through which images see each other.
    head = TogetherHead(4, 3, hidden_dim=16, bottleneck_dim=8, batch_norm=False)
    features = torch.randn(2, 6 * 3, 4)
    (found,) = head(features)
    assert found.shape == (2, 6, 8)
    changed = features.clone()
    # The second channel of the fifth image of the first view.
    changed[0, 4 * 3 + 1] += 1
    moved = (head(changed)[0] - found).abs().amax(dim=-1) > 0
    assert moved.nonzero().tolist() == [[0, 4]]


@pytest.mark.parametrize("mode", ["shared", "per_channel", "joint"])
def test_the_loss_is_the_cross_entropy_of_every_pair_of_different_views(mode: str) -> None:
    module, views = module_of(mode), views_of()
    loss, metrics = module.loss(module.trainable, views, module.target(views, LABELS))
    _, student = module.trainable(views)
    _, teacher = module.teacher(views[:1])
    expected = []
    for (ours,), (theirs,) in zip(student, teacher, strict=True):
        assert ours.shape[:2] == (4, 6)
        losses = []
        for view in range(4):
            for other in {0, 1} - {view}:
                for image in range(6):
                    z = ours[view, image]
                    scores = [z @ theirs[other, image]]
                    scores += [
                        z @ theirs[v, n]
                        for n in range(6)
                        for v in range(2)
                        if LABELS[n] != LABELS[image]
                    ]
                    each = torch.stack(scores) / module.options.student_temp
                    losses.append(torch.logsumexp(each, 0) - each[0])
        expected.append(torch.stack(losses).mean())
    torch.testing.assert_close(loss, torch.stack(expected).sum())
    assert 0 <= float(metrics["accuracy"]) <= 1


def test_parts_of_a_batch_come_to_the_gradient_of_the_whole() -> None:
    module, views = module_of(), views_of()
    targets = module.target(views, LABELS)
    whole, _ = module.loss(module.trainable, views, targets)
    parts = [
        module.loss(module.trainable, [x[:, at] for x in views], [t[:, at] for t in targets])[0]
        for at in (slice(0, 3), slice(3, 6))
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_steps_bring_partners_together() -> None:
    """Images of a label share a pattern under much noise; a partner's view is the second one."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(5)
    patterns = torch.randn(8, 3, 16, 16, generator=generator)
    module = module_of(head_batch_norm=True)
    optimiser = torch.optim.AdamW(module.trainable.parameters(), lr=3e-3)
    labels, accuracies = torch.arange(8), []
    for _ in range(60):
        noise = torch.randn(2, 8, 3, 16, 16, generator=generator)
        views = [patterns + 0.5 * noise]
        loss, metrics = module.loss(module.trainable, views, module.target(views, labels))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        module.after_step()
        accuracies.append(float(metrics["accuracy"]))
    assert sum(accuracies[-5:]) / 5 > sum(accuracies[:5]) / 5 + 0.3
