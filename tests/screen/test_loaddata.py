"""A folder of LoadData tables is one screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import tifffile

from wsdino.errors import TableError
from wsdino.screen.ingest import ingest
from wsdino.screen.loaddata import find_tables
from wsdino.screen.manifest import read_manifest

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = ("OrigDNA", "OrigAGP")


def write_plate(
    place: Path,
    plate: str,
    tag: int,
    *,
    name: str = "load_data.csv",
    channels: tuple[str, ...] = CHANNELS,
    **columns: object,
) -> None:
    """Write a plate's table, and its images in a folder beside the table; tags say which is which.

    Two wells of one site; the first channel's folder is relative, that of the others is not given.
    """
    (place / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for number, well in enumerate(("A01", "B02")):
        row: dict[str, object] = {
            "Metadata_Plate": plate,
            "Metadata_Well": well,
            "Metadata_Site": 1,
            "PathName_OrigDNA": "images",
        }
        for index, channel in enumerate(channels):
            file = f"{well}_{channel}.tif"
            pixels = np.random.default_rng(tag).integers(0, 500, (16, 16)).astype(np.uint16)
            pixels[0, 0] = tag + 10 * number + index
            tifffile.imwrite(place / ("images" if channel == "OrigDNA" else ".") / file, pixels)
            row[f"FileName_{channel}"] = file
        rows.append(row | columns)
    pd.DataFrame(rows).to_csv(place / name, index=False)


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """Two plates of one batch and one of another, in the Cell Painting Gallery's layout."""
    folder = tmp_path / "load_data_csv"
    for batch, plate, tag in (("b1", "0042", 1000), ("b1", "BR2", 2000), ("b2", "BR3", 3000)):
        write_plate(folder / batch / plate, plate, tag)
    return folder


def test_the_tables_of_a_folder_are_one_screen(
    gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wells = pd.DataFrame({"well_position": ["A01", "B02"], "broad_sample": ["DMSO", "x"]})
    wells.to_csv(tmp_path / "wells.csv", index=False)
    store = ingest(gallery, tmp_path / "store", platemap=tmp_path / "wells.csv")
    assert store.channels == CHANNELS
    manifest = store.manifest
    assert manifest["Metadata_Plate"].tolist() == ["0042"] * 2 + ["BR2"] * 2 + ["BR3"] * 2
    assert manifest["Metadata_Well"].tolist() == ["A01", "B02"] * 3
    assert manifest["Metadata_Batch"].tolist() == ["b1"] * 4 + ["b2"] * 2
    assert manifest["Metadata_Compound"].tolist() == ["DMSO", "x"] * 3
    tags = [store[site][:, 0, 0].tolist() for site in range(6)]
    first = [1000, 1010, 2000, 2010, 3000, 3010]
    assert tags == [[tag, tag + 1] for tag in first]
    said = capsys.readouterr().err
    assert f"{gallery}: read 3 LoadData tables, such as b1/0042/load_data.csv" in said
    assert (
        f"{gallery}: no column Metadata_Batch, so the batch is the name of the folder, such as b1"
        in said
    )


def test_one_batch_or_one_plate_of_it(gallery: Path) -> None:
    wells = pd.DataFrame({"Metadata_Well": ["A01", "B02"], "Metadata_Compound": ["DMSO", "x"]})
    one = read_manifest(gallery / "b1", platemap=wells)
    # Folders of plates are no batches: each plate counts as one.
    assert one["Metadata_Batch"].tolist() == ["0042"] * 2 + ["BR2"] * 2
    plate = read_manifest(gallery / "b1" / "BR2", platemap=wells)
    assert plate["Metadata_Plate"].tolist() == ["BR2"] * 2
    with pytest.raises(TableError, match=r"b1: doesn't say which well received which compound"):
        read_manifest(gallery / "b1")


def test_a_batch_in_the_tables_wins(gallery: Path) -> None:
    for path in find_tables(gallery):
        pd.read_csv(path, dtype=str).assign(Metadata_Batch="mine", Metadata_Compound="x").to_csv(
            path, index=False
        )
    assert set(read_manifest(gallery)["Metadata_Batch"]) == {"mine"}


def test_of_two_tables_in_a_folder_the_one_with_illumination_is_read(gallery: Path) -> None:
    place = gallery / "b1" / "BR2"
    table = pd.read_csv(place / "load_data.csv")
    table.to_csv(place / "load_data_with_illum.csv.gz", index=False)
    assert place / "load_data_with_illum.csv.gz" in find_tables(gallery)
    assert place / "load_data.csv" not in find_tables(gallery)
    table.to_csv(place / "load_data_old.csv", index=False)
    with pytest.raises(TableError, match=r"BR2: has several LoadData tables \(load_data.csv, load"):
        find_tables(gallery)


def test_tables_of_other_channels_are_no_screen(gallery: Path) -> None:
    write_plate(gallery / "b2" / "BR4", "BR4", 4000, channels=("OrigDNA",))
    wells = pd.DataFrame({"Metadata_Well": ["A01", "B02"], "Metadata_Compound": ["DMSO", "x"]})
    with pytest.raises(TableError) as caught:
        read_manifest(gallery, platemap=wells)
    assert "BR4/load_data.csv: has images of OrigDNA, but " in str(caught.value)
    assert "b1/0042/load_data.csv of OrigAGP, OrigDNA; the tables of one" in str(caught.value)


def test_the_same_plate_twice_is_refused(gallery: Path) -> None:
    write_plate(gallery / "b2" / "again", "BR3", 5000)
    wells = pd.DataFrame({"Metadata_Well": ["A01", "B02"], "Metadata_Compound": ["DMSO", "x"]})
    with pytest.raises(TableError, match=r"plate BR3, well A01, site 1 occurs more than once"):
        read_manifest(gallery, platemap=wells)
