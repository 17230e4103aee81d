"""Embeddings in parts: the same by any batch and any number of processes, and resumable."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch

from helpers_job import meeting_of_two
from helpers_run import call, finish, start
from helpers_screen import write_bbbc021_folder
from wsdino.embed import embed
from wsdino.embed.embed import embed_store, write_embeddings
from wsdino.errors import ModelError, OutputError, TableError
from wsdino.model.model import Model
from wsdino.model.scaling import InputScaling
from wsdino.model.spec import Architecture, ModelSpec
from wsdino.screen.ingest import ingest
from wsdino.screen.store import open_store
from wsdino.tables.reading import read_table
from wsdino.train.train import initial_networks

if TYPE_CHECKING:
    from pathlib import Path

    from wsdino.screen.store import Store

# The network is tiny: more threads would only wait for each other.
torch.set_num_threads(1)
NETWORK = Architecture(image_size=16, dim=16, depth=1, num_heads=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of 72 sites and a model."""
    folder = tmp_path_factory.mktemp("embed")
    ingest(write_bbbc021_folder(folder / "screen", num_sites=2), folder / "store")
    model_of(open_store(folder / "store")).save(folder / "model")
    return folder


@pytest.fixture(scope="module")
def store(place: Path) -> Store:
    return open_store(place / "store")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of ten sites, so that a small store has several."""
    monkeypatch.setattr(embed, "PART_SIZE", 10)


def model_of(store: Store, *, seed: int = 0, scaling: str = "plate") -> Model:
    spec = ModelSpec(
        channels=store.channels,
        architecture=NETWORK,
        scaling=InputScaling(scaling),  # type: ignore[arg-type]
        tile=32,
    )
    return Model(spec, initial_networks(spec, seed=seed))


def one_by_one(model: Model, store: Store) -> np.ndarray:
    """The oracle: each site by itself, from the public parts."""
    offset, gain = (torch.from_numpy(x) for x in model.spec.scaling.for_store(store))
    rows = [
        model.embed(store[i][None], offset=offset[i : i + 1], gain=gain[i : i + 1])
        for i in range(len(store))
    ]
    return np.concatenate(rows)


@pytest.mark.parametrize("batch_size", [1, 7, 500])
@pytest.mark.usefixtures("small_parts")
def test_any_batch_size_gives_each_site_its_own_embedding(
    store: Store, tmp_path: Path, batch_size: int
) -> None:
    model, out = model_of(store), tmp_path / "e.parquet"
    write_embeddings(model, store, out, batch_size=batch_size)
    table = pd.read_parquet(out)
    metadata = store.manifest.filter(regex="^Metadata_")
    pd.testing.assert_frame_equal(table[metadata.columns], metadata)
    assert list(table.columns) == [*metadata.columns, *model.feature_names]
    features = table[model.feature_names]
    assert (features.dtypes == np.float32).all()
    np.testing.assert_allclose(features, one_by_one(model, store), atol=1e-5)
    pd.testing.assert_frame_equal(table, embed_store(model, store), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


def test_a_plate_without_its_controls_is_said(
    place: Path, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plate = "Week1_10001"
    condition = f'Metadata_Plate != "{plate}" or Metadata_Compound != "DMSO"'
    filtered = open_store(place / "store", keep=condition)
    model, said = model_of(store), f"1 of 4 plates ({plate}) without controls among the sites"
    write_embeddings(model, filtered, tmp_path / "e.parquet")
    assert said in capsys.readouterr().err
    # What is said is true: that plate is scaled by the sites that are left.
    own = (filtered.manifest["Metadata_Plate"] == plate).to_numpy()
    offset, _ = model.spec.scaling.for_store(filtered)
    expected = filtered.statistics["mean"][own].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(offset[own], np.tile(expected, (own.sum(), 1)), rtol=1e-6)
    embed_store(model, filtered)
    assert said in capsys.readouterr().err
    embed_store(model, store)
    assert "without controls" not in capsys.readouterr().err


@pytest.mark.usefixtures("small_parts")
def test_each_part_is_a_row_group(store: Store, tmp_path: Path) -> None:
    from pyarrow import parquet

    write_embeddings(model_of(store), store, tmp_path / "e.parquet")
    groups = parquet.ParquetFile(tmp_path / "e.parquet").metadata
    sizes = [groups.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert sizes == [10] * 7 + [2]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("name", ["e.csv", "e.csv.gz"])
def test_csv_holds_the_same(store: Store, tmp_path: Path, name: str) -> None:
    model = model_of(store)
    write_embeddings(model, store, tmp_path / name)
    write_embeddings(model, store, tmp_path / "e.parquet")
    ours, theirs = read_table(tmp_path / name), read_table(tmp_path / "e.parquet")
    pd.testing.assert_frame_equal(ours, theirs, check_dtype=False, atol=1e-5)


def part_files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("[0-9]*.parquet"))}


def stop_after(num_sites: int, patched: pytest.MonkeyPatch) -> None:
    """Interrupt embedding once more than a number of sites have been given to a model."""
    whole, seen = Model.embed, 0

    def embed_some(self: Model, images: torch.Tensor, **options: torch.Tensor) -> np.ndarray:
        nonlocal seen
        seen += len(images)
        if seen > num_sites:
            raise KeyboardInterrupt
        return whole(self, images, **options)

    patched.setattr(Model, "embed", embed_some)


@pytest.mark.usefixtures("small_parts")
def test_a_stopped_embedding_goes_on_and_another_model_begins_anew(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = model_of(store), tmp_path / "e.parquet"
    parts = tmp_path / ".e.parquet.parts"
    with monkeypatch.context() as stopped:
        stop_after(35, stopped)
        with pytest.raises(KeyboardInterrupt):
            write_embeddings(model, store, out, batch_size=5)
    before = part_files(parts)
    assert list(before) == [f"{start:09d}.parquet" for start in (0, 10, 20)]
    with monkeypatch.context() as stopped:
        stop_after(25, stopped)
        with pytest.raises(KeyboardInterrupt):
            write_embeddings(model, store, out, batch_size=10)
    after = part_files(parts)
    assert len(after) == 5
    assert {name: after[name] for name in before} == before, "what is there is not made again"
    other = model_of(store, seed=1)
    write_embeddings(other, store, out)
    np.testing.assert_allclose(
        pd.read_parquet(out)[other.feature_names], one_by_one(other, store), atol=1e-5
    )
    assert not parts.exists()


@pytest.mark.usefixtures("small_parts")
def test_a_column_that_is_empty_in_one_part_keeps_its_type(store: Store, tmp_path: Path) -> None:
    manifest = store.manifest.copy()
    manifest.loc[:30, "Metadata_MoA"] = None
    store = open_store(store.path)
    store.__dict__["manifest"] = manifest
    write_embeddings(model_of(store), store, tmp_path / "e.parquet")
    found = pd.read_parquet(tmp_path / "e.parquet")["Metadata_MoA"]
    pd.testing.assert_series_equal(found, manifest["Metadata_MoA"])


@pytest.mark.usefixtures("small_parts")
def test_a_damaged_part_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tmp_path / ".e.parquet.parts"
    model = model_of(store)
    with monkeypatch.context() as stopped:
        stop_after(35, stopped)
        with pytest.raises(KeyboardInterrupt):
            write_embeddings(model, store, tmp_path / "e.parquet", batch_size=5)
    assert (parts / f"{20:09d}.parquet").exists()
    (parts / f"{20:09d}.parquet").write_bytes(b"PAR1")
    with pytest.raises(OutputError, match=r"000000020.parquet: damaged: .* delete it") as caught:
        write_embeddings(model, store, tmp_path / "e.parquet")
    assert "\n" not in str(caught.value)


def test_what_can_t_be_is_refused_before_work(store: Store, tmp_path: Path) -> None:
    model = model_of(store)
    with pytest.raises(TableError, match="unknown table format"):
        write_embeddings(model, store, tmp_path / "e.txt")
    spec = ModelSpec(channels=("A",), architecture=NETWORK)
    other = Model(spec, initial_networks(spec, seed=0))
    with pytest.raises(ModelError, match="the model was made for A"):
        write_embeddings(other, store, tmp_path / "e.parquet")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="can't be written"):
        write_embeddings(model, store, tmp_path / "file" / "e.parquet")


def test_two_processes_share_the_parts(place: Path, tmp_path: Path) -> None:
    """Real processes, over gloo, with parts of ten sites."""
    command = (
        "import wsdino.embed.embed as e; e.PART_SIZE = 10\nfrom wsdino.cli.main import main; main()"
    )
    job = meeting_of_two()
    arguments = ("embed", place / "model", place / "store", "--out", tmp_path / "two.parquet")
    ranks = [
        start(
            *arguments, "--batch-size", 4 + rank, code=command, variables=job | {"RANK": str(rank)}
        )
        for rank in range(2)
    ]
    ended = [finish(rank, timeout_s=500) for rank in ranks]
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert [out for _, out, _ in ended] == [f"{tmp_path / 'two.parquet'}\n", ""]
    assert "embed (process 1 of 2): 40/40" in ended[0][2]
    # PyTorch itself tells of a machine whose name can't be looked up, as without a network.
    assert [line for line in ended[1][2].splitlines() if "[c10d]" not in line] == []
    store = open_store(place / "store")
    model = model_of(store)
    found = pd.read_parquet(tmp_path / "two.parquet")
    np.testing.assert_allclose(found[model.feature_names], one_by_one(model, store), atol=1e-5)


def test_killed_at_any_moment_it_goes_on_to_the_same_table(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = (
        "import wsdino.embed.embed as e; e.PART_SIZE = 3\nfrom wsdino.cli.main import main; main()"
    )
    arguments = ("embed", place / "model", place / "store", "--batch-size", 1, "--out")
    parts, out = tmp_path / ".e.parquet.parts", tmp_path / "e.parquet"
    process = start(*arguments, out, code=command)
    deadline = time.monotonic() + 250
    while len(part_files(parts)) < 4:
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    assert not out.exists()
    before = len(part_files(parts))
    monkeypatch.setattr(embed, "PART_SIZE", 3)
    assert call(monkeypatch, *arguments, out) == 0
    assert f"embed: {before} of 24 parts are already there" in capfd.readouterr().err
    store = open_store(place / "store")
    pd.testing.assert_frame_equal(
        pd.read_parquet(out), embed_store(model_of(store), store, batch_size=1), atol=1e-6
    )
