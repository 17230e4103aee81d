"""An objective is a learner and a row: a copy of the package gets another, and trains with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsdino.screen.store import Store

TESTS = Path(__file__).resolve().parents[1]
LEARNER = """
from wsdino.train.learners.classify import Classification


class Half(Classification):
    def __init__(self, networks, *, num_labels, weight):
        super().__init__(networks, num_labels=num_labels)
        self.weight = weight

    def loss(self, trainable, views, targets):
        loss, metrics = super().loss(trainable, views, targets)
        return self.weight * loss, metrics | {"half": self.weight * metrics["loss"]}
"""
OBJECTIVE = """
from typing import Literal

import pydantic

from wsdino.train.objectives import base
from wsdino.train.options import Positive


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True, config=base.STRICT)
class Options(base.Options):
    name: Literal["half"] = "half"
    # Weight of the loss.
    weight: Positive = 0.5


def _build(options, parts):
    from wsdino.train.learners.half import Half

    return Half(parts.student, num_labels=parts.num_labels, weight=options.weight)


HALF = base.Objective(
    help="half of a classifier's loss",
    options=Options,
    build=_build,
    needs_label=True,
    takes_partners=False,
    takes_local_views=True,
)
"""
SCRIPT = """
import sys
from pathlib import Path

from helpers_train import options_of, read_records
from wsdino.config import load_config
from wsdino.errors import ConfigError
from wsdino.screen.store import open_store
from wsdino.train.train import train

store, out = map(Path, sys.argv[1:])
config = load_config("cpu", ["objective.name=half", "objective.weight=0.25"])
assert (config.objective.name, config.objective.weight) == ("half", 0.25)
for setting in ("objective.weight=0", "objective.koleo_weight=1"):
    try:
        load_config("cpu", ["objective.name=half", setting])
    except ConfigError as error:
        print(error)
train(open_store(store), out, **options_of(objective={"name": "half", "weight": 0.25}))
for record in read_records(out):
    assert record["half"] == 0.25 * record["loss"]
try:
    train(open_store(store), out, **options_of(
        objective={"name": "half"}, weak_positives={"label": "none"}
    ))
except ConfigError as error:
    print(error)
"""


def test_a_learner_and_a_row_are_all_it_takes(store: Store, tmp_path: Path) -> None:
    import wsdino

    package = shutil.copytree(
        Path(wsdino.__file__).parent,
        tmp_path / "wsdino",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    folder = package / "train" / "objectives"
    (folder / "half.py").write_text(OBJECTIVE, encoding="utf-8")
    (package / "train" / "learners" / "half.py").write_text(LEARNER, encoding="utf-8")
    text = (folder / "__init__.py").read_text(encoding="utf-8")
    rows = "OBJECTIVES: tuple[Objective, ...] = ("
    assert text.count(rows) == 1
    text = text.replace(rows, f"from wsdino.train.objectives.half import HALF\n\n{rows}HALF, ")
    (folder / "__init__.py").write_text(text, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(TESTS)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(store.path), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr
    range_, unknown, label = done.stdout.splitlines()
    assert range_.startswith("config key objective.weight: found 0: input should be greater than 0")
    assert "unknown to objective.name half, " in unknown
    assert unknown.endswith("known here: name, weight")
    assert label.startswith("pairing.label 'none': no two of the images to train on share a value")
