"""Screens without mechanisms, controls, replicates or doses: everything runs, and says what not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from helpers_run import call, write_tiny_config
from helpers_screen import write_bbbc021_folder
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

IMAGES, LOAD_DATA = "BBBC021_v1_image.csv", "load_data.csv"


def no_mechanisms(folder: Path) -> None:
    (folder / "BBBC021_v1_moa.csv").unlink()


def rename_controls(folder: Path) -> None:
    table = pd.read_csv(folder / IMAGES)
    names = table["Image_Metadata_Compound"].replace("DMSO", "compound Z")
    table.assign(Image_Metadata_Compound=names).to_csv(folder / IMAGES, index=False)


def neither(folder: Path) -> None:
    no_mechanisms(folder)
    rename_controls(folder)


def one_dose(folder: Path) -> None:
    table = pd.read_csv(folder / IMAGES)
    table = table[table["Image_Metadata_Concentration"] < 5]
    table.to_csv(folder / IMAGES, index=False)


def no_doses(folder: Path) -> None:
    """A LoadData table of plates, wells and compounds alone, one dose of each."""
    one_dose(folder)
    table = pd.read_csv(folder / IMAGES)
    names = {
        name: name.removeprefix("Image_").replace("_DAPI" if "Metadata" in name else "", "")
        for name in table
    }
    table = table.rename(columns=names).drop(
        columns=["Metadata_Concentration", "TableNumber", "ImageNumber", "Replicate"]
    )
    table.assign(Metadata_Site=1).to_csv(folder / LOAD_DATA, index=False)
    (folder / IMAGES).unlink()


def one_compound(folder: Path) -> None:
    table = pd.read_csv(folder / "BBBC021_v1_moa.csv")
    table[table["compound"] == "compound D1"].to_csv(folder / "BBBC021_v1_moa.csv", index=False)


SLOW = pytest.mark.slow
SCREENS = [
    pytest.param("neither", neither, 2, id="neither mechanisms nor controls"),
    pytest.param("no doses", no_doses, 2, id="no doses"),
    pytest.param("one batch", lambda _: None, 1, id="one batch"),
    pytest.param("no mechanisms", no_mechanisms, 2, id="no mechanisms", marks=SLOW),
    pytest.param("no controls", rename_controls, 2, id="no controls", marks=SLOW),
    pytest.param("one dose", one_dose, 2, id="one dose", marks=SLOW),
    pytest.param("one compound", one_compound, 2, id="one compound", marks=SLOW),
]
NOTHING_MATCHED = {"no mechanisms", "neither", "no doses", "one compound"}


@pytest.mark.parametrize(("name", "spoil", "num_weeks"), SCREENS)
def test_a_run_does_what_can_be_done_and_says_what_not(
    name: str,
    spoil: Callable[[Path], None],
    num_weeks: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    write_bbbc021_folder(tmp_path / "screen", num_sites=1, num_weeks=num_weeks)
    spoil(tmp_path / "screen")
    config = write_tiny_config(tmp_path / "tiny.yaml", baselines={"names": ["classical"]})
    load_data = tmp_path / "screen" / LOAD_DATA
    source = load_data if load_data.is_file() else tmp_path / "screen"
    settings = ["--set", f"screen.source={source}", "--out", tmp_path / "run"]
    assert call(monkeypatch, "run", config, *settings) == 0
    said = capfd.readouterr()
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    check_matching(name, results, said.out + said.err)
    check_activity(name, results["activity"])
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "left out of the report" not in said.err
    assert 'id="activity"' in report
    (tmp_path / "run" / "report.html").unlink()
    assert call(monkeypatch, "report", tmp_path / "run") == 0
    assert (tmp_path / "run" / "report.html").read_text(encoding="utf-8") == report
    table = pd.read_csv(tmp_path / "run" / "activity.csv")
    assert len(table) == results["activity"]["num_treatments"] > 0
    for mode in (["embeddings.parquet", "--from-sites"], ["profiles.parquet"]):
        path, *options = mode
        assert call(monkeypatch, "evaluate", tmp_path / "run" / path, *options) == 0
    assert call(monkeypatch, "activity", tmp_path / "run" / "embeddings.parquet") == 0
    profiles = tmp_path / "run" / "profiles.parquet"
    treated = read_table(profiles).query("not Metadata_Control")["Metadata_Compound"].iloc[0]
    assert call(monkeypatch, "neighbours", profiles, treated) == 0
    assert treated in capfd.readouterr().out


def check_matching(name: str, results: dict[str, Any], said: str) -> None:
    if name in NOTHING_MATCHED:
        assert results["nsc"] is results["map"] is results["nscb"] is None
        assert results["notes"][0].startswith("NSC, NSCB and mAP were not computed: ")
        assert "nothing is matched by mechanism; activity is measured anyway" in said
        assert said.count("NSC, NSCB and mAP were not computed") == 1
    elif name == "one batch":
        # A compound of every mechanism in each week, and there is one week.
        assert results["nsc_total"] == 0
        assert "NSC is not defined: no treatment has a candidate with its MoA" in said
    else:
        assert results["nsc_total"] > 0


def check_activity(name: str, found: dict[str, Any]) -> None:
    if name in ("no controls", "neither"):
        assert found["num_tested"] == 0
        assert "no well is a negative control" in found["notes"][0]
        assert found["control_distance_p95"] is None
    else:
        assert found["num_tested"] == found["num_treatments"]
        assert 0 < found["map"] <= 1
    assert found["replicating"]["num_treatments"] > 0
    assert found["retrieval"]["num_queries"] > 0


def test_without_controls_the_normalisation_is_another_one_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_bbbc021_folder(tmp_path / "screen", num_sites=1, num_weeks=1, num_plates=1)
    rename_controls(tmp_path / "screen")
    config = write_tiny_config(
        tmp_path / "tiny.yaml",
        baselines={"names": []},
        evaluate={"beside": ["plate_controls"], "num_permutations": 0},
    )
    settings = ["--set", f"screen.source={tmp_path / 'screen'}", "--out", tmp_path / "run"]
    assert call(monkeypatch, "run", config, *settings) == 0
    said = capfd.readouterr().err
    assert "normalisation tvn needs at least 2 control rows" in said
    assert "whiten_all is used instead" in said
    assert "evaluate.beside: plate_controls needs at least 2 control rows" in said
    results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert results["normalisation"]["method"] == "whiten_all"
    assert results["beside"] == {}
    # There is one plate.
    notes = results["activity"]["notes"]
    assert any("no treatment has wells on two plates" in note for note in notes)
