"""A step on a GPU that isn't there: it mixes no devices and never needs a value on the host.

Torch's fake tensors have a shape and a device but no values. What would read a value off the
device, and so make it wait, or would compute with tensors of two devices, is an error. They have no
backward pass without a GPU; the loss computes its own gradient in the forward pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

from helpers_train import CHANNELS, TINY
from wsdino.model.building import build_networks
from wsdino.model.model import Model
from wsdino.model.names import ChannelMode
from wsdino.model.spec import ModelSpec
from wsdino.model.upload import numbered
from wsdino.train.crops import cut, draw_crops
from wsdino.train.learners.classify import Classification
from wsdino.train.learners.distill import SelfDistillation
from wsdino.train.objectives.distill import Options
from wsdino.train.optimiser import adamw, clip_gradients, set_schedule, step_if_finite
from wsdino.train.views import ViewPlan

if TYPE_CHECKING:
    from torch import Tensor

GPU = torch.device("cuda", 0)
VIEWS = (ViewPlan(num_views=2, size=24, area=(0.1, 0.3)), ViewPlan(num_views=3, size=16))


def pretend(module: nn.Module) -> None:
    """Let parameters and buffers lie on the GPU."""
    for part in module.modules():
        for name, value in part.named_parameters(recurse=False):
            fake = torch.empty(value.shape, device=GPU)
            part.register_parameter(name, nn.Parameter(fake, requires_grad=value.requires_grad))
        for name, value in part.named_buffers(recurse=False):
            part.register_buffer(name, torch.empty(value.shape, dtype=value.dtype, device=GPU))


def objective(kind: str, mode: ChannelMode) -> SelfDistillation | Classification:
    spec = ModelSpec(channels=CHANNELS, mode=mode, architecture=TINY)
    student, teacher = build_networks(spec, drop_path=0.1), build_networks(spec)
    if kind == "classify":
        return Classification(student, num_labels=3)
    options = Options(
        num_prototypes=16,
        head_hidden_dim=16,
        head_bottleneck_dim=8,
        targets=kind,  # type: ignore[arg-type]
        koleo_weight=0.1,
        head_batch_norm=True,
        norm_last_layer=False,
    )
    return SelfDistillation(student, teacher, options=options, epochs=10)


def cut_on_gpu() -> list[Tensor]:
    fields = torch.zeros(10, 2, 64, 80, dtype=torch.int16, device=GPU)
    rng, views = np.random.default_rng(0), []
    for view in VIEWS:
        draw = draw_crops(view, 4, field_shape=(64, 80), num_channels=2, rng=rng)
        cropped = cut(
            fields,
            rng.integers(0, 10, (view.num_views, 4)),
            draw,
            size=view.size,
            offset=torch.zeros(10, 2, device=GPU),
            gain=torch.ones(10, 2, device=GPU),
            clip=(-4, 8),
        )
        views.append(cropped.unflatten(0, (view.num_views, 4)))
    return views


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """Mode of tensors without values; pinning memory needs a driver."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    return FakeTensorMode(allow_non_fake_inputs=True)


@pytest.mark.parametrize("mode", get_args(ChannelMode))
@pytest.mark.parametrize("kind", ["center", "sinkhorn", "classify"])
def test_a_step_stays_on_its_device(nowhere: FakeTensorMode, kind: str, mode: ChannelMode) -> None:
    module = objective(kind, mode)
    with nowhere:
        pretend(module)
        module.train()
        optimiser = adamw(module.trainable)
        set_schedule(optimiser, lr=1e-3, weight_decay=0.1)
        module.before_step(5.0)
        views = cut_on_gpu()
        targets = module.target(views, torch.zeros(4, dtype=torch.int64, device=GPU))
        loss, measured = module.loss(module.trainable, views, targets)
        for parameter in module.trainable.parameters():
            parameter.grad = torch.empty_like(parameter)
        module.after_backward(5.0)
        norm = clip_gradients([module.trainable.parameters()], 3.0)
        numbers = torch.stack([loss.detach(), *measured.values(), norm])
        step_if_finite(optimiser, numbers)
        module.after_step()
        assert {x.device for x in (*views, *targets, numbers)} == {GPU}


@pytest.mark.filterwarnings("ignore:CUDA is not available:UserWarning")
@pytest.mark.parametrize("mode", get_args(ChannelMode))
def test_embedding_stays_on_its_device(nowhere: FakeTensorMode, mode: ChannelMode) -> None:
    spec = ModelSpec(channels=CHANNELS, mode=mode, architecture=TINY, tile=16)
    model = Model(spec, build_networks(spec))
    with nowhere:
        pretend(model.networks)
        model.device = GPU
        fields = torch.zeros(3, 2, 32, 40, dtype=torch.int16)
        vectors = model.vectors(fields, offset=torch.zeros(3, 2), gain=torch.ones(3, 2))
        assert vectors.device == GPU
        assert vectors.shape == (3, len(model.feature_names))


def test_threads_get_the_process_s_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a new thread ``cuda`` is the first GPU, whichever is the process's own."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert numbered("cuda") == torch.device("cuda", 3)
    assert numbered("cuda:1") == torch.device("cuda", 1)
    assert numbered(torch.device("cpu")) == torch.device("cpu")


def test_such_tensors_do_tell(nowhere: FakeTensorMode) -> None:
    """What the tests above look for is found."""
    with nowhere:
        x = torch.zeros(4, device=GPU)
        with pytest.raises(DataDependentOutputException):
            x.sum().item()
        with pytest.raises(DynamicOutputShapeException):
            x.nonzero()
        with pytest.raises(RuntimeError, match="device"):
            x + torch.zeros(4)
