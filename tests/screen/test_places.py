"""Plates are found wherever they lie below a folder, and none is left out unsaid."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import zarr

from helpers_layouts import (
    tags_of,
    wells,
    write_cellvoyager,
    write_harmony,
    write_imagexpress,
    write_tagged,
)
from wsdino.errors import TableError
from wsdino.screen.layouts.places import DEPTH, files_below, shared_listings
from wsdino.screen.manifest import read_manifest
from wsdino.screen.omezarr import find_plates

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pandas as pd


def _harmony(folder: Path, plate: str) -> None:
    write_harmony(folder, 5, plate=plate)


def _imagexpress(folder: Path, plate: str) -> None:
    write_imagexpress(folder, plate=plate)


def _cellvoyager(folder: Path, plate: str) -> None:
    write_cellvoyager(folder, plate=plate)


KINDS = pytest.mark.parametrize(
    ("write", "platemap"),
    [
        (_harmony, wells("A02", "P24")),
        (_imagexpress, wells("B02", "C03")),
        (_cellvoyager, wells("B06", "C11")),
    ],
)


@KINDS
def test_plates_at_several_depths_are_all_read(
    tmp_path: Path, write: Callable[[Path, str], None], platemap: pd.DataFrame
) -> None:
    write(tmp_path / "p1", "P1")
    write(tmp_path / "batch" / "p2", "P2")
    found = read_manifest(tmp_path, platemap=platemap)
    assert sorted(found["Metadata_Plate"]) == ["P1"] * 4 + ["P2"] * 4
    first, second = (found[found["Metadata_Plate"] == plate] for plate in ("P1", "P2"))
    assert tags_of(first) == tags_of(second)


def test_harmony_s_two_names_and_flat_exports_go_together(tmp_path: Path) -> None:
    write_harmony(tmp_path / "m1", 5, plate="P1")
    write_harmony(tmp_path / "m2", 7, plate="P2", start=2000, name="Index.xml")
    write_harmony(tmp_path / "m3", 6, plate="P3", start=4000)
    for file in (tmp_path / "m3" / "Images").iterdir():
        shutil.move(file, tmp_path / "m3" / file.name)
    # Copies of an index are of one measurement.
    shutil.copy(tmp_path / "m1/Images/Index.idx.xml", tmp_path / "m1/Images/Index.xml")
    found = read_manifest(tmp_path, platemap=wells("A02", "P24"))
    assert found["Metadata_Plate"].tolist() == ["P1"] * 4 + ["P2"] * 4 + ["P3"] * 4
    assert [tags[0] for tags in tags_of(found)[::4]] == [111, 2111, 4111]


def test_a_copy_of_a_plate_s_htd_file_is_not_another_plate(tmp_path: Path) -> None:
    folder = write_imagexpress(tmp_path / "x", plate="P1")
    shutil.copy(folder / "P1.HTD", folder / "TimePoint_1" / "P1.HTD")
    found = read_manifest(tmp_path, platemap=wells("B02", "C03"))
    assert [tags[0] for tags in tags_of(found)] == [1161, 1261, 2161, 2261]


def test_zarr_plates_of_several_batches(tmp_path: Path) -> None:
    for name in ("p1.zarr", "b/p2.zarr", "b/p2_mip.zarr", "b/c/p1_mip.zarr"):
        zarr.open_group(tmp_path / name, mode="w").attrs["plate"] = {"wells": []}
    found = [str(plate.relative_to(tmp_path)) for plate in find_plates(tmp_path)]
    # A projection is one of a plate in its own folder.
    assert sorted(found) == ["b/c/p1_mip.zarr", "b/p2.zarr", "p1.zarr"]


def test_how_deep_files_are_found(tmp_path: Path) -> None:
    places = ["", *("/".join("abcd"[:n]) for n in range(1, 5)), "x.zarr", ".hidden"]
    for place in places:
        write_tagged(tmp_path / place / "w.tif", 1)
    write_tagged(tmp_path / "._w.tif", 1)
    found = [
        str(file.parent.relative_to(tmp_path)) for file in files_below(tmp_path, "w.tif".__eq__)
    ]
    assert found == [".", "a", "a/b", "a/b/c"]
    assert DEPTH == 3
    assert files_below(tmp_path / "w.tif", "w.tif".__eq__) == [tmp_path / "w.tif"]
    assert files_below(tmp_path / "none", "w.tif".__eq__) == []


def test_a_folder_of_which_a_link_leads_back_is_one_line(tmp_path: Path) -> None:
    _harmony(tmp_path / "m1", "P1")
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(TableError, match=r"is of plate P1, as .*Index.idx.xml is"):
        read_manifest(tmp_path, platemap=wells("A02", "P24"))


def test_a_folder_is_listed_once_for_all_readers_of_a_command(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    first, second = tmp_path / "a" / "1.x", tmp_path / "a" / "2.x"
    first.touch()
    with shared_listings():
        assert files_below(tmp_path, lambda name: name.endswith(".x")) == [first]
        second.touch()
        with shared_listings():
            assert files_below(tmp_path, lambda name: name.endswith(".x")) == [first]
    with shared_listings():
        assert files_below(tmp_path, lambda name: name.endswith(".x")) == [first, second]
    assert files_below(tmp_path, lambda name: name.endswith(".x")) == [first, second]
