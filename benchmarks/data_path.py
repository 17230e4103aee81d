"""How fast data arrive and are consumed: `python benchmarks/data_path.py --out DIR ...`.

Draws 16-bit fields, writes them as TIFFs and as a store, and times three things in turn in one
process: our loader and crops, with fields in device memory and streamed from the store; a pipeline
like that of the first WS-DINO code (two TIFFs per sample read with Pillow, clipped, and every view
cut by albumentations on the CPU); and the training step that consumes the samples. Needs the extra
`bench`. Appends a table for each preset to DIR/data_path.md.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import albumentations
import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from timing import machine, spread_of, take_turns
from wsdino.config import Config, load_config
from wsdino.model.precision import autocast, uses_bfloat16
from wsdino.model.spec import ModelSpec
from wsdino.screen.ingest import ingest
from wsdino.train.fields import Fields
from wsdino.train.learners.distill import SelfDistillation
from wsdino.train.objectives.distill import Options
from wsdino.train.optimiser import adamw, clip_gradients, set_schedule
from wsdino.train.plan import Planner, cut_views
from wsdino.train.sampler import Sampler
from wsdino.train.train import initial_networks, positives, training_views

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsdino.screen.store import Store
    from wsdino.train.views import ViewPlan

NUM_SITES = 48
# The paper trains a network for each channel: a sample is one channel there.
CASES = {"paper": ((512, 640), 1), "cpu": ((256, 256), 3)}


def screen_of(folder: Path, shape: tuple[int, int], num_channels: int) -> pd.DataFrame:
    """Write blurred noise as 16-bit TIFFs; return their manifest."""
    rng = np.random.default_rng(0)
    rows = []
    for site in range(NUM_SITES):
        row: dict[str, object] = {
            "Metadata_Plate": f"P{site % 2}",
            "Metadata_Well": f"B{site // 4 + 2:02d}",
            "Metadata_Site": site // 2 % 2 + 1,
            "Metadata_Batch": "W1",
            "Metadata_Compound": f"c{site // 8}",
            "Metadata_Concentration": 1.0,
            "Metadata_MoA": None,
            "Metadata_Control": False,
        }
        for channel in range(num_channels):
            smooth = gaussian_filter(rng.normal(size=shape), 2)
            pixels = (2000 + 4000 * smooth).clip(0, 65535).astype(np.uint16)
            Image.fromarray(pixels).save(folder / f"{site}_{channel}.tif")
            row |= {f"FileName_{channel}": f"{site}_{channel}.tif", f"PathName_{channel}": folder}
        rows.append(row)
    return pd.DataFrame(rows).astype({f"PathName_{c}": str for c in range(num_channels)})


def loader(
    planner: Planner, fields: Fields, clip: tuple[float, float]
) -> Callable[[], list[Tensor]]:
    """Return what makes the views of the next batch, as training does."""
    steps = itertools.count()

    def batch() -> list[Tensor]:
        plan = planner.plan(next(steps))
        return cut_views(plan, fields.fetch(plan.needed), planner.views, clip=clip)

    return batch


def per_sample(
    folder: Path, planner: Planner, num_channels: int, device: torch.device
) -> Callable[[], list[Tensor]]:
    """Return the same, made by Pillow and albumentations, sample by sample."""
    steps = itertools.count()
    transforms = [transform_of(view) for view in planner.views]

    def read(site: int) -> np.ndarray:
        planes = [np.asarray(Image.open(folder / f"{site}_{c}.tif")) for c in range(num_channels)]
        return np.stack(planes, axis=-1).clip(0, 10_000).astype(np.float32) / 10_000

    def batch() -> list[Tensor]:
        sites = planner.plan(next(steps)).sites
        samples = []
        for image in range(sites[0].shape[1]):
            pixels = [read(kind[0, image]) for kind in sites]
            samples.append(
                [
                    torch.stack(
                        [
                            torch.from_numpy(cut(image=whole)["image"].transpose(2, 0, 1).copy())
                            for _ in range(view.num_views)
                        ]
                    )
                    for cut, whole, view in zip(transforms, pixels, planner.views, strict=True)
                ]
            )
        kinds = zip(*samples, strict=True)
        return [torch.stack(kind, dim=1).to(device) for kind in kinds]

    return batch


def transform_of(view: ViewPlan) -> albumentations.Compose:
    """Flips, then a crop; bicubic where it is resized."""
    size = (view.size, view.size)
    crop: albumentations.BasicTransform = albumentations.RandomCrop(*size)
    if view.area:
        crop = albumentations.RandomResizedCrop(
            size, scale=view.area, ratio=(1.0, 1.0), interpolation=cv2.INTER_CUBIC
        )
    return albumentations.Compose(
        [albumentations.HorizontalFlip(), albumentations.VerticalFlip(), crop]
    )


def consumer(config: Config, views: list[Tensor]) -> Callable[[], object]:
    """Return a training step on fixed views."""
    device = views[0].device
    channels = tuple(map(str, range(views[0].shape[2])))
    spec = ModelSpec(channels=channels, mode="joint", architecture=config.architecture)
    assert isinstance(config.objective, Options)
    module = SelfDistillation(
        initial_networks(spec, seed=0, drop_path=config.train.drop_path),
        initial_networks(spec, seed=0),
        options=config.objective,
        epochs=100,
    )
    module = module.to(device).train()
    optimiser = adamw(module.trainable)
    set_schedule(optimiser, lr=1e-5, weight_decay=0.0)
    labels = torch.zeros(views[0].shape[1], dtype=torch.int64, device=device)

    def step() -> None:
        module.before_step(10.0)
        with autocast(device, enabled=uses_bfloat16("auto", device)):
            targets = module.target(views, labels)
            loss, _ = module.loss(module.trainable, views, targets)
        loss.backward()
        clip_gradients([module.trainable.parameters()], 3.0).item()
        optimiser.step()
        module.after_step()
        optimiser.zero_grad(set_to_none=True)

    return step


def planner_of(config: Config, store: Store, batch_size: int) -> Planner:
    """Draw batches as a run with this config would."""
    wanted = positives(store.manifest, config.pairing)
    return Planner(
        sampler=Sampler(wanted.labels, balance=config.train.balance, seed=0),
        pairing=wanted.pairing,
        weak_positives=config.pairing,
        views=training_views(config.crops.global_views, config.crops.local_views),
        batch_size=batch_size,
        field_shape=store.field_shape,
        num_channels=len(store.channels),
        seed=0,
    )


def compare(name: str, given: argparse.Namespace) -> str:
    """Run one preset's contenders; return the section of the report."""
    device, (shape, num_channels) = torch.device(given.device), CASES[name]
    config = load_config(name)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = ingest(screen_of(folder, shape, num_channels), folder / "store")
        planner, few = (planner_of(config, store, n) for n in (given.batch, given.step_batch))
        resident, streamed = (
            Fields(store, scaling=config.input, device=device, residency=kind)
            for kind in ("device", "stream")
        )
        clip = config.input.clip
        contenders = {
            "ours, fields in device memory": (loader(planner, resident, clip), given.batch),
            "ours, streamed from the store": (loader(planner, streamed, clip), given.batch),
            "Pillow and albumentations": (
                per_sample(folder, planner, num_channels, device),
                given.batch,
            ),
            "the model's step": (consumer(config, loader(few, resident, clip)()), given.step_batch),
        }
        times = take_turns(
            {key: work for key, (work, _) in contenders.items()},
            rounds=given.rounds,
            device=device,
        )
    rates = {key: [n / t for t in times[key]] for key, (_, n) in contenders.items()}
    consumed = statistics.median(rates["the model's step"])
    command = f"python benchmarks/data_path.py {' '.join(sys.argv[1:])}"
    sizes = f"Batches of {given.batch} images, step of {given.step_batch}, {given.rounds} rounds"
    lines = [
        f"## Preset {name}: fields of {shape[0]} x {shape[1]} px, {num_channels} channel(s)",
        "",
        f"{machine(device)}. {sizes}. `{command}`",
        "",
        "| | images/s, median (range) | times what the step consumes |",
        "|---|---|---|",
    ]
    for key, values in rates.items():
        lines.append(
            f"| {key} | {spread_of(values)} | {statistics.median(values) / consumed:.3g} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what was asked for and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--presets", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--step-batch", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.presets:
        section = compare(name, given)
        print(section, flush=True)
        with (given.out / "data_path.md").open("a") as file:
            file.write(section + "\n")


if __name__ == "__main__":
    main()
