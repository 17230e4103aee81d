"""AdamW, its parameter groups, and the treatment of gradients before a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def adamw(module: nn.Module) -> torch.optim.AdamW:
    """Make AdamW with two groups: with weight decay, and without (biases, norms, gains).

    Learning rate and weight decay are set before each step (:func:`set_schedule`).
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    # A gain has as many rows as there are prototypes but one number in each: a vector too.
    is_vector = [p.numel() == p.shape[0] for p in parameters]
    groups = [
        {"params": [p for p, v in zip(parameters, is_vector, strict=True) if v == vector]}
        for vector in (False, True)
    ]
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=0.0, fused=True)


def set_schedule(optimiser: torch.optim.Optimizer, *, lr: float, weight_decay: float) -> None:
    """Set the learning rate of all parameter groups and the weight decay of the first."""
    for index, group in enumerate(optimiser.param_groups):
        group["lr"] = lr
        group["weight_decay"] = weight_decay if index == 0 else 0.0


def step_if_finite(optimiser: torch.optim.Optimizer, numbers: Tensor) -> None:
    """Take a step if all numbers are finite, else leave weights and state unchanged.

    The decision is made on the device without reading from it, so that it never idles.

    Parameters
    ----------
    optimiser
        A fused one; its step looks for `found_inf`, as ``torch.amp.GradScaler`` sets it.
    numbers
        (n,) on the device of the weights.
    """
    optimiser.found_inf = (~numbers.isfinite().all()).float()  # type: ignore[attr-defined]
    optimiser.step()
    del optimiser.found_inf  # type: ignore[attr-defined]


def restorer(module: nn.Module) -> Callable[[], None]:
    """Remember a module's buffers, running statistics among them; what is returned restores them.

    A forward pass changes them before it is known whether its step is skipped.
    """
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]

    def restore() -> None:
        for buffer, before in kept:
            buffer.copy_(before)

    return restore


def clip_gradients(networks: Iterable[Iterable[Tensor]], max_norm: float | None) -> Tensor:
    """Clip the gradient norm of each network separately; return the largest norm before clipping.

    A non-finite norm makes the gradients non-finite; such a step is skipped.
    """
    norms = []
    for parameters in networks:
        given = [p for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in given if p.grad is not None])
        if max_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(given, max_norm, norm)
        norms.append(norm)
    # NaN if any of them is.
    return torch.stack(norms).amax()
