"""Weak labels as prototypes, against loops over images, labels and channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers_train import TINY
from wsdino.model.spec import ModelSpec
from wsdino.train.learners.contrast import Contrast, label_logits, label_prototypes
from wsdino.train.objectives.contrast import Options
from wsdino.train.train import initial_networks

CHANNELS = ("a", "b", "c")
LABELS = torch.tensor([4, 1, 4, 7, 1, 4])


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(shape, generator=generator), dim=-1)


def test_prototypes_are_means_over_the_images_of_a_label() -> None:
    vectors = unit(2, 6, 3, 5)
    prototypes, own, present = label_prototypes(vectors, LABELS, num_labels=9)
    assert present.tolist() == [1, 4, 7]
    for row, label in enumerate(present):
        members = [i for i in range(6) if LABELS[i] == label]
        for channel in range(3):
            total = sum(vectors[t, i, channel] for t in range(2) for i in members)
            torch.testing.assert_close(prototypes[row, channel], total / total.norm())
    for image in range(6):
        others = [i for i in range(6) if LABELS[i] == LABELS[image] and i != image]
        for channel in range(3):
            # A label of one image has that image alone.
            total = sum(vectors[t, i, channel] for t in range(2) for i in others or [image])
            torch.testing.assert_close(own[image, channel], total / total.norm())


def test_an_image_has_no_part_in_its_own_target() -> None:
    vectors = unit(2, 6, 1, 5)
    changed = vectors.clone()
    changed[:, 0] = unit(2, 1, 5, seed=1)
    before, after = (label_prototypes(x, LABELS, num_labels=9)[1] for x in (vectors, changed))
    torch.testing.assert_close(after[0], before[0])
    assert not torch.allclose(after[2], before[2])


def test_logits_are_cosines_to_the_prototypes_of_the_channel() -> None:
    vectors, prototypes = unit(6 * 3, 5), unit(3, 3, 5, seed=1)
    own, rows = unit(18, 5, seed=2), torch.arange(18) % 3
    found = label_logits(vectors, prototypes, own, rows, temp=0.2)
    assert found.shape == (18, 3)
    for row in range(18):
        for label in range(3):
            other = own[row] if label == rows[row] else prototypes[label, row % 3]
            torch.testing.assert_close(found[row, label], vectors[row] @ other / 0.2)


def module_of(mode: str = "shared", **options: float) -> Contrast:
    torch.manual_seed(0)
    spec = ModelSpec(CHANNELS, mode=mode, architecture=TINY)
    settings = Options(head_hidden_dim=16, head_bottleneck_dim=8, teacher_momentum=0.5, **options)
    student, teacher = (initial_networks(spec, seed=seed) for seed in (0, 1))
    return Contrast(student, teacher, options=settings, epochs=2, num_labels=9)


def views_of(num_images: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, num_images, 3, size, size, generator=generator) for size in (16, 8)]


@pytest.mark.parametrize("mode", ["shared", "per_channel", "joint"])
def test_the_loss_is_the_cross_entropy_of_every_image(mode: str) -> None:
    module, views = module_of(mode), views_of()
    targets = module.target(views, LABELS)
    loss, metrics = module.loss(module.trainable, views, targets)
    num, per_image = len(module.trainable.heads), module.trainable.networks.views_per_image
    teacher, student = module.teacher(views[:1])[1], module.trainable(views)[1]
    expected = []
    for network in range(num):
        made, seen = teacher[network][0], student[network][0]
        terms = []
        for row in range(seen.shape[1]):
            image, channel = divmod(row, per_image)
            mean, scores = seen[:, row].sum(dim=0), []
            for label in (1, 4, 7):
                members = [i for i in range(6) if LABELS[i] == label]
                if label == LABELS[image] and len(members) > 1:
                    members.remove(image)
                total = sum(made[t, i * per_image + channel] for t in range(2) for i in members)
                scores.append(mean @ total / mean.norm() / total.norm() / 0.1)
            wanted = [1, 4, 7].index(int(LABELS[image]))
            terms.append(-torch.stack(scores).log_softmax(dim=0)[wanted])
        expected.append(torch.stack(terms).mean())
    torch.testing.assert_close(loss, torch.stack(expected).sum(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["loss"], loss.detach() / num)
    assert 0 <= float(metrics["accuracy"]) <= 1
    assert module.diagnostics()["accuracy_by_chance"] == pytest.approx(1 / 3)


def test_parts_of_a_batch_have_the_same_gradient() -> None:
    whole, parted, views = module_of(), module_of(), views_of()
    loss, _ = whole.loss(whole.trainable, views, whole.target(views, LABELS))
    loss.backward()
    targets = parted.target(views, LABELS)
    for images in (slice(0, 3), slice(3, 6)):
        rows = slice(images.start * 3, images.stop * 3)
        part, _ = parted.loss(
            parted.trainable, [x[:, images] for x in views], [t[:, rows] for t in targets]
        )
        (part / 2).backward()
    for ours, theirs in zip(
        parted.trainable.parameters(), whole.trainable.parameters(), strict=True
    ):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_it_learns_labels_that_can_be_seen() -> None:
    """Images of a label share a pattern; after some steps images find their label."""
    module, rng = module_of(), np.random.default_rng(0)
    labels = torch.arange(12) % 4
    optimiser = torch.optim.AdamW(module.trainable.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        views = []
        for size in (16, 8):
            pixel = np.arange(size)
            stripes = np.stack([np.sin(2 * np.pi * pixel / period) for period in (2.5, 4, 8, 16)])
            noise = rng.normal(0, 0.1, (2, 12, 3, size, size))
            seen = 2 * stripes[labels.numpy()][None, :, None, None, :] + noise
            views.append(torch.from_numpy(seen.astype(np.float32)))
        module.before_step(0.0)
        loss, _ = module.loss(module.trainable, views, module.target(views, labels))
        optimiser.zero_grad()
        loss.backward()
        module.after_backward(0.0)
        optimiser.step()
        module.after_step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:5])
