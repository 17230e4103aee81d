"""How hard the simulated screen is, and how fast it is drawn.

`python benchmarks/simulated.py --out DIR --seeds 1 2 3` simulates the large layout once for each
seed, profiles it by random features, statistics, an untrained and the starter's network, and a
small network that is trained on mechanisms and tested on compounds that it never saw, and writes
`DIR/simulated.md`. What is finished is not computed again. `--difficulty` is that of
`wsdino simulate`. `python benchmarks/simulated.py --out DIR --speed` times `wsdino simulate`
instead.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from children import wsdino
from heldout import STEPS, heldout_predictions
from wsdino.device import num_cpus
from wsdino.embed.classical import PERCENTILES, classical_table
from wsdino.embed.embed import embed_store
from wsdino.evaluate.intervals import mean_average_precision, wilson_interval
from wsdino.evaluate.matching import match_moa
from wsdino.model.building import build_networks
from wsdino.model.model import Model
from wsdino.model.spec import starter_spec
from wsdino.profile.aggregate import make_profiles
from wsdino.screen.ingest import ingest
from wsdino.screen.store import Store, open_store
from wsdino.simulate import Difficulty, simulate
from wsdino.simulate.difficulty import difficulty_help
from wsdino.train.train import initial_networks

# (right, asked) or (a share,) for each kind of features and measure
Results = dict[str, list[float]]
MOMENTS = ("cv", "skewness", "kurtosis")
INTENSITY = (*MOMENTS, *(f"p{percentile:02d}" for percentile in PERCENTILES))
NUM_RANDOM = 54  # as many as there are classical statistics
SPEED_ROUNDS = 5
SPEED_LAYOUTS = (1, 2)  # sites per well of the two layouts that are timed in turn


def main() -> None:
    """Measure hardness or speed and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--layout", default="bbbc021")
    parser.add_argument("--sites", type=int, default=1, help="sites per well")
    parser.add_argument("--size", type=int, default=192, help="side of a field in px")
    parser.add_argument("--difficulty", action="append", default=[], help=difficulty_help())
    parser.add_argument(
        "--steps", type=int, default=STEPS, help="training steps of the supervised network"
    )
    parser.add_argument("--speed", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.speed:
        print(speed(given.out))
        return
    difficulty = Difficulty.of(given.difficulty)
    results = {seed: measure(given, seed, difficulty) for seed in given.seeds}
    text = markdown(results)
    (given.out / "simulated.md").write_text(text)
    print(text)


def measure(given: argparse.Namespace, seed: int, difficulty: Difficulty) -> Results:
    """Measure the screen of one simulator seed."""
    folder: Path = given.out / f"seed_{seed}"
    done = folder / "results.json"
    asked = {
        "layout": given.layout, "seed": seed, "sites": given.sites, "size": given.size,
        "steps": given.steps,
        "difficulty": asdict(difficulty),
    }  # fmt: skip
    if done.is_file():
        found = json.loads(done.read_text())
        if found["asked"] != asked:
            raise SystemExit(f"{done}: holds other settings; give another --out")
        if found["results"]:
            return found["results"]  # type: ignore[no-any-return]
    folder.mkdir(parents=True, exist_ok=True)
    # From here on whatever lies in the folder is of these settings.
    done.write_text(json.dumps({"asked": asked, "results": {}}))
    store_path = folder / "store"
    if not store_path.is_dir():
        screen = simulate(
            folder / "screen",
            layout=given.layout,
            sites=given.sites,
            size=given.size,
            seed=seed,
            difficulty=difficulty,
        )
        shutil.rmtree(folder / "partial", ignore_errors=True)
        ingest(screen, folder / "partial", workers=num_cpus())
        (folder / "partial").rename(store_path)
        shutil.rmtree(screen)
    store = open_store(store_path)
    tables = {
        "random features": random_table(store, seed),
        "untrained network": untrained_table(store, seed),
    }
    classical = classical_table(store, workers=num_cpus())
    names = [name for name in classical if str(name).startswith("classical_")]
    intensity = [name for name in names if str(name).endswith(INTENSITY)]
    metadata = [name for name in classical if str(name).startswith("Metadata_")]
    tables["intensity statistics"] = classical[metadata + intensity]
    tables["classical statistics"] = classical
    tables["starter, frozen"] = starter_table(store)
    results: Results = {}
    for name, table in tables.items():
        profiles = make_profiles(table, normalisation="tvn")
        nsc, nscb = (match_moa(profiles, exclude_shared_batch=strict) for strict in (False, True))
        results[f"{name}: NSC"] = [nsc.num_correct, nsc.num_total]
        # The same treatments, so that only the candidates differ.
        both = nsc.neighbours.merge(nscb.neighbours[["compound", "concentration"]])
        results[f"{name}: NSC of those that NSCB asks for"] = [
            int(both["correct"].sum()),
            len(both),
        ]
        results[f"{name}: NSCB"] = [nscb.num_correct, nscb.num_total]
        results[f"{name}: mAP"] = [mean_average_precision(profiles)[0] or 0.0]
    print(markdown({seed: results}), flush=True)
    predictions = folder / "heldout.csv"
    if not predictions.is_file():
        heldout_predictions(store, seed=seed, steps=given.steps).to_csv(predictions, index=False)
    predicted = pd.read_csv(predictions)
    right = predicted["predicted"] == predicted["Metadata_MoA"]
    results["supervised, held-out compounds: accuracy"] = [int(right.sum()), len(right)]
    done.write_text(json.dumps({"asked": asked, "results": results}, indent=2) + "\n")
    return results


def random_table(store: Store, seed: int) -> pd.DataFrame:
    """Draw features that are independent of the images."""
    metadata = store.manifest.filter(regex="^Metadata_").reset_index(drop=True)
    draws = np.random.default_rng(seed).standard_normal((len(store), NUM_RANDOM))
    names = [f"random_{index}" for index in range(NUM_RANDOM)]
    return pd.concat([metadata, pd.DataFrame(draws, columns=names)], axis=1)


def untrained_table(store: Store, seed: int) -> pd.DataFrame:
    """Embed by a network of the starter's shape with initial weights."""
    spec = starter_spec(store.channels)
    return embed_store(Model(spec, initial_networks(spec, seed=seed)), store)


def starter_table(store: Store) -> pd.DataFrame:
    """Embed by the starter backbone, as it is."""
    spec = starter_spec(store.channels)
    return embed_store(Model(spec, build_networks(spec, weights="starter")), store)


def markdown(results: dict[int, Results]) -> str:
    """Set the numbers of every seed side by side: percent with Wilson's 95 % interval."""
    lines = [
        "| | " + " | ".join(f"seed {seed}" for seed in results) + " | all |",
        "|---" * (len(results) + 2) + "|",
    ]
    for name in next(iter(results.values())):
        cells, each = [], [one[name] for one in results.values()]
        for numbers in each:
            cell = f"{100 * share_of(numbers):.0f}"
            if len(numbers) == 2:
                low, high = wilson_interval(*map(int, numbers)) or (0.0, 1.0)
                cell += f" ({100 * low:.0f} to {100 * high:.0f})"
            cells.append(cell)
        cells.append(f"{100 * statistics.mean(map(share_of, each)):.0f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def share_of(numbers: list[float]) -> float:
    """Return the number right over the number asked, or the share itself."""
    return numbers[0] / numbers[1] if len(numbers) == 2 else numbers[0]


def speed(out: Path) -> str:
    """Time whole runs of `wsdino simulate` with two workers; the first, untimed, compiles.

    Two lengths are timed in turn, so that the difference gives the rate without the cost of
    starting Python, and a slow spell of the machine affects both alike.
    """
    sites_of = {1: 962, 2: 1924}
    seconds: dict[int, list[float]] = {sites: [] for sites in SPEED_LAYOUTS}
    folder = out / "speed"
    for turn in range(SPEED_ROUNDS + 1):
        for sites in SPEED_LAYOUTS:
            shutil.rmtree(folder, ignore_errors=True)
            begun = time.perf_counter()
            options = ("--layout", "bbbc021", "--sites", sites, "--workers", 2)
            wsdino("simulate", "--out", folder, *options, quiet=True)
            if turn:
                seconds[sites].append(time.perf_counter() - begun)
    shutil.rmtree(folder)
    short, long = (seconds[sites] for sites in SPEED_LAYOUTS)
    whole = statistics.median(sites_of[2] / each for each in long)
    steady = statistics.median(
        (sites_of[2] - sites_of[1]) / (b - a) for a, b in zip(short, long, strict=True)
    )
    return (
        f"{sites_of[2]} fields of 256 x 256 x 3, two workers, median of {SPEED_ROUNDS} rounds: "
        f"{whole:.0f} fields a second start to end, {steady:.0f} once started\n"
    )


if __name__ == "__main__":
    main()
