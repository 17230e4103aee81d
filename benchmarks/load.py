"""What large inputs cost: `python benchmarks/load.py [CASE ...] [--write]`.

Each case of :data:`CASES` makes its input in one process, and is measured in another, so that peak
memory is that of the work alone: CPU time (the machine may be shared), time, and the highest
resident memory, with the imports in it. Linux only. `--write` writes `benchmarks/results/load.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable

RESULT = Path(__file__).parent / "results" / "load.md"
CHANNELS = ("DNA", "ER", "RNA", "AGP", "Mito")
WELLS = [f"{row}{column:02d}" for row in "ABCDEFGHIJKLMNOP" for column in range(1, 25)]
SITES = 9


@dataclass(frozen=True)
class Case:
    """Something large.

    Parameters
    ----------
    name
        Name, for the command line.
    what
        In words.
    goal
        In words; empty where there is none.
    make
        Writes the input into a folder.
    work
        What is measured, in that folder; returns what it found, in words.
    """

    name: str
    what: str
    goal: str
    make: Callable[[Path], None]
    work: Callable[[Path], str]


def screen_table(rows: range) -> pd.DataFrame:
    """Make rows of a LoadData table: plates of 384 wells and 9 sites, 5 channels."""
    number = np.arange(rows.start, rows.stop)
    well = number // SITES
    plate = well // len(WELLS)
    names = [f"BR{100_000 + one:08d}" for one in range(plate[0], plate[-1] + 1)]
    plates = np.array(names, dtype=object)[plate - plate[0]]
    sites = number % SITES + 1
    wells = np.array(WELLS, dtype=object)[well % len(WELLS)]
    is_control = well % 24 == 0
    table = pd.DataFrame(
        {
            "Metadata_Plate": plates,
            "Metadata_Well": wells,
            "Metadata_Site": sites,
            "Metadata_Batch": [f"2020_11_{1 + one % 28:02d}" for one in plate // 12],
            "Metadata_Compound": np.where(
                is_control, "DMSO", "BRD-K" + pd.Series(well // 4).astype(str).str.zfill(8)
            ),
            "Metadata_Concentration": np.where(is_control, 0.0, 5.0),
        }
    )
    for position, channel in enumerate(CHANNELS, 1):
        table[f"FileName_{channel}"] = [
            f"r{number // 24:02d}c{number % 24:02d}f{site:02d}p01-ch{position}sk1fk1fl1.tiff"
            for number, site in zip(well % len(WELLS), sites, strict=True)
        ]
        table[f"PathName_{channel}"] = "/data/images/" + table["Metadata_Plate"] + "/Images"
    return table


def write_screen(num: int, folder: Path) -> None:
    """Write a LoadData table of `num` rows, some at a time."""
    step = 200_000
    for start in range(0, num, step):
        part = screen_table(range(start, min(start + step, num)))
        part.to_csv(folder / "load_data.csv", mode="a", header=not start, index=False)


def read_screen(folder: Path) -> str:
    """Read it as a manifest."""
    from wsdino.screen.manifest import read_manifest

    manifest = read_manifest(folder / "load_data.csv", check_files=False)
    return f"{len(manifest):,} sites"


def write_fields(shape: tuple[int, int, int], folder: Path) -> None:
    """Write two sites of large fields, a file for each channel."""
    import tifffile

    num, *size = shape
    rng = np.random.default_rng(0)
    rows = []
    for site in (1, 2):
        row: dict[str, Any] = {"Metadata_Plate": "P1", "Metadata_Well": "A01"}
        row |= {"Metadata_Site": site, "Metadata_Compound": "DMSO"}
        for channel in range(num):
            name = f"s{site}c{channel}.tif"
            tile = rng.integers(100, 4000, (500, 500), dtype=np.uint16)
            pixels = np.tile(tile, (-(-size[0] // 500), -(-size[1] // 500)))
            tifffile.imwrite(folder / name, pixels[: size[0], : size[1]])
            row[f"FileName_c{channel}"] = name
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "load_data.csv", index=False)


def ingest_fields(folder: Path) -> str:
    """Convert them into a store."""
    from wsdino.screen.ingest import ingest

    store = ingest(folder / "load_data.csv", folder / "store")
    return f"{len(store)} fields of {store.field_shape[0]} x {store.field_shape[1]}"


def make_store(shape: tuple[int, int, int], folder: Path) -> None:
    """Write them, and convert them."""
    write_fields(shape, folder)
    ingest_fields(folder)


def embed_fields(folder: Path) -> str:
    """Embed the store with a small network, tile by tile."""
    from wsdino.embed.embed import write_embeddings
    from wsdino.model.building import build_networks
    from wsdino.model.model import Model
    from wsdino.model.spec import Architecture, ModelSpec
    from wsdino.screen.store import open_store

    store = open_store(folder / "store")
    shape = Architecture(image_size=32, patch_size=16, stem="linear", dim=32, depth=1, num_heads=2)
    spec = ModelSpec(channels=store.channels, architecture=shape, tile=720, mode="joint")
    write_embeddings(Model(spec, build_networks(spec)), store, folder / "sites.parquet")
    return f"{len(pd.read_parquet(folder / 'sites.parquet'))} embeddings"


def features_of_wells(num: int, num_features: int, num_compounds: int) -> pd.DataFrame:
    """Make sites of compounds with a dose each, in 4 wells, and a tenth of controls."""
    rng = np.random.default_rng(0)
    is_control = np.arange(num) % 10 == 0
    compound = np.arange(num) % num_compounds
    means = rng.normal(size=(num_compounds // 10 + 1, num_features)).astype(np.float32)
    moa = compound % len(means)
    features = rng.normal(size=(num, num_features)).astype(np.float32)
    features[~is_control] += 0.3 * means[moa[~is_control]]
    plate = np.arange(num) * 10 // num
    table = pd.DataFrame(
        {
            "Metadata_Plate": [f"P{one}" for one in plate],
            "Metadata_Well": [WELLS[i % len(WELLS)] for i in range(num)],
            "Metadata_Site": np.arange(num) // len(WELLS) + 1,
            "Metadata_Batch": [f"W{one % 5}" for one in plate],
            "Metadata_Compound": np.where(is_control, "DMSO", [f"c{one}" for one in compound]),
            "Metadata_Concentration": np.where(is_control, 0.0, 1.0),
            "Metadata_MoA": np.where(is_control, None, [f"m{one}" for one in moa]),
            "Metadata_Control": is_control,
        }
    )
    names = [f"emb_a_{i}" for i in range(num_features)]
    return pd.concat([table, pd.DataFrame(features, columns=names)], axis=1)


def write_features(num: int, num_features: int, num_compounds: int, folder: Path) -> None:
    """Write them."""
    table = features_of_wells(num, num_features, num_compounds)
    table.to_parquet(folder / "sites.parquet", index=False)


def profile_and_evaluate(folder: Path) -> str:
    """Make profiles and evaluate them, with the defaults of the command line."""
    from wsdino.evaluate.results import evaluate
    from wsdino.profile.aggregate import make_profiles
    from wsdino.tables.reading import read_table

    profiles = make_profiles(read_table(folder / "sites.parquet"))
    found = evaluate(profiles)
    return f"{len(profiles):,} profiles, NSC {found['nsc_correct']} of {found['nsc_total']}"


FIELD = (12, 6000, 6000)
CASES = (
    *(
        Case(
            f"manifest-{num}",
            f"manifest of {num:,} rows and 5 channels, from CSV",
            goal,
            partial(write_screen, num),
            read_screen,
        )
        for num, goal in ((100_000, ""), (300_000, ""), (1_000_000, "60 s, 1 GiB"))
    ),
    Case(
        "ingest",
        "ingest of 2 fields of 6,000 x 6,000 px and 12 channels (0.86 GB each)",
        "3 GB",
        partial(write_fields, FIELD),
        ingest_fields,
    ),
    Case("embed", "embedding them", "3 GB", partial(make_store, FIELD), embed_fields),
    Case(
        "features",
        "profiles and evaluation of 5,000 sites of 4,096 features",
        "",
        partial(write_features, 5_000, 4_096, 500),
        profile_and_evaluate,
    ),
    Case(
        "compounds",
        "profiles and evaluation of 10,000 compounds, 44,000 sites of 128 features",
        "",
        partial(write_features, 44_000, 128, 10_000),
        profile_and_evaluate,
    ),
)


def measure(case: Case, folder: Path) -> dict[str, Any]:
    """Do the work of a case; return what it took."""
    begin, cpu = time.monotonic(), time.process_time()
    found = case.work(folder)
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return {
        "found": found,
        "seconds": time.monotonic() - begin,
        "cpu": time.process_time() - cpu,
        "peak_kib": int(peak[1]) if peak else 0,
    }


def markdown(rows: dict[str, dict[str, Any]]) -> str:
    """Write the table, and what more rows would take, from two sizes on a straight line."""
    versions = (
        f"Python {platform.python_version()}, NumPy {np.__version__}, pandas {pd.__version__}"
    )
    lines = [
        "# What large inputs cost",
        "",
        f"`python benchmarks/load.py {' '.join(rows)}`; peak memory is the process's own.",
        "",
        f"{versions}; {os.cpu_count()} CPUs, shared with other work: compare CPU times.",
        "",
        "| | found | CPU, s | time, s | peak, GiB | goal |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {case.what} | {row['found']} | {row['cpu']:.1f} | {row['seconds']:.1f} | "
        f"{row['peak_kib'] / 2**20:.2f} | {case.goal} |"
        for case in CASES
        if (row := rows.get(case.name))
    ]
    sizes = [name for name in rows if name.startswith("manifest-")]
    if len(sizes) > 1:
        small, large = (rows[name] for name in sizes[-2:])
        few, many = (int(name.removeprefix("manifest-")) for name in sizes[-2:])
        share = (10**7 - many) / (many - few)
        cpu, peak = (large[k] + (large[k] - small[k]) * share for k in ("cpu", "peak_kib"))
        lines += [
            "",
            f"A manifest of 10,000,000 rows, estimated: {cpu:.0f} s, {peak / 2**20:.1f} GiB.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure cases, and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=", ".join(case.name for case in CASES))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    by_name = {case.name: case for case in CASES}
    if given.step:
        folder, case = Path(given.step[1]), by_name[given.cases[0]]
        if given.step[0] == "make":
            case.make(folder)
        else:
            print(json.dumps(measure(case, folder)))
        return
    rows: dict[str, dict[str, Any]] = {}
    for name in given.cases or by_name:
        with tempfile.TemporaryDirectory() as folder:
            for step in ("make", "work"):
                command = [sys.executable, __file__, name, "--step", step, folder]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows[name] = json.loads(done.stdout.splitlines()[-1])
            print(name, rows[name], file=sys.stderr, flush=True)
    print(markdown(rows))
    if given.write:
        RESULT.write_text(markdown(rows))


if __name__ == "__main__":
    main()
