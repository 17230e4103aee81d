from __future__ import annotations

import os
import shutil
import signal
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from helpers_run import finish, start
from helpers_screen import chunk_path, write_bbbc021_folder
from wsdino.errors import ImageError, InputError, OutputError, StoreError, TableError
from wsdino.screen.check.stored import warnings_of
from wsdino.screen.ingest import ingest
from wsdino.screen.store import open_store


@pytest.fixture
def source(tmp_path) -> Path:
    return write_bbbc021_folder(tmp_path / "screen", num_plates=1, num_sites=1)


def image_of(source: Path, row: int) -> Path:
    table = pd.read_csv(source / "BBBC021_v1_image.csv")
    folder, name = table.loc[row, ["Image_PathName_Tubulin", "Image_FileName_Tubulin"]]
    return source / folder / name


def chunk_times(store: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (store / "images.zarr").glob("c.*.0")}


def test_a_finished_store_is_reused(source, tmp_path, capsys):
    out = tmp_path / "deep" / "store"
    first = ingest(source, out, workers=1)
    assert "ingest: 18/18" in capsys.readouterr().err
    before = chunk_times(out)
    second = ingest(source, out)
    assert f"{out}: already complete, 18 sites" in capsys.readouterr().err
    assert chunk_times(out) == before
    assert second.attributes == first.attributes
    assert sorted(path.name for path in out.iterdir()) == [
        "check.json",
        "images.zarr",
        "manifest.parquet",
        "measures.npy",
        "sites.npy",
        "statistics.npy",
    ]


def test_the_number_of_workers_changes_nothing(source, tmp_path):
    one, four = (ingest(source, tmp_path / str(n), workers=n) for n in (1, 4))
    np.testing.assert_array_equal(one.read(range(18)), four.read(range(18)))
    for name in one.statistics:
        np.testing.assert_array_equal(one.statistics[name], four.statistics[name])
    with pytest.raises(InputError, match="workers is 0; it must be at least 1"):
        ingest(source, tmp_path / "zero", workers=0)


def test_a_finished_store_outlives_its_images(source, tmp_path):
    ingest(source, tmp_path / "store")
    for image in source.rglob("*.tif"):
        image.unlink()
    assert len(ingest(source, tmp_path / "store")) == 18


def test_changed_metadata_reach_a_finished_store(source, tmp_path, capsys):
    out = tmp_path / "store"
    ingest(source, out)
    before = chunk_times(out)
    with (source / "BBBC021_v1_moa.csv").open("a") as file:
        file.write("unknown 1,1.0,Found out\n")
    store = ingest(source, out, controls=("unknown 2",))
    assert "metadata has changed; manifest.parquet is updated" in capsys.readouterr().err
    assert (store.manifest.Metadata_MoA == "Found out").sum() == 1
    assert store.manifest[store.manifest.Metadata_Control].Metadata_Compound.tolist() == [
        "unknown 2"
    ]
    assert chunk_times(out) == before


def test_a_changed_image_is_read_again(source, tmp_path):
    out = tmp_path / "store"
    ingest(source, out)
    before = chunk_times(out)
    tifffile.imwrite(image_of(source, 7), np.full((64, 64), 123, np.uint16))
    os.utime(image_of(source, 7), (time.time() + 1, time.time() + 1))
    store = ingest(source, out)
    assert (store[7][1] == 123).all()
    assert store.statistics["p50"][7, 1] == 123
    after = chunk_times(out)
    assert [name for name in before if after[name] != before[name]] == ["c.7.0.0.0"]


YEAR_2031 = 1_930_000_000_000_000_000


@pytest.mark.parametrize("ns", [0, YEAR_2031])
def test_a_replaced_image_is_read_again_whatever_its_time(source, tmp_path, ns):
    """A copy brings its old time along, and a clock may be wrong."""
    out = tmp_path / "store"
    before = ingest(source, out).pixels_digest
    tifffile.imwrite(image_of(source, 7), np.full((64, 64), 123, np.uint16))
    os.utime(image_of(source, 7), ns=(ns, ns))
    store = ingest(source, out)
    assert (store[7][1] == 123).all()
    assert store.pixels_digest != before
    times = chunk_times(out)
    assert ingest(source, out).pixels_digest == store.pixels_digest
    assert chunk_times(out) == times, "it is read once"


def test_other_times_alone_leave_the_pixels_what_they_are(source, tmp_path):
    out = tmp_path / "store"
    before = ingest(source, out)
    for image in source.rglob("*.tif"):
        os.utime(image, ns=(0, 0))
    for file in out.rglob("*"):
        os.utime(file, ns=(YEAR_2031, YEAR_2031))
    assert ingest(source, out).pixels_digest == before.pixels_digest
    copy = shutil.copytree(out, tmp_path / "copy", copy_function=shutil.copy)
    assert open_store(copy).pixels_digest == before.pixels_digest
    assert ingest(source, tmp_path / "again").pixels_digest == before.pixels_digest


def test_pixels_are_told_apart_by_what_they_show(source, tmp_path):
    """Not by the codec, nor by the metadata: a digest of the decoded pixels, site by site."""
    store = ingest(source, tmp_path / "store")
    expected = [zlib.crc32(np.ascontiguousarray(store[i])) for i in range(len(store))]
    assert np.load(tmp_path / "store" / "sites.npy")["crc32"].tolist() == expected
    (tmp_path / "store" / "sites.npy").unlink()
    assert open_store(tmp_path / "store").pixels_digest == store.pixels_digest
    assert np.load(tmp_path / "store" / "sites.npy")["crc32"].tolist() == expected


@pytest.mark.parametrize("hides", [False, True])
def test_a_chunk_that_was_changed_is_found_and_the_advice_mends_it(source, tmp_path, hides):
    out = tmp_path / "store"
    before = ingest(source, out)
    wanted, chunk = before[4].copy(), chunk_path(out, 4)
    time_before = chunk.stat().st_mtime_ns
    chunk.write_bytes(chunk_path(out, 5).read_bytes())
    if hides:
        os.utime(chunk, ns=(time_before, time_before))
    with pytest.raises(
        StoreError, match=r"c\.4\.0\.0\.0: the store is damaged: .* ingest it again"
    ):
        open_store(out).pixels_digest  # noqa: B018 it is computed when it is asked for
    store = ingest(source, out)
    np.testing.assert_array_equal(store[4], wanted)
    assert store.pixels_digest == before.pixels_digest


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"x" * 4000])
def test_a_damaged_record_of_the_sites_is_made_anew(source, tmp_path, damage):
    out = tmp_path / "store"
    before = ingest(source, out)
    (out / "sites.npy").write_bytes(damage)
    assert open_store(out).pixels_digest == before.pixels_digest
    (out / "sites.npy").write_bytes(damage)
    assert ingest(source, out).pixels_digest == before.pixels_digest


@pytest.mark.parametrize("is_stopped", [False, True])
def test_a_black_site_is_a_site(source, tmp_path, is_stopped):
    """Zarr would leave its file out, which then looks like damage; also where an ingest goes on."""
    for column in ("DAPI", "Tubulin", "Actin"):
        table = pd.read_csv(source / "BBBC021_v1_image.csv")
        folder, name = table.loc[3, [f"Image_PathName_{column}", f"Image_FileName_{column}"]]
        tifffile.imwrite(source / folder / name, np.zeros((64, 64), np.uint16))
    if is_stopped:
        image = image_of(source, 1)
        content = image.read_bytes()
        image.write_bytes(content[:100])
        with pytest.raises(ImageError):
            ingest(source, tmp_path / "store", workers=1)
        chunk_path(tmp_path / "store", 3).unlink(missing_ok=True)
        image.write_bytes(content)
    store = ingest(source, tmp_path / "store")
    assert not store[3].any()
    assert store.statistics["std"][3].tolist() == [0, 0, 0]


def test_a_table_of_multi_channel_files(tmp_path):
    rng = np.random.default_rng(0)
    stacks = rng.integers(0, 255, (4, 2, 16, 24)).astype(np.uint8)
    for i, stack in enumerate(stacks):
        metadata = {"axes": "CYX"}
        tifffile.imwrite(tmp_path / f"{i}.ome.tif", stack, ome=True, metadata=metadata)
    names = [f"{i}.ome.tif" for i in range(4)]
    table = pd.DataFrame(
        {
            "Metadata_Plate": "P",
            "Metadata_Well": ["A1", "A2", "A3", "A4"],
            "Metadata_Site": 1,
            "Metadata_Batch": "B",
            "Metadata_Compound": "x",
            "Metadata_Concentration": 1.0,
            "FileName_Late": names,
            "PathName_Late": str(tmp_path),
            "Frame_Late": 1,
            "FileName_Early": names,
            "PathName_Early": str(tmp_path),
            "Frame_Early": 0,
        }
    )
    store = ingest(table, tmp_path / "store")
    assert store.channels == ("Late", "Early")
    np.testing.assert_array_equal(store.read(range(4)), stacks[:, ::-1])


# --- what goes wrong before anything is written ------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda s: image_of(s, 9).unlink(), ImageError, "does not exist; 1 of 54 are missing"),
        (lambda s: image_of(s, 0).write_bytes(b"II*\0"), ImageError, "damaged or incomplete"),
        (
            lambda s: tifffile.imwrite(image_of(s, 0), np.zeros((64, 64), np.float32)),
            ImageError,
            "pixels are float32; they must be",
        ),
        (
            lambda s: (s / "BBBC021_v1_image.csv").unlink(),
            TableError,
            "this folder is not a screen; a screen is a folder with BBBC021",
        ),
        (
            lambda s: (s / "BBBC021_v1_moa.csv").write_text("compound,moa\n", encoding="utf-8"),
            TableError,
            "no column concentration",
        ),
    ],
)
def test_bad_input_leaves_nothing(source, tmp_path, damage, error, message):
    damage(source)
    with pytest.raises(error, match=message):
        ingest(source, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_outputs_that_are_in_the_way(source, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="this is a file; a store is a folder"):
        ingest(source, tmp_path / "file")
    full = tmp_path / "full"
    full.mkdir()
    (full / "manifest.parquet").write_text("mine", encoding="utf-8")
    with pytest.raises(
        OutputError, match=r"not empty \(it has manifest.parquet\) and is not a store"
    ):
        ingest(source, full)
    assert (full / "manifest.parquet").read_text(encoding="utf-8") == "mine"
    other = write_bbbc021_folder(tmp_path / "other", seed=1)
    ingest(other, tmp_path / "store")
    words = (
        r"other images \(it has 72 sites, and the screen now has 18\), from .*other; name another"
    )
    with pytest.raises(OutputError, match=words):
        ingest(source, tmp_path / "store")


def test_an_empty_folder_is_fine(source, tmp_path):
    (tmp_path / "store" / "images.zarr").mkdir(parents=True)
    (tmp_path / "store" / "images.zarr" / "zarr.0.partial").touch()
    assert len(ingest(source, tmp_path / "store")) == 18


# --- what goes wrong half-way ------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_a_truncated_image_half_way(source, tmp_path, workers):
    out, image = tmp_path / "store", image_of(source, 9)
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError) as raised:
        ingest(source, out, workers=workers)
    assert str(raised.value).startswith(f"{image}: damaged or incomplete image")
    assert str(raised.value).endswith(
        f"{out} stays unfinished: replace the image and run the same command again"
    )
    with pytest.raises(StoreError, match="isn't finished"):
        open_store(out)
    before = chunk_times(out)
    assert 0 < len(before) < 18
    image.write_bytes(content)
    assert len(ingest(source, out)) == 18
    after = chunk_times(out)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((32, 64), np.uint16), "64 x 32 uint16"),
        (np.zeros((64, 64), np.uint8), "64 x 64 uint8"),
    ],
)
def test_an_image_unlike_the_first(source, tmp_path, image, found):
    table = pd.read_csv(source / "BBBC021_v1_image.csv")
    row, first = table.iloc[9], table.iloc[0]
    paths = []
    for channel in ("DAPI", "Tubulin", "Actin"):
        path = source / row[f"Image_PathName_{channel}"] / row[f"Image_FileName_{channel}"]
        tifffile.imwrite(path, image)
        paths.append(path)
    with pytest.raises(ImageError) as raised:
        ingest(source, tmp_path / "store")
    first_path = source / first["Image_PathName_DAPI"] / first["Image_FileName_DAPI"]
    expected = f"{paths[0]}: the image is {found}, but {first_path} is 64 x 64 uint16"
    assert str(raised.value).startswith(expected)


def write_long_table(folder: Path, *, num_rows: int) -> Path:
    """Write a LoadData CSV of many files that share few images."""
    rng = np.random.default_rng(0)
    for i in range(7):
        image = rng.integers(0, 4000, (256, 256)).astype(np.uint16)
        tifffile.imwrite(folder / f"{i}.tif", image, compression="zlib")
    rows = np.arange(num_rows)
    for row in rows:
        for channel, image in (("A", row % 7), ("B", row % 3)):
            os.link(folder / f"{image}.tif", folder / f"{channel}{row}.tif")
    table = pd.DataFrame(
        {
            "Metadata_Plate": "P",
            "Metadata_Well": "A01",
            "Metadata_Site": rows,
            "Metadata_Batch": "B",
            "Metadata_Compound": "x",
            "Metadata_Concentration": 1.0,
            "FileName_A": [f"A{row}.tif" for row in rows],
            "FileName_B": [f"B{row}.tif" for row in rows],
        }
    )
    table.to_csv(folder / "load_data.csv", index=False)
    return folder / "load_data.csv"


def test_a_killed_ingest_goes_on_where_it_stopped(tmp_path, capsys):
    source, out = write_long_table(tmp_path, num_rows=150), tmp_path / "store"
    call = f"ingest({str(source)!r}, {str(out)!r}, workers=1)"
    code = f"from wsdino.screen.ingest import ingest; {call}"
    killed = 0
    for stop_at in (20, 60):
        process = start(code=code)
        while process.poll() is None and len(chunk_times(out)) < stop_at:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        status, _, _ = finish(process)
        killed += status == -signal.SIGKILL
        with pytest.raises(StoreError, match="isn't finished"):
            open_store(out)
    assert killed == 2
    before = chunk_times(out)
    statistics = np.load(out / "statistics.npy")
    done = np.flatnonzero(np.isfinite(statistics).all(axis=(1, 2)))
    assert 50 < len(done) < 150
    store = ingest(source, out)
    assert "ingest: 150/150" in capsys.readouterr().err
    after = chunk_times(out)
    assert all(after[f"c.{i}.0.0.0"] == before[f"c.{i}.0.0.0"] for i in done)
    assert not list((out / "images.zarr").glob("*.partial"))
    whole = ingest(source, tmp_path / "whole")
    assert len(store) == len(whole) == 150
    np.testing.assert_array_equal(store.read(range(150)), whole.read(range(150)))
    for name in whole.statistics:
        np.testing.assert_array_equal(store.statistics[name], whole.statistics[name])


def test_a_kill_between_pixels_and_statistics_is_no_loss(source, tmp_path):
    out = tmp_path / "store"
    expected = ingest(source, out).read(range(18))
    statistics = np.lib.format.open_memmap(out / "statistics.npy", mode="r+")
    statistics[4, 1, 2:] = np.nan
    chunk_path(out, 4).write_bytes(b"half")
    del statistics
    (out / "manifest.parquet").unlink()
    # Any of it alone makes the ingest do that site again.
    store = ingest(source, out)
    np.testing.assert_array_equal(store.read(range(18)), expected)
    assert np.isfinite(store.statistics["p50"]).all()


def test_real_fields(real_store):
    store = real_store
    assert len(store) == 660
    assert store.field_shape == (256, 256)
    assert store.dtype == np.uint8
    assert store.channels == ("DAPI", "Tubulin", "Actin")
    manifest = store.manifest
    assert manifest.Metadata_Compound.nunique() == 18
    assert manifest.groupby(["Metadata_Compound", "Metadata_Concentration"]).ngroups == 55
    assert manifest.Metadata_Plate.nunique() == 30
    assert manifest.Metadata_Batch.nunique() == 7
    assert manifest.Metadata_MoA.nunique() == 6
    assert manifest.Metadata_MoA.notna().all()
    assert not manifest.Metadata_Control.any()
    row = manifest.iloc[321]
    for i, channel in enumerate(store.channels):
        path = Path(row[f"PathName_{channel}"], row[f"FileName_{channel}"])
        np.testing.assert_array_equal(store[321][i], tifffile.imread(path))
    # Nothing looks wrong in real plates, but under the paper's scaling, which is for 16 bits.
    assert warnings_of(store) == []
    under = warnings_of(store, scaling=(0, 10_000))
    assert len(under) == 3
    assert all("8-bit data under a scaling" in line for line in under)
