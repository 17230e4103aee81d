"""A tiny screen, tiny networks and short trainings, also in processes of their own."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from helpers_fork import FORKS
from wsdino.model.spec import Architecture, ModelSpec
from wsdino.screen.store import Store, open_store
from wsdino.train.objectives import OBJECTIVES, distill
from wsdino.train.options import Optimisation, WeakPositives
from wsdino.train.views import ViewPlan

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    import numpy as np

CHANNELS = ("DAPI", "Actin")
TINY = Architecture(image_size=16, patch_size=8, dim=16, depth=2, num_heads=2)
DEFAULTS: dict[str, Any] = {
    "spec": ModelSpec(channels=CHANNELS, mode="shared", architecture=TINY),
    "optimisation": Optimisation(
        epochs=1,
        batch_size=8,
        warmup_epochs=0.5,
        log_every=1,
        checkpoint_minutes=60,
        precision="float32",
    ),
    "objective": distill.Options(
        num_prototypes=16,
        head_hidden_dim=16,
        head_bottleneck_dim=8,
        freeze_last_layer_epochs=0.5,
        teacher_momentum=0.9,
    ),
    "weak_positives": WeakPositives(),
    "global_views": ViewPlan(num_views=2, size=24),
    "local_views": ViewPlan(num_views=2, size=16),
}


def make_store(folder: Path, **options: Any) -> Store:
    """Ingest a tiny screen: 2 weeks, 4 plates, 32 wells, 64 sites of 32 x 40 px, 2 channels."""
    from helpers_screen import write_bbbc021_folder
    from wsdino.screen.ingest import ingest

    given = {"size": (32, 40), "channels": CHANNELS, "num_dmso_wells": 1} | options
    return ingest(write_bbbc021_folder(folder / "screen", **given), folder / "store")


def objective_options(*, name: str = "distill", **change: Any) -> Any:
    """Options of an objective: small ones as far as it has them, with some changed."""
    chosen = next(each.options for each in OBJECTIVES if each.name == name)
    known = {field.name for field in fields(chosen)} - {"name"}
    small = {key: value for key, value in asdict(DEFAULTS["objective"]).items() if key in known}
    return chosen(**small | change)


def options_of(**changes: Any) -> dict[str, Any]:
    """Return `train`'s options; each change is a value, or a dictionary of fields to replace."""
    options = dict(DEFAULTS)
    for name, change in changes.items():
        if name == "objective":
            options[name] = objective_options(**change)
            continue
        known = isinstance(change, dict) and name in DEFAULTS
        options[name] = replace(DEFAULTS[name], **change) if known else change
    return options


def random_manifest(
    rng: np.random.Generator, num_sites: int, *, num_labels: int = 3, num_plates: int = 3
) -> pd.DataFrame:
    """Sites scattered over labels, plates and wells; each plate lies in one of two batches."""
    plates = rng.integers(0, num_plates, num_sites)
    wells = rng.integers(0, 3, num_sites)
    compounds = rng.integers(0, num_labels, num_sites)
    frame = pd.DataFrame(
        {
            "Metadata_Plate": [f"P{plate}" for plate in plates],
            "Metadata_Well": [f"B{well + 2:02d}" for well in wells],
            "Metadata_Batch": [f"W{plate % 2}" for plate in plates],
            "Metadata_Compound": [f"c{compound}" for compound in compounds],
            "Metadata_Concentration": rng.choice([1.0, 10.0], num_sites),
            "Metadata_MoA": [f"m{compound % 2}" for compound in compounds],
            "Metadata_Control": compounds == num_labels,
        }
    )
    frame["Metadata_Site"] = frame.groupby(["Metadata_Plate", "Metadata_Well"]).cumcount() + 1
    return frame


def read_records(folder: Path) -> list[dict[str, float]]:
    """Read a run's metrics, without what depends on the clock."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    clock = {"samples_per_s", "data_wait"}
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


@dataclass
class TrainingProcess:
    """Trainings in a process of their own; what they print goes to a file."""

    process: BaseProcess
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def finish(self, *, exit_code: int = 0) -> str:
        """Wait for the end; return what was printed."""
        self.process.join(280)
        assert self.process.exitcode == exit_code, self.output
        return self.output


def start_training(
    store: Path, out: Path, *changes: dict[str, Any], **variables: str
) -> TrainingProcess:
    """Train with each of the changed options into OUT/0, OUT/1, ... in a new process.

    One thread, so that results are bit for bit the same; `variables` are environment variables.
    """
    out.mkdir(parents=True, exist_ok=True)
    number = len(list(out.glob("*.log")))
    log = out / f"{number}.log"
    log.touch()
    process = FORKS.Process(target=_train_in_process, args=(store, out, changes, variables, log))
    process.start()
    return TrainingProcess(process, log)


def _train_in_process(
    store: Path, out: Path, trainings: list[dict[str, Any]], variables: dict[str, str], log: Path
) -> None:
    import torch

    from wsdino.errors import TrainingError
    from wsdino.job import finish
    from wsdino.train.learners.base import COMPILED
    from wsdino.train.train import train

    # What is compiled stays whole graphs, but without generated code, which takes minutes.
    COMPILED["backend"] = "aot_eager"

    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", **variables}
    torch.set_num_threads(1)
    for number, changes in enumerate(trainings):
        if number == 0 and "RANK" in variables:
            _note_anchors(out / f"anchors_{variables['RANK']}.npy")
        try:
            train(open_store(store), out / str(number), **options_of(**changes))
        except TrainingError as error:
            sys.exit(str(error))
    # The first process holds the job's store: it must not end while the other one looks into it.
    finish()


def _note_anchors(path: Path) -> None:
    """Write the anchors of every step that this process takes to a file, (steps, images)."""
    import numpy as np

    from wsdino.train.loop import Trainer

    whole_step, anchors = Trainer.step, []

    def step(self: Trainer, number: int, plan: Any, views: Any, **rest: Any) -> Any:
        if len(anchors) < self.total_steps:
            anchors.append(plan.anchors)
            np.save(path, np.stack(anchors))
        return whole_step(self, number, plan, views, **rest)

    Trainer.step = step  # type: ignore[method-assign]
