from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from helpers_train import TINY
from wsdino.model.backbone import cls_attention
from wsdino.model.spec import ModelSpec
from wsdino.train.head import logits
from wsdino.train.learners.classify import Classification
from wsdino.train.learners.distill import SelfDistillation
from wsdino.train.loss import attention_loss, koleo_loss
from wsdino.train.objectives.distill import Options
from wsdino.train.train import initial_networks

if TYPE_CHECKING:
    from wsdino.model.networks import ChannelNetworks
    from wsdino.train.learners.base import HeadedNetworks

CHANNELS = ("a", "b", "c")
HEAD = {"num_prototypes": 12, "head_hidden_dim": 16, "head_bottleneck_dim": 8}


def networks_of(mode: str, channels: tuple[str, ...] = CHANNELS, seed: int = 0) -> ChannelNetworks:
    return initial_networks(ModelSpec(channels, mode=mode, architecture=TINY), seed=seed)


def distillation(mode: str = "joint", **options: Any) -> SelfDistillation:
    torch.manual_seed(5)
    student, teacher = networks_of(mode), networks_of(mode)
    settings = Options(**{**HEAD, "norm_last_layer": False, **options})
    module = SelfDistillation(student, teacher, options=settings, epochs=10)
    # A teacher that is not the student, sharper logits, and a centre that is not zero.
    generator = torch.Generator().manual_seed(6)
    for parameter in module.teacher.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    module.center += 0.1 * torch.randn(module.center.shape, generator=generator)
    module.before_step(3.0)
    return module.train()


def views_of(num_images: int = 4, num_channels: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [
        torch.randn((num_views, num_images, num_channels, size, size), generator=generator)
        for num_views, size in ((2, 16), (3, 8))
    ]


def inputs_of(mode: str, view: Tensor, network: int) -> Tensor:
    """What network number `network` sees of a view (N, C, h, w)."""
    if mode == "joint":
        return view
    if mode == "per_channel":
        return view[:, network : network + 1]
    return torch.cat([image[:, None] for image in view])


def naive_logits(
    headed: HeadedNetworks, mode: str, views: list[Tensor], network: int
) -> list[Tensor]:
    """One view after another through one network and its head."""
    backbone, head = headed.networks.networks[network], headed.heads[network]
    scores = [
        head(backbone(inputs_of(mode, view, network)))
        for resolution in views
        for view in resolution
    ]
    return [z if isinstance(z, Tensor) else naive_cosines(*z) for z in scores]


def naive_cosines(vectors: Tensor, prototypes: Tensor, gain: Tensor) -> Tensor:
    """Products with the prototypes at unit length times their gain."""
    return vectors @ (prototypes / prototypes.norm(dim=1, keepdim=True) * gain).T


def naive_step(module: SelfDistillation, mode: str, views: list[Tensor]) -> Tensor:
    """DINO's loss, summed over networks, pair by pair."""
    opt, losses = module.options, []
    for network in range(len(module.trainable.heads)):
        with torch.no_grad():
            teacher = naive_logits(module.teacher, mode, views[:1], network)
        student = naive_logits(module.trainable, mode, views, network)
        terms = [
            -(
                torch.softmax((t - module.center[network]) / opt.teacher_temp, dim=-1)
                * torch.log_softmax(s / opt.student_temp, dim=-1)
            )
            .sum(dim=-1)
            .mean()
            for i, t in enumerate(teacher)
            for j, s in enumerate(student)
            if i != j
        ]
        losses.append(torch.stack(terms).mean())
    return torch.stack(losses).sum()


def gradients_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mode", ["joint", "shared", "per_channel"])
def test_a_step_of_distillation_equals_naive_dino(mode: str) -> None:
    module, views = distillation(mode, targets="center"), views_of()
    expected = naive_step(module, mode, views)
    expected.backward()
    wanted = gradients_of(module)
    module.zero_grad()
    targets = module.target(views, torch.zeros(4))
    loss, metrics = module.loss(module.trainable, views, targets)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert metrics["loss"].item() == pytest.approx(expected.item() / len(module.trainable.heads))
    found = gradients_of(module)
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        # Rounding is relative to the largest: both differ from float64 by as much.
        atol = 5e-6 * float(wanted[name].abs().max())
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=atol, msg=name)
    assert all(p.grad is None for p in module.teacher.parameters())
    assert len(found) == len(list(module.trainable.parameters())), "nothing is without gradient"


def with_and_without(
    mode: str, views: list[Tensor], option: str
) -> tuple[SelfDistillation, Tensor, dict[str, Tensor]]:
    """What half the weight of a term adds to the loss, and the module and measures that have it."""
    labels, totals = torch.zeros(4, dtype=torch.int64), []
    for weight in (0.0, 0.5):
        module = distillation(mode, **{option: weight})
        total, metrics = module.loss(module.trainable, views, module.target(views, labels))
        totals.append(total)
    return module, totals[1] - totals[0].detach(), metrics


@pytest.mark.parametrize("mode", ["per_channel", "shared", "joint"])
def test_koleo_is_added_for_each_global_view_of_each_network(mode: str) -> None:
    views = views_of()
    module, added, metrics = with_and_without(mode, views, "koleo_weight")
    networks = module.trainable.networks.networks
    expected = [
        koleo_loss(networks[index](inputs_of(mode, view, index))).item()
        for index in range(len(networks))
        for view in views[0]
    ]
    assert added.item() == pytest.approx(0.5 * sum(expected), rel=1e-4)
    assert metrics["koleo"].item() == pytest.approx(np.mean(expected), rel=1e-4)


@pytest.mark.parametrize("mode", ["per_channel", "shared", "joint"])
def test_the_attention_that_is_lost_is_added_for_each_network(mode: str) -> None:
    views = views_of()
    module, added, metrics = with_and_without(mode, views, "attention_weight")
    expected = []
    for index, network in enumerate(module.trainable.networks.networks):
        seen = [inputs_of(mode, view, index) for view in views[0]]
        weights = torch.stack([cls_attention(network, x).flatten(2) for x in seen])
        patches = [
            functional.avg_pool2d(x.mean(dim=1, keepdim=True), TINY.patch_size) for x in seen
        ]
        brightness = torch.stack([x.flatten(1) for x in patches])
        expected.append(attention_loss(weights, brightness).item())
    assert added.item() == pytest.approx(0.5 * sum(expected), rel=1e-4)
    assert metrics["attention"].item() == pytest.approx(np.mean(expected), rel=1e-4)
    added.backward()
    query = module.trainable.networks.networks[0].blocks[-1].attn.qkv.weight.grad
    assert query is not None


def test_sinkhorn_targets_come_from_all_views_of_the_batch() -> None:
    module, views = distillation(targets="sinkhorn"), views_of()
    (p,) = module.target(views, torch.zeros(4))
    z = torch.stack(naive_logits(module.teacher, "joint", views[:1], 0)).detach().double()
    weights = (z / module.options.teacher_temp).exp()
    for _ in range(3):
        weights = weights / weights.sum(dim=(0, 1))
        weights = weights / weights.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(p.double(), weights, rtol=1e-3, atol=1e-6)
    before = module.center.clone()
    module.after_step()
    assert torch.equal(module.center, before), "no centre is needed"


def test_the_centre_follows_once_the_step_is_done() -> None:
    module, views = distillation(targets="center", center_momentum=0.7), views_of()
    before = module.center.clone()
    targets = module.target(views, torch.zeros(4))
    assert torch.equal(module.center, before), "a skipped step must leave no trace"
    module.loss(module.trainable, views, targets)[0].backward()
    z = torch.stack(naive_logits(module.teacher, "joint", views[:1], 0))
    module.after_step()
    torch.testing.assert_close(module.center[0], 0.7 * before[0] + 0.3 * z.mean(dim=(0, 1)))


def test_the_teacher_is_a_moving_average() -> None:
    module = distillation(teacher_momentum=0.8, final_teacher_momentum=0.8)
    module.before_step(1.0)
    before = copy.deepcopy(module.teacher.state_dict())
    module.after_step()
    student = module.trainable.state_dict()
    for name, value in module.teacher.state_dict().items():
        torch.testing.assert_close(value, 0.8 * before[name] + 0.2 * student[name], msg=name)


def test_the_teacher_starts_as_the_student_and_never_drops_paths() -> None:
    spec = ModelSpec(CHANNELS, mode="joint", architecture=TINY)
    module = SelfDistillation(
        initial_networks(spec, seed=0, drop_path=0.5),
        initial_networks(spec, seed=1),
        options=Options(**HEAD),
        epochs=1,
    ).train()
    student, teacher = module.trainable.state_dict(), module.teacher.state_dict()
    assert all(torch.equal(teacher[name], student[name]) for name in student)
    assert not any(m.training for m in module.teacher.modules())
    assert all(m.training for m in module.trainable.modules())
    assert not any(p.requires_grad for p in module.teacher.parameters())


def test_prototypes_are_frozen_during_the_first_epochs() -> None:
    module, views = distillation(freeze_last_layer_epochs=1.0), views_of()
    for epoch, frozen in ((0.0, True), (0.99, True), (1.0, False), (5.0, False)):
        module.zero_grad()
        loss, _ = module.loss(module.trainable, views, module.target(views, torch.zeros(4)))
        loss.backward()
        module.after_backward(epoch)
        head = module.trainable.heads[0]
        assert (head.prototypes.grad is None) == frozen
        assert (head.gain.grad is None) == frozen
        assert head.mlp[0].weight.grad is not None


def test_schedules_of_temperature_and_momentum() -> None:
    module = distillation(
        warmup_teacher_temp=0.02,
        teacher_temp=0.06,
        teacher_temp_warmup_epochs=4,
        teacher_momentum=0.9,
        final_teacher_momentum=1.0,
    )
    for epoch in (0.0, 1.0, 2.5, 4.0, 10.0):
        set_to = module.before_step(epoch)
        assert set_to["teacher_temp"] == pytest.approx(np.interp(epoch, [0, 4], [0.02, 0.06]))
        expected = 1 - 0.1 * (1 + math.cos(math.pi * epoch / 10)) / 2
        assert set_to["teacher_momentum"] == pytest.approx(expected)


def test_per_channel_networks_train_as_if_alone() -> None:
    """Loss and gradients of channel b equal those of a run that has channel b only."""
    module, views = distillation("per_channel", targets="center"), views_of()
    targets = module.target(views, torch.zeros(4))
    module.loss(module.trainable, views, targets)[0].backward()
    alone = SelfDistillation(
        networks_of("per_channel", ("b",)),
        networks_of("per_channel", ("b",)),
        options=module.options,
        epochs=10,
    )
    for ours, theirs in ((alone.trainable, module.trainable), (alone.teacher, module.teacher)):
        ours.networks.networks[0].load_state_dict(theirs.networks.networks[1].state_dict())
        ours.heads[0].load_state_dict(theirs.heads[1].state_dict())
    alone.center.copy_(module.center[1:2])
    alone.before_step(3.0)
    of_b = [view[:, :, 1:2] for view in views]
    alone.loss(alone.trainable, of_b, alone.target(of_b, torch.zeros(4)))[0].backward()
    pairs = [
        (alone.trainable.networks.networks[0], module.trainable.networks.networks[1]),
        (alone.trainable.heads[0], module.trainable.heads[1]),
    ]
    for ours, theirs in pairs:
        wanted = gradients_of(theirs)
        for name, gradient in gradients_of(ours).items():
            torch.testing.assert_close(gradient, wanted[name], rtol=1e-4, atol=1e-7, msg=name)


def test_a_channel_s_loss_leaves_the_other_networks_alone() -> None:
    module, views = distillation("per_channel"), views_of()
    targets = module.target(views, torch.zeros(4))
    _, scores = module.trainable(views)
    z = logits(*scores[1]).flatten(0, 1)
    functional.cross_entropy(z, targets[1][0].repeat(5, 1)).backward()
    touched = [
        any(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())
        for network in module.trainable.networks.networks
    ]
    assert touched == [False, True, False]


def test_distillation_diagnostics_are_of_the_last_targets_and_features() -> None:
    from wsdino.train.metrics import effective_rank, entropy, spread

    module, views = distillation("per_channel", targets="center"), views_of()
    targets = module.target(views, torch.zeros(4))
    found = module.diagnostics()
    assert found["teacher_entropy_max"] == pytest.approx(math.log(12))
    assert found["teacher_entropy"] == pytest.approx(
        float(torch.stack([entropy(p).mean() for p in targets]).mean())
    )
    assert found["assignment_entropy"] == pytest.approx(
        float(torch.stack([entropy(p.mean(dim=(0, 1))) for p in targets]).mean())
    )
    features = [
        torch.cat([backbone(inputs_of("per_channel", view, i)) for view in views[0]])
        for i, backbone in enumerate(module.teacher.networks.networks)
    ]
    assert found["embedding_std"] == pytest.approx(np.mean([float(spread(x)) for x in features]))
    assert found["embedding_rank"] == pytest.approx(
        np.mean([float(effective_rank(x)) for x in features]), rel=1e-4
    )


@pytest.mark.parametrize("mode", ["joint", "shared", "per_channel"])
def test_classification_equals_the_naive_loss(mode: str) -> None:
    torch.manual_seed(5)
    module = Classification(networks_of(mode), num_labels=5)
    views, labels = views_of(), torch.tensor([0, 3, 1, 3])
    targets = module.target(views, labels)
    loss, metrics = module.loss(module.trainable, views, targets)
    losses, right = [], []
    for network in range(len(module.trainable.heads)):
        terms = []
        for z in naive_logits(module.trainable, mode, views, network):
            wanted = (
                labels if mode != "shared" else torch.tensor([0] * 3 + [3] * 3 + [1] * 3 + [3] * 3)
            )
            terms += [-torch.log_softmax(row, 0)[y] for row, y in zip(z, wanted, strict=True)]
            right += [float(row.argmax() == y) for row, y in zip(z, wanted, strict=True)]
        losses.append(torch.stack(terms).mean())
    expected = torch.stack(losses).sum()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert metrics["loss"].item() == pytest.approx(expected.item() / len(losses), rel=1e-5)
    assert metrics["accuracy"].item() == pytest.approx(np.mean(right))
    assert module.exported() is module.trainable.networks
    assert set(module.diagnostics()) == {"embedding_std", "embedding_rank"}


def test_distillation_exports_the_teacher() -> None:
    module = distillation()
    assert module.exported() is module.teacher.networks
