from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import pandas as pd
import pytest

from helpers_screen import write_bbbc021_folder
from wsdino.errors import ImageError, OutputError, TableError
from wsdino.screen.bbbc021 import read_bbbc021_tables, read_moa_table
from wsdino.screen.ingest import ingest
from wsdino.screen.manifest import channels_of, read_manifest


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    return write_bbbc021_folder(tmp_path_factory.mktemp("bbbc021"))


def read_tables(folder, source, change=None, moa="compound,concentration,moa\n", **options):
    """Write `source`'s changed tables into `folder`, without images, and read them."""
    table = pd.read_csv(source / "BBBC021_v1_image.csv")
    (change(table) if change else table).to_csv(folder / "image.csv", index=False)
    (folder / "moa.csv").write_text(moa, encoding="utf-8")
    return read_bbbc021_tables(folder / "image.csv", folder / "moa.csv", **options)


def test_the_tiny_screen(screen):
    manifest = read_manifest(screen)
    assert len(manifest) == 72
    assert channels_of(manifest) == ["DAPI", "Tubulin", "Actin"]
    assert sorted(manifest.Metadata_Batch.unique()) == ["Week1", "Week2"]
    assert manifest.Metadata_Plate.nunique() == 4
    assert sorted(manifest.Metadata_Site.unique()) == [1, 2]
    assert manifest.Metadata_Replicate.tolist()[:2] == [1, 1]
    assert (manifest.Metadata_Control == (manifest.Metadata_Compound == "DMSO")).all()
    assert manifest.loc[manifest.Metadata_Control, "Metadata_MoA"].isna().all()
    known = manifest.dropna(subset="Metadata_MoA")
    assert known.groupby(["Metadata_Compound", "Metadata_Concentration"]).ngroups == 12
    assert known.Metadata_MoA.nunique() == 3
    assert manifest.Metadata_MoA.isna().sum() == 8 + 16


def test_it_is_reproducible(tmp_path):
    one, two = (write_bbbc021_folder(tmp_path / name) for name in "ab")
    names = sorted(path.relative_to(one) for path in one.rglob("*.*"))
    assert names == sorted(path.relative_to(two) for path in two.rglob("*.*"))
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_compressed_tables_and_extra_files_do_no_harm(tmp_path):
    folder = write_bbbc021_folder(tmp_path)
    plain = read_manifest(folder)
    for name in ("BBBC021_v1_image.csv", "BBBC021_v1_moa.csv"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    (folder / "truth.csv").write_text("what,ever\n1,2\n", encoding="utf-8")
    pd.testing.assert_frame_equal(read_manifest(folder), plain)


def test_without_a_moa_table_no_mechanism_is_known(tmp_path):
    folder = write_bbbc021_folder(tmp_path)
    (folder / "BBBC021_v1_moa.csv").unlink()
    assert read_manifest(folder).Metadata_MoA.isna().all()


def test_backslashes_and_other_case(tmp_path):
    folder = write_bbbc021_folder(tmp_path)
    plain = read_manifest(folder)
    path = folder / "BBBC021_v1_image.csv"
    table = pd.read_csv(path)
    for column in table.filter(like="PathName"):
        table[column] = table[column].str.replace("/", "\\").str.lower()
    for column in table.filter(like="FileName"):
        table[column] = table[column].str.replace(".tif", ".TIF")
    table.to_csv(path, index=False)
    pd.testing.assert_frame_equal(read_manifest(folder), plain)


@pytest.mark.parametrize(
    ("folder", "batch"),
    [
        ("Week4/Week4_27481", "Week4"),
        ("WEEK4\\WEEK4_27481", "Week4"),
        ("Week4_27481", "Week4"),
        ("/data/screen/Week4/Week4_27481", "Week4"),
        ("images/Week10/Week10_1/", "Week10"),
        ("batch a/plate 1", "batch a"),
        ("/data/batch a/plate 1", "batch a"),
        ("plate 1", "plate 1"),
    ],
)
def test_the_batch_is_the_week(tmp_path, screen, folder, batch):
    manifest = read_tables(tmp_path, screen, lambda table: table.assign(Image_PathName_DAPI=folder))
    assert (manifest.Metadata_Batch == batch).all()


def test_other_columns_are_kept_or_left_out(tmp_path, screen):
    extra = {
        "Image_Metadata_Operator": "ann",
        "Image_Count_Cells": 7,
    }

    def changed(table):
        return table.assign(**extra, Image_Metadata_Well_Actin=table.Image_Metadata_Well_DAPI)

    manifest = read_tables(tmp_path, screen, changed)
    assert (manifest.Metadata_Operator == "ann").all()
    assert not {"Count_Cells", "TableNumber", "Metadata_Well_Actin"} & set(manifest)
    with pytest.raises(TableError, match="Metadata_Well_DAPI and Metadata_Well_Actin differ"):
        read_tables(tmp_path, screen, lambda table: table.assign(Image_Metadata_Well_Actin="B02"))


def test_mechanisms_are_joined_with_tolerance(tmp_path, screen):
    moa = "Compound,Concentration,MoA\ncompound D1,1.000001,close\ncompound D1,10.5,far\n"
    manifest = read_tables(tmp_path, screen, moa=moa)
    known = manifest.dropna(subset="Metadata_MoA")
    assert known.Metadata_MoA.unique().tolist() == ["close"]
    assert known.Metadata_Compound.unique().tolist() == ["compound D1"]
    assert known.Metadata_Concentration.unique().tolist() == [1.0]


def test_controls_can_be_named(tmp_path, screen):
    manifest = read_tables(tmp_path, screen, controls=("Unknown 1", "dmso"))
    assert set(manifest[manifest.Metadata_Control].Metadata_Compound) == {"unknown 1", "DMSO"}


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("Image_Metadata_Plate_DAPI", "no column Image_Metadata_Plate_<Channel>"),
        ("Image_Metadata_Well_DAPI", "no column Image_Metadata_Well_<Channel>"),
        ("Image_Metadata_Compound", "no column Image_Metadata_Compound"),
        ("Image_Metadata_Concentration", "no column Image_Metadata_Concentration"),
        ("Image_PathName_DAPI", "no column Image_PathName_DAPI, which gives the batch"),
    ],
)
def test_a_missing_column_is_named(tmp_path, screen, column, message):
    with pytest.raises(TableError, match=message) as raised:
        read_tables(tmp_path, screen, lambda table: table.drop(columns=column))
    assert str(tmp_path / "image.csv") in str(raised.value)


def test_a_table_without_images_or_sites(tmp_path, screen):
    with pytest.raises(TableError, match="no column Image_FileName_<Channel>"):
        read_tables(tmp_path, screen, lambda table: table[["Image_Metadata_Plate_DAPI"]])
    with pytest.raises(TableError, match=r"FileName 'a\.tif' has no site"):
        read_tables(tmp_path, screen, lambda table: table.assign(Image_FileName_DAPI="a.tif"))


def test_a_site_twice(tmp_path, screen):
    with pytest.raises(TableError, match="occurs more than once"):
        read_tables(tmp_path, screen, lambda table: pd.concat([table, table[:1]]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("compound,moa\n", "no column concentration"),
        ("compound,concentration,moa\na,1,x\na,1.0,y\n", "a at 1 uM has more than one MoA"),
        ("compound,concentration,moa\na,one,x\n", "is not a compound, a concentration"),
        ("compound,concentration,moa\na,1,\n", "is not a compound, a concentration"),
    ],
)
def test_bad_moa_tables(tmp_path, text, message):
    path = tmp_path / "moa.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TableError, match=message) as raised:
        read_moa_table(path)
    assert str(raised.value).startswith(str(path))


def test_an_moa_table_may_repeat_itself(tmp_path):
    path = tmp_path / "moa.csv"
    path.write_text("compound,concentration,moa\na,1,x\na,1.0,x\n", encoding="utf-8")
    assert len(read_moa_table(path)) == 2


def test_the_real_design_without_its_images(real_data):
    folder = real_data / "bbbc021_profiles"
    manifest = read_bbbc021_tables(
        folder / "BBBC021_v1_image.csv.gz", folder / "BBBC021_v1_moa.csv", controls=("DMSO",)
    )
    assert len(manifest) == 13_200
    assert manifest.Metadata_Plate.nunique() == 55
    assert manifest.Metadata_Batch.nunique() == 10
    assert manifest.Metadata_Control.sum() == 1_320
    known = manifest.dropna(subset="Metadata_MoA")
    assert len(known) == 2_528
    assert known.groupby(["Metadata_Compound", "Metadata_Concentration"]).ngroups == 103
    assert known.Metadata_MoA.nunique() == 12
    assert known.Metadata_Compound.nunique() == 38
    weeks = known.groupby("Metadata_Compound").Metadata_Batch.nunique()
    assert weeks[weeks > 1].to_dict() == {"taxol": 10}


def moved(folder: Path, layout: str) -> None:
    """Move every plate's folder to where somebody may have unpacked its archive."""
    for plate in sorted(folder.glob("Week*/Week*_*")):
        target = folder / layout.format(plate=plate.name, week=plate.parent.name)
        if layout.endswith("all"):
            target.mkdir(parents=True, exist_ok=True)
            for image in plate.iterdir():
                image.rename(target / image.name)
            plate.rmdir()
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            plate.rename(target)
    for week in folder.glob("Week?"):
        week.rmdir()


@pytest.mark.parametrize(
    "layout",
    [
        "{plate}",
        "images/{plate}",
        "BBBC021_v1_images_{plate}/{plate}",
        "{plate}/{plate}",
        "images/{week}/{plate}",
        "IMAGES/all",
    ],
)
def test_archives_are_found_however_they_were_unpacked(tmp_path, layout, capsys):
    folder = write_bbbc021_folder(tmp_path / "screen")
    expected = read_manifest(folder)
    moved(folder, layout)
    capsys.readouterr()
    found = read_manifest(folder)
    assert "4 of 4 folders found elsewhere, such as Week1/Week1_10001 at " in (
        capsys.readouterr().err
    )
    metadata = [name for name in expected if name.startswith(("Metadata_", "FileName_"))]
    pd.testing.assert_frame_equal(found[metadata], expected[metadata])
    assert set(found["Metadata_Batch"]) == {"Week1", "Week2"}
    for row in (0, len(found) - 1):
        path = Path(found["PathName_DAPI"][row], found["FileName_DAPI"][row])
        assert path.is_file()
        assert path.name == expected["FileName_DAPI"][row]


def test_two_copies_of_a_plate_are_refused(tmp_path):
    folder = write_bbbc021_folder(tmp_path / "screen", num_weeks=1)
    moved(folder, "{plate}")
    shutil.copytree(folder / "Week1_10002", folder / "backup" / "Week1_10002")
    with pytest.raises(TableError, match=r"Week1/Week1_10002 is not where .* lies in both"):
        read_manifest(folder)
    # As the message says.
    (folder / "Week1").mkdir()
    (folder / "Week1_10002").rename(folder / "Week1" / "Week1_10002")
    assert len(read_manifest(folder)) == 36


def test_what_is_nowhere_is_said_by_the_name_that_the_table_has(tmp_path):
    folder = write_bbbc021_folder(tmp_path / "screen", num_weeks=1)
    shutil.rmtree(folder / "Week1" / "Week1_10002")
    with pytest.raises(ImageError, match=r"Week1/Week1_10002/.* does not exist; 54 of 108"):
        read_manifest(folder)


def test_a_store_of_moved_plates_outlives_them(tmp_path):
    folder = write_bbbc021_folder(tmp_path / "screen", num_weeks=1)
    moved(folder, "{plate}")
    ingest(folder, tmp_path / "store")
    ingest(folder, tmp_path / "store")
    for plate in folder.glob("Week1_*"):
        shutil.rmtree(plate)
    assert len(ingest(folder, tmp_path / "store")) == 36
    other = write_bbbc021_folder(tmp_path / "other", num_weeks=1, seed=1)
    with pytest.raises(OutputError, match="a store of other images"):
        ingest(other, tmp_path / "store")
