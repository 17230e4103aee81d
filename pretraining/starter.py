"""Pretrain the starter backbone: `python pretraining/starter.py --out DIR [--processes N]`.

Simulates the randomised screens, trains with `starter.yaml` beside this file, trains on for an
epoch that draws attention to cells, and writes the backbone in half precision into the package.
Every step resumes where it was stopped. The number of processes changes the weights only by
rounding.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from wsdino.model.model import load_model
from wsdino.model.packaged import starter_folder
from wsdino.simulate.randomised import simulate_randomised

HERE = Path(__file__).parent
# The epoch that follows: what differs from `starter.yaml`, beside the weights. The rate is half the
# first; the weight was the first one tried.
ON_CELLS = (
    "train.epochs=1",
    "train.learning_rate=0.0005",
    "train.warmup_epochs=0.1",
    "train.log_every=10",
    "objective.attention_weight=0.3",
)
SCREENS = {
    "num_screens": 144,
    "num_phenotypes": 32,
    "fields_per_plate": 2,
    "size": 192,
    "seed": 5000,
}


def main() -> None:
    """Simulate, train, export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--processes", type=int, default=2, help="number of processes, one thread each"
    )
    given = parser.parse_args()
    manifest = simulate_randomised(given.out / "screens", **SCREENS)
    store = given.out / "store"
    wsdino = [sys.executable, "-m", "wsdino"]
    subprocess.run([*wsdino, "ingest", str(manifest), "--out", str(store)], check=True)
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={given.processes}"]

    def train(run: Path, *settings: str) -> None:
        command = [sys.executable, "-m", *torchrun, "-m", "wsdino", "train"]
        command += [str(HERE / "starter.yaml"), "--out", str(run)]
        for setting in (f"screen.store={store}", *settings):
            command += ["--set", setting]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    train(given.out / "run")
    export(given.out / "run", given.out / "first")
    weights = given.out / "first" / "model.safetensors"
    train(given.out / "on_cells", f"model.weights={weights}", *ON_CELLS)
    export(given.out / "on_cells", starter_folder())


def export(run: Path, folder: Path) -> None:
    """Write a run's backbone as float16, and the spec it belongs to."""
    model = load_model(run)
    folder.mkdir(parents=True, exist_ok=True)
    (network,) = model.networks.networks
    state = {
        name: value.to(torch.float16).contiguous() for name, value in network.state_dict().items()
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    spec = replace(model.spec, channels=("any",), tile=None)
    (folder / "config.json").write_text(spec.to_json())


if __name__ == "__main__":
    main()
