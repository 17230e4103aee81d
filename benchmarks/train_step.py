"""Training steps side by side: `python benchmarks/train_step.py --out benchmarks/results ...`.

(a) ours, through the package's own objective and optimiser; (b) the same step written with
lightly's public parts (DINOProjectionHead, DINOLoss, update_momentum), views of one resolution
together, which is its faster way; (c) a plain float32 loop like that of the first WS-DINO code: a
softmax for every pair of views, one parameter after another in optimiser and moving average. All
have the same ViT from timm, batch, views and head, and take turns in one process. Needs the extra
`bench`.

On a GPU several steps are timed together (`--steps`), so that each contender may queue work ahead,
and with `--compile` ours is also tried with CUDA graphs.

Appends a table for each model to OUT/train_step.md, with the share of the measured matrix
peak that the step's model FLOPs reach, and a profile of our step that accounts for the rest.
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
from torch.autograd import DeviceType
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from timing import machine, matrix_product, seconds, spread_of, take_turns
from wsdino.model.precision import autocast
from wsdino.model.spec import Architecture, ModelSpec
from wsdino.train.learners.base import COMPILED
from wsdino.train.learners.distill import SelfDistillation
from wsdino.train.objectives.distill import Options
from wsdino.train.optimiser import adamw, clip_gradients, set_schedule, step_if_finite
from wsdino.train.reading import Reading
from wsdino.train.train import initial_networks

if TYPE_CHECKING:
    from collections.abc import Callable

    Step = Callable[[list[Tensor]], object]

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
    name: str,
    channels: int,
    device: torch.device,
    *,
    bfloat16: bool,
    compiled: bool = False,
    graphs: bool = False,
) -> Step:
    """Step (a)."""
    spec = ModelSpec(
        channels=tuple(map(str, range(channels))),
        mode="joint",
        architecture=Architecture(backbone=name, image_size=224),
    )
    module = SelfDistillation(
        initial_networks(spec, seed=0, drop_path=0.1),
        initial_networks(spec, seed=0),
        options=Options(
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
    if compiled or graphs:
        before = dict(COMPILED)
        COMPILED.update({"mode": "reduce-overhead"} if graphs else {})
        module.compile_parts()
        COMPILED.clear()
        COMPILED.update(before)
    optimiser = adamw(module.trainable)
    set_schedule(optimiser, lr=LEARNING_RATE, weight_decay=0.04)

    def step(views: list[Tensor]) -> None:
        if graphs:
            torch.compiler.cudagraph_mark_step_begin()
        labels = torch.zeros(views[0].shape[1], dtype=torch.int64, device=device)
        module.before_step(10.0)
        with autocast(device, enabled=bfloat16):
            targets = module.target(views, labels)
            loss, measured = module.loss(module.trainable, views, targets)
        loss.backward()
        module.after_backward(10.0)
        norm = clip_gradients([module.trainable.parameters()], 3.0)
        numbers = torch.stack([*measured.values(), norm])
        reading = Reading(numbers)
        step_if_finite(optimiser, numbers)
        reading.result()
        module.after_step()
        optimiser.zero_grad(set_to_none=True)

    return step


def lightly_s(name: str, channels: int, device: torch.device, *, bfloat16: bool) -> Step:
    """Step (b)."""
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.utils import update_momentum

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

    def step(views: list[Tensor]) -> None:
        num_global, num_all = len(views[0]), sum(len(x) for x in views)
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


def plain(name: str, channels: int, device: torch.device) -> Step:
    """Step (c)."""
    backbone = backbone_of(name, channels)
    student = nn.ModuleList([backbone, PlainHead(backbone.num_features)]).to(device).train()
    teacher = copy.deepcopy(student).eval().requires_grad_(requires_grad=False)
    optimiser = torch.optim.AdamW(
        student.parameters(), lr=LEARNING_RATE, weight_decay=0.04, foreach=False
    )
    center = torch.zeros(1, PROTOTYPES, device=device)

    def step(views: list[Tensor]) -> None:
        num_global, num_all = len(views[0]), sum(len(x) for x in views)
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
    cpu = torch.device("cpu")
    step, views = plain(name, channels, cpu), views_of(1, channels, cpu)
    # Attention by plain products is what the counter knows on every device.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step(views)
    return float(counter.get_total_flops())


def views_of(batch: int, channels: int, device: torch.device) -> list[Tensor]:
    """Two views of 224 px and eight of 96 px for each image."""
    return [
        torch.randn(num, batch, channels, size, size, device=device)
        for num, size in ((2, 224), (8, 96))
    ]


def shares(step: Callable[[], object], device: torch.device) -> list[str]:
    """List what our step spends its time on, from a profile, as rows of a table.

    On a GPU, what its kernels take, by the operation that started them, and how long it has
    nothing to do.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as record:
        wall = seconds(step, device)
    attribute = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    times = dict.fromkeys([*GROUPS, "elementwise and rest"], 0.0)
    for event in record.key_averages():
        # A kernel's time is that of its operation already.
        if event.device_type != DeviceType.CPU:
            continue
        key = event.key.lower()
        group = next(
            (name for name, parts in GROUPS.items() if any(part in key for part in parts)),
            "elementwise and rest",
        )
        times[group] += getattr(event, attribute)
    total = sum(times.values()) or 1.0
    if device.type == "cuda":
        times["idle"] = max(0.0, 1e6 * wall - total)
        total += times["idle"]
    return [f"| {name} | {100 * t / total:.0f} % |" for name, t in times.items()]


def compare(name: str, given: argparse.Namespace) -> str:
    """Run one model's contenders; return the section of the report."""
    device = torch.device(given.device)
    torch.manual_seed(0)
    views = views_of(given.batch, given.channels, device)
    built = name, given.channels, device
    size = 8192 if device.type == "cuda" else 2048
    peaks = {
        f"peak {str(dtype).removeprefix('torch.')}": matrix_product(dtype, device, size=size)
        for dtype in (torch.float32, torch.bfloat16)
    }
    steps = {
        "(a) wsdino, bfloat16": ours(*built, bfloat16=True),
        "(a) wsdino, float32": ours(*built, bfloat16=False),
        "(b) lightly, float32": lightly_s(*built, bfloat16=False),
        "(b) lightly, bfloat16": lightly_s(*built, bfloat16=True),
        "(c) plain, float32": plain(*built),
    }
    if given.compile:
        steps["(a) wsdino, bfloat16, compiled"] = ours(*built, bfloat16=True, compiled=True)
    refused = ""
    if given.compile and device.type == "cuda":
        graphs = ours(*built, bfloat16=True, graphs=True)
        try:
            for _ in range(3):
                graphs(views)
            steps["(a) wsdino, bfloat16, CUDA graphs"] = graphs
        except RuntimeError as error:
            refused = f"With CUDA graphs ours fails: {str(error).splitlines()[0]}"

    def several(step: Step) -> Callable[[], None]:
        def work() -> None:
            for _ in range(given.steps):
                step(views)

        return work

    turns = {key: several(step) for key, step in steps.items()}
    times = take_turns(
        turns | {key: work for key, (work, _) in peaks.items()}, rounds=given.rounds, device=device
    )
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
        rates = [given.steps * given.batch / t for t in times[key]]
        reached = statistics.median(rates) * flops
        columns = [f"{100 * reached / value:.0f} %" for value in best.values()]
        lines.append(f"| {key} | {spread_of(rates)} | {' | '.join(columns)} |")
    first = next(iter(steps))
    lines += ["", refused] if refused else []
    lines += ["", f"Profile of {first}:", "", "| part | time |", "|---|---|"]
    lines += [*shares(turns[first], device), ""]
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
    parser.add_argument("--steps", type=int, help="steps timed together; default: 1, on a GPU 10")
    parser.add_argument("--compile", action="store_true", help="also time ours compiled")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.steps = given.steps or (10 if given.device == "cuda" else 1)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.models:
        section = compare(name, given)
        print(section, flush=True)
        with (given.out / "train_step.md").open("a") as file:
            file.write(section + "\n")


if __name__ == "__main__":
    main()
