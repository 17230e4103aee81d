"""Names of other tools on the command line: every command that reads a table takes them alike."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import tifffile

from helpers_run import call
from helpers_tables import synthetic_design, with_features
from wsdino.screen.store import open_store
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ("--column", "Metadata_Compound=alias", "--control", "vehicle x")


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, Path]:
    """Sites in our names; and the same in another tool's, their wells in a table of their own."""
    ours = with_features(
        synthetic_design(num_moas=3, num_compounds=9, num_treatments=12, num_batches=3)
    )
    theirs = ours.rename(columns={"Metadata_Compound": "alias"}).drop(columns="Metadata_Control")
    theirs["alias"] = theirs["alias"].replace("DMSO", "Vehicle X")
    # What a user writes by hand: a row for each well, and no sites.
    known = ["Metadata_Plate", "Metadata_Well", "Metadata_Concentration", "Metadata_MoA", "alias"]
    wells = theirs[known].drop_duplicates()
    bare = theirs.drop(columns=known[2:])
    # A column without a value says nothing.
    bare["Metadata_MoA"] = None
    files = {"ours": ours, "theirs": theirs, "bare": bare, "wells": wells}
    for name, table in files.items():
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    return {name: tmp_path / f"{name}.csv" for name in files}


@pytest.mark.parametrize("platemap", [None, "--platemap", "--design"])
def test_profile_and_evaluate(
    tables: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platemap: str | None
) -> None:
    table = tables["bare" if platemap else "theirs"]
    given = (*NAMES, *((platemap, tables["wells"]) if platemap else ()))
    found, results = {}, {}
    for name, (path, options) in {
        "ours": (tables["ours"], ()),
        "theirs": (table, given),
    }.items():
        profiles, numbers = tmp_path / f"{name}_p.parquet", tmp_path / f"{name}.json"
        fit = ("--normalise", "plate_controls")
        assert call(monkeypatch, "profile", path, *options, *fit, "--out", profiles) == 0
        command = ("evaluate", path, "--from-sites", *options, *fit, "--json", numbers)
        assert call(monkeypatch, *command) == 0
        found[name], results[name] = (
            read_table(profiles),
            json.loads(numbers.read_text(encoding="utf-8")),
        )
    # The control's own name is all that differs.
    renamed = found["theirs"]["Metadata_Compound"].replace("Vehicle X", "DMSO")
    expected = found["ours"]
    pd.testing.assert_frame_equal(
        found["theirs"].assign(Metadata_Compound=renamed)[expected.columns], expected
    )
    assert found["theirs"]["Metadata_Control"].sum() == 1
    for measure in ("nsc", "nscb", "map", "nsc_total", "nsc_neighbours"):
        assert results["theirs"][measure] == results["ours"][measure]
    assert results["ours"]["nsc_total"] == 12


def test_ingest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for well, name in (("A01", "Vehicle X"), ("A02", "DMSO"), ("A03", "taxol")):
        pixels = np.random.default_rng(0).integers(0, 99, (16, 16)).astype(np.uint16)
        tifffile.imwrite(tmp_path / f"{well}.tif", pixels)
        row = {"Metadata_Plate": "0042", "Metadata_Well": well, "Metadata_Site": 1}
        rows.append(row | {"alias": name, "FileName_DNA": f"{well}.tif"})
    pd.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    assert call(monkeypatch, "ingest", tmp_path / "t.csv", *NAMES, "--out", tmp_path / "store") == 0
    manifest = open_store(tmp_path / "store").manifest
    assert manifest["Metadata_Compound"].tolist() == ["Vehicle X", "DMSO", "taxol"]
    assert manifest["Metadata_Control"].tolist() == [True, False, False]
    assert manifest["Metadata_Plate"].tolist() == ["0042"] * 3


def test_names_that_no_table_has_are_one_line(
    tables: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for options, words in (
        (("--column", "Metadata_Compound=nickname"), "no column nickname, from which Metadata_C"),
        (("--column", "Metadata_Compound=alias", "--control", "water"), "no compound is named wat"),
    ):
        for command in ("profile", "evaluate"):
            out = tmp_path / "out.parquet"
            more = ("--out", out) if command == "profile" else ("--from-sites", "--json", out)
            capfd.readouterr()
            assert call(monkeypatch, command, tables["theirs"], *options, *more) == 2
            (line,) = [t for t in capfd.readouterr().err.splitlines() if t.startswith("wsdino: ")]
            assert words in line
            assert not out.exists()
