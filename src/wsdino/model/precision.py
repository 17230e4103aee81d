"""Mixed precision: where bfloat16 is faster, and attention that is also fast in it on a CPU."""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from wsdino.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from wsdino.model.names import Precision

CHUNK_SCORES = 2**22
"""Number of attention scores in memory at a time (8 MiB of bfloat16)."""


def uses_bfloat16(
    precision: Precision, device: torch.device, *, is_convolutional: bool = False
) -> bool:
    """Whether products are computed in bfloat16.

    Parameters
    ----------
    precision
        The configured precision; ``auto``: bfloat16 if the device has matrix units for it: a GPU's
        tensor cores or a CPU's AMX tiles.
    device
        Where the products are computed.
    is_convolutional
        Whether they are those of a convolutional network.

    Raises
    ------
    ConfigError
        bfloat16 is asked for where its gradients are wrong now and then: on a CPU, PyTorch's
        strided depthwise convolutions of very small maps read memory that isn't theirs.
    """
    on_cpu = device.type == "cpu"
    if precision == "bfloat16" and on_cpu and is_convolutional:
        raise ConfigError(
            "train.precision bfloat16: on a CPU, gradients of convolutional networks are wrong now "
            "and then; set auto or float32"
        )
    if precision != "auto":
        return precision == "bfloat16"
    if on_cpu and is_convolutional:
        return False
    if on_cpu:
        return torch.cpu._is_amx_tile_supported()  # noqa: SLF001 no public name in torch 2.11
    return device.type == "cuda"


@contextmanager
def autocast(device: torch.device, *, enabled: bool) -> Iterator[None]:
    """Compute products in bfloat16 inside this context, if enabled.

    On a CPU, attention that needs a gradient then goes through :func:`matmul_attention`, in any
    network that calls torch's ``scaled_dot_product_attention``.

    Parameters
    ----------
    device
        Where the products are computed.
    enabled
        False: the context does nothing.
    """
    with ExitStack() as contexts:
        contexts.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=enabled))
        if enabled and device.type == "cpu":
            contexts.enter_context(_MatmulAttention())
        yield


class _MatmulAttention(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention and torch.is_grad_enabled():
            # Masks, dropout and the like are left to torch.
            without_options = all(
                value is None or (isinstance(value, bool | float) and not value)
                for value in kwargs.values()
            )
            if len(args) == 3 and args[0].ndim == 4 and without_options:
                return matmul_attention(*(x.to(torch.bfloat16) for x in args))
        return func(*args, **kwargs)


def matmul_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention as three products, a chunk of the batch at a time.

    The same as ``torch.nn.functional.scaled_dot_product_attention`` without mask and dropout. On
    CPUs its fused kernel leaves the matrix units idle in the backward pass, and more so in
    bfloat16. As there, the memory kept for the backward pass does not grow with the square of N.

    Parameters
    ----------
    query
        (B, heads, N, D).
    key, value
        (B, heads, M, D).

    Returns
    -------
    Tensor
        (B, heads, N, D).
    """
    result: Tensor = _Attention.apply(query, key, value)
    return result


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        result = torch.empty_like(query)
        for part in _chunks(query, key):
            result[part] = _weights(query[part], key[part]) @ value[part]
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = ctx.saved_tensors
        by_query, by_key, by_value = (torch.empty_like(x) for x in (query, key, value))
        for part in _chunks(query, key):
            gradient, weights = gradients[0][part], _weights(query[part], key[part])
            by_value[part] = weights.transpose(-1, -2) @ gradient
            by_scores = torch.ops.aten._softmax_backward_data(  # noqa: SLF001 no public name
                gradient @ value[part].transpose(-1, -2), weights, -1, weights.dtype
            )
            by_query[part] = by_scores @ (key[part] * _scale(key))
            by_key[part] = by_scores.transpose(-1, -2) @ (query[part] * _scale(query))
        return by_query, by_key, by_value


def _chunks(query: Tensor, key: Tensor) -> list[slice]:
    num_images, num_heads, length, _ = query.shape
    size = max(1, CHUNK_SCORES // (num_heads * length * key.shape[2]))
    return [slice(start, start + size) for start in range(0, num_images, size)]


def _weights(query: Tensor, key: Tensor) -> Tensor:
    return ((query * _scale(query)) @ key.transpose(-1, -2)).softmax(dim=-1)


def _scale(x: Tensor) -> float:
    return 1 / math.sqrt(x.shape[-1])
