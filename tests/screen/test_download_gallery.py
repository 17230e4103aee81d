"""Plates of the Cell Painting Gallery from a bucket on this machine, which misbehaves."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import tifffile

from helpers_bucket import BATCH, CHANNELS, PLATES, PROJECT, WELLS, Bucket, write_gallery
from helpers_run import finish, start
from wsdino.errors import InputError, OutputError, WsdinoError
from wsdino.screen import fetch
from wsdino.screen.download_gallery import download_gallery
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Gallery's tree: two plates of three wells and two sites, and what isn't asked for."""
    top = tmp_path_factory.mktemp("bucket")
    write_gallery(top)
    return top


@pytest.fixture
def bucket(published: Path) -> Iterator[Bucket]:
    with Bucket(published) as bucket:
        threading.Thread(target=bucket.serve_forever, daemon=True).start()
        yield bucket
        bucket.shutdown()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_PAUSE_S", 0.01)


def images_in(folder: Path) -> list[Path]:
    return sorted([*folder.rglob("*.tiff"), *folder.rglob("*.npy")])


def assert_same_files(out: Path, published: Path) -> None:
    for path in images_in(out):
        whole = published / PROJECT / path.relative_to(out)
        assert path.read_bytes() == whole.read_bytes()
    assert not list(out.rglob("*.partial*"))


def test_a_plate_arrives_and_is_ingested(bucket: Bucket, published: Path, tmp_path: Path) -> None:
    out = tmp_path / "plates"
    download_gallery(PROJECT, out, plates=PLATES[:1], sites=1, source=bucket.address)
    assert_same_files(out, published)
    assert len(list(out.rglob("*.tiff"))) == len(WELLS) * len(CHANNELS)
    assert not list(out.rglob("*.zip"))
    store = ingest(out, tmp_path / "store")
    manifest = store.manifest
    assert manifest.Metadata_Well.tolist() == list(WELLS)
    assert set(manifest.Metadata_Site) == {1}
    assert set(manifest.Metadata_Plate) == {PLATES[0]}
    assert manifest.Metadata_Compound.tolist() == [f"BRD-{well}" for well in WELLS]
    assert set(manifest.Metadata_Concentration) == {5.0}
    assert store.channels == CHANNELS
    # The published functions are applied, which are 2 everywhere.
    raw = tifffile.imread(min(out.rglob("*f01*ch1*.tiff")))
    np.testing.assert_array_equal(store[0][0], np.rint(raw / 2))
    # More of it later: what is there is not asked for again, and the store grows.
    asked = bucket.asked.copy()
    download_gallery(PROJECT, out, plates=PLATES, source=bucket.address)
    again = [key for key in asked if bucket.asked[key] > asked[key] and key.endswith("tiff")]
    assert not again
    assert_same_files(out, published)
    assert len(list(out.rglob("*.tiff"))) == 2 * 2 * len(WELLS) * len(CHANNELS)
    assert len(ingest(out, tmp_path / "store")) == 2 * 2 * len(WELLS)
    # And what was there stays listed.
    download_gallery(PROJECT, out, plates=PLATES[:1], sites=1, source=bucket.address)
    assert len(read_manifest(out)) == 2 * 2 * len(WELLS)


@pytest.mark.parametrize("what", ["500", "cut", "longer", "shorter", "other"])
def test_what_a_server_does_wrong_is_made_good(
    bucket: Bucket, published: Path, tmp_path: Path, what: str
) -> None:
    bucket.errs = {"ch1sk1fk1fl1.tiff": (what, 4), ".csv.gz": (what, 1), "map.txt": (what, 1)}
    download_gallery(PROJECT, tmp_path / "out", plates=PLATES[:1], source=bucket.address)
    assert_same_files(tmp_path / "out", published)
    assert len(read_manifest(tmp_path / "out")) == 2 * len(WELLS)


def test_what_fails_over_and_over_is_given_up_and_goes_on_later(
    bucket: Bucket, published: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    bucket.errs = {"B01f02p01-ch2sk1fk1fl1.tiff": ("shorter", 5)}
    with pytest.raises(WsdinoError, match=r"bytes arrived instead of .*; tried 5 times") as caught:
        download_gallery(PROJECT, out, plates=PLATES[:1], source=bucket.address)
    assert "\n" not in str(caught.value)
    there = {path.name for path in out.rglob("*.tiff")}
    assert there
    asked = bucket.asked.copy()
    download_gallery(PROJECT, out, plates=PLATES[:1], source=bucket.address)
    assert all(bucket.asked[key] == asked[key] for key in asked if key.rpartition("/")[2] in there)
    assert_same_files(out, published)


def test_a_killed_download_goes_on(bucket: Bucket, published: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("download", PROJECT, "--plate", PLATES[1], "--out", out, "--source", bucket.address)
    bucket.pause_s = 0.05
    process = start(*command)
    deadline = time.monotonic() + 60
    while not list(out.rglob("*.tiff")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    finish(process)
    bucket.pause_s = 0.0
    assert finish(start(*command))[:2] == (0, f"{out}\n")
    assert_same_files(out, published)
    assert len(read_manifest(out)) == 2 * len(WELLS)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"plates": None}, "has 2 plates, such as BR00116991, BR00117035; name those to download"),
        (
            {"plates": ["BR0011699"]},
            "--plate BR0011699: not a plate of .*, did you mean BR00116991",
        ),
        ({"sites": 0}, "--sites 0: must be at least 1"),
        ({"source": "s3://cellpainting-gallery"}, "not an http or https address"),
        ({"project": "cpg9999-none"}, "cpg9999-none: .* has no such project"),
    ],
)
def test_what_is_wrong_is_one_line(
    bucket: Bucket, tmp_path: Path, options: dict[str, Any], line: str
) -> None:
    given = {"project": PROJECT, "plates": PLATES, "source": bucket.address} | options
    with pytest.raises(InputError, match=line) as caught:
        download_gallery(given.pop("project"), tmp_path / "out", **given)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("*.tiff"))


def test_a_table_that_names_absent_or_outside_files_is_refused(
    published: Path, tmp_path: Path
) -> None:
    top = shutil.copytree(published, tmp_path / "bucket")
    folder = top / PROJECT / "source_4" / "workspace" / "load_data_csv" / BATCH / PLATES[0]
    table = pd.read_csv(folder / "load_data.csv")
    with Bucket(top) as bucket:
        threading.Thread(target=bucket.serve_forever, daemon=True).start()
        for column, value, line in (
            (
                "FileName_OrigDNA",
                "absent.tiff",
                "has no .*/absent.tiff, which load_data_with_illum",
            ),
            ("PathName_OrigDNA", "s3://x/images/../../..", "lies outside the tree of cpg0000"),
            ("FileName_OrigDNA", "../up.tiff", "lies outside the tree of cpg0000"),
        ):
            changed = table.copy()
            changed.loc[3, column] = value
            content = gzip.compress(changed.to_csv(index=False).encode())
            (folder / "load_data_with_illum.csv.gz").write_bytes(content)
            with pytest.raises(InputError, match=line):
                download_gallery(
                    PROJECT, tmp_path / "out", plates=PLATES[:1], source=bucket.address
                )
        bucket.shutdown()
    assert not list((tmp_path / "out").rglob("*.tiff"))


def test_another_download_in_the_folder_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    download_gallery(PROJECT, tmp_path, plates=PLATES[:1], sites=1, source=bucket.address)
    with pytest.raises(OutputError, match=f"holds a download of {PROJECT}; give --out another"):
        download_gallery("cpg0016-jump", tmp_path, plates=["x"], source=bucket.address)
