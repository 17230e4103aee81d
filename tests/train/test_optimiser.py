from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from wsdino.model.backbone import small_vit
from wsdino.train.head import DINOHead
from wsdino.train.learners.base import update_ema
from wsdino.train.optimiser import adamw, clip_gradients, set_schedule, step_if_finite


def test_decay_is_for_matrices_and_kernels_alone() -> None:
    vit = small_vit(
        in_channels=1,
        image_size=16,
        patch_size=8,
        dim=16,
        depth=1,
        num_heads=2,
        stem="conv",
        pool="token",
        drop_path=0.0,
    )
    module = nn.ModuleDict({"vit": vit, "head": DINOHead(16, 32, norm_last_layer=False)})
    optimiser = adamw(module)
    names = {id(p): name for name, p in module.named_parameters()}
    decayed, spared = ({names[id(p)] for p in g["params"]} for g in optimiser.param_groups)
    assert decayed | spared == set(names.values())
    norms = {
        f"{name}.weight" for name, part in module.named_modules() if isinstance(part, nn.LayerNorm)
    }
    assert norms
    assert spared == norms | {name for name in names.values() if name.endswith(("bias", "gain"))}
    # A convolution of 1 x 1 is a matrix, though its last axis has length one.
    assert any(module.get_parameter(name).shape[2:] == (1, 1) for name in decayed)


def test_frozen_parameters_are_left_to_nobody() -> None:
    head = DINOHead(4, 8, norm_last_layer=True)
    given = {id(p) for group in adamw(head).param_groups for p in group["params"]}
    assert id(head.gain) not in given
    assert id(head.prototypes) in given


def test_schedule_reaches_the_groups_and_the_step_is_adamw_s() -> None:
    layer = nn.Linear(3, 2)
    reference = copy.deepcopy(layer)
    optimiser = adamw(layer)
    set_schedule(optimiser, lr=0.01, weight_decay=0.5)
    torch_s = torch.optim.AdamW(
        [
            {"params": [reference.weight], "weight_decay": 0.5},
            {"params": [reference.bias], "weight_decay": 0.0},
        ],
        lr=0.01,
    )
    for _ in range(3):
        for module, each in ((layer, optimiser), (reference, torch_s)):
            module(torch.ones(4, 3)).square().sum().backward()
            each.step()
            each.zero_grad()
    torch.testing.assert_close(layer.weight, reference.weight)
    torch.testing.assert_close(layer.bias, reference.bias)


def parameters_with_gradients(*gradients: float | None) -> list[nn.Parameter]:
    parameters = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(4))
        parameter.grad = None if gradient is None else torch.full((4,), gradient)
        parameters.append(parameter)
    return parameters


def test_each_network_is_clipped_by_itself() -> None:
    large, small = parameters_with_gradients(3.0, None, 4.0), parameters_with_gradients(0.1)
    norm = clip_gradients([large, small], 5.0)
    assert norm.item() == pytest.approx(10.0), "the norm before clipping"
    clipped = torch.cat([p.grad for p in large if p.grad is not None])
    assert float(clipped.norm()) == pytest.approx(5.0, rel=1e-5)
    assert float(clipped[0] / clipped[-1]) == pytest.approx(0.75)
    assert torch.equal(small[0].grad, torch.full((4,), 0.1))


def test_no_clipping_leaves_gradients_as_they_are() -> None:
    parameters = parameters_with_gradients(30.0)
    assert clip_gradients([parameters], None).item() == pytest.approx(60.0)
    assert (parameters[0].grad == 30).all()


def test_a_nan_in_any_network_shows_in_the_norm() -> None:
    bad, good = parameters_with_gradients(float("nan")), parameters_with_gradients(1.0)
    for order in ([bad, good], [good, bad]):
        assert clip_gradients(order, 1.0).isnan()


def test_moving_average_equals_the_formula_and_copies_buffers() -> None:
    torch.manual_seed(0)
    current = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = copy.deepcopy(current)
    for parameter in current.parameters():
        parameter.data.normal_()
    current(torch.randn(8, 3))  # moves the running statistics and counts the batch
    before = [p.clone() for p in average.parameters()]
    update_ema(average, current, momentum=0.9)
    for old, ours, theirs in zip(before, average.parameters(), current.parameters(), strict=True):
        torch.testing.assert_close(ours, 0.9 * old + 0.1 * theirs)
    for ours, theirs in zip(average.buffers(), current.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert int(average[1].num_batches_tracked) == 1


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_moving_average_at_its_ends(momentum: float) -> None:
    average, current = nn.Linear(2, 2), nn.Linear(2, 2)
    expected = (current if momentum == 0 else average).weight.detach().clone()
    update_ema(average, current, momentum=momentum)
    assert torch.equal(average.weight, expected)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_leave_weights_and_state_as_they_are(number: float) -> None:
    """As if the step had not been asked for: all that follows is bit for bit the same."""
    layers = [nn.Linear(3, 2)]
    layers.append(copy.deepcopy(layers[0]))
    optimisers = [adamw(layer) for layer in layers]
    generator = torch.Generator().manual_seed(0)
    for turn in range(6):
        given = torch.randn(5, 3, generator=generator)
        is_bad = turn in (0, 3)
        for layer, optimiser, may_skip in zip(layers, optimisers, (True, False), strict=True):
            if is_bad and not may_skip:
                continue
            set_schedule(optimiser, lr=0.1, weight_decay=0.5)
            layer(given).square().sum().backward()
            numbers = torch.tensor([1.0, number if is_bad else 2.0])
            if is_bad:
                for parameter in layer.parameters():
                    assert parameter.grad is not None
                    parameter.grad.mul_(number)
            step_if_finite(optimiser, numbers)
            optimiser.zero_grad(set_to_none=True)
    for ours, theirs in zip(*(layer.parameters() for layer in layers), strict=True):
        assert torch.equal(ours, theirs)
    states = [optimiser.state_dict()["state"] for optimiser in optimisers]
    for index, state in states[1].items():
        assert {key: value.tolist() for key, value in state.items()} == {
            key: value.tolist() for key, value in states[0][index].items()
        }
        assert state["step"] == 4
