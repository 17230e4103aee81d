"""Stores of several sites in a file, and stores whose source gains sites and labels."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

from helpers_layouts import write_table, write_tagged
from helpers_run import call
from helpers_screen import write_bbbc021_folder
from wsdino.errors import ImageError, InputError, OutputError, StoreError
from wsdino.screen.check.stored import measures_of
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest
from wsdino.screen.records import digest_of
from wsdino.screen.relabel import write_manifest
from wsdino.screen.shards import COMPRESSOR, MAX_BYTES, num_sites_per_file, pixel_files
from wsdino.screen.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from wsdino.screen.store import Store

TABLE = "BBBC021_v1_image.csv"
ROW = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A screen of 18 sites on two plates, and its store with a file for each; not to be changed."""
    folder = tmp_path_factory.mktemp("original")
    source = write_bbbc021_folder(folder / "screen", size=(16, 16), num_plates=1, num_sites=1)
    ingest(source, folder / "store")
    return folder


@pytest.fixture
def source(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original / "screen", tmp_path / "screen")


def file_times(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (out / "images.zarr").glob("c.*")}


def same_sites(ours: Store, theirs: Store) -> None:
    """Compare pixels, statistics and labels, site by site, whatever their order."""
    one, other = (store.manifest.set_index(ROW) for store in (ours, theirs))
    pd.testing.assert_frame_equal(one.sort_index(), other.sort_index())
    places = {key: i for i, key in enumerate(other.index)}
    order = [places[key] for key in one.index]
    np.testing.assert_array_equal(ours.read(range(len(ours))), theirs.read(order))
    for name, values in ours.statistics.items():
        np.testing.assert_array_equal(values, theirs.statistics[name][order])


@pytest.mark.parametrize(
    ("num_sites", "site_bytes", "expected"),
    [
        (72, 10**7, 1),
        (4096, 10**7, 1),
        (4097, 10**7, 2),
        (13_200, 8 * 10**6, 4),
        (10**6, 12 * 10**6, 16),
        (10**6, 20_000, 256),
        (10**9, MAX_BYTES // 64, 64),
    ],
)
def test_how_many_sites_share_a_file(num_sites: int, site_bytes: int, expected: int) -> None:
    assert num_sites_per_file(num_sites, site_bytes) == expected


def test_files_of_several_sites_hold_what_files_of_one_do(original: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    store = ingest(original / "screen", out, sites_per_file=5)
    assert sorted(file_times(out)) == [f"c.{i}.0.0.0" for i in range(4)]
    plain = open_store(original / "store")
    same_sites(store, plain)
    assert store.pixels_digest == plain.pixels_digest
    np.testing.assert_array_equal(store[-1], plain[17])
    # Any Zarr library reads it.
    array = zarr.open_array(out / "images.zarr", mode="r")
    assert (array.chunks, array.shards) == ((1, 3, 16, 16), (5, 3, 16, 16))
    np.testing.assert_array_equal(array[:], plain.read(range(18)))
    before = file_times(out)
    ingest(original / "screen", out, sites_per_file=5)
    assert file_times(out) == before
    with pytest.raises(OutputError, match="a store with 5 sites in a file, and 4 are wanted"):
        ingest(original / "screen", out, sites_per_file=4)
    with pytest.raises(InputError, match="sites_per_file is 0"):
        ingest(original / "screen", out, sites_per_file=0)


def test_a_site_is_encoded_as_zarr_does_it(tmp_path: Path) -> None:
    """The bits of 16-bit numbers are shuffled, which saves a third of camera noise."""
    pixels = np.random.default_rng(0).poisson(500, (3, 64, 64)).astype(np.uint16)
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(1, 3, 64, 64),
        chunks=(1, 3, 64, 64),
        dtype="uint16",
        compressors=COMPRESSOR,
        chunk_key_encoding={"name": "default", "separator": "."},
    )
    array[0] = pixels
    files = pixel_files(tmp_path / "a.zarr", array)
    frame = files.encode(pixels)
    assert frame == files.path(0).read_bytes()
    assert len(frame) < 0.7 * pixels.nbytes


def test_what_zarr_writes_in_shards_is_read(original: Path, tmp_path: Path) -> None:
    out = shutil.copytree(original / "store", tmp_path / "store")
    plain = open_store(out)
    pixels, attributes = plain.read(range(18)), plain.attributes
    shutil.rmtree(out / "images.zarr")
    (out / "sites.npy").unlink()
    for location in ("end", "start"):
        codec = zarr.codecs.ShardingCodec(chunk_shape=(1, 3, 16, 16), index_location=location)
        array = zarr.create_array(
            out / "images.zarr",
            shape=pixels.shape,
            chunks=(6, 3, 16, 16),
            dtype="uint16",
            serializer=codec,
            compressors=None,
            chunk_key_encoding={"name": "default", "separator": "."},
            attributes=attributes,
            overwrite=True,
        )
        array[:] = pixels
        np.testing.assert_array_equal(open_store(out).read(range(18)), pixels)


def image_of(source: Path, row: int) -> Path:
    table = pd.read_csv(source / TABLE)
    folder, name = table.loc[row, ["Image_PathName_Tubulin", "Image_FileName_Tubulin"]]
    return source / folder / name


def test_a_changed_image_is_replaced_among_its_neighbours(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    before, times = ingest(source, out, sites_per_file=5).read(range(18)), file_times(out)
    tifffile.imwrite(image_of(source, 7), np.full((16, 16), 123, np.uint16))
    store = ingest(source, out)
    before[7, 1] = 123
    np.testing.assert_array_equal(store.read(range(18)), before)
    after = file_times(out)
    assert [name for name in times if after[name] != times[name]] == ["c.1.0.0.0"]
    ingest(source, out)
    assert file_times(out) == after


def cut(content: bytes) -> bytes:
    return content[:-30]


def flipped_in_a_frame(content: bytes) -> bytes:
    return content[:100] + bytes([content[100] ^ 1]) + content[101:]


def flipped_in_the_index(content: bytes) -> bytes:
    return content[:-50] + bytes([content[-50] ^ 1]) + content[-49:]


@pytest.mark.parametrize("damage", [cut, flipped_in_a_frame, flipped_in_the_index])
@pytest.mark.parametrize("hides", [False, True])
def test_damage_is_said_and_the_advice_mends_it(
    original: Path, tmp_path: Path, damage: Callable[[bytes], bytes], hides: bool
) -> None:
    """Also where size and times tell nothing, as where a disk returns other bytes."""
    out = tmp_path / "store"
    before = ingest(original / "screen", out, sites_per_file=5).read(range(18))
    file = out / "images.zarr" / "c.1.0.0.0"
    file.write_bytes(damage(file.read_bytes()))
    if hides:
        records, found = np.load(out / "sites.npy"), file.stat()
        for name in ("size", "mtime_ns", "ctime_ns"):
            records[name][5:10] = getattr(found, f"st_{name}")
        np.save(out / "sites.npy", records)
    with pytest.raises(StoreError, match=r"c\.1\.0\.0\.0: the store is damaged: .*; ingest it ag"):
        open_store(out).read(range(18))
    again = ingest(original / "screen", out)
    np.testing.assert_array_equal(again.read(range(18)), before)


def test_readers_that_find_damage_at_once_all_note_it(original: Path, tmp_path: Path) -> None:
    """So that one ingest mends all of it; and none still holds the lock when the error is told."""
    out = tmp_path / "store"
    before = ingest(original / "screen", out, sites_per_file=1).read(range(18))
    for attempt in range(5):
        records = np.load(out / "sites.npy")
        for site in range(18):
            file = out / "images.zarr" / f"c.{site}.0.0.0"
            file.write_bytes(flipped_in_a_frame(file.read_bytes()))
            found = file.stat()
            for name in ("size", "mtime_ns", "ctime_ns"):
                records[name][site] = getattr(found, f"st_{name}")
        np.save(out / "sites.npy", records)
        store, num_told = open_store(out), 0
        with ThreadPoolExecutor(6) as pool:
            for told in [pool.submit(store.read, range(start, 18, 6)) for start in range(6)]:
                num_told += isinstance(told.exception(), StoreError)
        assert num_told == 6
        noted = np.load(out / "sites.npy")["mtime_ns"] == 0
        assert noted.sum() >= 6, attempt
        ingest(original / "screen", out)
        for site in np.flatnonzero(noted):
            np.testing.assert_array_equal(open_store(out)[site], before[site])


def test_a_stopped_ingest_goes_on_with_the_files_that_are_whole(
    source: Path, tmp_path: Path
) -> None:
    out, image = tmp_path / "store", image_of(source, 12)
    whole = image.read_bytes()
    image.write_bytes(whole[:-40])
    with pytest.raises(ImageError, match="stays unfinished"):
        ingest(source, out, workers=1, sites_per_file=5)
    before = file_times(out)
    assert {"c.0.0.0.0", "c.1.0.0.0"} <= set(before)
    assert "c.2.0.0.0" not in before
    (out / "images.zarr" / ".partial-0123456789ab-c.2.0.0.0").write_bytes(b"half")
    image.write_bytes(whole)
    store = ingest(source, out)
    assert {name: file_times(out)[name] for name in before} == before
    assert not list((out / "images.zarr").glob(".partial-*"))
    same_sites(store, ingest(source, tmp_path / "at_once"))


# --- a source that grows -----------------------------------------------------------------------


def with_rows(source: Path, keep: Callable[[pd.DataFrame], pd.Series]) -> pd.DataFrame:
    """Shorten a screen's table; return the whole one."""
    table = pd.read_csv(source / TABLE)
    table[keep(table)].to_csv(source / TABLE, index=False)
    return table


@pytest.mark.parametrize("sites_per_file", [1, 5])
def test_sites_are_added_where_a_source_has_gained_some(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sites_per_file: int
) -> None:
    out = tmp_path / "store"
    # Every other row, so that the new ones lie between the old.
    table = with_rows(source, lambda table: table.index % 2 == 0)
    first = ingest(source, out, sites_per_file=sites_per_file)
    old, times = first.manifest[ROW], file_times(out)
    capsys.readouterr()
    table.to_csv(source / TABLE, index=False)
    store = ingest(source, out)
    assert "9 new sites, such as plate Week1_10001, well B03, site 1, are added to the 9 that" in (
        capsys.readouterr().err
    )
    pd.testing.assert_frame_equal(store.manifest[ROW][:9], old)
    after = file_times(out)
    changed = {name for name in times if after[name] != times[name]}
    assert changed == (set() if sites_per_file == 1 else {"c.1.0.0.0"})
    same_sites(store, ingest(source, tmp_path / "at_once"))
    # Nothing is left to do, in whatever order the table lists the sites.
    table[::-1].to_csv(source / TABLE, index=False)
    same_sites(ingest(source, out), store)
    assert file_times(out) == after
    assert "already complete, 18 sites" in capsys.readouterr().err


def test_an_append_that_stops_goes_on(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    table = with_rows(source, lambda table: table.index < 7)
    ingest(source, out, sites_per_file=4)
    table.to_csv(source / TABLE, index=False)
    image = image_of(source, 15)
    whole = image.read_bytes()
    image.write_bytes(whole[:-40])
    with pytest.raises(ImageError, match="stays unfinished"):
        ingest(source, out)
    with pytest.raises(StoreError, match="isn't finished"):
        open_store(out)
    image.write_bytes(whole)
    same_sites(ingest(source, out), ingest(source, tmp_path / "at_once"))


def test_an_append_that_is_killed_once_its_labels_are_written_goes_on(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    table = with_rows(source, lambda table: table.index < 7)
    ingest(source, out)
    table.to_csv(source / TABLE, index=False)
    images = zarr.open_array(out / "images.zarr", mode="r+")
    images.update_attributes({"complete": False})
    write_manifest(out, read_manifest(source))
    same_sites(ingest(source, out), ingest(source, tmp_path / "at_once"))


def test_labels_find_their_sites_when_images_of_one_name_are_gone(tmp_path: Path) -> None:
    rows = [
        {
            "Metadata_Plate": plate,
            "Metadata_Well": well,
            "Metadata_Site": 1,
            "Metadata_Compound": f"{well} of {plate}",
            "PathName_DNA": plate,
            "FileName_DNA": f"{well}.tif",
        }
        for plate in ("P1", "P2")
        for well in ("A01", "A02")
    ]
    for tag, row in enumerate(rows):
        write_tagged(tmp_path / row["PathName_DNA"] / row["FileName_DNA"], 100 + tag)
    table = write_table(tmp_path / "t.csv", rows)
    ingest(table, tmp_path / "store")
    for plate in ("P1", "P2"):
        shutil.rmtree(tmp_path / plate)
    write_table(table, rows[2:] + rows[:2])
    store = ingest(table, tmp_path / "store")
    tags = {f"{row['Metadata_Compound']}": 100 + tag for tag, row in enumerate(rows)}
    assert store.read(range(4))[:, 0, 0, 0].tolist() == [
        tags[compound] for compound in store.manifest["Metadata_Compound"]
    ]
    # Of folders with other names nothing says which is which, but the rows themselves.
    other = [row | {"PathName_DNA": f"{row['PathName_DNA']}_new"} for row in rows]
    write_table(table, other)
    assert len(ingest(table, tmp_path / "store")) == 4
    write_table(table, other[2:] + other[:2])
    with pytest.raises(OutputError, match="holds a store of other images"):
        ingest(table, tmp_path / "store")


def test_a_store_never_loses_sites(source: Path, tmp_path: Path) -> None:
    ingest(source, tmp_path / "store")
    before = file_times(tmp_path / "store")
    with_rows(source, lambda table: table.index != 4)
    words = (
        r"1 of the store's 18 sites are no longer in the screen, such as plate Week1_10001, well"
    )
    with pytest.raises(OutputError, match=words):
        ingest(source, tmp_path / "store")
    assert file_times(tmp_path / "store") == before
    assert len(open_store(tmp_path / "store")) == 18


def test_new_images_of_another_size_are_refused_before_anything_changes(
    source: Path, tmp_path: Path
) -> None:
    table = with_rows(source, lambda table: table.index < 9)
    ingest(source, tmp_path / "store")
    table.to_csv(source / TABLE, index=False)
    tifffile.imwrite(image_of(source, 12), np.zeros((16, 20), np.uint16))
    with pytest.raises(ImageError, match=r"the image is 20 x 16 uint16, but .* is 16 x 16 uint16"):
        ingest(source, tmp_path / "store")
    assert len(open_store(tmp_path / "store")) == 9


def test_a_mended_plate_map_changes_labels_and_adds_its_wells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the same command again: the wells that it had left empty are controls."""
    wells = [f"A{number:02d}" for number in range(1, 7)]
    for number, well in enumerate(wells):
        tifffile.imwrite(tmp_path / f"{well}.tif", np.full((16, 16), 7 + number, np.uint16))
    plates = pd.DataFrame({"Metadata_Plate": "P1", "Metadata_Well": wells, "Metadata_Site": 1})
    plates.assign(FileName_DNA=[f"{well}.tif" for well in wells]).to_csv(
        tmp_path / "load_data.csv", index=False
    )
    out, design = tmp_path / "store", tmp_path / "design.csv"
    compounds = ["x", None, "y", "z", None, "x"]
    command = ("ingest", tmp_path / "load_data.csv", "--platemap", design, "--out", out)
    pd.DataFrame({"Metadata_Well": wells, "Metadata_Compound": compounds}).to_csv(
        design, index=False
    )
    assert call(monkeypatch, *command) == 0
    assert open_store(out).manifest.Metadata_Well.tolist() == ["A01", "A03", "A04", "A06"]
    times = file_times(out)
    capsys.readouterr()
    mended = ["x", "DMSO", "y", "corrected", "DMSO", "x"]
    pd.DataFrame({"Metadata_Well": wells, "Metadata_Compound": mended}).to_csv(design, index=False)
    assert call(monkeypatch, *command) == 0
    told = capsys.readouterr().err
    assert "pixels stay as they are: Metadata_Compound (1 of 4 sites)" in told
    assert "2 new sites, such as plate P1, well A02, site 1, are added to the 4" in told
    store = open_store(out)
    assert store.manifest.Metadata_Well.tolist() == ["A01", "A03", "A04", "A06", "A02", "A05"]
    assert store.manifest.Metadata_Compound.tolist() == ["x", "y", "corrected", "x", "DMSO", "DMSO"]
    assert store.manifest.Metadata_Control.tolist() == [False] * 4 + [True] * 2
    assert store.read(range(6))[:, 0, 0, 0].tolist() == [7, 9, 10, 12, 8, 11]
    assert {name: file_times(out)[name] for name in times} == times


def test_a_store_keeps_the_digest_by_which_it_knows_pixels(source: Path, tmp_path: Path) -> None:
    """So that in a store of an earlier version new sites are compared with those that it had."""
    table, out = pd.read_csv(source / TABLE), tmp_path / "store"
    table.iloc[:-4].to_csv(source / TABLE, index=False)
    ingest(source, out)
    array = zarr.open_array(out / "images.zarr", mode="r+")
    assert array.attrs.pop("digest") == "crc"
    (out / "measures.npy").unlink()
    before = measures_of(open_store(out))
    # The last row shows what the first does.
    table.to_csv(source / TABLE, index=False)
    first, last = (
        source / table["Image_PathName_DAPI"][row] / table["Image_FileName_DAPI"][row]
        for row in (0, len(table) - 1)
    )
    shutil.copy(first, last)
    found = measures_of(ingest(source, out))["digest"]
    np.testing.assert_array_equal(found[: len(before)], before["digest"])
    middle = open_store(out)[0][0]
    assert found[0, 0] == found[-1, 0] == digest_of(middle.tobytes())
    zarr.open_array(out / "images.zarr", mode="r+").attrs["digest"] = "sha1"
    with pytest.raises(StoreError, match=r"digest of pixels is sha1, .* knows blake2b and crc"):
        ingest(source, out)
