from __future__ import annotations

import gzip
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from helpers_bucket import NEEDS_REMOTE
from helpers_screen import write_bbbc021_folder, write_rows
from wsdino.errors import ImageError, TableError
from wsdino.screen.manifest import channels_of, read_manifest, validate_manifest
from wsdino.tables.identity import normalise_well
from wsdino.tables.lean import sharing, with_columns
from wsdino.tables.manifest import illuminations_of

if TYPE_CHECKING:
    from pathlib import Path


def table(**columns) -> pd.DataFrame:
    frame = pd.DataFrame(
        {
            "Metadata_Plate": ["P1"] * 4,
            "Metadata_Well": [f"B{i + 2:02d}" for i in range(4)],
            "Metadata_Site": 1,
            "Metadata_Batch": "B1",
            "Metadata_Compound": ["taxol", "dmso", "emetine", "emetine"],
            "Metadata_Concentration": 1.0,
            "FileName_DNA": [f"{i}.tif" for i in range(4)],
            "PathName_DNA": "images",
        }
    )
    return frame.assign(**columns)


def validate(frame: pd.DataFrame, **options) -> pd.DataFrame:
    return validate_manifest(frame, origin="table.csv", **options)


@pytest.mark.parametrize("well", ["b4", "B4", "B04", " b004 "])
def test_wells_are_normalised(well):
    assert validate(table()[:1].assign(Metadata_Well=well)).Metadata_Well[0] == "B04"


@pytest.mark.parametrize("well", ["4B", "B", "B0", "B49", "AG1", "", "B-04"])
def test_what_names_no_well(well):
    assert normalise_well(well) is None


def test_largest_plate_has_distinct_wells():
    rows = [chr(65 + i) for i in range(26)] + [f"A{c}" for c in "ABCDEF"]
    names = {normalise_well(f"{row.lower()}{column}") for row in rows for column in range(1, 49)}
    assert len(names - {None}) == 1536


def test_validation_gives_the_contract():
    extra = {"Metadata_Note": ["x", None, 3, "y"], "Intensity_Mean": 1.0}
    manifest = validate(table(Metadata_MoA=["m", "DMSO", "", None], **extra))
    assert list(manifest) == [
        "Metadata_Plate",
        "Metadata_Well",
        "Metadata_Site",
        "Metadata_Batch",
        "Metadata_Compound",
        "Metadata_Concentration",
        "Metadata_MoA",
        "Metadata_Control",
        "Metadata_Note",
        "FileName_DNA",
        "PathName_DNA",
    ]
    assert manifest.Metadata_Site.dtype == np.int64
    assert manifest.Metadata_Concentration.dtype == np.float64
    assert manifest.Metadata_Control.tolist() == [False, True, False, False]
    assert manifest.Metadata_MoA.tolist() == ["m", None, None, None]
    assert manifest.Metadata_Note.tolist() == ["x", None, "3", "y"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_spaces_within_names_of_columns_are_no_part_of_them(tmp_path, suffix):
    rows = table(Metadata_Plate="0042", FileName_IllumDNA="f.npy")[:2]
    spaced = {
        "Metadata_Plate": "Metadata _Plate",
        "Metadata_Well": "metadata_ well ",
        "FileName_DNA": "FileName_ DNA",
        "PathName_DNA": " PathName _ DNA",
        "FileName_IllumDNA": "FileName_Illum DNA",
    }
    rows = rows.rename(columns=spaced)
    path = tmp_path / f"screen{suffix}"
    rows.to_parquet(path) if suffix == ".parquet" else rows.to_csv(path, index=False)
    found = read_manifest(path, check_files=False)
    assert channels_of(found) == ["DNA"]
    assert illuminations_of(found) == ["IllumDNA"]
    assert found["Metadata_Plate"].tolist() == ["0042"] * 2
    assert found["Metadata_Well"].tolist() == ["B02", "B03"]
    assert found["PathName_DNA"].tolist() == [str(tmp_path / "images")] * 2


def test_two_names_that_differ_by_spaces_are_one():
    with pytest.raises(TableError, match="two columns are named FileName_DNA"):
        validate(table(**{"FileName_ DNA": "x.tif"}))


def test_validation_is_idempotent_and_leaves_its_input(tmp_path):
    given = table(Metadata_Well=["b2", "b3", "b4", "b5"])
    before = given.copy()
    manifest = validate(given)
    pd.testing.assert_frame_equal(given, before)
    pd.testing.assert_frame_equal(validate(manifest), manifest)
    manifest.to_parquet(tmp_path / "m.parquet")
    back = validate(pd.read_parquet(tmp_path / "m.parquet"))
    pd.testing.assert_frame_equal(back, manifest)


def test_plate_numbers_become_text():
    assert validate(table(Metadata_Plate=22123)).Metadata_Plate.tolist() == ["22123"] * 4


def test_defaults_are_filled_in_and_said(capsys):
    manifest = validate(table().drop(columns=["Metadata_Batch", "Metadata_Concentration"]))
    assert (manifest.Metadata_Batch == "P1").all()
    assert manifest.Metadata_Concentration.isna().all()
    said = capsys.readouterr().err
    assert "no column Metadata_Batch" in said
    assert "no column Metadata_Concentration" in said


def test_a_missing_concentration_stays_missing_and_is_said(capsys):
    manifest = validate(table(Metadata_Concentration=[1, None, 1, 1]))
    assert manifest.Metadata_Concentration.isna().tolist() == [False, True, False, False]
    assert "empty" not in capsys.readouterr().err
    manifest = validate(table(Metadata_Concentration=[None, None, 1, 1]))
    assert manifest.Metadata_Concentration.isna().tolist() == [True, True, False, False]
    assert "Metadata_Concentration is empty in 1 of 4 rows (taxol)" in capsys.readouterr().err


def test_controls_come_from_the_argument_then_the_column_then_dmso():
    given = table(Metadata_Control=["no", "FALSE", 1, "true"])
    assert validate(given).Metadata_Control.tolist() == [False, False, True, True]
    named = validate(given, controls=("TAXOL",))
    assert named.Metadata_Control.tolist() == [True, False, False, False]
    assert validate(table()).Metadata_Control.tolist() == [False, True, False, False]
    assert not validate(table(), controls=()).Metadata_Control.any()
    with pytest.raises(TableError, match="no compound is named water, given as control; the"):
        validate(table(), controls=("water",))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"Metadata_Well": "4B"}, "Metadata_Well is '4B' in data row 1 and 3 more; a well is"),
        ({"Metadata_Plate": ["a", None, "c", "d"]}, "Metadata_Plate is empty in data row 2;"),
        ({"Metadata_Site": "one"}, "Metadata_Site is 'one' in data row 1 and 3 more; it must be"),
        ({"Metadata_Site": [1, 1, 1.5, 1]}, "Metadata_Site is '1.5' in data row 3; it must be"),
        ({"Metadata_Site": [1, 1, None, 1]}, "Metadata_Site is 'nan' in data row 3; it must be"),
        ({"Metadata_Concentration": "3 uM"}, "Metadata_Concentration is '3 uM' in data row 1"),
        ({"Metadata_Concentration": [1, 1, -1, 1]}, "Metadata_Concentration is '-1' in data row 3"),
        ({"Metadata_Concentration": np.inf}, "Metadata_Concentration is 'inf' in data row 1"),
        ({"Metadata_Control": "maybe"}, "Metadata_Control is 'maybe' in data row 1"),
        ({"FileName_DNA": ["a", "b", "", "d"]}, "column FileName_DNA is empty in data row 3;"),
        ({"Frame_DNA": [0, 0, 0.5, 0]}, "Frame_DNA is '0.5' in data row 3; it must be a whole"),
        ({"Metadata_Well": "b2"}, "plate P1, well B02, site 1 occurs more than once"),
        (
            {"Metadata_MoA": ["a", None, "b", "c"]},
            "emetine at 1 uM has more than one MoA: 'b' and 'c'",
        ),
    ],
)
def test_bad_values_are_named(columns, message):
    with pytest.raises(TableError) as raised:
        validate(table(**columns))
    assert str(raised.value).startswith("table.csv: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("column", ["Plate", "Well", "Site", "Compound"])
def test_required_columns(column):
    with pytest.raises(TableError, match=f"table.csv: no column Metadata_{column}; it has"):
        validate(table().drop(columns=f"Metadata_{column}"))


def test_a_manifest_needs_images_and_rows():
    with pytest.raises(TableError, match="no column FileName_<Channel>"):
        validate(table().drop(columns="FileName_DNA"))
    with pytest.raises(TableError, match="has no rows"):
        validate(table()[:0])


def test_channels_are_known_by_name():
    frame = pd.DataFrame(
        columns=["FileName_ER", "PathName_ER", "URL_A_B", "FileName_A_B", "Frame_ER"]
    )
    assert channels_of(frame) == ["ER", "A_B"]


# --- sources ---------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.tif").touch()
    return folder


@pytest.mark.parametrize("name", ["m.csv", "m.csv.gz", "m.parquet"])
def test_manifest_files_are_read_alike(tmp_path, images, name):
    frame = table(Metadata_Plate="0042")
    if name.endswith(".parquet"):
        frame.to_parquet(tmp_path / name)
    else:
        frame.to_csv(tmp_path / name, index=False)
    manifest = read_manifest(tmp_path / name)
    assert manifest.Metadata_Plate.tolist() == ["0042"] * 4
    assert manifest.PathName_DNA.unique().tolist() == [str(images)]
    assert manifest.FileName_DNA.tolist() == ["0.tif", "1.tif", "2.tif", "3.tif"]
    pd.testing.assert_frame_equal(read_manifest(manifest), manifest)


def test_a_frame_is_relative_to_the_working_directory(tmp_path, images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_manifest(table()).PathName_DNA[0] == str(images)


def test_loaddata_names_files_in_many_ways(tmp_path, images):
    spaced = images / "with space.tif"
    spaced.touch()
    for i in range(3):
        (images / f"rna{i}.tif").touch()
    rows = [
        {"Image_FileName_DNA": "0.tif", "Image_PathName_DNA": str(images)},
        {"Image_FileName_DNA": "1.TIF", "Image_PathName_DNA": "IMAGES"},
        {"Image_FileName_DNA": "2.tif", "Image_PathName_DNA": ".\\images"},
        {"Image_FileName_DNA": "images/3.tif", "Image_PathName_DNA": ""},
    ]
    urls = [
        spaced.as_uri(),
        str(images / "rna0.tif"),
        "file:images/rna1.tif",
        "images\\rna2.tif",
    ]
    for i, row in enumerate(rows):
        row |= {
            "URL_RNA": urls[i],
            "Metadata_Plate": "P",
            "Metadata_Well": f"a{i + 1}",
            "Metadata_Site": i,
            "Metadata_Compound": "x",
            "Metadata_Concentration": 1,
            "Metadata_Batch": "b",
            "Metadata_Dose_Unit": "uM",
        }
    write_rows(tmp_path / "load_data.csv", rows)
    manifest = read_manifest(tmp_path / "load_data.csv")
    assert channels_of(manifest) == ["DNA", "RNA"]
    assert (manifest.PathName_DNA == str(images)).all()
    assert manifest.FileName_DNA.tolist() == ["0.tif", "1.tif", "2.tif", "3.tif"]
    assert manifest.FileName_RNA.tolist() == [
        "with space.tif",
        "rna0.tif",
        "rna1.tif",
        "rna2.tif",
    ]
    assert (manifest.PathName_RNA == str(images)).all()
    assert (manifest.Metadata_Dose_Unit == "uM").all()


def test_a_server_that_can_not_be_asked_is_named(monkeypatch):
    pytest.importorskip("s3fs", reason=NEEDS_REMOTE)
    # Nobody listens there.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    frame = table().drop(columns=["FileName_DNA", "PathName_DNA"])
    frame = frame.assign(URL_DNA="s3://bucket/a.tif")
    with pytest.raises(ImageError, match=r"s3://bucket/a.tif: can't be looked up"):
        read_manifest(frame)


def test_folders_in_a_cloud_are_no_local_ones(tmp_path, monkeypatch):
    pytest.importorskip("s3fs", reason=NEEDS_REMOTE)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    folder = "s3://cellpainting-gallery/cpg0016-jump/images/"
    frame = table().assign(FileName_DNA="a.tif", PathName_DNA=folder)
    with pytest.raises(ImageError, match=rf"{folder}a.tif: can't be looked up"):
        read_manifest(frame)
    (tmp_path / "a.tif").touch()
    local = table()[:1].assign(FileName_DNA="a.tif", PathName_DNA=tmp_path.as_uri())
    assert read_manifest(local)["PathName_DNA"][0] == str(tmp_path)


def test_missing_images_are_named_and_counted(tmp_path, images):
    (images / "2.tif").unlink()
    (images / "3.tif").unlink()
    path = tmp_path / "m.csv"
    table().to_csv(path, index=False)
    with pytest.raises(ImageError) as raised:
        read_manifest(path)
    assert str(raised.value) == (
        f"{path}: image file {images / '2.tif'} (channel DNA, plate P1, well B04, site 1) does not "
        "exist; 2 of 4 are missing"
    )
    assert len(read_manifest(path, check_files=False)) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "no such file or folder; a screen is a folder with BBBC021_v1_image.csv"),
        ("folder", "this folder is not a screen; a screen is a folder with BBBC021_v1_image.csv"),
        ("sheet.xlsx", "not a table that can be read; a screen is"),
        ("empty.csv", "can't be read as a table"),
        ("broken.csv.gz", "can't be read as a table"),
        ("broken.parquet", "can't be read as a table"),
    ],
)
def test_unrecognised_sources(tmp_path, name, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "sheet.xlsx").touch()
    (tmp_path / "empty.csv").touch()
    (tmp_path / "broken.csv.gz").write_bytes(gzip.compress(b"a,b\n" * 1000)[:20])
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(TableError) as raised:
        read_manifest(tmp_path / name)
    assert message in str(raised.value)
    assert str(raised.value).startswith(str(tmp_path / name))


def test_the_image_table_itself_is_a_source(tmp_path):
    folder = write_bbbc021_folder(tmp_path / "screen")
    from_file = read_manifest(folder / "BBBC021_v1_image.csv")
    pd.testing.assert_frame_equal(from_file, read_manifest(folder))
    shutil.rmtree(folder / "Week1")
    with pytest.raises(ImageError, match="of 216 are missing"):
        read_manifest(folder)


def test_an_image_belongs_to_one_channel_of_one_site():
    frame = table().assign(FileName_DNA="a.tif", PathName_DNA="p")
    with pytest.raises(TableError, match=r"a.tif is the image of DNA of plate .* and of DNA of"):
        validate_manifest(frame, origin="m.csv")
    own = table()
    own["FileName_Copy"], own["PathName_Copy"] = own["FileName_DNA"], own["PathName_DNA"]
    with pytest.raises(TableError, match=r"is the image of DNA of .*, and of Copy of"):
        validate_manifest(own, origin="m.csv")
    # Planes of one file are images of their own.
    planes = own.assign(Frame_DNA=0, Frame_Copy=1)
    assert len(validate_manifest(planes, origin="m.csv")) == len(own)


def test_the_images_of_a_file_are_told_apart_by_series():
    own = table()
    own["FileName_DNA"], own["PathName_DNA"] = "a.ome.tif", "p"
    numbers = pd.Series(range(len(own)))
    found = validate_manifest(own.assign(Series_DNA=numbers), origin="m.csv")["Series_DNA"]
    assert found.tolist() == numbers.tolist()
    with pytest.raises(TableError, match=r"a.ome.tif is the image of DNA"):
        validate_manifest(own.assign(Series_DNA=0), origin="m.csv")
    with pytest.raises(TableError, match=r"Series_DNA is '0.5' in data row 1 and 3 more; it must"):
        validate_manifest(own.assign(Series_DNA=numbers + 0.5), origin="m.csv")
    parts = own.assign(Frame_DNA=[f"{i}|{i + 9}" for i in numbers])
    found = validate_manifest(parts, origin="m.csv")["Frame_DNA"]
    assert found.tolist() == parts["Frame_DNA"].tolist()
    with pytest.raises(TableError, match=r"Frame_DNA is '0\|9.5' in data row 1 "):
        validate_manifest(own.assign(Frame_DNA=[f"{i}|9.5" for i in numbers]), origin="m.csv")


def test_a_url_says_more_than_a_name_without_a_folder(tmp_path):
    rows = table()[:2].drop(columns="PathName_DNA")
    rows["URL_DNA"] = [f"file://{tmp_path}/images/{name}" for name in rows["FileName_DNA"]]
    (tmp_path / "images").mkdir()
    for name in rows["FileName_DNA"]:
        (tmp_path / "images" / name).touch()
    rows.to_csv(tmp_path / "t.csv", index=False)
    found = read_manifest(tmp_path / "t.csv")
    assert found["FileName_DNA"].tolist() == ["0.tif", "1.tif"]
    assert found["PathName_DNA"].tolist() == [str(tmp_path / "images")] * 2
    # With a folder, names count.
    rows.assign(PathName_DNA="images", URL_DNA="file:///elsewhere/x.tif").to_csv(
        tmp_path / "t.csv", index=False
    )
    pd.testing.assert_frame_equal(read_manifest(tmp_path / "t.csv"), found)


def test_a_given_table_stays_as_it_is_whatever_is_done_to_the_manifest() -> None:
    given = table(
        Metadata_Compound=[" taxol", "dmso", "DMSO", "emetine"],
        Metadata_Concentration=["1", "1.00001", "", "2"],
        Metadata_MoA=["a", "b", None, "c"],
        Unnamed=0,
    ).rename(columns={"Metadata_Plate": "Image_Metadata_Plate ", "Unnamed": "Unnamed: 0"})
    given.index = pd.Index([7, 7, 8, 9])
    kept = given.copy(deep=True)
    manifest = read_manifest(given, check_files=False)
    for name in manifest:
        manifest.loc[:, name] = manifest[name].iloc[-1]
        values = manifest[name].to_numpy()
        # Where pandas copies on write, as its version 3 does, nobody can write into them.
        if values.flags.writeable:
            values[...] = manifest[name].iloc[0]
    pd.testing.assert_frame_equal(given, kept)


@pytest.mark.parametrize("num", [0, 3])
def test_tables_that_share_columns_leave_each_other_as_they_are(num: int) -> None:
    whole = table().iloc[:num].set_index(pd.Index([5, 6, 7][:num]))
    kept = whole.copy(deep=True)
    shared = sharing(whole)
    assert shared.index.equals(pd.RangeIndex(num))
    if num:
        assert np.shares_memory(shared["Metadata_Site"], whole["Metadata_Site"])
    shared["Metadata_Site"] = 9
    shared["new"] = 1
    shared.columns = [name.lower() for name in shared.columns]
    del shared["metadata_batch"]
    other = with_columns(whole, {"Metadata_Well": "C03", "more": 2.5})
    assert other.index.equals(whole.index)
    assert (other["Metadata_Well"] == "C03").all()
    assert list(other.columns) == [*whole.columns, "more"]
    pd.testing.assert_frame_equal(whole, kept)
