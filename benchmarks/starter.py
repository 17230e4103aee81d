"""Is the starter backbone worth starting from? `python benchmarks/starter.py --out DIR`.

Frozen, it embeds simulated screens of seeds that it was not pretrained on and, where `--real` gives
their folder, real fields of BBBC021, beside untrained networks of the same shape and the classical
statistics, all through the same normalisation and matching. Differences are paired by treatment;
intervals are bootstrapped over compounds (of all simulated screens together). Nothing is trained
here and nothing is chosen. Writes `starter.md` into the folder given as `--results`.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from judging import comparison, judged
from wsdino.device import num_cpus
from wsdino.embed.classical import classical_table
from wsdino.embed.embed import embed_store
from wsdino.model.building import build_networks
from wsdino.model.model import Model
from wsdino.model.spec import starter_spec
from wsdino.profile.aggregate import make_profiles
from wsdino.screen.ingest import ingest
from wsdino.simulate import Difficulty, simulate
from wsdino.simulate.difficulty import difficulty_help
from wsdino.train.train import initial_networks

if TYPE_CHECKING:
    from wsdino.screen.store import Store

HERE = Path(__file__).parent
STARTER, UNTRAINED, CLASSICAL = "starter, frozen", "untrained", "classical statistics"
Embedded = dict[tuple[str, Path], pd.DataFrame]


@dataclass(frozen=True)
class Screen:
    """One or several screens that are judged together, each by the same normalisation."""

    name: str
    stores: tuple[Store, ...]
    normalisation: str


def main() -> None:
    """Embed, match, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for screens and stores")
    parser.add_argument("--real", type=Path, help="BBBC021 folder of real fields")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[101, 102, 103],
        help="seeds of the simulated screens",
    )
    parser.add_argument("--layout", default="bbbc021", help="plate layout of the simulated screens")
    parser.add_argument(
        "--sites", type=int, default=1, help="sites per well of the simulated screens"
    )
    parser.add_argument("--difficulty", action="append", default=[], help=difficulty_help())
    parser.add_argument("--untrained", type=int, default=5, help="number of untrained networks")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    given = parser.parse_args()
    simulated = [
        ingest(
            simulate(
                given.out / f"screen_{seed}",
                layout=given.layout,
                sites=given.sites,
                seed=seed,
                difficulty=Difficulty.of(given.difficulty),
            ),
            given.out / f"store_{seed}",
        )
        for seed in given.seeds
    ]
    screens = [Screen(f"simulated, {how}", tuple(simulated), how) for how in ("tvn", "plate")]
    if given.real:
        store = ingest(given.real, given.out / "store_real")
        screens += [Screen(f"real fields, {how}", (store,), how) for how in ("whiten_all", "plate")]
    real = f" --real {given.real.name}" if given.real else ""
    seeds = " ".join(map(str, given.seeds))
    hardness = "".join(f" --difficulty {setting}" for setting in given.difficulty)
    command = f"python benchmarks/starter.py --out DIR{real}{hardness} --seeds {seeds} --layout"
    lines = [
        "# The starter backbone, frozen",
        "",
        f"Made by `{command} {given.layout} --sites {given.sites} --untrained {given.untrained}`.",
        "Percent; the starter's lead in points, with a 95 % interval bootstrapped over compounds.",
        f"Untrained: mean over {given.untrained} networks of the same shape (each). Simulated: all",
        "treatments of the screens of all seeds together.",
        "",
    ]
    embedded: Embedded = {}
    for screen in screens:
        section = [f"## {screen.name}", "", *_table(screen, given.untrained, embedded), ""]
        print("\n".join(section))
        lines += section
    given.results.mkdir(parents=True, exist_ok=True)
    (given.results / "starter.md").write_text("\n".join(lines))


def _table(screen: Screen, num_untrained: int, embedded: Embedded) -> list[str]:
    groups = {
        STARTER: [STARTER],
        UNTRAINED: [f"{UNTRAINED} {seed}" for seed in range(num_untrained)],
        CLASSICAL: [CLASSICAL],
    }
    return comparison(
        {
            name: [_judge(screen, method, embedded) for method in methods]
            for name, methods in groups.items()
        }
    )


def _judge(screen: Screen, method: str, embedded: Embedded) -> pd.DataFrame:
    """Judge the treatments of each store."""
    tables = []
    for number, store in enumerate(screen.stores):
        key = (method, store.path)
        if key not in embedded:
            embedded[key] = _embed(store, method)
        profiles = make_profiles(embedded[key], normalisation=screen.normalisation)
        tables.append(judged(profiles, screen=number))
    return pd.concat(tables)


def _embed(store: Store, method: str) -> pd.DataFrame:
    if method == CLASSICAL:
        return classical_table(store, workers=num_cpus())
    spec = starter_spec(store.channels)
    if method == STARTER:
        return embed_store(Model(spec, build_networks(spec, weights="starter")), store)
    networks = initial_networks(spec, seed=int(method.removeprefix(UNTRAINED)))
    return embed_store(Model(spec, networks), store)


if __name__ == "__main__":
    main()
