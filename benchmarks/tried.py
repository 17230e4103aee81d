"""What was tried for the step, each beside what is used: `python benchmarks/tried.py`.

Attention of a ViT under bfloat16 (torch's fused kernel, the same in float32, ours), channels_last
in the convolutional stem, and an upper bound of what packing two resolutions into one batch could
save: the linear layers alone. One thread and CPU time, so that other processes matter less.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from timing import machine
from wsdino.model.backbone import ConvStem
from wsdino.model.precision import matmul_attention

if TYPE_CHECKING:
    from collections.abc import Callable

REPEATS = 7


def cpu_ms(work: Callable[[], object]) -> float:
    """Least CPU time of one call, in ms."""
    work()
    times = []
    for _ in range(REPEATS):
        before = time.process_time()
        work()
        times.append(time.process_time() - before)
    return 1e3 * min(times)


def in_float32(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention with its inputs cast to float32 and its result cast back."""
    factors = (x.float() for x in (query, key, value))
    return functional.scaled_dot_product_attention(*factors).to(query.dtype)


def attention(num: int, heads: int, length: int) -> str:
    """Forward and backward of attention in bfloat16, three ways."""
    x = torch.randn(num, length, 3, heads, 64).bfloat16()
    wanted = torch.randn(num, heads, length, 64).bfloat16()
    ways = {
        "fused": functional.scaled_dot_product_attention,
        "float32": in_float32,
        "ours": matmul_attention,
    }

    def run(way: Callable[..., Tensor]) -> None:
        leaf = x.clone().requires_grad_()
        way(*leaf.permute(2, 0, 3, 1, 4).unbind(0)).backward(wanted)

    cells = " | ".join(f"{cpu_ms(lambda way=way: run(way)):.1f}" for way in ways.values())
    return f"| attention, {num} x {heads} heads x {length} tokens: {', '.join(ways)} | {cells} |"


def stem(*, bfloat16: bool) -> str:
    """Forward and backward of the convolutional stem, contiguous and channels_last."""
    module = ConvStem(img_size=48, patch_size=8, in_chans=3, embed_dim=128)
    images = torch.randn(128, 3, 48, 48)

    def run(network: nn.Module, x: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            out = network(x)
        out.float().sum().backward()

    plain = cpu_ms(lambda: run(module, images))
    module = module.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    last = cpu_ms(lambda: run(module, images))
    kind = "bfloat16" if bfloat16 else "float32"
    return f"| stem in {kind}: contiguous, channels_last | {plain:.1f} | {last:.1f} | |"


def packing(*, bfloat16: bool) -> str:
    """Linear layers of one block over two resolutions, one after another and together."""
    block = nn.Sequential(nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384))
    few, many = torch.randn(2 * 2 * 197, 384), torch.randn(8 * 2 * 37, 384)

    def run(*parts: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            out = [block(part) for part in parts]
        torch.cat(out).float().sum().backward()

    apart, together = cpu_ms(lambda: run(few, many)), cpu_ms(lambda: run(torch.cat([few, many])))
    kind = "bfloat16" if bfloat16 else "float32"
    return f"| MLP in {kind}, 788 + 592 tokens: apart, packed | {apart:.1f} | {together:.1f} | |"


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(machine(torch.device("cpu")))
    print("\n| forward and backward, ms of CPU time | | | |\n|---|---|---|---|")
    for num, heads, length in ((128, 3, 37), (16, 6, 145), (8, 6, 197), (2, 6, 785)):
        print(attention(num, heads, length), flush=True)
    for bfloat16 in (False, True):
        print(stem(bfloat16=bfloat16), flush=True)
        print(packing(bfloat16=bfloat16), flush=True)


if __name__ == "__main__":
    main()
