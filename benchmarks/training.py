"""Whole trainings side by side, data included: `python benchmarks/training.py --out DIR ...`.

(a) ours: :func:`wsdino.train.train.train` on a store, as `wsdino train` runs it, with its records,
metrics and checkpoint; (c) as the original does: one worker process reads two 16-bit TIFFs for each
sample and cuts every view on the CPU (`data_path.py`), and a plain float32 loop takes the
steps (`train_step.py`). The same ViT, views of 2 x 224 and 8 x 96 px from fields of 512 x 640 px,
one channel, 65,536 prototypes, batch. They take turns, each for a given number of
steps, and the first steps don't count. Needs the extra `bench`. Appends a table to DIR/training.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, IterableDataset

from data_path import per_sample, planner_of, screen_of
from timing import machine, spread_of, synchronise
from train_step import plain
from wsdino.config import Config, load_config
from wsdino.model.spec import Architecture, ModelSpec
from wsdino.screen.ingest import ingest
from wsdino.train.train import train

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from wsdino.screen.store import Store

SHAPE = (512, 640)


class Samples(IterableDataset):
    """Batches of views that are made sample by sample."""

    def __init__(self, batch: Callable[[], list[Tensor]]) -> None:
        self._batch = batch

    def __iter__(self) -> Iterator[list[Tensor]]:
        """Yield batches without end."""
        return (self._batch() for _ in itertools.count())


def ours(
    store: Store, config: Config, given: argparse.Namespace, folder: Path, *, compiled: bool
) -> float:
    """Images per second of a training, without its first steps."""
    steps = given.warm_up + given.steps
    labelled = int((~store.manifest["Metadata_Control"]).sum())
    options = replace(
        config.train,
        batch_size=given.batch,
        # Half a step less than wanted, as it is rounded up.
        epochs=(steps - 0.5) * given.batch / labelled,
        warmup_epochs=0.0,
        # A record's rate is that since the one before.
        log_every=given.warm_up,
        compile=compiled,
    )
    spec = ModelSpec(
        channels=store.channels,
        mode="joint",
        architecture=Architecture(backbone=given.model, image_size=224),
        scaling=config.input,
    )
    train(
        store,
        folder,
        spec=spec,
        optimisation=options,
        objective=config.objective,
        weak_positives=config.pairing,
        global_views=config.crops.global_views,
        local_views=config.crops.local_views,
        device=given.device,
    )
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rates = [r["samples_per_s"] for r in records if r["step"] > given.warm_up]
    return statistics.median(rates)


def original_s(
    store: Store, config: Config, given: argparse.Namespace, pictures: Path, *, num_steps: int
) -> float:
    """Images per second of the plain loop, without its first step."""
    device = torch.device(given.device)
    planner = planner_of(config, store, given.batch)
    batch = per_sample(pictures, planner, len(store.channels), torch.device("cpu"))
    loader = DataLoader(Samples(batch), batch_size=None, num_workers=1)
    step = plain(given.model, len(store.channels), device)
    start = 0.0
    for number, views in enumerate(loader):
        step([view.to(device) for view in views])
        if number == 0:
            synchronise(device)
            start = time.perf_counter()
        if number == num_steps:
            break
    synchronise(device)
    return num_steps * given.batch / (time.perf_counter() - start)


def main() -> None:
    """Run both and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="steps of ours that count in a round")
    parser.add_argument(
        "--warm-up", type=int, default=2, help="steps of ours before those, which don't count"
    )
    parser.add_argument(
        "--plain-steps", type=int, default=3, help="steps of the plain loop that count"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="also time ours compiled")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    config = load_config("paper")
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        store = ingest(screen_of(folder, SHAPE, 1), folder / "store")
        for turn in range(given.rounds):
            for compiled in (False, True)[: 1 + given.compile]:
                name = "(a) wsdino" + (", compiled" if compiled else "")
                run = folder / f"{turn}_{compiled}"
                rate = ours(store, config, given, run, compiled=compiled)
                rates.setdefault(name, []).append(rate)
            rate = original_s(store, config, given, folder, num_steps=given.plain_steps)
            rates.setdefault("(c) one worker, plain float32 loop", []).append(rate)
    slowest = statistics.median(rates["(c) one worker, plain float32 loop"])
    command = f"python benchmarks/training.py {' '.join(sys.argv[1:])}"
    lines = [
        f"## {given.model}, batch {given.batch}, {given.rounds} rounds",
        "",
        f"{machine(torch.device(given.device))}. `{command}`",
        "",
        "| training | images/s, median (range) | times (c) |",
        "|---|---|---|",
        *(
            f"| {name} | {spread_of(found)} | {statistics.median(found) / slowest:.3g} |"
            for name, found in rates.items()
        ),
    ]
    section = "\n".join(lines) + "\n"
    print(section)
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / "training.md").open("a") as file:
        file.write(section + "\n")


if __name__ == "__main__":
    main()
