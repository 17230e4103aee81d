"""Networks of published models, written anew in plain torch from what their code states.

States are random, in the layout and under the names of each code's own files.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    State = dict[str, Tensor]


class Chance:
    """Random weights of a seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 0.05, around: float = 0.0) -> Tensor:
        return around + scale * torch.randn(shape, generator=self.generator)


def linear(state: State, name: str, made: tuple[Tensor, Tensor | None]) -> None:
    state[f"{name}.weight"] = made[0]
    if made[1] is not None:
        state[f"{name}.bias"] = made[1]


def vit_state(
    *,
    dim: int,
    depth: int,
    patch: int,
    positions: int,
    channels: int = 3,
    chunks: int = 0,
    scales: bool = True,
    gated: bool = False,
    seed: int = 0,
) -> State:
    """As DINO (`scales` false), DINOv2 or, without positions, DINOv3 save a vision transformer."""
    chance, state = Chance(seed), {}
    state["cls_token"] = chance(1, 1, dim)
    if positions:
        state["pos_embed"] = chance(1, 1 + positions, dim)
    linear(state, "patch_embed.proj", (chance(dim, channels, patch, patch), chance(dim)))
    for i in range(depth):
        block = f"blocks.{i // (depth // chunks)}.{i}" if chunks else f"blocks.{i}"
        for norm in ("norm1", "norm2"):
            linear(state, f"{block}.{norm}", (chance(dim, around=1), chance(dim)))
        linear(state, f"{block}.attn.qkv", (chance(3 * dim, dim), chance(3 * dim)))
        linear(state, f"{block}.attn.proj", (chance(dim, dim), chance(dim)))
        layers = ("w1", "w2") if gated else ("fc1",)
        for layer in layers:
            linear(state, f"{block}.mlp.{layer}", (chance(4 * dim, dim), chance(4 * dim)))
        last = "w3" if gated else "fc2"
        linear(state, f"{block}.mlp.{last}", (chance(dim, 4 * dim), chance(dim)))
        if scales:
            state[f"{block}.ls1.gamma"] = chance(dim, scale=0.2, around=0.5)
            state[f"{block}.ls2.gamma"] = chance(dim, scale=0.2, around=0.5)
    linear(state, "norm", (chance(dim, around=1), chance(dim)))
    return state


def dinov2_state(*, registers: int = 0, seed: int = 0, **shape: int) -> State:
    state, chance = vit_state(seed=seed, **shape), Chance(seed + 1)
    state["mask_token"] = chance(1, shape["dim"])
    if registers:
        state["register_tokens"] = chance(1, registers, shape["dim"])
    return state


def dinov3_state(*, seed: int = 0, **shape: int) -> State:
    """With the mask that leaves the keys without a bias, where no number is kept."""
    dim, chance = shape["dim"], Chance(seed + 1)
    state = vit_state(seed=seed, positions=0, **shape)
    state |= {"mask_token": chance(1, dim), "storage_tokens": chance(1, 4, dim)}
    state["rope_embed.periods"] = periods(64)
    for name in [name for name in state if name.endswith("qkv.bias")]:
        mask = torch.ones(3, dim)
        mask[1] = 0
        state[f"{name}_mask"] = mask.flatten()
        state[name].view(3, dim)[1] = math.nan
    return state


def normed(state: State, name: str, x: Tensor, *, eps: float) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    spread = (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt()
    return centred / spread * state[f"{name}.weight"] + state[f"{name}.bias"]


def applied(state: State, name: str, x: Tensor) -> Tensor:
    bias = state.get(f"{name}.bias")
    mask = state.get(f"{name}.bias_mask")
    if mask is not None:
        bias = torch.where(mask == 1, bias, torch.zeros(()))
    y = x @ state[f"{name}.weight"].T
    return y if bias is None else y + bias


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def patches(state: State, images: Tensor, name: str = "patch_embed.proj") -> Tensor:
    """(N, C, H, W) -> (N, rows, columns, D), a product with each patch."""
    weight = state[f"{name}.weight"]
    side = weight.shape[-1]
    cut = images.unfold(2, side, side).unfold(3, side, side)
    return torch.einsum("nchwij,dcij->nhwd", cut, weight) + state[f"{name}.bias"]


def resized(positions: Tensor, grid: Sequence[int], *, exact: bool) -> Tensor:
    """(1, side * side, D) -> (1, rows * columns, D): to the exact size, or by DINO's tenth."""
    side = math.isqrt(positions.shape[1])
    if tuple(grid) == (side, side):
        return positions
    square = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if exact:
        found = functional.interpolate(square, size=tuple(grid), mode="bicubic", antialias=True)
    else:
        factor = [(num + 0.1) / side for num in grid]
        found = functional.interpolate(square, scale_factor=factor, mode="bicubic")
    return found.permute(0, 2, 3, 1).flatten(1, 2)


def blocks_of(state: State) -> list[str]:
    """Names of the blocks in order; in chunks they are numbered through."""
    names = {name.partition(".norm1.")[0] for name in state if ".norm1." in name}
    return sorted(names, key=lambda name: int(name.rpartition(".")[2]))


def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(N, heads, T, d) -> (N, T, heads * d)."""
    weights = (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(dim=-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def in_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def periods(head_dim: int) -> Tensor:
    return 100.0 ** (2 * torch.arange(head_dim // 4) / (head_dim // 2))


def rotated(x: Tensor, grid: Sequence[int], num_prefix: int) -> Tensor:
    """DINOv3's rotary positions of the patches, between -1 and 1 along each axis."""
    rows, columns = ((2 * (torch.arange(num) + 0.5) / num - 1) for num in grid)
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
    angles = (2 * math.pi * places[:, :, None] / periods(x.shape[-1])).flatten(1).repeat(1, 2)
    first, second = x[:, :, num_prefix:].chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    found = x[:, :, num_prefix:] * angles.cos() + turned * angles.sin()
    return torch.cat([x[:, :, :num_prefix], found], dim=2)


def vit_embedding(
    state: State, images: Tensor, *, heads: int, exact: bool = False, eps: float = 1e-6
) -> Tensor:
    """[CLS] of DINO, DINOv2 and DINOv3: (N, C, H, W) -> (N, D)."""
    x = patches(state, images)
    grid, num = x.shape[1:3], len(x)
    x = torch.cat([state["cls_token"].expand(num, -1, -1), x.flatten(1, 2)], dim=1)
    rotary = "pos_embed" not in state
    if not rotary:
        positions = state["pos_embed"]
        x = x + torch.cat([positions[:, :1], resized(positions[:, 1:], grid, exact=exact)], dim=1)
    for name in ("register_tokens", "storage_tokens"):
        if name in state:
            x = torch.cat([x[:, :1], state[name].expand(num, -1, -1), x[:, 1:]], dim=1)
    one = torch.ones(())
    for block in blocks_of(state):
        y = applied(state, f"{block}.attn.qkv", normed(state, f"{block}.norm1", x, eps=eps))
        query, key, value = (in_heads(part, heads) for part in y.chunk(3, dim=-1))
        if rotary:
            prefix = x.shape[1] - grid[0] * grid[1]
            query, key = rotated(query, grid, prefix), rotated(key, grid, prefix)
        y = applied(state, f"{block}.attn.proj", attended(query, key, value))
        x = x + state.get(f"{block}.ls1.gamma", one) * y
        y = normed(state, f"{block}.norm2", x, eps=eps)
        if f"{block}.mlp.w3.weight" in state:
            gate = applied(state, f"{block}.mlp.w1", y)
            y = gate * torch.sigmoid(gate) * applied(state, f"{block}.mlp.w2", y)
            y = applied(state, f"{block}.mlp.w3", y)
        else:
            y = applied(state, f"{block}.mlp.fc2", gelu(applied(state, f"{block}.mlp.fc1", y)))
        x = x + state.get(f"{block}.ls2.gamma", one) * y
    return normed(state, "norm", x[:, 0], eps=eps)


def sines(side: int, dim: int) -> Tensor:
    """OpenPhenom's fixed positions of a grid, number by number."""
    found = torch.zeros(side * side, dim)
    quarter = dim // 4
    for place in range(side * side):
        for i in range(quarter):
            for part, along in enumerate((place // side, place % side)):
                phase = along / 10_000 ** (i / quarter)
                found[place, 2 * part * quarter + i] = math.sin(phase)
                found[place, (2 * part + 1) * quarter + i] = math.cos(phase)
    return found


def openphenom_state(*, dim: int = 384, depth: int = 12, heads: int = 6, seed: int = 0) -> State:
    """An encoder with positions for eleven channels, and a bit of the decoder."""
    chance, encoder = Chance(seed), {}
    places = sines(16, dim).repeat(11, 1)
    encoder["cls_token"] = chance(1, 1, dim)
    encoder["pos_embed"] = torch.cat([torch.zeros(1, dim), places])[None]
    linear(encoder, "patch_embed.proj", (chance(dim, 1, 16, 16), chance(dim)))
    for block in (f"blocks.{i}" for i in range(depth)):
        encoder[f"{block}.mlp_bias"] = chance(4 * dim)
        encoder[f"{block}.ls.gamma"] = chance(dim, scale=0.2, around=0.5)
        linear(encoder, f"{block}.in_norm", (chance(dim, around=1), chance(dim)))
        linear(encoder, f"{block}.in_proj", (chance(7 * dim, dim), None))
        for norm in ("q_norm", "k_norm"):
            linear(
                encoder, f"{block}.{norm}", (chance(dim // heads, around=1), chance(dim // heads))
            )
        linear(encoder, f"{block}.attn_out_proj", (chance(dim, dim), chance(dim)))
        linear(encoder, f"{block}.mlp_out_proj", (chance(dim, 4 * dim), chance(dim)))
    linear(encoder, "fc_norm", (chance(dim, around=1), chance(dim)))
    state = {f"encoder.vit_backbone.{name}": value for name, value in encoder.items()}
    linear(state, "encoder_decoder_proj", (chance(512, dim), chance(512)))
    state["decoder.mask_token"] = chance(1, 1, 512)
    return state


def openphenom_embedding(state: State, images: Tensor, *, heads: int = 6) -> Tensor:
    """The mean over all patches of 8-bit images (N, C, 256, 256): (N, D)."""
    state = {name.removeprefix("encoder.vit_backbone."): value for name, value in state.items()}
    pixels = images.double() / 255
    spread = (pixels.var(dim=(2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    pixels = ((pixels - pixels.mean(dim=(2, 3), keepdim=True)) / spread).float()
    tokens = [patches(state, pixels[:, i : i + 1]).flatten(1, 2) for i in range(pixels.shape[1])]
    x = torch.cat([state["cls_token"].expand(len(images), -1, -1), *tokens], dim=1)
    x = x + state["pos_embed"][:, : x.shape[1]]
    for block in (f"blocks.{i}" for i in range(sum(".in_proj." in name for name in state))):
        y = applied(state, f"{block}.in_proj", normed(state, f"{block}.in_norm", x, eps=1e-6))
        dim = x.shape[-1]
        wide, *parts = y.split([4 * dim, dim, dim, dim], dim=-1)
        query, key, value = (in_heads(part, heads) for part in parts)
        query = normed(state, f"{block}.q_norm", query, eps=1e-6)
        key = normed(state, f"{block}.k_norm", key, eps=1e-6)
        y = applied(state, f"{block}.attn_out_proj", attended(query, key, value))
        y = y + applied(state, f"{block}.mlp_out_proj", gelu(wide + state[f"{block}.mlp_bias"]))
        x = x + state[f"{block}.ls.gamma"] * y
    return x[:, 1:].mean(dim=1)
