"""ImageXpress, CellVoyager, and folders whose names say what their images are."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import tifffile

from helpers_layouts import (
    tagged,
    tags_of,
    wells,
    write_cellvoyager,
    write_imagexpress,
    write_jdce,
    write_tagged,
)
from wsdino.errors import InputError, TableError
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import read_manifest
from wsdino.screen.selection import Selection
from wsdino.tables.identity import normalise_well

if TYPE_CHECKING:
    from pathlib import Path


B2_C3 = wells("B02", "C03")


def channels(manifest: pd.DataFrame) -> list[str]:
    return [n.removeprefix("FileName_") for n in manifest if n.startswith("FileName_")]


@pytest.mark.parametrize("where", ["", "..", "Plate1.HTD"])
@pytest.mark.parametrize("guid", [True, False])
def test_an_imagexpress_plate(tmp_path: Path, where: str, guid: bool) -> None:
    folder = write_imagexpress(tmp_path / "plates" / "1", guid=guid)
    found = read_manifest(folder / where, platemap=B2_C3)
    assert channels(found) == ["DAPI", "FITC"]
    assert tags_of(found) == [[1161, 1162], [1261, 1262], [2161, 2162], [2261, 2262]]
    assert found["Metadata_Plate"].unique().tolist() == ["Plate1"]
    assert found["Metadata_Site"].tolist() == [1, 2, 1, 2]


def test_one_site_and_one_wavelength_go_unsaid_in_names(tmp_path: Path) -> None:
    folder = write_imagexpress(tmp_path, sites=1, waves=("DAPI",))
    found = read_manifest(folder, platemap=B2_C3)
    assert tags_of(found) == [[1161], [2161]]
    assert channels(found) == ["DAPI"]


def test_steps_and_time_points_of_imagexpress(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_imagexpress(tmp_path, steps=3, times=2)
    # The instrument's own projections lie beside the folders of steps.
    for path in sorted((folder / "TimePoint_1" / "ZStep_1").glob("*_w1*")):
        shutil.copy(path, folder / "TimePoint_1")
    with pytest.raises(
        TableError, match=r"sites have 3 z planes \(1, 2, 3\); choose one, as --z 1"
    ):
        read_manifest(folder, platemap=B2_C3)
    assert "4 images left out (the instrument's projections of z steps)" in capsys.readouterr().err
    found = read_manifest(folder, platemap=B2_C3, selection=Selection(z=3, time=2))
    assert tags_of(found)[0] == [1231, 1232]
    found = read_manifest(folder, platemap=B2_C3, selection=Selection(z="max", time=1))
    assert tags_of(found) == [[1181, 1182], [1281, 1282], [2181, 2182], [2281, 2282]]


def test_two_imagexpress_plates_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        write_imagexpress(tmp_path / name)
    with pytest.raises(TableError, match=r"is of plate Plate1, as .*a/Plate1.HTD is; read one"):
        read_manifest(tmp_path, platemap=B2_C3)
    shutil.rmtree(tmp_path / "a" / "TimePoint_1")
    with pytest.raises(TableError, match=r"Plate1.HTD: there are no images beside it"):
        read_manifest(tmp_path / "a", platemap=B2_C3)


def test_imagexpress_plates_in_one_folder_are_told_apart_by_their_names(tmp_path: Path) -> None:
    write_imagexpress(tmp_path, plate="P1")
    write_imagexpress(tmp_path, plate="p1_again", waves=("DAPI", "FITC", "Cy5"), steps=2)
    for path in (tmp_path / "TimePoint_1").rglob("*_again_B02_*"):
        path.rename(path.with_name(path.name.replace("_B02_", "_B03_").replace("p1_", "P1_")))
    found = read_manifest(tmp_path / "P1.HTD", platemap=B2_C3)
    assert channels(found) == ["DAPI", "FITC"]
    assert tags_of(found) == [[1161, 1162], [1261, 1262], [2161, 2162], [2261, 2262]]
    again = tmp_path / "p1_again.HTD"
    found = read_manifest(again, platemap=wells("B03", "C03"), selection=Selection(z=1))
    assert channels(found) == ["DAPI", "FITC", "Cy5"]
    assert found["Metadata_Well"].tolist() == ["B03", "B03", "C03", "C03"]


def test_a_jdce_plate(tmp_path: Path) -> None:
    folder = write_jdce(tmp_path / "run")
    table = wells("B07", "B08")
    for source in (folder, tmp_path, folder / "scan.jdce"):
        found = read_manifest(source, platemap=table, selection=Selection(z=1))
        assert channels(found) == ["TL", "FITC"]
        assert tags_of(found) == [[10, 11], [110, 111], [1010, 1011], [1110, 1111]]
        assert found["Metadata_Plate"].unique().tolist() == ["3500009044"]
    with pytest.raises(TableError, match=r"sites have 2 z planes \(0, 1\)"):
        read_manifest(folder, platemap=table)
    described = json.loads((folder / "scan.jdce").read_text(encoding="utf-8"))
    del described["ImageStack"]["ImageMetadataFiles"], described["ImageStack"]["SpecimenHolder"]
    (folder / "scan.jdce").write_text(json.dumps(described), encoding="utf-8")
    found = read_manifest(folder, platemap=table, selection=Selection(z="max"))
    assert tags_of(found)[3] == [1110, 1111]
    assert found["Metadata_Plate"][0] == "scan"
    for text, line in (("{", "can't be read as JSON"), ("{}", "no image_metadata_")):
        (folder / "scan.jdce").write_text(text, encoding="utf-8")
        (folder / "image_metadata_1.csv").unlink(missing_ok=True)
        with pytest.raises(TableError, match="scan.jdce: .*" + line.replace("no ", "")):
            read_manifest(folder, platemap=table)


def test_folders_of_a_jdce_plate_may_have_numbers_for_names(tmp_path: Path) -> None:
    folder = write_jdce(tmp_path / "run", steps=1)
    (folder / "timepoint0").rename(folder / "007")
    listed = folder / "image_metadata_1.csv"
    listed.write_text(listed.read_text().replace("timepoint0", "007"), encoding="utf-8")
    found = read_manifest(folder, platemap=wells("B07", "B08"))
    assert tags_of(found) == [[0, 1], [100, 101], [1000, 1001], [1100, 1101]]


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_a_cellvoyager_measurement(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_cellvoyager(tmp_path / "m", suffix=suffix)
    table = wells("B06", "C11")
    for source in (folder, tmp_path, folder / "MeasurementData.mlf"):
        found = read_manifest(source, platemap=table)
        # Channels 2 and 3 were not acquired.
        assert channels(found) == ["DAPI", "Cy5"]
        assert tags_of(found) == [[111, 114], [211, 214], [1111, 1114], [1211, 1214]]
        assert found["Metadata_Plate"].unique().tolist() == ["QC60"]
    assert "1 record left out (of errors)" in capsys.readouterr().err
    store = ingest(folder, tmp_path / "store", platemap=table)
    assert store[3][:, 0, 0].tolist() == [1211, 1214]


def test_planes_and_missing_parts_of_cellvoyager(tmp_path: Path) -> None:
    folder = write_cellvoyager(tmp_path / "m", planes=3, settings=False)
    table = wells("B06", "C11")
    with pytest.raises(TableError, match=r"sites have 3 z planes \(1, 2, 3\)"):
        read_manifest(folder, platemap=table)
    (folder / "MeasurementDetail.mrf").unlink()
    found = read_manifest(folder, platemap=table, selection=Selection(z=2))
    assert channels(found) == ["channel_1", "channel_4"]
    assert tags_of(found) == [[121, 124], [221, 224], [1121, 1124], [1221, 1224]]
    assert found["Metadata_Plate"][0] == "m"
    data = folder / "MeasurementData.mlf"
    data.write_text(
        data.read_text(encoding="utf-8").replace(' bts:Row="2" bts:TimePoint', " bts:TimePoint", 1),
        encoding="utf-8",
    )
    with pytest.raises(TableError, match=r"MeasurementData.mlf: the record of .* lacks Row"):
        read_manifest(folder, platemap=table)


def test_quarters_of_wells() -> None:
    quarters = ["A01.a1", "A01.a2", "A01.b1", "B02.b2", "P24.b2", "A01.c1", "Q01.a1"]
    expected = ["A01", "A02", "B01", "D04", "AF48", None, None]
    assert [normalise_well(one) for one in quarters] == expected


PATTERN = (
    r"(?P<batch>[^/]+)/(?P<plate>[^/]+)/(?P<well>[A-P]\d\d)_f(?P<site>\d+)_(?P<channel>\w+)\.tif"
)


def test_names_say_what_images_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for b, batch in enumerate(("week1", "week2")):
        for w, well in enumerate(("B02", "C03")):
            for site in (1, 2, 10):
                for c, channel in enumerate(("c2", "c10")):
                    path = tmp_path / batch / f"p.{b}" / f"{well}_f{site}_{channel}.tif"
                    write_tagged(path, 5000 * b + 1000 * w + 10 * site + c)
    write_tagged(tmp_path / "week1" / "overview.tif", 1)
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    selection = Selection(pattern=PATTERN, channels=("RNA=c10", "DNA=c2"))
    found = read_manifest(tmp_path, platemap=B2_C3, selection=selection)
    assert channels(found) == ["RNA", "DNA"]
    assert channels(
        read_manifest(tmp_path, platemap=B2_C3, selection=Selection(pattern=PATTERN))
    ) == [
        "c2",
        "c10",
    ]
    assert tags_of(found)[:3] == [[11, 10], [21, 20], [101, 100]]
    assert tags_of(found)[-1] == [6101, 6100]
    assert found["Metadata_Plate"].tolist() == ["p.0"] * 6 + ["p.1"] * 6
    assert found["Metadata_Batch"].tolist() == ["week1"] * 6 + ["week2"] * 6
    said = capsys.readouterr().err
    assert (
        "1 of 25 images don't match the pattern and are left out, such as week1/overview.tif"
        in said
    )


def test_groups_that_are_missing_are_made_up_for(tmp_path: Path) -> None:
    """Row and column; no plate, no site, no channel: files of channels in a folder per plate."""
    for plate in ("P1", "P2"):
        for w, name in enumerate(("2-2_a", "3-3_b")):
            pixels = np.stack([tagged(1000 * int(plate[1]) + 100 * w + c) for c in range(3)])
            path = tmp_path / plate / f"{name}.ome.tif"
            path.parent.mkdir(exist_ok=True)
            tifffile.imwrite(
                path,
                pixels,
                ome=True,
                photometric="minisblack",
                metadata={"axes": "CYX", "Channel": {"Name": ["DNA", "ER", "RNA"]}},
            )
    pattern = r"[^/]+/(?P<row>\d)-(?P<column>\d)_(?P<donor>\w)\.ome\.tif"
    found = read_manifest(tmp_path, platemap=B2_C3, selection=Selection(pattern=pattern))
    assert channels(found) == ["DNA", "ER", "RNA"]
    assert tags_of(found) == [[k, k + 1, k + 2] for k in (1000, 1100, 2000, 2100)]
    assert found["Metadata_Plate"].tolist() == ["P1", "P1", "P2", "P2"]
    assert found["Metadata_Well"].tolist() == ["B02", "C03"] * 2
    assert found["Metadata_donor"].tolist() == ["a", "b"] * 2


def test_every_image_of_a_file_is_a_site(tmp_path: Path) -> None:
    for w, well in enumerate(("B02", "C03")):
        with tifffile.TiffWriter(tmp_path / f"{well}.ome.tif", ome=True) as writer:
            for site in range(3):
                image = np.stack([tagged(100 * w + 10 * site + c) for c in range(2)])
                writer.write(image, metadata={"axes": "CYX"}, photometric="minisblack")
    selection = Selection(pattern=r"(?P<well>\w+)\.ome\.tif")
    store = ingest(tmp_path, tmp_path / "store", platemap=B2_C3, selection=selection)
    assert store.channels == ("channel_0", "channel_1")
    expected = [[100 * w + 10 * s, 100 * w + 10 * s + 1] for w in range(2) for s in range(3)]
    assert store.read(range(6))[:, :, 0, 0].tolist() == expected
    assert store.manifest["Metadata_Site"].tolist() == [1, 2, 3] * 2
    assert store.manifest["Metadata_Plate"].unique().tolist() == [tmp_path.name]


def test_plates_that_would_have_the_name_of_their_folders_are_told_apart(tmp_path: Path) -> None:
    write_tagged(tmp_path / "P1" / "Images" / "B02_DNA.tif", 1)
    write_tagged(tmp_path / "P2" / "Images" / "C03_DNA.tif", 2)
    end = r"(?P<well>\w+)_(?P<channel>\w+)\.tif"
    words = r"P1/Images and in \S+P2/Images would be of one plate, Images; .* group \(\?P<plate>"
    with pytest.raises(TableError, match=words):
        read_manifest(tmp_path, platemap=B2_C3, selection=Selection(pattern=f".*/{end}"))
    for pattern in (f"(?P<plate>.*)/Images/{end}", f"(?P<batch>.*)/Images/{end}"):
        found = read_manifest(tmp_path, platemap=B2_C3, selection=Selection(pattern=pattern))
        assert tags_of(found) == [[1], [2]]
        assert found["Metadata_Batch"].nunique() == 2


def test_plates_behind_links_are_found_and_loops_are_not_followed(tmp_path: Path) -> None:
    write_tagged(tmp_path / "screen" / "P1" / "B02.tif", 1)
    write_tagged(tmp_path / "disk" / "P2" / "C03.tif", 2)
    (tmp_path / "screen" / "P2").symlink_to(tmp_path / "disk" / "P2")
    (tmp_path / "disk" / "P2" / "all").symlink_to(tmp_path / "screen")
    selection = Selection(pattern=r"(?P<plate>P\d)/(?P<well>\w+)\.tif")
    found = read_manifest(tmp_path / "screen", platemap=B2_C3, selection=selection)
    assert found["Metadata_Plate"].tolist() == ["P1", "P2"]
    assert tags_of(found) == [[1], [2]]


def test_planes_in_names(tmp_path: Path) -> None:
    for w, well in enumerate(("B02", "C03")):
        for z in (1, 2):
            write_tagged(tmp_path / f"{well}_z{z}.tif", 10 * w + z)
    pattern = r"(?P<well>\w+)_z(?P<z>\d)\.tif"
    for z, expected in ((1, [[1], [11]]), ("max", [[2], [12]])):
        selection = Selection(pattern=pattern, z=z)
        assert tags_of(read_manifest(tmp_path, platemap=B2_C3, selection=selection)) == expected


def test_patterns_that_are_wrong_are_one_line(tmp_path: Path) -> None:
    write_tagged(tmp_path / "B02_1.tif", 1)
    write_tagged(tmp_path / "B02_2.tif", 1)
    for pattern, line in (
        ("(", "not a regular expression: "),
        (r"(?P<site>\d)", r"its named groups are site; one must be \(\?P<well>"),
        (r"(?P<well>\w+)\.png", "matches none of the names of 2 images, such as B02_1.tif"),
        (r"(?P<well>\w+)_\d\.tif", "B02_1.tif and B02_2.tif are both the image of channel"),
    ):
        with pytest.raises(InputError, match=line):
            read_manifest(tmp_path, platemap=B2_C3, selection=Selection(pattern=pattern))
    with pytest.raises(TableError, match=r"B02_1.tif: not a folder; --pattern .* is for folders"):
        read_manifest(tmp_path / "B02_1.tif", selection=Selection(pattern=r"(?P<well>.*)"))


def test_plates_of_two_batches_may_share_a_barcode(tmp_path: Path) -> None:
    for b in (1, 2):
        for c in (1, 2):
            for z in (1, 2):
                write_tagged(tmp_path / f"b{b}/P1/A01_c{c}_z{z}.tif", 100 * b + 10 * z + c)
                write_tagged(tmp_path / f"b{b}/P1/B01_c{c}_z{z}.tif", 500 + 100 * b + 10 * z + c)
    pattern = r"(?P<batch>b\d)/(?P<plate>\w+)/(?P<well>\w+)_c(?P<channel>\d)_z(?P<z>\d)\.tif"
    platemap = pd.DataFrame(
        {
            "Metadata_Batch": ["b1", "b1", "b2", "b2"],
            "Metadata_Plate": "P1",
            "Metadata_Well": ["A01", "B01"] * 2,
            "Metadata_Compound": ["DMSO", "x", "DMSO", "y"],
        }
    )
    for z, step in ((1, 10), ("max", 20)):
        one = Selection(pattern=pattern, z=z)
        found = read_manifest(tmp_path, platemap=platemap, selection=one)
        assert found["Metadata_Plate"].tolist() == ["b1/P1", "b1/P1", "b2/P1", "b2/P1"]
        assert found["Metadata_Compound"].tolist() == ["DMSO", "x", "DMSO", "y"]
        assert tags_of(found) == [[n + step + 1, n + step + 2] for n in (100, 600, 200, 700)]
