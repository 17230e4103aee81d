"""Screens that lie on a server or in a bucket, through fsspec."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

from helpers_bucket import NEEDS_REMOTE, Bucket
from helpers_run import call
from wsdino import remote
from wsdino.errors import ImageError, InputError, TableError
from wsdino.remote import address_of, joined
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

CHANNELS = ("DNA", "ER")


@pytest.fixture
def screen(tmp_path: Path) -> Path:
    """A table of four sites, with images in a folder and functions beside it."""
    folder = tmp_path / "served"
    (folder / "images").mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for number in range(4):
        row = {"Metadata_Plate": "P1", "Metadata_Well": f"A{number + 1:02d}", "Metadata_Site": 1}
        row["Metadata_Compound"] = ["DMSO", "x", "y", "z"][number]
        for channel in CHANNELS:
            row[f"FileName_{channel}"] = f"{number}_{channel}.tif"
            row[f"PathName_{channel}"] = "images"
            pixels = rng.poisson(500, (16, 16)).astype(np.uint16)
            tifffile.imwrite(folder / "images" / f"{number}_{channel}.tif", pixels)
        row |= {"FileName_IllumDNA": "illum.npy", "PathName_IllumDNA": "."}
        rows.append(row)
    np.save(folder / "illum.npy", np.full((16, 16), 2.0))
    pd.DataFrame(rows).to_csv(folder / "load_data.csv", index=False)
    return folder


@pytest.fixture
def bucket(screen: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    pytest.importorskip("aiohttp", reason=NEEDS_REMOTE)
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.01)
    with Bucket(screen) as bucket:
        threading.Thread(target=bucket.serve_forever, daemon=True).start()
        yield bucket
        bucket.shutdown()


@pytest.fixture
def s3(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of the same bucket for S3's own protocol, without an account."""
    bucket.bucket = "gallery"
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.address)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    s3fs = pytest.importorskip("s3fs", reason=NEEDS_REMOTE)
    s3fs.S3FileSystem.clear_instance_cache()
    return "s3://gallery"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (Path("s3://a/b/c.csv"), "s3://a/b/c.csv"),
        (Path("HTTPS://host/x.csv"), "https://host/x.csv"),
        ("s3://a/b", "s3://a/b"),
        (Path("https://h/a b/ü.csv"), "https://h/a b/ü.csv"),
        (Path("/s3:/a"), None),
        (Path("C:/plates"), None),
        (Path("plates/s3:/a"), None),
        (Path("nonsense://a"), None),
        (Path("file:///a"), None),
        (Path(), None),
    ],
)
def test_what_is_an_address(path: Path | str, expected: str | None) -> None:
    assert address_of(path) == expected


def test_an_address_is_joined_as_an_absolute_path_is() -> None:
    assert address_of(joined(Path("/tables"), Path("s3://b/x.tif"))) == "s3://b/x.tif"
    assert address_of(joined(Path("s3://b/t"), Path("x.tif"))) == "s3://b/t/x.tif"


def test_a_table_on_a_server_becomes_the_store_that_its_copy_does(
    bucket: Bucket, screen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = ingest(screen / "load_data.csv", tmp_path / "here")
    address = f"{bucket.address}/load_data.csv"
    assert call(monkeypatch, "ingest", address, "--out", tmp_path / "store") == 0
    store = ingest(address, tmp_path / "store")
    np.testing.assert_array_equal(store.read(range(4)), here.read(range(4)))
    assert store.attributes["provenance"]["source"] == address
    manifest = store.manifest
    assert set(manifest.PathName_ER) == {f"{bucket.address}/images"}
    labels = [name for name in manifest if name.startswith("Metadata_")]
    pd.testing.assert_frame_equal(manifest[labels], here.manifest[labels])
    # Known as complete: nothing is fetched, and no copy is left.
    asked = {key: num for key, num in bucket.asked.items() if key.endswith(".tif")}
    ingest(address, tmp_path / "store")
    gets = bucket.fetched.copy()
    assert asked
    ingest(address, tmp_path / "store")
    assert {key for key in bucket.fetched if bucket.fetched[key] > gets[key]} == {"load_data.csv"}


def test_a_bucket_is_read_without_an_account(s3: str, screen: Path, tmp_path: Path) -> None:
    here = ingest(screen / "load_data.csv", tmp_path / "here")
    store = ingest(f"{s3}/load_data.csv", tmp_path / "store")
    np.testing.assert_array_equal(store.read(range(4)), here.read(range(4)))
    # As in the Gallery: a table on a disk whose images are not.
    table = pd.read_csv(screen / "load_data.csv")
    for channel in (*CHANNELS, "IllumDNA"):
        folders = "/images" if channel in CHANNELS else ""
        table[f"URL_{channel}"] = f"{s3}{folders}/" + table.pop(f"FileName_{channel}")
        del table[f"PathName_{channel}"]
    table.to_csv(tmp_path / "urls.csv", index=False)
    other = ingest(tmp_path / "urls.csv", tmp_path / "urls")
    np.testing.assert_array_equal(other.read(range(4)), here.read(range(4)))


def test_an_image_that_changes_there_is_fetched_again(
    bucket: Bucket, screen: Path, tmp_path: Path
) -> None:
    address = f"{bucket.address}/load_data.csv"
    before = ingest(address, tmp_path / "store").read(range(4))
    tifffile.imwrite(screen / "images" / "2_ER.tif", np.full((16, 16), 9, np.uint16))
    gets = bucket.fetched.copy()
    after = ingest(address, tmp_path / "store").read(range(4))
    before[2, 1] = 9
    np.testing.assert_array_equal(after, before)
    fetched = {key for key in bucket.fetched if bucket.fetched[key] > gets[key]}
    assert "images/1_ER.tif" not in fetched
    assert "images/2_ER.tif" in fetched


@pytest.mark.parametrize("what", ["cut", "500", "shorter"])
def test_a_server_that_fails_stops_the_ingest_which_goes_on_later(
    bucket: Bucket, tmp_path: Path, what: str
) -> None:
    address = f"{bucket.address}/load_data.csv"
    bucket.errs = {"2_ER.tif": (what, 99)}
    with pytest.raises(InputError) as caught:
        ingest(address, tmp_path / "store", workers=1)
    assert f"{bucket.address}/images/2_ER.tif" in str(caught.value)
    assert "\n" not in str(caught.value)
    bucket.errs = {}
    assert len(ingest(address, tmp_path / "store")) == 4


@pytest.mark.parametrize("what", ["cut", "500"])
def test_a_server_that_fails_now_and_then_is_asked_again(
    bucket: Bucket, tmp_path: Path, what: str
) -> None:
    bucket.errs = {".tif": (what, 2), "load_data.csv": (what, 1)}
    assert len(ingest(f"{bucket.address}/load_data.csv", tmp_path / "store", workers=1)) == 4


def test_what_is_absent_or_unknown_is_one_line(
    bucket: Bucket, screen: Path, tmp_path: Path
) -> None:
    (screen / "images" / "1_DNA.tif").unlink()
    with pytest.raises(ImageError, match=r"http://.*/images/1_DNA.tif .* does not exist; 1 of 12"):
        ingest(f"{bucket.address}/load_data.csv", tmp_path / "store")
    with pytest.raises(TableError, match=r"http://.*/absent.csv: no such file"):
        read_manifest(f"{bucket.address}/absent.csv")
    with pytest.raises(
        TableError, match=r"^http://.*/images: nothing is listed there: .* OME-Zarr"
    ):
        read_manifest(f"{bucket.address}/images")
    with pytest.raises(
        InputError, match=r"gs://x/load_data.csv: what reads gs:// is not installed"
    ):
        read_manifest("gs://x/load_data.csv")


def test_a_plate_of_ome_zarr_is_read_where_it_lies(
    bucket: Bucket, screen: Path, tmp_path: Path
) -> None:
    plate = zarr.open_group(screen / "P.zarr", mode="w", zarr_format=2)
    plate.attrs["plate"] = {"wells": [{"path": "A/1"}], "rows": [{"name": "A"}], "columns": []}
    well = plate.create_group("A/1")
    well.attrs["well"] = {"images": [{"path": "0"}]}
    image = well.create_group("0")
    pixels = np.random.default_rng(0).integers(1, 4000, (2, 32, 32)).astype(np.uint16)
    image.create_array("0", data=pixels, chunks=(1, 32, 32))
    axes = [{"name": name} for name in "cyx"]
    image.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    image.attrs["omero"] = {"channels": [{"label": name} for name in CHANNELS]}
    wells = pd.DataFrame({"Metadata_Well": ["A01"], "Metadata_Compound": ["DMSO"]})
    store = ingest(f"{bucket.address}/P.zarr", tmp_path / "store", platemap=wells)
    assert store.channels == CHANNELS
    np.testing.assert_array_equal(store[0], pixels)
