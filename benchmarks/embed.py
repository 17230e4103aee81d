"""How close `wsdino embed` is to a bare forward pass: `python benchmarks/embed.py [--device cuda]`.

The store holds noise, the least compressible data there is. `write_embeddings` (reading, scaling,
tiles, parts, merging) is timed in turn with the same tiles, already scaled and in device memory,
going through the same network; of several numbers of tiles at once the fastest counts. Prints the
median of each in sites per second, and their ratio. `--sites 3848` is as many as the annotated part
of BBBC021 has.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import tifffile
import torch

from timing import seconds
from wsdino.embed.embed import write_embeddings
from wsdino.model.model import Model
from wsdino.model.spec import Architecture, ModelSpec
from wsdino.model.tiles import tile_starts
from wsdino.screen.ingest import ingest
from wsdino.train.train import initial_networks

if TYPE_CHECKING:
    from wsdino.screen.store import Store


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--sites", type=int, default=32)
    parser.add_argument("--shape", type=int, nargs=3, default=[3, 512, 640])
    parser.add_argument("--backbone", default="vit_small_patch8_224.dino")
    parser.add_argument("--mode", default="per_channel")
    parser.add_argument("--tile", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--at-once", type=int, nargs="+", default=[16, 64, 144])
    parser.add_argument("--forward-sites", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), given.sites, tuple(given.shape))
        spec = ModelSpec(
            channels=store.channels,
            mode=given.mode,
            architecture=Architecture(backbone=given.backbone, image_size=224),
            tile=given.tile,
        )
        model = Model(spec, initial_networks(spec, seed=0), device=given.device)
        rates: dict[str, list[float]] = {"embed": [], "forward": []}
        few = min(given.sites, given.forward_sites)
        best = max(given.at_once, key=lambda size: bare(model, store, size, few))
        for turn in range(given.rounds):
            out = Path(folder) / f"{turn}.parquet"
            start = time.perf_counter()
            write_embeddings(model, store, out, batch_size=given.batch_size)
            rates["embed"].append(len(store) / (time.perf_counter() - start))
            rates["forward"].append(bare(model, store, best, few))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratio = medians["embed"] / medians["forward"]
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    print(
        f"{name}: {given.backbone} {given.mode}, {given.sites} sites of {given.shape}, tile "
        f"{given.tile}: embed {medians['embed']:.2f} sites/s, forward alone "
        f"({best} tiles at once) {medians['forward']:.2f} sites/s, ratio {ratio:.2f}"
    )


def make_store(folder: Path, num_sites: int, shape: tuple[int, ...]) -> Store:
    """Ingest a screen of noise."""
    rng, rows = np.random.default_rng(0), []
    for site in range(num_sites):
        row: dict[str, object] = {
            "Metadata_Plate": "P",
            "Metadata_Well": f"{chr(65 + site // 24 % 16)}{site % 24 + 1:02d}",
            "Metadata_Site": site // 384 + 1,
            "Metadata_Batch": "W",
            "Metadata_Compound": f"c{site}",
            "Metadata_Concentration": 1.0,
        }
        for channel in range(shape[0]):
            name = f"{site}_{channel}.tif"
            pixels = rng.integers(300, 500, shape[1:], dtype=np.uint16)
            tifffile.imwrite(folder / name, pixels)
            row[f"FileName_C{channel}"] = name
        rows.append(row)
    table = folder / "manifest.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    return ingest(table, folder / "store")


@torch.inference_mode()
def bare(model: Model, store: Store, at_once: int, num_sites: int) -> float:
    """Sites per second of the network alone, on tiles that are already in memory and scaled."""
    height, width = store.field_shape
    side = model.spec.tile or height
    num_tiles = len(tile_starts(height, side)) * len(tile_starts(width, side))
    tiles = torch.randn(at_once, len(store.channels), side, side, device=model.device)
    left = num_sites * num_tiles

    def forward() -> None:
        for done in range(0, left, at_once):
            model.networks(tiles[: left - done])

    with torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cuda"):
        model.networks(tiles)
        return num_sites / seconds(forward, model.device)


if __name__ == "__main__":
    main()
