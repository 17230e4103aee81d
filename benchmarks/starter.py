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

import numpy as np
import pandas as pd

from wsdino.evaluate.intervals import average_precisions, clustered_interval
from wsdino.evaluate.matching import match_moa
from wsdino.model.model import Model
from wsdino.model.spec import build_networks, starter_spec
from wsdino.profile.aggregate import make_profiles
from wsdino.profile.classical import classical_table
from wsdino.profile.embed import embed_store
from wsdino.screen.ingest import ingest
from wsdino.screen.simulate import simulate
from wsdino.screen.store import num_cpus
from wsdino.train.train import initial_networks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsdino.screen.store import Store

HERE = Path(__file__).parent
STARTER, UNTRAINED, CLASSICAL = "starter, frozen", "untrained", "classical statistics"
Embedded = dict[tuple[str, Path], pd.DataFrame]
MEASURES = {"nsc": "NSC", "nscb": "NSCB", "ap": "mAP"}


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
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103], help="of screens")
    parser.add_argument("--layout", default="bbbc021", help="of the simulated screens")
    parser.add_argument("--sites", type=int, default=1, help="sites per well of these")
    parser.add_argument("--untrained", type=int, default=5, help="number of untrained networks")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    given = parser.parse_args()
    simulated = [
        ingest(
            simulate(
                given.out / f"screen_{seed}", layout=given.layout, sites=given.sites, seed=seed
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
    command = f"python benchmarks/starter.py --out DIR{real} --seeds {seeds} --layout"
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


def _table(screen: Screen, num_untrained: int, embedded: Embedded) -> Iterator[str]:
    methods = [STARTER, *(f"{UNTRAINED} {seed}" for seed in range(num_untrained)), CLASSICAL]
    right = {method: _judge(screen, method, embedded) for method in methods}
    yield "| | " + " | ".join(f"{name} | starter's lead" for name in MEASURES.values()) + " |"
    yield "|---|" + "---|---|" * len(MEASURES)
    untrained = [right[f"{UNTRAINED} {seed}"] for seed in range(num_untrained)]
    for name, tables in (
        (STARTER, [right[STARTER]]),
        (UNTRAINED, untrained),
        (CLASSICAL, [right[CLASSICAL]]),
    ):
        cells = []
        for measure in MEASURES:
            each = [table[measure].dropna() for table in tables]
            mean = pd.concat(each, axis=1).mean(axis=1)
            cells.append(f"{100 * mean.mean():.1f}")
            if len(each) > 1:
                cells[-1] += f" ({', '.join(f'{100 * one.mean():.0f}' for one in each)})"
            cells.append(_lead(right[STARTER][measure].dropna(), mean) if name != STARTER else "")
        yield f"| {name} | " + " | ".join(cells) + " |"


def _lead(ours: pd.Series, theirs: pd.Series) -> str:
    lead = ours - theirs
    clusters = lead.index.get_level_values("compound").to_numpy()
    low, high = clustered_interval(lead.to_numpy(), clusters)
    return f"{100 * lead.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _judge(screen: Screen, method: str, embedded: Embedded) -> pd.DataFrame:
    """Right or wrong, and average precision, of each treatment of each store."""
    tables = []
    for number, store in enumerate(screen.stores):
        key = (method, store.path)
        if key not in embedded:
            embedded[key] = _embed(store, method)
        profiles = make_profiles(embedded[key], normalisation=screen.normalisation)
        found = {
            "nsc": match_moa(profiles).neighbours.rename(columns={"correct": "value"}),
            "nscb": match_moa(profiles, exclude_shared_batch=True).neighbours.rename(
                columns={"correct": "value"}
            ),
            "ap": average_precisions(profiles).rename(
                columns={
                    "Metadata_Compound": "compound",
                    "Metadata_Concentration": "concentration",
                    "average_precision": "value",
                }
            ),
        }
        columns = [
            table.assign(compound=f"{number} " + table["compound"].astype(str))
            .set_index(["compound", "concentration"])["value"]
            .astype(np.float64)
            .rename(measure)
            for measure, table in found.items()
        ]
        tables.append(pd.concat(columns, axis=1))
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
