"""Self-distillation with labels is the sum of its two losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers_train import TINY
from wsdino.model.spec import ModelSpec
from wsdino.train.learners.distill import SelfDistillation
from wsdino.train.learners.distill_classify import DistillClassify
from wsdino.train.objectives import distill
from wsdino.train.objectives.distill_classify import Options
from wsdino.train.train import initial_networks

LABELS = torch.tensor([2, 0, 1, 2])
HEAD = {"num_prototypes": 12, "head_hidden_dim": 16, "head_bottleneck_dim": 8}


def modules_of(mode: str, weight: float) -> tuple[DistillClassify, SelfDistillation]:
    spec = ModelSpec(("a", "b", "c"), mode=mode, architecture=TINY)
    student, teacher = (initial_networks(spec, seed=seed) for seed in (0, 1))
    both = DistillClassify(
        student, teacher, options=Options(label_weight=weight, **HEAD), epochs=2, num_labels=3
    )
    alone = SelfDistillation(
        *(initial_networks(spec, seed=seed) for seed in (0, 1)),
        options=distill.Options(**HEAD),
        epochs=2,
    )
    own = both.state_dict()
    alone.load_state_dict({key: own[key] for key in alone.state_dict()})
    return both, alone


def views() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, 4, 3, size, size, generator=generator) for size in (16, 8)]


@pytest.mark.parametrize("mode", ["shared", "per_channel", "joint"])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_loss_is_the_sum_of_both(mode: str, weight: float) -> None:
    both, alone = modules_of(mode, weight)
    found, metrics = both.loss(both.trainable, views(), both.target(views(), LABELS))
    expected, _ = alone.loss(alone.trainable, views(), alone.target(views(), LABELS))
    right = []
    for index, (network, head) in enumerate(
        zip(both.trainable.networks.networks, both.trainable.heads, strict=True)
    ):
        losses = []
        for view in [view for resolution in views() for view in resolution]:
            for image in range(4):
                for x in both.trainable.networks.split(view[image][None])[index]:
                    scores = head.classifier(network(x[None]))
                    label = LABELS[image][None]
                    losses.append(functional.cross_entropy(scores, label))
                    right.append(float(scores.argmax() == label))
        expected = expected + weight * torch.stack(losses).mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float(metrics["accuracy"]) == pytest.approx(sum(right) / len(right))


def test_labels_teach_the_backbone_and_the_classifier() -> None:
    both, _ = modules_of("shared", 1.0)
    loss, _ = both.loss(both.trainable, views(), both.target(views(), LABELS))
    loss.backward()
    assert both.trainable.heads[0].classifier.weight.grad.abs().sum() > 0
