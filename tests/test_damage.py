"""Damage is found, said in a line, and following that line mends it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers_screen import chunk_path, write_bbbc021_folder
from wsdino.embed.embed import write_embeddings
from wsdino.errors import ModelError, StoreError
from wsdino.model.building import build_networks
from wsdino.model.model import Model, load_model
from wsdino.model.spec import Architecture, ModelSpec
from wsdino.screen.check.stored import measures_of
from wsdino.screen.ingest import ingest
from wsdino.screen.store import open_store
from wsdino.train.checkpoint import PARTS, checkpoints, load_newest, save_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHAPE = Architecture(image_size=16, dim=16, depth=1, num_heads=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a screen and its store."""
    folder = tmp_path_factory.mktemp("damage")
    write_bbbc021_folder(folder / "screen", num_plates=1, num_sites=1)
    ingest(folder / "screen", folder / "store")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A folder with a copy of the store that a test may spoil."""
    shutil.copytree(made / "store", tmp_path / "place" / "store")
    return tmp_path / "place"


def truncated_chunk(store: Path) -> None:
    path = chunk_path(store, 3)
    path.write_bytes(path.read_bytes()[:20])


def changed_chunk(store: Path) -> None:
    shutil.copyfile(chunk_path(store, 4), chunk_path(store, 3))


def missing_chunk(store: Path) -> None:
    chunk_path(store, 3).unlink()


def missing_manifest(store: Path) -> None:
    (store / "manifest.parquet").unlink()


def truncated_manifest(store: Path) -> None:
    path = store / "manifest.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def shorter_manifest(store: Path) -> None:
    path = store / "manifest.parquet"
    pd.read_parquet(path).iloc[1:].to_parquet(path)


def truncated_statistics(store: Path) -> None:
    path = store / "statistics.npy"
    path.write_bytes(path.read_bytes()[:-22])


def no_statistics(store: Path) -> None:
    (store / "statistics.npy").unlink()


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Flip a bit of a file's byte; a negative place counts from the end."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def another_statistic(store: Path) -> None:
    """Flip a bit of the 99th percentile of a site's first channel, far from the header's."""
    path = store / "statistics.npy"
    before = np.load(path)
    flip(path, 128 + 4 * (3 * 15 + 4) + 1)
    assert (np.load(path) != before).sum() == 1


def another_label(store: Path) -> None:
    """Flip a bit of a compound's name, in a page that isn't compressed."""
    path = store / "manifest.parquet"
    pd.read_parquet(path).to_parquet(path, compression=None, write_page_checksum=True)
    flip(path, path.read_bytes().index(b"compound D1") + 10)
    assert "compound D0" in set(pd.read_parquet(path)["Metadata_Compound"])


def read_all(path: Path) -> None:
    store = open_store(path)
    assert store.pixels_digest
    assert store.statistics
    store.read(range(len(store)))


@pytest.mark.parametrize(
    "damage",
    [
        truncated_chunk,
        changed_chunk,
        missing_chunk,
        missing_manifest,
        truncated_manifest,
        shorter_manifest,
        truncated_statistics,
        no_statistics,
        another_statistic,
        another_label,
    ],
)
def test_ingesting_a_damaged_store_again_mends_it(
    made: Path, place: Path, damage: Callable[[Path], None]
) -> None:
    whole = open_store(made / "store")
    damage(place / "store")
    with pytest.raises(StoreError, match=r"the store is damaged: .*; ingest it again$"):
        read_all(place / "store")
    ingest(made / "screen", place / "store")
    store = open_store(place / "store")
    assert store.pixels_digest == whole.pixels_digest
    np.testing.assert_array_equal(store.read(range(18)), whole.read(range(18)))
    np.testing.assert_array_equal(store.statistics["p99"], whole.statistics["p99"])
    names = [name for name in whole.manifest if not name.startswith("PathName")]
    pd.testing.assert_frame_equal(store.manifest[names], whole.manifest[names])


def test_a_damaged_measure_is_taken_again(
    made: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, path = measures_of(open_store(made / "store")), place / "store" / "measures.npy"
    flip(path, 1000)
    assert np.load(path).tobytes() != whole.tobytes()
    assert measures_of(open_store(place / "store")).tobytes() == whole.tobytes()
    assert "measures.npy: damaged: it differs from what was written; the store's pixels are" in (
        capsys.readouterr().err
    )
    # It was written anew, with a checksum of its own.
    assert path.read_bytes() == (made / "store" / "measures.npy").read_bytes()


@pytest.mark.parametrize("key", ["channels", "provenance", "complete"])
def test_a_store_whose_description_is_damaged_is_made_anew(
    made: Path, place: Path, key: str
) -> None:
    path = place / "store" / "images.zarr" / "zarr.json"
    described = json.loads(path.read_text(encoding="utf-8"))
    described["attributes"][key] = 3
    path.write_text(json.dumps(described), encoding="utf-8")
    for use in (open_store, lambda out: ingest(made / "screen", out)):
        with pytest.raises(
            StoreError, match=rf"damaged: {key}: found '3': .*; delete the store, and ingest"
        ):
            use(place / "store")
    shutil.rmtree(place / "store")
    assert len(ingest(made / "screen", place / "store")) == 18


def state(step: int) -> dict[str, object]:
    weights = {"w": torch.arange(100.0).reshape(10, 10) + step}
    return dict.fromkeys(PARTS, weights) | {"step": step, "fingerprint": "f", "records": []}


def test_no_flipped_bit_of_a_checkpoint_gives_another_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path, 1, state(1))
    newest = save_checkpoint(tmp_path, 2, state(2))
    whole = newest.read_bytes()
    rng = np.random.default_rng(0)
    damages = []
    for place in rng.integers(0, 8 * len(whole), 300).tolist():
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << (place % 8)
        damages.append(flipped)
    # The size of the archive's directory, where zipfile looks for it, and a weight: neither zipfile
    # nor PyTorch sees anything wrong.
    directory = whole.index(b"PK\x06\x06")
    size = slice(directory + 40, directory + 48)
    nothing = bytearray(whole)
    nothing[size] = bytes(8)
    nothing[whole.index(np.float32(50).tobytes())] ^= 1
    damages.append(nothing)
    for damaged in damages:
        newest.write_bytes(damaged)
        loaded = load_newest(tmp_path)
        assert loaded is not None
        assert loaded["step"] == 1
        assert torch.equal(loaded["objective"]["w"], state(1)["objective"]["w"])
        assert "damaged checkpoint" in capsys.readouterr().err
    newest.write_bytes(whole)
    assert load_newest(tmp_path)["step"] == 2


def test_without_a_whole_checkpoint_training_starts_again_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, state(step))
    for path in checkpoints(tmp_path):
        path.write_bytes(path.read_bytes()[:-50])
    assert load_newest(tmp_path) is None
    lines = capsys.readouterr().err.splitlines()
    assert "step_00000002.pt: damaged checkpoint: " in lines[0]
    assert "step_00000001.pt: damaged checkpoint: " in lines[1]
    assert lines[2].endswith("no checkpoint can be read; training starts again from step 0")


def model_of(channels: tuple[str, ...]) -> Model:
    spec = ModelSpec(channels=channels, architecture=SHAPE, tile=16)
    return Model(spec, build_networks(spec))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    model_of(("DAPI",)).save(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if name.endswith("norm.weight"))
    weights[name][2:4] = value
    save_file(weights, path)
    with pytest.raises(ModelError, match=f"2 of 16 values of {name} are NaN or infinite"):
        load_model(tmp_path)
    model = model_of(("DAPI",))
    state = {name: each.clone() for name, each in model.networks.networks[0].state_dict().items()}
    state["norm.weight"][5] = value
    torch.save({"teacher": state}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w\.pth: 1 of 16 values of norm\.weight are NaN or inf"):
        build_networks(model.spec, weights=str(tmp_path / "w.pth"))


def test_embeddings_that_are_not_finite_name_their_site(made: Path, tmp_path: Path) -> None:
    store = open_store(made / "store")
    model = model_of(store.channels)
    with torch.no_grad():
        for weight in model.networks.parameters():
            # Products overflow, though each weight is finite.
            weight.fill_(3e38)
    with pytest.raises(
        ModelError, match=r"embedding of site 0 \(plate .+, well .+, site 1\) is NaN"
    ):
        write_embeddings(model, store, tmp_path / "e.parquet")
    assert not (tmp_path / "e.parquet").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": []}, "channels: found '\\[\\]': tuple|list should have at least 1 item"),
        ({"tile": "big"}, "tile: found 'big'"),
        ({"mode": "each"}, "mode: found 'each'"),
        ({"architecture": {"dim": 32}}, "its config asks for"),
        ({"architecture": {"dim": 10**9}}, "less than or equal to 16384"),
        ({"architecture": {"backbone": "hf-hub:somebody/model"}}, "names a place on a hub or disk"),
    ],
)
def test_a_model_s_config_is_checked(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    model_of(("DAPI",)).save(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key, value in change.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path)
