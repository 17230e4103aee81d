"""Pretrain the starter backbone: `python pretraining/starter.py --out DIR [--processes N]`.

Simulates the randomised screens, trains with `starter.yaml` beside this file and writes the
backbone in half precision into the package. Every step resumes where it was stopped. The number of
processes changes the weights only by rounding.
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
    run = given.out / "run"
    store = given.out / "store"
    wsdino = [sys.executable, "-m", "wsdino"]
    subprocess.run([*wsdino, "ingest", str(manifest), "--out", str(store)], check=True)
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={given.processes}"]
    train = ["-m", "wsdino", "train", str(HERE / "starter.yaml"), "--out", str(run)]
    command = [sys.executable, "-m", *torchrun, *train, "--set", f"screen.store={store}"]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    export(run, starter_folder())


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
