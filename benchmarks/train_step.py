"""Training steps side by side: `python benchmarks/train_step.py --out benchmarks/results ...`.

(a) ours, through the package's own objective and optimiser; (b) the same step written with
lightly's public parts (DINOProjectionHead, DINOLoss, update_momentum), views of one resolution
together, which is its faster way; (c) a plain float32 loop as the first WS-DINO code has it: a
softmax for every pair of views, one parameter after another in optimiser and moving average. All
have the same ViT from timm, batch, views and head, and take turns in one process. Needs the extra
`bench`.

Appends a table for each model to OUT/train_step.md, with the share of the measured matrix
peak that the step's model FLOPs come to, and what a profile of ours says about the rest.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from timing import machine, matrix_product, spread_of, synchronise, take_turns
from wsdino.model.model import Architecture, ModelSpec
from wsdino.model.precision import autocast
from wsdino.train.objectives import SelfDistillation
from wsdino.train.optimiser import adamw, clip_gradients, set_schedule
from wsdino.train.options import Distillation
from wsdino.train.train import initial_networks

if TYPE_CHECKING:
    from collections.abc import Callable

PROTOTYPES, HIDDEN, BOTTLENECK = 65_536, 2048, 256
LEARNING_RATE, STUDENT_TEMP, TEACHER_TEMP, MOMENTUM = 1e-5, 0.1, 0.04, 0.99
GROUPS = {
    "products": ("mm", "addmm", "bmm", "linear", "convolution", "mkldnn"),
    "attention": ("attention", "flash"),
    "optimiser and moving average": ("adam", "foreach", "lerp"),
    "normalisation and softmax": ("norm", "softmax", "logsumexp", "exp"),
    "copies and types": ("copy", "to_copy", "cat", "fill", "zero"),
}


def backbone_of(name: str, channels: int) -> nn.Module:
    """Build the ViT that all contenders share."""
    return timm.create_model(
        name, num_classes=0, in_chans=channels, dynamic_img_size=True, drop_path_rate=0.1
    )


def ours(
    name: str, views: list[Tensor], *, bfloat16: bool, compiled: bool = False
) -> Callable[[], object]:
    """Step (a)."""
    device, channels = views[0].device, views[0].shape[2]
    spec = ModelSpec(
        channels=tuple(map(str, range(channels))),
        mode="joint",
        architecture=Architecture(backbone=name, image_size=224),
    )
    module = SelfDistillation(
        initial_networks(spec, seed=0, drop_path=0.1),
        initial_networks(spec, seed=0),
        options=Distillation(
            num_prototypes=PROTOTYPES,
            head_hidden_dim=HIDDEN,
            head_bottleneck_dim=BOTTLENECK,
            targets="center",
            student_temp=STUDENT_TEMP,
            freeze_last_layer_epochs=0,
        ),
        epochs=100,
    )
    module = module.to(device).train()
    if compiled:
        module.compile_parts()
    optimiser = adamw(module.trainable)
    set_schedule(optimiser, lr=LEARNING_RATE, weight_decay=0.04)
    labels = torch.zeros(views[0].shape[1], dtype=torch.int64, device=device)

    def step() -> None:
        module.before_step(10.0)
        with autocast(device, enabled=bfloat16):
            targets = module.target(views, labels)
            loss, measured = module.loss(module.trainable, views, targets)
        loss.backward()
        module.after_backward(10.0)
        norm = clip_gradients([module.trainable.parameters()], 3.0)
        torch.stack([*measured.values(), norm]).tolist()
        optimiser.step()
        module.after_step()
        optimiser.zero_grad(set_to_none=True)

    return step


def lightly_s(name: str, views: list[Tensor], *, bfloat16: bool) -> Callable[[], object]:
    """Step (b)."""
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.utils import update_momentum

    device, channels = views[0].device, views[0].shape[2]
    student = backbone_of(name, channels).to(device).train()
    head, teacher_head = (
        DINOProjectionHead(student.num_features, HIDDEN, BOTTLENECK, PROTOTYPES).to(device)
        for _ in range(2)
    )
    teacher = copy.deepcopy(student).eval()
    teacher_head.load_state_dict(head.state_dict())
    for module in (teacher, teacher_head):
        module.requires_grad_(requires_grad=False)
    criterion = DINOLoss(PROTOTYPES, student_temp=STUDENT_TEMP).to(device)
    parameters = [*student.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.04)
    num_global, num_all = len(views[0]), sum(len(x) for x in views)

    def step() -> None:
        update_momentum(student, teacher, m=MOMENTUM)
        update_momentum(head, teacher_head, m=MOMENTUM)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            with torch.no_grad():
                targets = teacher_head(teacher(views[0].flatten(0, 1)))
            out = head(torch.cat([student(x.flatten(0, 1)) for x in views]))
            loss = criterion(
                list(targets.chunk(num_global)),
                list(out.chunk(num_all)),
                teacher_temp=TEACHER_TEMP,
            )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 3.0)
        loss.item()
        optimiser.step()

    return step


class PlainHead(nn.Module):
    """The head of (c): every layer by itself, the last with weight normalisation."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.GELU(),
            nn.Linear(HIDDEN, BOTTLENECK),
        )
        last = nn.Linear(BOTTLENECK, PROTOTYPES, bias=False)
        self.last = nn.utils.parametrizations.weight_norm(last)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (N, D) to logits (N, K)."""
        logits: Tensor = self.last(functional.normalize(self.mlp(features), dim=-1))
        return logits


def plain(name: str, views: list[Tensor]) -> Callable[[], object]:
    """Step (c)."""
    device, channels = views[0].device, views[0].shape[2]
    backbone = backbone_of(name, channels)
    student = nn.ModuleList([backbone, PlainHead(backbone.num_features)]).to(device).train()
    teacher = copy.deepcopy(student).eval().requires_grad_(requires_grad=False)
    optimiser = torch.optim.AdamW(
        student.parameters(), lr=LEARNING_RATE, weight_decay=0.04, foreach=False
    )
    center = torch.zeros(1, PROTOTYPES, device=device)
    num_global, num_all = len(views[0]), sum(len(x) for x in views)

    def step() -> None:
        with torch.no_grad():
            z = teacher[1](teacher[0](views[0].flatten(0, 1)))
            targets = ((z - center) / TEACHER_TEMP).softmax(dim=-1).chunk(num_global)
        features = torch.cat([student[0](x.flatten(0, 1)) for x in views])
        out = (student[1](features) / STUDENT_TEMP).chunk(num_all)
        terms = [
            (-p * q.log_softmax(dim=-1)).sum(dim=-1).mean()
            for t, p in enumerate(targets)
            for s, q in enumerate(out)
            if s != t
        ]
        loss = sum(terms[1:], terms[0]) / len(terms)
        optimiser.zero_grad()
        loss.item()
        loss.backward()
        for parameter in student.parameters():
            norm = parameter.grad.norm() if parameter.grad is not None else 0.0
            if norm > 3.0:
                parameter.grad.mul_(3.0 / norm)
        optimiser.step()
        with torch.no_grad():
            center.mul_(0.9).add_(z.mean(dim=0, keepdim=True), alpha=0.1)
            for ours_, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
                ours_.mul_(MOMENTUM).add_(theirs, alpha=1 - MOMENTUM)

    return step


def model_flops(name: str, channels: int) -> float:
    """Count the floating point operations that a step needs for one image."""
    step = plain(name, [x[:, :1] for x in views_of(1, channels, torch.device("cpu"))])
    # Attention by plain products is what the counter knows on every device.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step()
    return float(counter.get_total_flops())


def views_of(batch: int, channels: int, device: torch.device) -> list[Tensor]:
    """Two views of 224 px and eight of 96 px for each image."""
    return [
        torch.randn(num, batch, channels, size, size, device=device)
        for num, size in ((2, 224), (8, 96))
    ]


def shares(step: Callable[[], object], device: torch.device) -> list[str]:
    """Name what one step of ours spends its time on, from a profile, as rows of a table."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as record:
        step()
        synchronise(device)
    attribute = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    times = dict.fromkeys([*GROUPS, "elementwise and rest"], 0.0)
    for event in record.key_averages():
        key = event.key.lower()
        group = next(
            (name for name, parts in GROUPS.items() if any(part in key for part in parts)),
            "elementwise and rest",
        )
        times[group] += getattr(event, attribute)
    total = sum(times.values()) or 1.0
    return [f"| {name} | {100 * t / total:.0f} % |" for name, t in times.items()]


def compare(name: str, given: argparse.Namespace) -> str:
    """Run one model's contenders; return the section of the report."""
    device = torch.device(given.device)
    torch.manual_seed(0)
    views = views_of(given.batch, given.channels, device)
    size = 8192 if device.type == "cuda" else 2048
    peaks = {
        f"peak {str(dtype).removeprefix('torch.')}": matrix_product(dtype, device, size=size)
        for dtype in (torch.float32, torch.bfloat16)
    }
    steps: dict[str, Callable[[], object]] = {
        "(a) wsdino, bfloat16": ours(name, views, bfloat16=True),
        "(a) wsdino, float32": ours(name, views, bfloat16=False),
        "(b) lightly, float32": lightly_s(name, views, bfloat16=False),
        "(b) lightly, bfloat16": lightly_s(name, views, bfloat16=True),
        "(c) plain, float32": plain(name, views),
    }
    if given.compile:
        steps["(a) wsdino, bfloat16, compiled"] = ours(name, views, bfloat16=True, compiled=True)
    turns = steps | {key: work for key, (work, _) in peaks.items()}
    times = take_turns(turns, rounds=given.rounds, device=device)
    flops = model_flops(name, given.channels)
    best = {key: statistics.median(peaks[key][1] / t for t in times[key]) for key in peaks}
    lines = [
        f"## {name}, batch {given.batch}, {given.channels} channel(s), {given.rounds} rounds",
        "",
        f"{machine(device)}. `python benchmarks/train_step.py {' '.join(sys.argv[1:])}`",
        "",
        f"Model FLOPs of one image: {flops / 1e9:.0f} G. Measured matrix peak: "
        + ", ".join(f"{key[5:]} {value / 1e9:.0f} GFLOP/s" for key, value in best.items()),
        "",
        "| step | images/s, median (range) | of float32 peak | of bfloat16 peak |",
        "|---|---|---|---|",
    ]
    for key in steps:
        rates = [given.batch / t for t in times[key]]
        reached = statistics.median(rates) * flops
        columns = [f"{100 * reached / value:.0f} %" for value in best.values()]
        lines.append(f"| {key} | {spread_of(rates)} | {' | '.join(columns)} |")
    first = next(iter(steps))
    lines += ["", f"Profile of {first}:", "", "| part | time |", "|---|---|"]
    lines += [*shares(steps[first], device), ""]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what was asked for and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--models", nargs="+", default=["vit_small_patch16_224", "vit_small_patch8_224"]
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="ours compiled as well")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.models:
        section = compare(name, given)
        print(section, flush=True)
        with (given.out / "train_step.md").open("a") as file:
            file.write(section + "\n")


if __name__ == "__main__":
    main()
