"""Weak labels as prototypes, against loops over images, labels and channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers_train import TINY
from wsdino.model.model import ModelSpec
from wsdino.train.label_targets import LabelDistillation, label_logits, label_prototypes
from wsdino.train.options import Distillation
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
    vectors, prototypes = unit(4, 6 * 3, 5), unit(3, 3, 5, seed=1)
    own, rows = unit(18, 5, seed=2), torch.arange(18) % 3
    found = label_logits(vectors, prototypes, own, rows, temp=0.2)
    assert found.shape == (4, 18, 3)
    for view in range(4):
        for row in range(18):
            for label in range(3):
                other = own[row] if label == rows[row] else prototypes[label, row % 3]
                expected = vectors[view, row] @ other / 0.2
                torch.testing.assert_close(found[view, row, label], expected)


def module_of(mode: str = "shared", **options: float) -> LabelDistillation:
    torch.manual_seed(0)
    spec = ModelSpec(CHANNELS, mode=mode, architecture=TINY)
    settings = Distillation(
        targets="label", head_hidden_dim=16, head_bottleneck_dim=8, teacher_momentum=0.5, **options
    )
    student, teacher = (initial_networks(spec, seed=seed) for seed in (0, 1))
    return LabelDistillation(student, teacher, options=settings, epochs=2, num_labels=9)


def views_of(num_images: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, num_images, 3, size, size, generator=generator) for size in (16, 8)]


@pytest.mark.parametrize("mode", ["shared", "per_channel", "joint"])
def test_the_loss_is_the_cross_entropy_of_every_view(mode: str) -> None:
    module, views = module_of(mode), views_of()
    module.before_step(0.0)
    targets = module.target(views, LABELS)
    loss, metrics = module.loss(module.trainable, views, targets)
    expected = []
    num, per_image = len(module.trainable.heads), module.trainable.networks.views_per_image
    teacher, student = (
        net(v)[1] for net, v in ((module.teacher, views[:1]), (module.trainable, views))
    )
    for network in range(num):
        made, seen = teacher[network][0], student[network][0]
        terms = []
        for view in range(len(seen)):
            for row in range(seen.shape[1]):
                image, channel = divmod(row, per_image)
                scores = []
                for label in (1, 4, 7):
                    members = [i for i in range(6) if LABELS[i] == label]
                    if label == LABELS[image] and len(members) > 1:
                        members.remove(image)
                    total = sum(made[t, i * per_image + channel] for t in range(2) for i in members)
                    scores.append(seen[view, row] @ total / total.norm() / 0.1)
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
    """Images of a label share a brightness; after some steps views find their label."""
    module, rng = module_of(freeze_last_layer_epochs=0), np.random.default_rng(0)
    labels = torch.arange(12) % 4
    optimiser = torch.optim.AdamW(module.trainable.parameters(), lr=3e-3)
    accuracies = []
    for _ in range(80):
        views = [
            torch.from_numpy(rng.normal(0, 0.1, (2, 12, 3, s, s)).astype(np.float32))
            + (labels - 1.5)[None, :, None, None, None]
            for s in (16, 8)
        ]
        module.before_step(0.0)
        loss, metrics = module.loss(module.trainable, views, module.target(views, labels))
        optimiser.zero_grad()
        loss.backward()
        module.after_backward(0.0)
        optimiser.step()
        module.after_step()
        accuracies.append(float(metrics["accuracy"]))
    assert np.mean(accuracies[-10:]) > np.mean(accuracies[:3]) + 0.2
