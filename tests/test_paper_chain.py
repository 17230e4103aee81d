"""The paper's chain whole: originals, illumination, halving, training, its boxes, and numbers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

from helpers_run import call
from helpers_screen import write_bbbc021_folder
from wsdino.model.model import load_model
from wsdino.screen.correction import Shading, corrected
from wsdino.screen.manifest import read_manifest
from wsdino.screen.store import open_store
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = ("DAPI", "Tubulin", "Actin")
# All that is not the paper's is the size of the network, of its head and of the training.
SMALL = {
    "model.weights": "null",
    "architecture": "{backbone: vit, patch_size: 8, dim: 16, depth: 1, num_heads: 2, stem: linear}",
    "crops.local_views": "{num_views: 2}",
    "train": "{epochs: 1, batch_size: 4, warmup_epochs: 0}",
    "objective": "{num_prototypes: 16, head_hidden_dim: 16, head_bottleneck_dim: 8}",
    "profile.num_components": 4,
    "evaluate.num_permutations": 10,
    "baselines.names": "[classical]",
    "report": "{num_example_fields: 1, attention_sites: []}",
}


def settings(**more: object) -> list[str]:
    return [word for key, value in (SMALL | more).items() for word in ("--set", f"{key}={value}")]


def layout(path: Path) -> Path:
    """Two plates of a week each, with controls and two mechanisms on both."""
    treatments = (
        ("DMSO", 0.0, None),
        ("DMSO", 0.0, None),
        ("AZ138", 3.0, "Eg5 inhibitors"),
        ("taxol", 0.3, "Microtubule stabilizers"),
    )
    rows: list[dict[str, Any]] = [
        {
            "Metadata_Plate": f"Week{week}_{week}1",
            "Metadata_Well": f"{'BC'[number // 2]}{2 + number % 2:02d}",
            "Metadata_Site": 1,
            "Metadata_Batch": f"Week{week}",
            "Metadata_Compound": compound,
            "Metadata_Concentration": dose,
            "Metadata_MoA": moa,
            "Metadata_Control": moa is None,
            "FileName_a": "a.tif",
        }
        for week in (1, 2)
        for number, (compound, dose, moa) in enumerate(treatments)
    ]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_chain_on_a_twin_of_the_originals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """1024 x 1280 px of 16 bits, archives unpacked beside the tables, one command."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    plates, out = tmp_path / "plates", tmp_path / "run"
    given = ("--layout", layout(tmp_path / "layout.csv"), "--size", 1280, "--height", 1024)
    assert call(monkeypatch, "simulate", *given, "--zoom", 2, "--out", plates) == 0
    for week in ("Week1", "Week2"):
        (plates / week / f"{week}_{week[-1]}1").rename(plates / f"{week}_{week[-1]}1")
        (plates / week).rmdir()
    command = ("run", "paper", "--set", f"screen.source={plates}", *settings(), "--out", out)
    assert call(monkeypatch, *command) == 0
    store, manifest = open_store(out / "store"), read_manifest(plates)
    assert store.shape == (8, 3, 512, 640)
    assert store.attributes["correction"] == {
        "illumination": "paper",
        "scale": 0.5,
        "images": [1024, 1280],
    }
    # Each plate's mean, smoothed, divides it: here by other means than in the code.
    for plate in ("Week1_11", "Week2_21"):
        rows = np.flatnonzero(manifest["Metadata_Plate"] == plate)
        folder = out / "store" / "illumination" / plate[:5] / plate
        for index, channel in enumerate(CHANNELS):
            function = np.load(folder / f"{channel}.npy")
            assert (function.shape, function.min()) == ((1024, 1280), 1)
            raw = np.stack([image_of(manifest, row, channel) for row in rows])
            mean = np.floor(raw.mean(axis=0))
            y, x = np.ogrid[:1024, :1280]
            levels = {}
            for place in ((512, 640), (30, 100), (1000, 1279)):
                near = mean[(y - place[0]) ** 2 + (x - place[1]) ** 2 <= 136**2]
                levels[place] = np.median(near) / function[place]
            # One robust minimum divides all; where the median is below, the function is 1.
            least = max(levels.values())
            for place, level in levels.items():
                assert level <= least * 1.001
                assert function[place] == 1 or level == pytest.approx(least, rel=2e-3)
            shading = Shading(folder / f"{channel}.npy", 0.0)
            expected = corrected(raw[:1], (shading,), scale=0.5)[0]
            np.testing.assert_array_equal(store[int(rows[0])][index], expected)
    # The embedding is the median over the original's boxes of what each network makes of them.
    model, table = load_model(out), read_table(out / "embeddings.parquet")
    pixels = torch.from_numpy(store[3].astype(np.float32)).clamp(0, 10_000)[None] / 10_000
    boxes = [(slice(y, y + 224), slice(*x)) for y in (32, 256) for x in ((64, 320), (320, 544))]
    with torch.inference_mode():
        vectors = torch.stack([model.networks(pixels[..., ys, xs]) for ys, xs in boxes])
    expected = vectors.median(dim=0).values.numpy()[0]
    found = table.filter(like="emb_").to_numpy()[3]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert results["multi_batch"] == "first-published"
    assert results["num_treatments"] == 2
    # The same command has nothing left to do.
    capfd.readouterr()
    assert call(monkeypatch, *command) == 0
    told = capfd.readouterr().err
    assert "already complete, 8 sites" in told
    assert ": start" not in told


def image_of(manifest: pd.DataFrame, row: int, channel: str) -> np.ndarray:
    folder, name = manifest[f"PathName_{channel}"][row], manifest[f"FileName_{channel}"][row]
    return tifffile.imread(f"{folder}/{name}")


def test_the_chain_on_small_fields_says_what_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plates = write_bbbc021_folder(tmp_path / "plates", size=(128, 160), num_sites=1, num_plates=1)
    source = ("--set", f"screen.source={plates}")
    crops = {
        "crops.global_views": "{size: 32}",
        "crops.local_views": "{num_views: 1, size: 16}",
    }
    command = ("run", "paper", *source, *settings(**crops), "--out", tmp_path / "run")
    assert call(monkeypatch, *command) == 2
    (line,) = [text for text in capfd.readouterr().err.splitlines() if "wsdino: " in text]
    assert "boxes are for fields of 512 x 640 px" in line
    assert "these are 64 x 80" in line
    assert not (tmp_path / "run").exists()
    # As the message says; and tiles must fit then.
    tiles = ("--set", "embed.tile_grid=[2,2]", "--set", "embed.tile=32")
    assert call(monkeypatch, *command, *tiles) == 0
    store = open_store(tmp_path / "run" / "store")
    assert store.field_shape == (64, 80)
    assert store.attributes["correction"]["illumination"] == "paper"
    # A finished store is taken as it is, and what its fields are not is said.
    plain, given = tmp_path / "plain", ("--set", "screen.scale=1")
    assert call(monkeypatch, "ingest", plates, "--out", plain) == 0
    capfd.readouterr()
    command = ("train", "paper", "--set", f"screen.store={plain}", *settings(**crops), *tiles)
    assert call(monkeypatch, *command, "--out", tmp_path / "other") == 0
    told = capfd.readouterr().err
    assert (
        f"{plain}: was made with illumination none and scale 1; screen.illumination paper" in told
    )
    # With a source, another correction than the store's is refused.
    both = (*source, "--set", f"screen.store={plain}", *given, *settings(**crops), *tiles)
    assert call(monkeypatch, "train", "paper", *both, "--out", tmp_path / "third") == 2
    assert "illumination none and scale 1, and paper and 1 are wanted" in capfd.readouterr().err
