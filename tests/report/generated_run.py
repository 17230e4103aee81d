"""Generated run folders and a store in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from wsdino.environment import environment
from wsdino.evaluate.evidence import activity

NASTY = '<b>&"$x$'
MOAS = ("Actin disruptors", "Eg5 inhibitors", "Protein <i>synthesis</i>")


@dataclass
class MemoryStore:
    """A few generated fields with the interface of a store."""

    images: np.ndarray
    manifest: pd.DataFrame
    channels: tuple[str, ...] = ("DAPI", "Tubulin", "Actin")
    pixel_size: float = 0.65

    @property
    def pixel_sizes(self) -> np.ndarray:
        """Width of a pixel of each site in micrometres."""
        return np.full(len(self), self.pixel_size)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index]

    @property
    def statistics(self) -> dict[str, np.ndarray]:
        """Mean and standard deviation per site and channel."""
        pixels = self.images.astype(np.float64)
        return {
            "mean": pixels.mean(axis=(2, 3)).astype(np.float32),
            "std": pixels.std(axis=(2, 3)).astype(np.float32),
        }


class MeanModel:
    """Attention by brightness: one network per channel, two heads, patches of eight pixels."""

    network_names = ("DAPI", "Tubulin", "Actin")

    def attention(self, images: np.ndarray) -> np.ndarray:
        batch, channels, height, width = images.shape
        patches = images.reshape(batch, channels, height // 8, 8, width // 8, 8)
        bright = patches.astype(np.float64).mean(axis=(3, 5))
        heads = np.stack([bright, bright.max() - bright], axis=2)
        return heads / heads.sum(axis=(3, 4), keepdims=True)

    def patches(self, images: np.ndarray) -> np.ndarray:
        batch, channels, height, width = images.shape
        patches = images.reshape(batch, channels, height // 8, 8, width // 8, 8)
        return np.moveaxis(patches, 3, 4).reshape(batch, channels, height // 8, width // 8, 64)


def treatments(
    num_per_moa: int, moas: tuple[str, ...] = MOAS, *, num_doses: int = 1
) -> pd.DataFrame:
    """One row per treatment, the first of a compound with a name that needs escaping.

    With one dose each the compounds differ in theirs.
    """
    rows = [
        {
            "Metadata_Compound": NASTY if moa == moas[0] and n == 0 else f"{moa[:5]}-{n}",
            "Metadata_Concentration": 0.1 * 3 ** (dose if num_doses > 1 else n),
            "Metadata_MoA": moa,
            "Metadata_Control": False,
        }
        for moa in moas
        for n in range(num_per_moa)
        for dose in range(num_doses)
    ]
    return pd.DataFrame(rows)


@cache
def activity_results() -> dict[str, Any]:
    """Activity of twelve wells on two plates, four of them controls, and a curve."""
    rows = [
        (plate, f"A{number:02d}", name, dose)
        for plate in ("P1", "P2")
        for number, (name, dose) in enumerate(
            [("DMSO", 0.0), ("DMSO", 0.0), *(("drug", 10.0**power) for power in range(4))], start=1
        )
    ]
    names = ["Metadata_Plate", "Metadata_Well", "Metadata_Compound", "Metadata_Concentration"]
    table = pd.DataFrame(rows, columns=names)
    table["Metadata_Control"] = table["Metadata_Compound"] == "DMSO"
    features = np.random.default_rng(0).normal(size=(len(table), 6))
    features[:, 0] += np.log10(table["Metadata_Concentration"] + 1) * 5
    found = activity(
        pd.concat([table, pd.DataFrame(features).add_prefix("x")], axis=1), null_size=100
    )
    assert found["doses"]
    assert found["retrieval"]
    return found


def results_of(frame: pd.DataFrame, right: float, seed: int) -> dict[str, Any]:
    """Results whose numbers, neighbours and confusion agree with each other."""
    rng = np.random.default_rng(seed)
    labels = sorted(frame["Metadata_MoA"].unique())
    results: dict[str, Any] = {
        "schema": 2,
        "normalisation": {
            "method": "tvn",
            "fitted_on": "controls",
            "num_fitted": 330,
            "num_components": 48,
            "note": "",
        },
        "aggregation": "mean per (treatment, plate), median per treatment",
        "multi_batch": "first-published",
        "num_treatments": len(frame),
        "gallery": {"nsc": 9, "nscb": 6, "map": 9},
        "map": round(right * 0.8, 3),
        "map_total": len(frame),
        "map_ci": [round(right * 0.8 - 0.1, 3), round(right * 0.8 + 0.1, 3)],
        "map_null": {"mean": 0.234, "p95": 0.3, "p_value": 0.000999},
        "confusion": {"labels": labels},
        "left_out": {"nsc": [], "nscb": [], "map": []},
        "map_per_moa": {label: 0.5 + 0.1 * (n % 4) for n, label in enumerate(labels)},
        "activity": activity_results(),
        "leakage": {"batch": {"accuracy": 0.4123, "chance": 0.1, "num_wells": 72}, "plate": None},
        "notes": ["a note about <this>"],
        "num_controls": 6,
    }
    for measure in ("nsc", "nscb"):
        queries = frame if measure == "nsc" else frame[frame["Metadata_MoA"] != labels[-1]]
        neighbours = []
        for row in queries.to_dict("records"):
            others = [label for label in labels if label != row["Metadata_MoA"]]
            correct = bool(rng.random() < right)
            moa = row["Metadata_MoA"] if correct else str(rng.choice(others))
            neighbours.append(
                {
                    "compound": row["Metadata_Compound"],
                    "concentration": row["Metadata_Concentration"],
                    "moa": row["Metadata_MoA"],
                    "neighbour_compound": f"{moa[:5]}-1",
                    "neighbour_concentration": 0.3,
                    "neighbour_moa": moa,
                    "similarity": float(rng.uniform(0.3, 1)),
                    "correct": correct,
                }
            )
        counts = pd.crosstab(
            pd.Categorical([n["moa"] for n in neighbours], labels),
            pd.Categorical([n["neighbour_moa"] for n in neighbours], labels),
            dropna=False,
        )
        good = sum(n["correct"] for n in neighbours)
        share = good / len(neighbours)
        results |= {
            measure: share,
            f"{measure}_correct": good,
            f"{measure}_total": len(neighbours),
            f"{measure}_ci": [max(0.0, share - 0.07), min(1.0, share + 0.05)],
            f"{measure}_neighbours": neighbours,
            f"{measure}_null": {"mean": 0.11, "p95": 0.2, "p_value": 0.000999},
        }
        results["confusion"][measure] = counts.to_numpy().tolist()
    results["left_out"]["nscb"] = [
        {
            "compound": row["Metadata_Compound"],
            "concentration": row["Metadata_Concentration"],
            "moa": row["Metadata_MoA"],
            "reason": "no treatment of the same mechanism in another batch",
        }
        for row in frame[frame["Metadata_MoA"] == labels[-1]].to_dict("records")
    ]
    return results


def make_sites(
    profiles: pd.DataFrame, *, num_plates: int = 2, num_controls: int = 3, num_sites: int = 1
) -> pd.DataFrame:
    """Normalised sites: a well of each treatment on each plate, near its profile, and controls."""
    rng = np.random.default_rng(5)
    names = [name for name in profiles if name.startswith("emb_")]
    controls = pd.DataFrame({"Metadata_Compound": ["DMSO"] * num_controls})
    controls["Metadata_Concentration"] = 0.0
    controls["Metadata_Control"] = True
    controls[names] = np.zeros((num_controls, len(names)), np.float32)
    parts = []
    for plate in range(num_plates):
        wells = pd.concat([profiles, controls], ignore_index=True)
        wells["Metadata_Control"] = wells["Metadata_Control"].astype(bool)
        wells["Metadata_Plate"], wells["Metadata_Batch"] = f"P/{plate + 1}", f"week {plate + 1}"
        wells["Metadata_Well"] = [f"{'BCDE'[n % 4]}{n // 4 + 2:02d}" for n in range(len(wells))]
        parts += [wells.assign(Metadata_Site=site + 1) for site in range(num_sites)]
    table = pd.concat(parts, ignore_index=True)
    table[names] += 0.4 * rng.normal(size=(len(table), len(names))).astype(np.float32)
    return table


def make_screen(sites: pd.DataFrame) -> MemoryStore:
    """Fields of 48 by 64 pixels, for sites as :func:`make_sites` makes them."""
    images = np.random.default_rng(2).integers(0, 4000, (len(sites), 3, 48, 64)).astype(np.uint16)
    names = [name for name in sites if name.startswith("Metadata_")]
    return MemoryStore(images, sites[names].reset_index(drop=True))


def curves(num: int, *, teacher: bool, seed: int = 0) -> list[dict[str, float]]:
    """Training curves that look like those of a run that goes well."""
    rng, top = np.random.default_rng(seed), float(np.log(4096))
    lines = []
    for step in range(num):
        t = step / max(num - 1, 1)
        noise = float(rng.normal(0, 0.05))
        line = {"step": step, "epoch": step // 10, "samples": 64 * step, "lr": 1e-3 * (1 - t)}
        if teacher:
            line |= {
                "loss": 8.3 - 3 * t + noise,
                "kl": 1.2 - 0.6 * t + noise,
                "teacher_entropy": top * (0.95 - 0.5 * t) + noise,
                "teacher_entropy_max": top,
                "assignment_entropy": top * 0.9 + noise,
                "embedding_std": 0.5 + 0.3 * t,
                "embedding_rank": 5 + 30 * t,
            }
        else:
            line |= {"loss": 3 - 2 * t + noise, "accuracy": t}
        lines.append(line)
    return lines


def write_lines(path: Path, lines: list[dict[str, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def make_run(
    run: Path,
    *,
    num_per_moa: int = 3,
    moas: tuple[str, ...] = MOAS,
    num_steps: int = 400,
    num_doses: int = 1,
) -> Path:
    """Write a run folder with everything that a report reads."""
    made = _files_of_run(num_per_moa, moas, num_steps, num_doses)
    for name, content in made.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(content)
    return run


@cache
def _files_of_run(
    num_per_moa: int, moas: tuple[str, ...], num_steps: int, num_doses: int
) -> dict[str, bytes]:
    """The files of a run by their names; evaluating takes long, and many tests want the same."""
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        _write_run(run, num_per_moa, moas, num_steps, num_doses)
        files = [path for path in run.rglob("*") if path.is_file()]
        return {str(path.relative_to(run)): path.read_bytes() for path in files}


def _write_run(
    run: Path, num_per_moa: int, moas: tuple[str, ...], num_steps: int, num_doses: int
) -> None:
    frame = treatments(num_per_moa, moas, num_doses=num_doses)
    rng = np.random.default_rng(1)
    codes = frame["Metadata_MoA"].astype("category").cat.codes.to_numpy()
    features = rng.normal(size=(len(moas), 20))[codes] + 0.6 * rng.normal(size=(len(frame), 20))
    names = [f"emb_DAPI_{n:03d}" for n in range(20)]
    table = pd.concat([frame, pd.DataFrame(features.astype(np.float32), columns=names)], axis=1)
    run.mkdir(parents=True)
    table.to_parquet(run / "profiles.parquet")
    chances = {"classical": 0.7, "untrained": 0.45, "classifier": 0.85, "dino": 0.75}
    results = results_of(frame, 0.9, 0)
    results["baselines"] = {name: results_of(frame, p, 1) for name, p in chances.items()}
    results["activity"] = activity(make_sites(table), null_size=500)
    (run / "results.json").write_text(json.dumps(results), encoding="utf-8")
    write_lines(run / "metrics.jsonl", curves(num_steps, teacher=True))
    write_lines(run / "baselines/dino/metrics.jsonl", curves(num_steps, teacher=True, seed=1))
    write_lines(run / "baselines/classifier/metrics.jsonl", curves(num_steps // 2, teacher=False))
    rows: list[dict[str, Any]] = [
        {"partner_in": "another plate", "sites_with_partner": 72, "fraction": 0.75},
        {"partner_in": NASTY, "sites_with_partner": 96, "fraction": 1.0, "median_partners": 11.5},
    ]
    coverage: dict[str, Any] = {"label": "compound", "num_labels": 5, "num_sites": 96, "rows": rows}
    coverage |= {"partner_from": "plate", "fallback": "relax"}
    (run / "coverage.json").write_text(json.dumps(coverage), encoding="utf-8")
    (run / "config.yaml").write_text(
        "seed: 7\nmodel:\n  channels: per_channel  # <script>\n", encoding="utf-8"
    )
    made = environment(seed=7, device="cpu") | {"command": ["wsdino", "run", "a $1.yaml"]}
    (run / "environment.json").write_text(json.dumps(made), encoding="utf-8")


def make_store() -> MemoryStore:
    """Eight fields of 48 by 64 pixels in three channels, two of them controls."""
    rng = np.random.default_rng(0)
    frame = treatments(2)
    controls = pd.DataFrame({"Metadata_Compound": ["DMSO"] * 2, "Metadata_Control": [True] * 2})
    frame = pd.concat([frame, controls], ignore_index=True)
    frame["Metadata_Control"] = frame["Metadata_Control"].astype(bool)
    frame["Metadata_Plate"], frame["Metadata_Well"] = "P/1", "B04"
    frame["Metadata_Site"] = range(1, len(frame) + 1)
    images = rng.integers(0, 4000, (len(frame), 3, 48, 64)).astype(np.uint16)
    return MemoryStore(images, frame)
