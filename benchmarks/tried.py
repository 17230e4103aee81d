"""Alternatives tried for the training step, beside what is used: `python benchmarks/tried.py`.

Attention of a ViT under bfloat16 (torch's fused kernel, the same in float32, ours), channels_last
in the convolutional stem, and an upper bound of what packing two resolutions into one batch could
save: the linear layers alone. One thread and CPU time, so that other processes matter less.

With `--device cuda` the batches are larger, times are the device's, and a whole block is packed,
with torch's attention for sequences of several lengths. CUDA graphs are tried by `train_step.py`.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from timing import machine, seconds
from wsdino.model.backbone import ConvStem
from wsdino.model.precision import matmul_attention

if TYPE_CHECKING:
    from collections.abc import Callable

REPEATS = 7
CALLS_ON_GPU = 20


def least_ms(work: Callable[[], object], device: torch.device) -> float:
    """Shortest time of one call in ms: of the CPU, or of a GPU that is kept busy."""
    work()
    if device.type == "cuda":
        return (
            1e3 * min(seconds(lambda: several(work), device) for _ in range(REPEATS)) / CALLS_ON_GPU
        )
    times = []
    for _ in range(REPEATS):
        before = time.process_time()
        work()
        times.append(time.process_time() - before)
    return 1e3 * min(times)


def several(work: Callable[[], object]) -> None:
    """Call again and again."""
    for _ in range(CALLS_ON_GPU):
        work()


def in_float32(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention with its inputs cast to float32 and its result cast back."""
    factors = (x.float() for x in (query, key, value))
    return functional.scaled_dot_product_attention(*factors).to(query.dtype)


def attention(num: int, heads: int, length: int, device: torch.device) -> str:
    """Forward and backward of attention in bfloat16, three ways."""
    x = torch.randn(num, length, 3, heads, 64, device=device).bfloat16()
    wanted = torch.randn(num, heads, length, 64, device=device).bfloat16()
    ways = {
        "fused": functional.scaled_dot_product_attention,
        "float32": in_float32,
        "ours": matmul_attention,
    }

    def run(way: Callable[..., Tensor]) -> None:
        leaf = x.clone().requires_grad_()
        way(*leaf.permute(2, 0, 3, 1, 4).unbind(0)).backward(wanted)

    cells = [f"{least_ms(lambda way=way: run(way), device):.3g}" for way in ways.values()]
    title = f"attention, {num} x {heads} heads x {length} tokens: {', '.join(ways)}"
    return f"| {title} | {' | '.join(cells)} |"


def stem(num: int, device: torch.device, *, bfloat16: bool) -> str:
    """Forward and backward of the convolutional stem, contiguous and channels_last."""
    module = ConvStem(img_size=48, patch_size=8, in_chans=3, embed_dim=128).to(device)
    images = torch.randn(num, 3, 48, 48, device=device)

    def run(network: nn.Module, x: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            out = network(x)
        out.float().sum().backward()

    plain = least_ms(lambda: run(module, images), device)
    module = module.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=torch.channels_last)
    last = least_ms(lambda: run(module, images), device)
    kind = "bfloat16" if bfloat16 else "float32"
    return f"| stem in {kind}: contiguous, channels_last | {plain:.3g} | {last:.3g} | |"


def packing(num: int, device: torch.device, *, bfloat16: bool) -> str:
    """Linear layers of one block over two resolutions, one after another and together."""
    block = nn.Sequential(nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384)).to(device)
    few, many = (torch.randn(num * n, 384, device=device) for n in (2 * 197, 8 * 37))

    def run(*parts: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            out = [block(part) for part in parts]
        torch.cat(out).float().sum().backward()

    apart = least_ms(lambda: run(few, many), device)
    together = least_ms(lambda: run(torch.cat([few, many])), device)
    title = f"MLP in {'bfloat16' if bfloat16 else 'float32'}, {len(few)} + {len(many)} tokens"
    return f"| {title}: apart, packed | {apart:.3g} | {together:.3g} | |"


class Block(nn.Module):
    """A block of ViT-S whose attention is given with the call."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(384) for _ in range(2))
        self.qkv, self.proj = nn.Linear(384, 1152), nn.Linear(384, 384)
        self.mlp = nn.Sequential(nn.Linear(384, 1536), nn.GELU(), nn.Linear(1536, 384))

    def forward(self, tokens: Tensor, attend: Callable[..., Tensor]) -> Tensor:
        """Tokens (n, 384); `attend` takes and gives (n, 6, 64)."""
        factors = self.qkv(self.norms[0](tokens)).view(-1, 3, 6, 64).unbind(1)
        tokens = tokens + self.proj(attend(*factors).flatten(1))
        result: Tensor = tokens + self.mlp(self.norms[1](tokens))
        return result


def packed_block(num: int, patch: int, device: torch.device) -> str:
    """Forward and backward of a whole block over two resolutions, apart and packed."""
    from torch.nn.attention.varlen import varlen_attn

    lengths = [(size // patch) ** 2 + 1 for size in (224, 96)]
    counts = [2 * num, 8 * num]
    block = Block().to(device)
    parts = [
        torch.randn(count * length, 384, device=device)
        for count, length in zip(counts, lengths, strict=True)
    ]
    each = torch.tensor(lengths, device=device).repeat_interleave(
        torch.tensor(counts, device=device)
    )
    ends = nn.functional.pad(each.cumsum(0), (1, 0)).to(torch.int32)

    def alike(length: int) -> Callable[..., Tensor]:
        def attend(*factors: Tensor) -> Tensor:
            heads = (x.unflatten(0, (-1, length)).transpose(1, 2) for x in factors)
            found: Tensor = functional.scaled_dot_product_attention(*heads)
            return found.transpose(1, 2).flatten(0, 1)

        return attend

    def mixed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        found: Tensor = varlen_attn(query, key, value, ends, ends, lengths[0], lengths[0])
        return found

    def run(tokens: list[Tensor], ways: list[Callable[..., Tensor]]) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            out = [block(part, way) for part, way in zip(tokens, ways, strict=True)]
        torch.cat(out).float().sum().backward()

    apart = least_ms(lambda: run(parts, [alike(length) for length in lengths]), device)
    together = least_ms(lambda: run([torch.cat(parts)], [mixed]), device)
    title = f"block in bfloat16, {len(parts[0])} + {len(parts[1])} tokens: apart, packed"
    return f"| {title} | {apart:.3g} | {together:.3g} | |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    torch.manual_seed(0)
    on_gpu = device.type == "cuda"
    if not on_gpu:
        torch.set_num_threads(1)
    print(machine(device))
    print("\n| forward and backward, ms of one call | | | |\n|---|---|---|---|")
    shapes = ((128, 3, 37), (16, 6, 145), (8, 6, 197), (2, 6, 785))
    if on_gpu:
        shapes = ((256, 6, 37), (256, 6, 145), (64, 6, 197), (64, 6, 785))
    for num, heads, length in shapes:
        print(attention(num, heads, length, device), flush=True)
    for bfloat16 in (False, True):
        print(stem(1024 if on_gpu else 128, device, bfloat16=bfloat16), flush=True)
        print(packing(32 if on_gpu else 2, device, bfloat16=bfloat16), flush=True)
    if on_gpu:
        for patch in (16, 8):
            print(packed_block(32, patch, device), flush=True)


if __name__ == "__main__":
    main()
