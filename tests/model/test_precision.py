from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsdino.model import precision
from wsdino.model.backbone import small_vit, timm_backbone
from wsdino.model.precision import autocast, matmul_attention, uses_bfloat16

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")


def tensors_of(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in shapes
    ]


def with_gradients(attention: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Result of attention, and gradients of a product with fixed numbers."""
    result = attention(*inputs)
    fixed = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).reshape(result.shape)
    return [result, *torch.autograd.grad(result, inputs, fixed)]


@pytest.mark.parametrize("chunk", [1, 2 * 3 * 5 * 7, 2**22])
@pytest.mark.parametrize("length", [5, 1])
def test_attention_by_products_equals_torch_s(
    chunk: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "CHUNK_SCORES", chunk)
    inputs = tensors_of((5, 3, length, 4), (5, 3, 7, 4), (5, 3, 7, 4))
    found = with_gradients(matmul_attention, inputs)
    expected = with_gradients(functional.scaled_dot_product_attention, inputs)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_attention_in_bfloat16_is_close_to_float32() -> None:
    inputs = tensors_of(*[(4, 3, 37, 64)] * 3, dtype=torch.bfloat16)
    found = with_gradients(matmul_attention, inputs)
    exact = [x.detach().float().requires_grad_() for x in inputs]
    expected = with_gradients(functional.scaled_dot_product_attention, exact)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - theirs).norm() < 0.01 * theirs.norm()


def names_of(result: Tensor) -> set[str]:
    """Names of all nodes of a result's graph."""
    found, waiting = set(), [result.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.add(node)
            waiting += [following for following, _ in node.next_functions]
    return {node.name() for node in found}


def ours() -> nn.Module:
    return small_vit(
        in_channels=1,
        image_size=16,
        patch_size=8,
        dim=16,
        depth=2,
        num_heads=2,
        stem="conv",
        pool="token",
        drop_path=0.0,
    )


def of_timm(name: str) -> nn.Module:
    return timm_backbone(
        name, in_channels=1, image_size=32, pool="token", drop_path=0.0, pretrained=False
    )


@pytest.mark.parametrize(
    "build",
    [ours, lambda: of_timm("vit_tiny_patch16_224"), lambda: of_timm("deit_tiny_patch16_224")],
)
def test_every_backbone_is_served_inside_the_context_alone(build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network, images = build(), torch.randn(2, 1, 32, 32)
    for enabled in (True, False):
        with autocast(CPU, enabled=enabled):
            result = network(images)
        assert ("_AttentionBackward" in names_of(result)) == enabled
        assert (result.dtype == torch.bfloat16) <= enabled
    with autocast(CPU, enabled=True), torch.no_grad():
        rounded = network(images)
    exact = network(images)
    assert "_AttentionBackward" not in names_of(exact), "nothing is left behind"
    torch.testing.assert_close(rounded.float(), exact, rtol=0.05, atol=0.05)


def test_masks_and_causal_attention_stay_with_torch() -> None:
    query, key, value = tensors_of(*[(2, 2, 5, 4)] * 3, dtype=torch.float32)
    mask = torch.ones(5, 5, dtype=torch.bool).tril()
    for options in ({"attn_mask": mask}, {"is_causal": True}, {"scale": 0.3}):
        with autocast(CPU, enabled=True):
            found = functional.scaled_dot_product_attention(query, key, value, **options)
        exact = functional.scaled_dot_product_attention(query, key, value, **options)
        assert "_AttentionBackward" not in names_of(found)
        torch.testing.assert_close(found.float(), exact, rtol=0.03, atol=0.03)


def test_bfloat16_is_automatic_where_there_are_matrix_units() -> None:
    assert uses_bfloat16("auto", torch.device("cuda"))
    has_amx = torch.cpu._is_amx_tile_supported()  # noqa: SLF001 torch has no public name
    assert uses_bfloat16("auto", CPU) == has_amx
    for device in (CPU, torch.device("cuda")):
        assert uses_bfloat16("bfloat16", device)
        assert not uses_bfloat16("float32", device)
