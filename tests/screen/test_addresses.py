"""Screens of instruments at addresses are read as those on a disk are."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import NAMESPACE_OID, uuid5

import numpy as np
import pandas as pd
import pytest
from test_ometiff import EXPECTED, OME, WELLS, described, placed, write_pages

from helpers_bucket import Bucket, as_at, served_bucket, served_pages, without_account
from helpers_layouts import (
    SIZE,
    profile_of,
    tags_of,
    wells,
    write_cellvoyager,
    write_harmony,
    write_imagexpress,
    write_jdce,
    write_omezarr,
    write_tagged,
)
from helpers_run import call
from wsdino.errors import TableError
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest
from wsdino.screen.selection import Selection
from wsdino.screen.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with served_bucket("plates", tmp_path_factory.mktemp("served")) as server:
        yield server


@pytest.fixture
def bucket(server: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The folder `served` as the bucket `s3://plates`, without an account."""
    return without_account(server, tmp_path / "served", monkeypatch)


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[str]:
    with served_pages(tmp_path / "served") as address:
        yield address


def _harmony(folder: Path) -> None:
    write_harmony(folder / "m1", 5, plate="P1", planes=2)
    write_harmony(folder / "batch" / "m2", 7, plate="P2", planes=2, name="Index.xml", start=5000)


def _imagexpress(folder: Path) -> None:
    write_imagexpress(folder / "x", plate="P1", steps=2)


def _jdce(folder: Path) -> None:
    write_jdce(folder / "j")


def _cellvoyager(folder: Path) -> None:
    write_cellvoyager(folder / "c", planes=2)


def _converted_cellvoyager(folder: Path) -> None:
    write_cellvoyager(folder / "c", suffix=".png")


def _ometiff(folder: Path) -> None:
    """A plate with a companion, and one whose files describe themselves."""

    def planes(i: int) -> str:
        return "".join(placed(f"f{i}.ome.tif", c, c=c) for c in range(2))

    only = f'<OME {OME}><BinaryOnly MetadataFile="p.companion.ome" UUID="urn:uuid:1"/></OME>'
    for p in range(2):
        (folder / f"p{p}").mkdir(parents=True)
        text = described(planes).replace('Name="P7"', f'Name="P{p}"')
        for i in range(4):
            tags = [number + 5000 * p for number in EXPECTED[i]]
            write_pages(folder / f"p{p}" / f"f{i}.ome.tif", tags, text if p else only)
    (folder / "p0" / "p.companion.ome").write_text(
        text.replace('Name="P1"', 'Name="P0"'), encoding="utf-8"
    )


def _ometiff_of_wells(folder: Path) -> None:
    """A file for each well, with the pages of its fields."""

    def planes(i: int) -> str:
        name = f"w{i // 2}.ome.tif"
        return (
            f'<TiffData IFD="{2 * (i % 2)}" PlaneCount="2"><UUID FileName="{name}">urn:uuid:'
            f"{uuid5(NAMESPACE_OID, name)}</UUID></TiffData>"
        )

    folder.mkdir(parents=True)
    for w in range(2):
        tags = [number for site in EXPECTED[2 * w : 2 * w + 2] for number in site]
        write_pages(folder / f"w{w}.ome.tif", tags, described(planes))


def _omezarr(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(1, 9999, (2, 3, *SIZE)).astype(np.uint16)
    for p in range(2):
        sites = pd.DataFrame(
            {
                "Metadata_Plate": f"P{p}",
                "Metadata_Well": ["A01", "A02"],
                "Metadata_Site": 0,
            }
        )
        write_omezarr(folder / "b" / f"P{p}.zarr", sites, pixels + 9 * p, "0.4")


LAYOUTS = pytest.mark.parametrize(
    ("write", "platemap", "selection"),
    [
        (_harmony, wells("A02", "P24"), Selection(z=2)),
        (_imagexpress, wells("B02", "C03"), Selection(z="max")),
        (_jdce, wells("B07", "B08"), Selection(z=1)),
        (_cellvoyager, wells("B06", "C11"), Selection(z="max")),
        (_converted_cellvoyager, wells("B06", "C11"), Selection()),
        (_ometiff, WELLS, Selection()),
        (_ometiff_of_wells, WELLS, Selection()),
        (_omezarr, wells("A01", "A02"), Selection()),
    ],
)


@LAYOUTS
def test_a_folder_in_a_bucket_is_read_as_one_on_disk(
    bucket: Bucket,
    write: Callable[[Path], None],
    platemap: pd.DataFrame,
    selection: Selection,
) -> None:
    write(bucket.folder / "s")
    here = read_manifest(bucket.folder / "s", platemap=platemap, selection=selection)
    found = read_manifest("s3://plates/s", platemap=platemap, selection=selection)
    pd.testing.assert_frame_equal(found, as_at(here, bucket.folder, "s3://plates"))
    assert tags_of(found) == tags_of(here)


@LAYOUTS
def test_a_server_of_pages_of_links_is_a_bucket(
    pages: str,
    tmp_path: Path,
    write: Callable[[Path], None],
    platemap: pd.DataFrame,
    selection: Selection,
) -> None:
    write(tmp_path / "served" / "s")
    here = read_manifest(tmp_path / "served" / "s", platemap=platemap, selection=selection)
    found = read_manifest(f"{pages}/s", platemap=platemap, selection=selection)
    pd.testing.assert_frame_equal(found, as_at(here, tmp_path / "served", pages))
    assert tags_of(found) == tags_of(here)


@pytest.mark.parametrize(
    ("write", "platemap", "name"),
    [
        (lambda s: write_harmony(s, 6), wells("A02", "P24"), "Images/Index.idx.xml"),
        (write_cellvoyager, wells("B06", "C11"), "MeasurementData.mlf"),
        (lambda s: write_jdce(s, steps=1), wells("B07", "B08"), "scan.jdce"),
        (_ometiff, WELLS, "p0/p.companion.ome"),
    ],
)
def test_a_file_that_lists_its_images_suffices(
    bucket: Bucket,
    write: Callable[[Path], object],
    platemap: pd.DataFrame,
    name: str,
) -> None:
    """The server answers for files alone."""
    write(bucket.folder / "s")
    here = read_manifest(bucket.folder / "s" / name, platemap=platemap)
    address = f"{bucket.address}/plates"
    found = read_manifest(f"{address}/s/{name}", platemap=platemap)
    pd.testing.assert_frame_equal(found, as_at(here, bucket.folder, address))
    assert tags_of(found) == tags_of(here)


def test_harmony_s_functions_are_fetched_once_and_divide(bucket: Bucket, tmp_path: Path) -> None:
    profile = profile_of([[1.2], [0.07, -0.09]])
    write_harmony(bucket.folder / "m", 7, profiles={1: profile}, start=20_000)
    platemap = wells("A02", "P24")
    here = ingest(bucket.folder / "m", tmp_path / "here", platemap=platemap)
    bucket.fetched.clear()
    store = ingest("s3://plates/m", tmp_path / "there", platemap=platemap, workers=1)
    np.testing.assert_array_equal(store.read(range(4)), here.read(range(4)))
    assert store[0][0, 0, 0] != 20_111
    # Once as a list of images, and once for each channel.
    assert bucket.fetched["m/Images/Index.idx.xml"] == 3


def test_a_pattern_names_the_images_at_an_address(bucket: Bucket, pages: str) -> None:
    for number, name in enumerate(
        ("P1/deep/er/A01_s1_w1", "P1/deep/er/A02_s1_w1", "P2/x/A01_s2_w1")
    ):
        write_tagged(bucket.folder / "s" / f"{name}.tif", 10 * number)
    selection = Selection(
        pattern=r"(?P<plate>P\d)/.*(?P<well>A\d\d)_s(?P<site>\d)_w(?P<channel>\d)\.tif"
    )
    platemap = wells("A01", "A02")
    here = read_manifest(bucket.folder / "s", platemap=platemap, selection=selection)
    assert tags_of(here) == [[0], [10], [20]]
    for address in ("s3://plates", pages):
        found = read_manifest(f"{address}/s", platemap=platemap, selection=selection)
        pd.testing.assert_frame_equal(found, as_at(here, bucket.folder, address))
        assert tags_of(found) == tags_of(here)
    with pytest.raises(TableError, match=r"^s3://plates/s: --pattern .* none of the names of 3 im"):
        read_manifest("s3://plates/s", selection=Selection(pattern="(?P<well>B)"))


def test_what_can_t_be_read_at_an_address_says_why(
    bucket: Bucket,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_imagexpress(bucket.folder / "x", plate="P1")
    address = f"{bucket.address}/plates/x"
    unlisted = rf"^{address}: nothing is listed there: .* list folders \(s3:// does"
    with pytest.raises(TableError, match=unlisted):
        read_manifest(address, platemap=wells("B02", "C03"))
    # Its HTD file can be fetched, but doesn't name the images.
    with pytest.raises(TableError, match=unlisted):
        read_manifest(f"{address}/P1.HTD", platemap=wells("B02", "C03"))
    with pytest.raises(TableError, match=unlisted):
        read_manifest(address, selection=Selection(pattern="(?P<well>B)"))
    with pytest.raises(TableError, match=r"^s3://plates/absent: nothing is listed there"):
        read_manifest("s3://plates/absent")
    (bucket.folder / "notes").mkdir()
    (bucket.folder / "notes" / "a.doc").touch()
    with pytest.raises(TableError, match=r"^s3://plates/notes: this folder is not a screen; a scr"):
        read_manifest("s3://plates/notes")
    (bucket.folder / "czi").mkdir()
    (bucket.folder / "czi" / "A01.czi").touch()
    copied = "copy them to a disk first: aws s3 sync --no-sign-request s3://plates/czi czi$"
    with pytest.raises(TableError, match=copied):
        read_manifest("s3://plates/czi")
    (folder / "P2.HTD").write_text("", encoding="utf-8")
    with pytest.raises(TableError, match=r"^s3://plates/x/P2.HTD: there are no images beside it"):
        read_manifest("s3://plates/x")
    # The command says no more than its one line.
    assert call(monkeypatch, "inspect", "s3://plates/absent") == 2
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if "s3://plates/absent" in line]) == 1


def test_a_screen_at_an_address_is_inspected(bucket: Bucket) -> None:
    write_harmony(bucket.folder / "m", 6)
    found = survey("s3://plates/m", platemap=wells("A02", "P24"))
    assert (found.field_shape, found.dtype) == (SIZE, np.uint16)
    first = "s3://plates/m/Images/r01c02f01p01-ch1sk1fk1fl1.tiff"
    assert found.facts["images"]["kinds"] == [
        {"kind": "unknown size", "files": 8, "example": first}
    ]
    assert sum(num for key, num in bucket.fetched.items() if key.endswith(".tiff")) == 1


def test_two_screens_in_one_folder_are_said(
    bucket: Bucket, capsys: pytest.CaptureFixture[str]
) -> None:
    write_harmony(bucket.folder / "s" / "m", 6)
    write_imagexpress(bucket.folder / "s" / "x")
    assert len(read_manifest("s3://plates/s", platemap=wells("A02", "P24"))) == 4
    assert "s3://plates/s: read as a Harmony measurement" in capsys.readouterr().err
