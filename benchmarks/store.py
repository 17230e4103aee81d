"""The store beside other ways of keeping pixels: `python benchmarks/store.py [--out FILE]`.

Reads: sites from a store of one site in a file, a store of 16, TIFFs as a microscope writes them
and a raw memory map, in order and at random, by 1 and 2 readers. Ingest: sites a second beside
reading and decoding the same images alone. Growth: a store of 10^2 to 10^4 tiny sites, each in a
process of its own (Linux only). Contenders take turns; everything lies in the page cache, so that
what is compared is work, not a disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import tifffile
import torch
from scipy.ndimage import gaussian_filter

from timing import spread_of, take_turns
from wsdino.screen.images import planes_of, read_site
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest
from wsdino.screen.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESULT = Path(__file__).parent / "results" / "store.md"
CPU = torch.device("cpu")
NUM_CHANNELS = 3
READ_SHAPE, INGEST_SHAPE, TINY_SHAPE = (512, 640), (1024, 1280), (16, 16)
CODECS = {"uncompressed": None, "LZW": "lzw", "deflate": "zlib"}


def main() -> None:
    """Measure everything and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reads", type=int, default=48, help="sites that are read a round")
    parser.add_argument("--ingests", type=int, default=12, help="sites that are ingested a round")
    parser.add_argument("--sites", type=int, nargs="+", default=[10**2, 10**3, 10**4])
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--grow", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.grow:
        print(json.dumps(growth(Path(given.grow[0]), Path(given.grow[1]), given.grow[2])))
        return
    where = (
        f"Python {platform.python_version()}, NumPy {np.__version__}, {os.cpu_count()} CPUs shared "
        f"with other work ({platform.machine()}), Linux"
    )
    command = " ".join(["python benchmarks/store.py", *sys.argv[1:]])
    parts = [f"`{command}`: {where}. Medians of {given.rounds} rounds, ranges in brackets.\n"]
    for part in (
        lambda: reads(given.reads, given.rounds),
        lambda: ingests(given.ingests, given.rounds),
        lambda: grown(given.sites),
    ):
        parts.append(part())
        print(parts[-1], flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("\n".join(parts))


def write_screen(
    folder: Path, num: int, shape: tuple[int, int], compression: str | None = None
) -> Path:
    """Write sites of smooth light with camera noise, in TIFFs, and their table."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    light = gaussian_filter(rng.random((NUM_CHANNELS, *shape)), (0, 12, 12))
    light = 200 + 3000 * ((light - light.min()) / np.ptp(light)) ** 3
    rows = []
    for site in range(num):
        row: dict[str, object] = {
            "Metadata_Plate": f"P{site // 384}",
            "Metadata_Well": f"{'ABCDEFGHIJKLMNOP'[site // 24 % 16]}{site % 24 + 1:02d}",
            "Metadata_Site": 1,
            "Metadata_Batch": "one",
            "Metadata_Compound": f"c{site % 7}",
        }
        for channel in range(NUM_CHANNELS):
            row[f"FileName_C{channel}"] = f"{site}_{channel}.tif"
            pixels = rng.poisson(light[channel]).astype(np.uint16)
            tifffile.imwrite(folder / f"{site}_{channel}.tif", pixels, compression=compression)
        rows.append(row)
    pd.DataFrame(rows).to_csv(folder / "load_data.csv", index=False)
    return folder / "load_data.csv"


def reads(num: int, rounds: int) -> str:
    """Time reading of all sites, by one and by two threads."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sources = {
            name: write_screen(folder / name, num, READ_SHAPE, codec)
            for name, codec in CODECS.items()
        }
        stores = {
            f"store, {n} site{'s' * (n > 1)} a file": ingest(
                sources["uncompressed"], folder / f"store{n}", sites_per_file=n
            )
            for n in (1, 16)
        }
        raw = np.lib.format.open_memmap(
            folder / "raw.npy", mode="w+", dtype=np.uint16, shape=(num, NUM_CHANNELS, *READ_SHAPE)
        )
        first = next(iter(stores.values()))
        first.read(range(num), out=raw)
        target = np.empty(raw.shape[1:], raw.dtype)
        ways: dict[str, Callable[[int], object]] = {
            "raw memory map": lambda site: np.copyto(target, raw[site]),
            **{name: store.__getitem__ for name, store in stores.items()},
        }
        for name, source in sources.items():
            planes = planes_of(read_manifest(source))
            ways[f"TIFF, {name}"] = lambda site, planes=planes: read_site(planes[site])  # type: ignore[misc]
        orders = {
            "in order": list(range(num)),
            "at random": np.random.default_rng(0).permutation(num).tolist(),
        }
        columns = {}
        for readers in (1, 2):
            for order, sites in orders.items():
                work = {
                    name: lambda read=read, sites=sites, n=readers: read_all(read, sites, n)  # type: ignore[misc]
                    for name, read in ways.items()
                }
                columns[f"{order}, {readers} reader{'s' * (readers > 1)}"] = take_turns(
                    work, rounds=rounds, device=CPU
                )
        files = (folder / "store16" / "images.zarr").glob("c.*")
        share = sum(file.stat().st_size for file in files) / raw.nbytes
    megabytes = NUM_CHANNELS * np.prod(READ_SHAPE) * 2 / 1e6
    height, width = READ_SHAPE
    lines = [
        (
            f"## Reads: sites a second, {NUM_CHANNELS} x {height} x {width} px of 16 bits "
            f"({megabytes:.1f} MB)\n"
        ),
        f"| | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for name in ways:
        cells = [spread_of([num / t for t in times[name]]) for times in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += [
        (
            f"\nThe store takes {share:.0%} of the memory map's bytes; its reads include the "
            "comparison with each site's checksum.\n"
        )
    ]
    return "\n".join(lines)


def read_all(read: Callable[[int], object], sites: Sequence[int], num_readers: int) -> None:
    """Read sites by some threads."""
    if num_readers == 1:
        for site in sites:
            read(site)
        return
    with ThreadPoolExecutor(num_readers) as pool:
        list(pool.map(read, sites))


def ingests(num: int, rounds: int) -> str:
    """Time ingest of all sites, and reading and decoding alone, by as many threads."""
    height, width = INGEST_SHAPE
    lines = [
        f"## Ingest: sites a second, {NUM_CHANNELS} x {height} x {width} px of 16 bits, 2 threads",
        "",
        "| TIFFs | reading and decoding alone | ingest | share |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, codec in CODECS.items():
            source = write_screen(folder / name, num, INGEST_SHAPE, codec)
            planes = planes_of(read_manifest(source))

            def read(planes: list = planes) -> None:
                read_all(lambda site: read_site(planes[site]), range(num), 2)

            def convert(source: Path = source) -> None:
                ingest(source, folder / "store", workers=2)
                shutil.rmtree(folder / "store")

            times = take_turns({"read": read, "ingest": convert}, rounds=rounds, device=CPU)
            shares = [a / b for a, b in zip(times["read"], times["ingest"], strict=True)]
            rates = [spread_of([num / t for t in times[key]]) for key in ("read", "ingest")]
            share = f"{statistics.median(shares):.0%}"
            lines.append(f"| {name} | {rates[0]} | {rates[1]} | {share} |")
    lines += [
        (
            "\nThe rest is statistics, quality measures and the check of each site, encoding and "
            "writing. From a disk or network slower than the page cache, reading takes the larger "
            "part.\n"
        )
    ]
    return "\n".join(lines)


def grown(sizes: Sequence[int]) -> str:
    """Ingest screens of tiny sites, each in a process of its own."""
    height, width = TINY_SHAPE
    lines = [
        f"## Growth: {NUM_CHANNELS} x {height} x {width} px, CPU time and memory of the process\n",
        "| sites | files | ingest, s | ms a site | the same again, s | opening, s | peak, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for num in sizes:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            source, found = write_screen(folder / "screen", num, TINY_SHAPE), {}
            for what in ("ingest", "again", "open"):
                command = [sys.executable, __file__, "--grow", source, folder / "store", what]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found[what] = json.loads(done.stdout)
            files = len(list((folder / "store" / "images.zarr").glob("c.*")))
            seconds = [found[what]["seconds"] for what in ("ingest", "again", "open")]
            lines.append(
                f"| {num:,} | {files:,} | {seconds[0]:.1f} | {1000 * seconds[0] / num:.1f} | "
                f"{seconds[1]:.1f} | {seconds[2]:.2f} | {found['ingest']['peak_mib']:.0f} |"
            )
    return "\n".join([*lines, ""])


def growth(source: Path, out: Path, what: str) -> dict[str, float]:
    """Ingest or open a store; return CPU time and peak memory over what was there before."""
    status = Path("/proc/self/status")

    def memory_mib(kind: str) -> float:
        lines = status.read_text().splitlines()
        return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 1024

    before, start = memory_mib("VmRSS"), time.process_time()
    if what == "open":
        open_store(out)
    else:
        ingest(source, out, workers=2)
    seconds = time.process_time() - start
    return {"seconds": seconds, "peak_mib": memory_mib("VmHWM") - before}


if __name__ == "__main__":
    main()
