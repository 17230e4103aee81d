"""A tiny screen in BBBC021's own layout, with cells that differ by mechanism."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np
import tifffile

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = ("DAPI", "Tubulin", "Actin")
MOAS = ("Microtubule destabilizers", "DNA damage", "Protein synthesis")
DOSES = (1.0, 10.0)


def chunk_path(store: Path, site: int) -> Path:
    """Return the file of a site in a small store, where each has one of its own."""
    return store / "images.zarr" / f"c.{site}.0.0.0"


def write_bbbc021_folder(
    path: Path,
    *,
    size: tuple[int, int] = (64, 64),
    channels: tuple[str, ...] = CHANNELS,
    num_weeks: int = 2,
    num_plates: int = 2,
    num_sites: int = 2,
    num_dmso_wells: int = 2,
    dtype: type = np.uint16,
    seed: int = 0,
) -> Path:
    """Write `BBBC021_v1_image.csv`, `BBBC021_v1_moa.csv` and the images; return the folder.

    Each week has `num_plates` replicate plates. On each lie one compound of every mechanism
    (another one each week, so that NSC and NSCB are defined) at two doses, one well each, a
    compound without a known mechanism, and DMSO: with the defaults 9 wells and 18 sites a plate,
    72 sites in all.
    """
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows, moas = [], []
    for week in range(1, num_weeks + 1):
        wells = _layout(week, num_dmso_wells)
        moas += [(compound, dose, moa) for compound, dose, moa in wells if moa]
        for replicate in range(1, num_plates + 1):
            plate = f"Week{week}_{week}000{replicate}"
            folder = f"Week{week}/{plate}"
            (path / folder).mkdir(parents=True, exist_ok=True)
            for index, (compound, dose, moa) in enumerate(wells):
                well = f"{'BCDEFG'[index // 10]}{2 + index % 10:02d}"
                for site in range(1, num_sites + 1):
                    images = _draw(rng, size, moa, len(channels), week, dtype)
                    row = {"TableNumber": 0, "ImageNumber": len(rows) + 1}
                    for i, (channel, image) in enumerate(zip(channels, images, strict=True)):
                        name = f"{plate}_{well}_s{site}_w{i + 1}{rng.integers(16**8):08X}.tif"
                        tifffile.imwrite(path / folder / name, image, compression="zlib")
                        row[f"Image_FileName_{channel}"] = name
                        row[f"Image_PathName_{channel}"] = folder
                    row[f"Image_Metadata_Plate_{channels[0]}"] = plate
                    row[f"Image_Metadata_Well_{channels[0]}"] = well
                    row["Replicate"] = replicate
                    row["Image_Metadata_Compound"] = compound
                    row["Image_Metadata_Concentration"] = dose
                    rows.append(row)
    write_rows(path / "BBBC021_v1_image.csv", rows)
    write_rows(
        path / "BBBC021_v1_moa.csv",
        [
            {"compound": compound, "concentration": f"{dose:.6f}", "moa": moa}
            for compound, dose, moa in dict.fromkeys([*moas, ("DMSO", 0.0, "DMSO")])
        ],
    )
    return path


def write_rows(path: Path, rows: list[dict]) -> None:
    """Write dictionaries as a CSV."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _layout(week: int, num_dmso_wells: int) -> list[tuple[str, float, str | None]]:
    treated: list[tuple[str, float, str | None]] = [
        (f"compound {moa[0]}{week}", dose, moa) for moa in MOAS for dose in DOSES
    ]
    return [*treated, (f"unknown {week}", 1.0, None), *[("DMSO", 0.0, None)] * num_dmso_wells]


def _draw(
    rng: np.random.Generator,
    size: tuple[int, int],
    moa: str | None,
    num_channels: int,
    week: int,
    dtype: type,
) -> list[np.ndarray]:
    """Draw round cells whose radius, elongation and number depend on the mechanism."""
    kind = MOAS.index(moa) + 1 if moa else 0
    y, x = np.mgrid[: size[0], : size[1]]
    images = np.full((num_channels, *size), 0.05)
    for _ in range((8, 5, 10, 4)[kind]):
        cy, cx = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        angle, radius = rng.uniform(0, np.pi), (4, 6, 3, 4)[kind] * rng.uniform(0.8, 1.2)
        along = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        across = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        distance = np.hypot(along / (1, 1, 1, 2.5)[kind], across) / radius
        for channel in range(num_channels):
            images[channel] += 0.3 * np.exp(-((distance / (1 + 0.4 * channel)) ** 2))
    images *= 1 + 0.1 * week
    images += rng.normal(0, 0.01, images.shape)
    top = np.iinfo(dtype).max
    scale = min(4000, top)
    return list((images * scale).clip(0, top).astype(dtype))
