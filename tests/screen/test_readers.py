"""What a screen may be: one table, from which everything else derives."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from helpers_layouts import write_harmony, write_imagexpress
from helpers_screen import write_bbbc021_folder
from wsdino.cli.app import app
from wsdino.cli.screens import commands
from wsdino.config import load_config
from wsdino.errors import TableError
from wsdino.screen.files import find_files
from wsdino.screen.manifest import read_manifest
from wsdino.screen.readers import ANY_FOLDER, READERS, read_raw


def test_help_and_errors_list_every_reader(tmp_path: Path) -> None:
    app.add_typer(commands)
    shown = CliRunner().invoke(app, ["ingest", "--help"], env={"COLUMNS": "400"}).output
    with pytest.raises(TableError) as caught:
        read_raw(tmp_path)
    for reader in READERS:
        assert reader.name in str(caught.value)
        assert " ".join(reader.name.split()[:4]) in " ".join(shown.split())


def test_the_table_of_layouts_names_every_reader() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "layouts.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["SOURCE", *(reader.name for reader in READERS), ANY_FOLDER]


def test_a_table_with_a_plate_map_s_name_is_not_bbbc021_s(tmp_path: Path) -> None:
    """Each plate is a batch of its own, whether or not its map has a name."""
    rows = [
        {
            "Image_FileName_OrigDNA": f"{well}.tif",
            "Image_PathName_OrigDNA": f"images/{plate}",
            "Image_Metadata_Plate": plate,
            "Image_Metadata_Well": well,
            "Image_Metadata_Site": "f01",
            "Image_Metadata_Plate_Map_Name": "JUMP-Target-1",
            "Image_Metadata_Compound": compound,
        }
        for plate in ("BR1", "BR2")
        for well, compound in (("A01", "DMSO"), ("B02", "x"))
    ]
    table = pd.DataFrame(rows)
    found = {}
    for name, one in {"with": table, "without": table.drop(columns=table.columns[5])}.items():
        one.to_csv(tmp_path / f"{name}.csv", index=False)
        found[name] = read_manifest(tmp_path / f"{name}.csv", check_files=False)
    assert found["with"].pop("Metadata_Plate_Map_Name").tolist() == ["JUMP-Target-1"] * 4
    pd.testing.assert_frame_equal(found["with"], found["without"])
    assert found["with"]["Metadata_Batch"].tolist() == ["BR1", "BR1", "BR2", "BR2"]
    assert found["with"]["Metadata_Site"].tolist() == [1] * 4
    bare = table.drop(columns="Image_Metadata_Compound")
    wells = pd.DataFrame({"Metadata_Well": ["A1", "b2"], "Metadata_Compound": ["DMSO", "x"]})
    joined = read_manifest(bare, platemap=wells, check_files=False)
    assert joined["Metadata_Compound"].tolist() == ["DMSO", "x"] * 2


def test_an_annotated_image_table_brings_its_mechanisms(tmp_path: Path) -> None:
    folder = write_bbbc021_folder(tmp_path / "screen", num_sites=1)
    whole = read_manifest(folder)
    (folder / "BBBC021_v1_moa.csv").unlink()
    table = pd.read_csv(folder / "BBBC021_v1_image.csv")
    table["MoA"] = whole["Metadata_MoA"].fillna("DMSO").where(whole["Metadata_Control"], None)
    table["MoA"] = table["MoA"].fillna(whole["Metadata_MoA"])
    table.assign(Batch=0, Unique_MoA=1).to_csv(folder / "annotated.csv", index=False)
    pd.testing.assert_frame_equal(read_manifest(folder / "annotated.csv"), whole)


def test_former_names_are_heeded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config("cpu", ["screen.source=plates", "screen.design=wells.csv"])
    assert str(config.screen.platemap) == "wells.csv"
    assert "screen.design is now called screen.platemap" in capsys.readouterr().err
    table = pd.DataFrame({"Metadata_Plate": ["P"], "Metadata_Well": ["A1"], "Metadata_Site": [1]})
    wells = pd.DataFrame({"Metadata_Well": ["A01"], "Metadata_Compound": ["x"]})
    wells.to_csv(tmp_path / "wells.csv", index=False)
    found = read_manifest(
        table.assign(FileName_DNA="a.tif"), design=tmp_path / "wells.csv", check_files=False
    )
    assert found["Metadata_Compound"].tolist() == ["x"]


def test_what_another_format_holds_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    platemap = pd.DataFrame({"Metadata_Well": ["A02", "P24"], "Metadata_Compound": ["DMSO", "x"]})
    write_harmony(tmp_path / "m1", 5, plate="P1")
    assert len(read_manifest(tmp_path, platemap=platemap)) == 4
    assert "left out" not in capsys.readouterr().err
    write_imagexpress(tmp_path / "ix", plate="P2")
    assert len(read_manifest(tmp_path, platemap=platemap)) == 4
    said = capsys.readouterr().err
    assert f"{tmp_path}: read as a Harmony measurement" in said
    assert (
        "holds of an ImageXpress plate (.HTD or .jdce), or a folder of plates is left out" in said
    )


def test_bare_names_are_found_as_paths_are(tmp_path: Path) -> None:
    """Millions of names are looked up by folder; those with a path in them one by one, alike."""
    rows = [("Week1", "A.TIF"), ("week1/", "a.tif"), ("./Week1/../Week1", "b.tif"), ("", "c.tif")]
    (tmp_path / "Week1").mkdir()
    for name in ("Week1/A.tif", "Week1/b.tif", "c.tif"):
        (tmp_path / name).write_bytes(b"x")
    for check_files in (True, False):
        found = []
        for prefix in ("", "./"):
            table = pd.DataFrame(rows, columns=["PathName_DNA", "FileName_DNA"])
            table["FileName_DNA"] = prefix + table["FileName_DNA"]
            found.append(find_files(table, tmp_path, origin="t", check_files=check_files))
        pd.testing.assert_frame_equal(found[0][0], found[1][0])
        assert found[0][1] == found[1][1] == []
        first = found[0][0].iloc[1].tolist()
        wanted = [str(tmp_path / "Week1"), "A.tif"] if check_files else None
        assert wanted in (first, None)
    table = pd.DataFrame({"PathName_DNA": ["Week1", "nowhere"], "FileName_DNA": ["z", "./z"]})
    _, missing = find_files(table, tmp_path, origin="t", check_files=True)
    assert [(one.row, one.path) for one in missing] == [
        (0, tmp_path / "Week1" / "z"),
        (1, tmp_path / "nowhere" / "z"),
    ]
