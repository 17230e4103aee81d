"""One join for all commands: what the plate map says of a well wins where it says something."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from helpers_tables import synthetic_design, with_features
from wsdino.errors import TableError
from wsdino.profile.aggregate import make_profiles
from wsdino.tables.features import feature_columns, features_of
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    from pathlib import Path

SMALL = {"num_moas": 3, "num_compounds": 6, "num_treatments": 8, "num_batches": 2, "num_plates": 2}
WELLS = ["A01", "A02", "A07", "A08"]


@pytest.fixture
def design() -> pd.DataFrame:
    return synthetic_design(**SMALL)


@pytest.fixture
def table(design: pd.DataFrame) -> pd.DataFrame:
    return with_features(design)


def features(plates: list[str], **columns: object) -> pd.DataFrame:
    """A row for each of four wells of each plate."""
    rows = [{"Metadata_Plate": plate, "Metadata_Well": well} for plate in plates for well in WELLS]
    numbers = np.random.default_rng(0).normal(size=(len(rows), 2))
    return pd.DataFrame(rows).assign(**columns, x=numbers[:, 0], y=numbers[:, 1])


def test_wells_are_joined_by_plate_and_well(table: pd.DataFrame, design: pd.DataFrame) -> None:
    wells = table.groupby(["Metadata_Plate", "Metadata_Well"], as_index=False, sort=False)
    bare = wells[feature_columns(table)].mean().sample(frac=1, random_state=0)
    # As another tool might write them.
    joined = read_table(
        bare.assign(Metadata_Well=bare["Metadata_Well"].str.lower()), platemap=design
    )
    assert "Metadata_Site" not in joined
    np.testing.assert_array_equal(features_of(joined), features_of(bare))
    truth = design.set_index(["Metadata_Plate", "Metadata_Well"]).sort_index()
    for _, row in joined.iterrows():
        well = truth.loc[(row["Metadata_Plate"], row["Metadata_Well"])].iloc[0]
        for name in ("Metadata_Compound", "Metadata_Concentration", "Metadata_Batch"):
            assert row[name] == well[name]
    assert joined["Metadata_Control"].dtype == bool


def test_what_varies_within_wells_is_joined_by_site(
    table: pd.DataFrame, design: pd.DataFrame
) -> None:
    design["Metadata_Focus"] = np.arange(len(design))
    keys = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]
    joined = read_table(table[[*keys, *feature_columns(table)]], platemap=design)
    assert joined["Metadata_Focus"].tolist() == design["Metadata_Focus"].tolist()


def test_a_row_for_each_well_serves_all_its_sites(
    table: pd.DataFrame, design: pd.DataFrame
) -> None:
    wells = design.drop(columns="Metadata_Site").drop_duplicates()
    keys = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]
    joined = read_table(table[[*keys, *feature_columns(table)]], platemap=wells)
    pd.testing.assert_frame_equal(joined[table.columns], read_table(table))


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_every_column_of_a_plate_map_is_a_label_first(tmp_path: Path, suffix: str) -> None:
    wells = {
        "Well": WELLS,
        "Compound": ["DMSO", "x", "y", "z"],
        "Donor": ["007", "7", "NA", "8"],
        "Version": ["1.1", "1.10", "1.2", "1.3"],
        "Age": ["5", "6", "7", "8"],
        "Volume": ["0.5", "1", "", "2"],
    }
    pd.DataFrame(wells).to_csv(tmp_path / f"map{suffix}", index=False)
    joined = read_table(features(["P1"]), platemap=tmp_path / f"map{suffix}")
    assert joined["Metadata_Donor"].tolist() == wells["Donor"]
    assert joined["Metadata_Version"].tolist() == wells["Version"]
    assert joined["Metadata_Age"].tolist() == [5, 6, 7, 8]
    np.testing.assert_array_equal(joined["Metadata_Volume"], [0.5, 1, np.nan, 2])


def test_what_varies_within_wells_without_sites_is_left_out_and_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wells = pd.DataFrame({"Well": [*WELLS, "A01"], "Compound": ["x", "y", "z", "DMSO", "x"]})
    joined = read_table(features(["P1"]), platemap=wells.assign(Donor=range(5), Age=3))
    assert joined["Metadata_Age"].tolist() == [3] * 4
    assert "Metadata_Donor" not in joined
    assert "the plate map: Metadata_Donor left out, of which some wells have several values" in (
        capsys.readouterr().err
    )


def test_the_plate_map_wins_where_it_says_something(capsys: pytest.CaptureFixture[str]) -> None:
    own = {"Metadata_Compound": list("abcd"), "Metadata_MoA": None, "Metadata_Batch": "mine"}
    wells = pd.DataFrame(
        {
            "Metadata_Well": WELLS,
            "Metadata_Compound": ["DMSO", None, "x", "d"],
            "Metadata_MoA": [None, "m", "n", "o"],
            "Metadata_Batch": [None] * 4,
        }
    )
    found = read_table(features(["P"], **own), platemap=wells)
    assert found["Metadata_Compound"].tolist() == ["DMSO", "b", "x", "d"]
    assert found["Metadata_MoA"].tolist() == [None, "m", "n", "o"]
    assert found["Metadata_Batch"].tolist() == ["mine"] * 4
    assert found["Metadata_Control"].tolist() == [True, False, False, False]
    assert (
        "its Metadata_Compound replaces a different one in 2 of 4 rows" in capsys.readouterr().err
    )


def test_unmatched_wells_are_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    wells = pd.DataFrame({"Metadata_Well": WELLS[:3], "Metadata_Compound": ["x", "", "y"]})
    found = read_table(features(["P", "Q"]), platemap=wells)
    assert found["Metadata_Well"].tolist() == ["A01", "A07"] * 2
    assert (
        "the plate map: has no compound for 4 of 8 rows of the table; they are left out (4 wells: "
        "P A02, P A08, Q A02, ...)"
    ) in capsys.readouterr().err
    with pytest.raises(TableError, match=r"has no compound for any of the 8 rows .*P A01"):
        read_table(features(["P", "Q"]), platemap=wells.assign(Metadata_Plate="R"))


def test_what_does_not_fit_is_named() -> None:
    wells = pd.DataFrame({"Metadata_Well": [*WELLS, "a1"], "Metadata_Compound": list("abcde")})
    with pytest.raises(TableError, match=r"well A01 occurs with different values .*is a, e\)"):
        read_table(features(["P"]), platemap=wells)
    with pytest.raises(TableError, match="no column Metadata_Well, which is needed to join it"):
        read_table(features(["P"]).drop(columns="Metadata_Well"), platemap=wells[:4])
    with pytest.raises(TableError, match="no column Metadata_Well; it has Metadata_Compound"):
        read_table(features(["P"]), platemap=wells[["Metadata_Compound"]])


def test_what_is_known_of_plates_needs_no_wells() -> None:
    plates = pd.DataFrame({"Metadata_Plate": ["P", "Q"], "Metadata_Batch": ["2019", "2020"]})
    own = {"Metadata_Compound": list("abcd") * 2}
    found = read_table(features(["P", "Q"], **own), platemap=plates)
    assert found["Metadata_Batch"].tolist() == ["2019"] * 4 + ["2020"] * 4
    assert len(found) == 8


def broad_map(name: str, compounds: list[str], doses: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "plate_map_name": name,
            "well_position": WELLS,
            "broad_sample": compounds,
            "mmoles_per_liter": doses,
            "solvent": "DMSO",
        }
    )


def write_maps(folder: Path) -> Path:
    """Two plates on one map, one on another, as the Broad keeps them."""
    (folder / "platemap").mkdir(parents=True)
    maps = {
        "C-1": broad_map("C-1", ["", "", "BRD-1", "BRD-2"], ["", "", "0.01", "0.02"]),
        "C-2": broad_map("C-2", ["NA", "BRD-3", "BRD-1", "BRD-2"], ["NA", "5e-3", "0.01", "0.02"]),
    }
    for name, one in maps.items():
        one.to_csv(folder / "platemap" / f"{name}.txt", sep="\t", index=False)
    rows = {
        "Assay_Plate_Barcode": ["0011", "0012", "0013"],
        "Plate_Map_Name": ["C-1", "C-1", "C-2"],
    }
    pd.DataFrame(rows).to_csv(folder / "barcode_platemap.csv", index=False)
    return folder


@pytest.mark.parametrize("name", ["", "barcode_platemap.csv"])
def test_barcodes_lead_to_plate_maps(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plates = ["0011", "0013", "0012__2021-05-02T16_02_51-Measurement1"]
    found = read_table(features(plates), platemap=write_maps(tmp_path / "maps") / name)
    assert found["Metadata_Plate"].tolist() == [plate for plate in plates for _ in WELLS]
    assert found["Metadata_Compound"].tolist() == [
        *("DMSO", "DMSO", "BRD-1", "BRD-2"),
        *("DMSO", "BRD-3", "BRD-1", "BRD-2"),
        *("DMSO", "DMSO", "BRD-1", "BRD-2"),
    ]
    expected = [*(np.nan, np.nan, 10, 20), *(np.nan, 5, 10, 20), *(np.nan, np.nan, 10, 20)]
    np.testing.assert_allclose(found["Metadata_Concentration"], expected)
    assert found["Metadata_Control"].sum() == 5
    said = capsys.readouterr().err
    assert "mmoles_per_liter as Metadata_Concentration (times 1000)" in said
    assert "3 wells have no compound, and are named after their solvent (DMSO)" not in said
    assert "are named after their solvent (DMSO)" in said
    assert "0012__2021-05-02T16_02_51-Measurement1 as 0012" in said


def test_barcodes_without_their_map_are_named(tmp_path: Path) -> None:
    folder = write_maps(tmp_path / "maps")
    (folder / "platemap" / "C-2.txt").unlink()
    with pytest.raises(TableError, match=r"lists the plate map C-2, but there is no .*C-2\.txt"):
        read_table(features(["0011"]), platemap=folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TableError, match=r"no barcode_platemap\.csv, which a folder of plate maps"):
        read_table(features(["0011"]), platemap=tmp_path / "empty")


def test_one_plate_map_serves_every_plate(tmp_path: Path) -> None:
    write_maps(tmp_path)
    found = read_table(features(["P", "Q"]), platemap=tmp_path / "platemap" / "C-1.txt")
    assert found["Metadata_Compound"].tolist() == ["DMSO", "DMSO", "BRD-1", "BRD-2"] * 2
    assert found["Metadata_Plate_Map_Name"].tolist() == ["C-1"] * 8


def test_what_the_user_names_wins() -> None:
    wells = pd.DataFrame(
        {"Metadata_Well": WELLS, "Metadata_Compound": list("abcd"), "alias": list("wxyz")}
    )
    found = read_table(features(["P"]), platemap=wells, columns={"Metadata_Compound": "alias"})
    assert found["Metadata_Compound"].tolist() == list("wxyz")
    own = features(["P"], Metadata_pert=list("efgh"))
    found = read_table(own, platemap=wells, columns={"Metadata_Compound": "pert"})
    assert found["Metadata_Compound"].tolist() == list("efgh")
    with pytest.raises(
        TableError, match="no column nothing, from which Metadata_Compound is to be read"
    ):
        read_table(own, platemap=wells, columns={"Metadata_Compound": "nothing"})


def test_a_plate_map_without_doses_makes_each_compound_one_treatment(
    capsys: pytest.CaptureFixture[str],
) -> None:
    wells = pd.DataFrame({"Metadata_Well": WELLS, "Metadata_Compound": ["DMSO", "a", "a", "b"]})
    profiles = make_profiles(read_table(features(["P"]), platemap=wells), normalisation="none")
    assert profiles["Metadata_Compound"].tolist() == ["DMSO", "a", "b"]
    assert profiles["Metadata_Concentration"].isna().all()
    assert "so each compound counts as one treatment" in capsys.readouterr().err
