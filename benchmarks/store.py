"""The store beside other ways of keeping pixels: `python benchmarks/store.py [--out FILE]`.

Reads: sites from a store of one site in a file, a store of 16, TIFFs as a microscope writes them
and a raw memory map, in order and at random, by 1 and 2 readers. Ingest: sites a second beside
reading and decoding the same images alone, and beside encoding and writing them too, by 1 and 2
workers. Costs: CPU time of what ingest does to a site, each part by itself. Growth: stores of 10^2
to 10^5 tiny sites, each in a process of its own (Linux only). Contenders take turns; everything
lies in the page cache, so that what is compared is work, not a disk. With `--cold` ingest is also
timed from images that the page cache doesn't hold (Linux only), as plates are when they are first
seen. On a machine that is shared, CPU time says more than sites a second.
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
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from operator import truediv
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import tifffile
import torch
from scipy.ndimage import gaussian_filter

from timing import spread_of, take_turns
from wsdino.screen.frames import memory_bytes
from wsdino.screen.images import Planes, read_header, read_site
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest
from wsdino.screen.measures import OF_NEW_STORES, site_measures
from wsdino.screen.records import crc32, image_states
from wsdino.screen.shards import PixelFiles
from wsdino.screen.statistics import histogram, site_statistics
from wsdino.screen.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RESULT = Path(__file__).parent / "results" / "store.md"
CPU = torch.device("cpu")
NUM_CHANNELS, NUM_DRAWN = 3, 4
READ_SHAPE, INGEST_SHAPE, TINY_SHAPE = (512, 640), (1024, 1280), (16, 16)
PARTS = ("reads", "ingest", "costs", "growth")
CODECS = {"uncompressed": None, "LZW": "lzw", "deflate": "zlib"}


def main() -> None:
    """Measure everything and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--reads", type=int, default=48, help="sites that are read a round")
    parser.add_argument("--ingests", type=int, default=48, help="sites that are ingested a round")
    parser.add_argument("--sites", type=int, nargs="+", default=[10**2, 10**3, 10**4, 10**5])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--cold", action="store_true", help="ingest from a cold page cache, too")
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
    work: dict[str, Callable[[], str]] = {
        "reads": lambda: reads(given.reads, given.rounds),
        "ingest": lambda: ingests(given.ingests, given.rounds, cold=given.cold),
        "costs": lambda: costs(given.ingests, given.rounds),
        "growth": lambda: grown(given.sites),
    }
    for part in given.parts:
        parts.append(work[part]())
        print(parts[-1], flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text("\n".join(parts))


def write_screen(
    folder: Path, num: int, shape: tuple[int, int], compression: str | None = None
) -> Path:
    """Write sites of smooth light with camera noise, in TIFFs, and their table.

    The noise is drawn for few sites, and lies elsewhere in each of the others.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    light = gaussian_filter(rng.random((NUM_CHANNELS, *shape)), (0, 12, 12))
    light = 200 + 3000 * ((light - light.min()) / np.ptp(light)) ** 3
    drawn = [rng.poisson(light).astype(np.uint16) for _ in range(min(num, NUM_DRAWN))]
    rows = []
    for site in range(num):
        moved = np.roll(drawn[site % NUM_DRAWN], divmod(site, shape[1]), (1, 2))
        row: dict[str, object] = {
            "Metadata_Plate": f"P{site // 384}",
            "Metadata_Well": f"{'ABCDEFGHIJKLMNOP'[site // 24 % 16]}{site % 24 + 1:02d}",
            "Metadata_Site": 1,
            "Metadata_Batch": "one",
            "Metadata_Compound": f"c{site % 7}",
        }
        for channel in range(NUM_CHANNELS):
            row[f"FileName_C{channel}"] = f"{site}_{channel}.tif"
            name = folder / f"{site}_{channel}.tif"
            tifffile.imwrite(name, moved[channel], compression=compression)
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
            planes = Planes(read_manifest(source))
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


def ingests(num: int, rounds: int, *, cold: bool) -> str:
    """Time ingest of all sites, and parts of it alone, by as many threads."""
    height, width = INGEST_SHAPE
    headings = {
        False: "From the page cache:\n",
        True: (
            "From the disk: before each turn everything is written out, and the page cache gives "
            "up the images (`posix_fadvise`, `POSIX_FADV_DONTNEED`):\n"
        ),
    }
    tables: dict[bool, list[str]] = {kind: [] for kind in ((False, True) if cold else (False,))}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, codec in CODECS.items():
            source = write_screen(folder / name, num, INGEST_SHAPE, codec)
            for kind, rows in tables.items():
                for workers in (1, 2):
                    cells = ingest_turns(source, folder, num, rounds, workers=workers, cold=kind)
                    rows.append(f"| {name} | {workers} | {' | '.join(cells)} |")
            shutil.rmtree(folder / name)
    lines = [
        f"## Ingest: {NUM_CHANNELS} x {height} x {width} px of 16 bits\n",
        (
            f"{num} sites a turn. Sites a second, and CPU time a site. Share: what reading and "
            "decoding alone, each reader into memory that it uses again, take of the time, and of "
            "the CPU time, that ingest takes; medians of the turns' shares.\n"
        ),
    ]
    for kind, rows in tables.items():
        lines += [
            headings[kind],
            (
                "| TIFFs | workers | read | read, encode, write | ingest | share | read, CPU ms "
                "| read, encode, write, CPU ms | ingest, CPU ms | share |"
            ),
            "|---" * 10 + "|",
            *rows,
            "",
        ]
    lines += [
        (
            "What ingest does besides reading, encoding and writing: headers of all images, "
            "statistics, quality measures, checksums, and the check of the screen. Encoding and "
            "writing take as long for all TIFFs, and of uncompressed ones most of the time.\n"
        )
    ]
    return "\n".join(lines)


def ingest_turns(
    source: Path, folder: Path, num: int, rounds: int, *, workers: int, cold: bool
) -> list[str]:
    """Let reading, copying and ingest take turns; return their cells of the table."""
    planes = Planes(read_manifest(source))
    files = PixelFiles(folder / "pixels", (NUM_CHANNELS, *INGEST_SHAPE), np.dtype("u2"))
    kept = threading.local()

    def read(site: int) -> np.ndarray:
        found = read_site(planes[site], getattr(kept, "site", None))
        kept.site = found
        return found

    def copy(site: int) -> None:
        if not hasattr(kept, "encoding"):
            kept.encoding = np.empty(memory_bytes(files.shape, files.dtype), np.uint8)
        files.write(site, [(site, files.encode(read(site), kept.encoding))])

    ways: dict[str, Callable[[], object]] = {
        "read": lambda: read_all(read, range(num), workers),
        "copy": lambda: read_all(copy, range(num), workers),
        "ingest": lambda: ingest(source, folder / "store", workers=workers),
    }
    wall: dict[str, list[float]] = {way: [] for way in ways}
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + 1):
        for way, work in ways.items():
            for made in ("store", "pixels"):
                shutil.rmtree(folder / made, ignore_errors=True)
            if cold:
                forget(source.parent)
            started, used = time.perf_counter(), time.process_time()
            work()
            # The first turn doesn't count.
            if turn:
                wall[way].append((time.perf_counter() - started) / num)
                cpu[way].append((time.process_time() - used) / num)
    rates = [spread_of([1 / each for each in wall[way]]) for way in ways]
    times = [f"{1000 * statistics.median(cpu[way]):.1f}" for way in ways]
    shares = [
        f"{statistics.median(map(truediv, each['read'], each['ingest'])):.0%}"
        for each in (wall, cpu)
    ]
    return [*rates, shares[0], *times, shares[1]]


def forget(folder: Path) -> None:
    """Write everything out, and take the files of a folder out of the page cache."""
    os.sync()
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def costs(num: int, rounds: int) -> str:
    """Take the CPU time of each part of ingest, in one thread."""
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = write_screen(folder / "screen", num, INGEST_SHAPE)
        planes = Planes(read_manifest(source))
        sites = [read_site(each) for each in planes[: 2 * NUM_DRAWN]]
        counts = [[histogram(field) for field in site] for site in sites]
        files = PixelFiles(folder / "pixels", sites[0].shape, sites[0].dtype)
        memory = np.empty(memory_bytes(files.shape, files.dtype), np.uint8)
        frames = [bytes(files.encode(site)) for site in sites]
        n = len(sites)
        parts: dict[str, Callable[[int], object]] = {
            "headers": lambda site: [read_header(plane.path) for plane in planes[site]],
            "size and time of the images": lambda site: image_states(planes[site]),
            "checksum": lambda site: crc32(sites[site % n]),
            "histograms": lambda site: [histogram(field) for field in sites[site % n]],
            "statistics of them": lambda site: site_statistics(sites[site % n], counts[site % n]),
            "quality measures": lambda site: site_measures(
                sites[site % n], None, counts[site % n], OF_NEW_STORES
            ),
            "encoding": lambda site: files.encode(sites[site % n], memory),
            "writing": lambda site: files.write(site, [(site, frames[site % n])]),
        }
        for turn in range(rounds + 1):
            for name, work in parts.items():
                shutil.rmtree(files.folder, ignore_errors=True)
                used = time.process_time()
                read_all(work, range(num), 1)
                # The first turn doesn't count.
                if turn:
                    taken.setdefault(name, []).append(1000 * (time.process_time() - used) / num)
    lines = [
        "## What ingest does to a site besides reading it: CPU time, ms\n",
        "| | median (range) |",
        "|---|---|",
        *(f"| {name} | {spread_of(values)} |" for name, values in taken.items()),
        f"| all of it | {sum(map(statistics.median, taken.values())):.3g} |",
    ]
    return "\n".join([*lines, ""])


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
