"""Designs and tables of features, small and of BBBC021's size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from wsdino.screen.bbbc021 import read_bbbc021_tables

if TYPE_CHECKING:
    from pathlib import Path


def synthetic_design(
    *,
    num_moas: int = 12,
    num_compounds: int = 38,
    num_treatments: int = 103,
    num_batches: int = 10,
    num_plates: int = 3,
    num_sites: int = 4,
) -> pd.DataFrame:
    """Sites like BBBC021's annotated part: a compound lies in one batch, but the last in all."""
    rows = []

    def add(batch: int, plate: int, compound: str, concentration: float, moa: str | None) -> None:
        well = sum(row["Metadata_Plate"] == f"W{batch}_{plate}" for row in rows) // num_sites
        rows.extend(
            {
                "Metadata_Plate": f"W{batch}_{plate}",
                "Metadata_Well": f"{chr(66 + well // 10)}{2 + well % 10:02d}",
                "Metadata_Site": site,
                "Metadata_Batch": f"W{batch}",
                "Metadata_Compound": compound,
                "Metadata_Concentration": concentration,
                "Metadata_MoA": moa,
                "Metadata_Control": compound == "DMSO",
            }
            for site in range(num_sites)
        )

    for treatment in range(num_treatments):
        compound = treatment % num_compounds
        dose = 10.0 ** (treatment // num_compounds - 1)
        # The last compound's first dose is on every plate, as taxol 0.3 uM is.
        everywhere = treatment == num_compounds - 1
        for batch in range(num_batches) if everywhere else [compound // num_moas * 3 % num_batches]:
            for plate in range(num_plates):
                add(batch, plate, f"c{compound:02d}", dose, f"moa{compound % num_moas:02d}")
    for batch in range(num_batches):
        for plate in range(num_plates):
            for _ in range(3):
                add(batch, plate, "DMSO", 0.0, None)
    return pd.DataFrame(rows)


def real_design(data: Path) -> pd.DataFrame:
    """All 13,200 sites of BBBC021."""
    folder = data / "bbbc021_profiles"
    return read_bbbc021_tables(
        folder / "BBBC021_v1_image.csv.gz", folder / "BBBC021_v1_moa.csv"
    ).filter(regex="^Metadata_")


def annotated_sites(design: pd.DataFrame) -> pd.DataFrame:
    """Sites with an MoA, and controls."""
    return design[design["Metadata_MoA"].notna() | design["Metadata_Control"]].reset_index(
        drop=True
    )


def with_features(
    design: pd.DataFrame,
    *,
    num_features: int = 12,
    channels: tuple[str, ...] = ("DAPI", "Actin"),
    signal: float = 1.5,
    seed: int = 0,
) -> pd.DataFrame:
    """Add `emb_<channel>_<i>` that depend on MoA and plate, plus noise; none is centred."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(len(design), num_features))
    for column, scale in (("Metadata_MoA", signal), ("Metadata_Plate", 0.3)):
        codes = pd.factorize(design[column])[0]
        effects = rng.normal(size=(codes.max() + 1, num_features), scale=scale)
        noise[codes >= 0] += effects[codes[codes >= 0]]
    mixed = noise @ rng.normal(size=(num_features, num_features)) + 5
    per_channel = num_features // len(channels)
    names = [f"emb_{channel}_{i}" for channel in channels for i in range(per_channel)]
    return pd.concat([design, pd.DataFrame(mixed.astype(np.float32), columns=names)], axis=1)


def profile_table(
    compounds: list[str], moas: list[str | None], features: np.ndarray, **columns: list
) -> pd.DataFrame:
    """A table of treatments."""
    metadata = pd.DataFrame(
        {
            "Metadata_Compound": compounds,
            "Metadata_Concentration": columns.pop("concentrations", [1.0] * len(compounds)),
            "Metadata_MoA": moas,
        }
        | {f"Metadata_{name}": values for name, values in columns.items()}
    )
    names = [f"x{i}" for i in range(features.shape[1])]
    return pd.concat([metadata, pd.DataFrame(features, columns=names)], axis=1)
