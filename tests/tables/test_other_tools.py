"""Tables as other tools write them: names, labels beside the features, noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from wsdino.errors import InputError, TableError
from wsdino.profile.aggregate import make_profiles
from wsdino.tables.columns import parse_columns
from wsdino.tables.features import feature_columns
from wsdino.tables.reading import read_table

RNG = np.random.default_rng(0)


def wells(num_plates: int = 3, num_compounds: int = 12) -> pd.DataFrame:
    """Twelve compounds of four mechanisms on each of three plates, features of pure noise."""
    rows = [
        {
            "Metadata_Plate": f"P{plate}",
            "Metadata_Well": f"B{k + 2:02d}",
            "Metadata_Batch": f"b{plate}",
            "Metadata_Compound": f"c{k:02d}",
            "Metadata_Concentration": 1.0,
            "Metadata_MoA": f"m{k // 3}",
        }
        for plate in range(num_plates)
        for k in range(num_compounds)
    ]
    noise = pd.DataFrame(RNG.normal(size=(len(rows), 4)), columns=[str(i) for i in range(4)])
    return pd.concat([pd.DataFrame(rows), noise], axis=1)


def codes(values: pd.Series) -> np.ndarray:
    return pd.factorize(values)[0]


@pytest.mark.parametrize(
    ("column", "of"),
    [
        ("Unique_MoA", "Metadata_MoA"),
        ("mechanism_number", "Metadata_MoA"),
        ("y_true", "Metadata_Compound"),
        ("Batch", "Metadata_Batch"),
        ("run", "Metadata_Plate"),
        ("Group_Index", "Metadata_Well"),
        ("position", "Metadata_Well"),
    ],
)
@pytest.mark.parametrize("dtype", [int, float])
def test_codes_of_labels_are_no_features(
    column: str, of: str, dtype: type, capsys: pytest.CaptureFixture[str]
) -> None:
    table = wells()
    table[column] = codes(table[of]).astype(dtype)
    found = read_table(table)
    assert feature_columns(found) == ["0", "1", "2", "3"]
    assert column in capsys.readouterr().err


def test_what_is_constant_on_a_plate_is_no_measurement() -> None:
    table = wells().assign(exposure=lambda t: 36.5 + 0.25 * codes(t.Metadata_Plate))
    assert feature_columns(read_table(table)) == ["0", "1", "2", "3"]
    # Without a second value it tells nothing apart.
    assert feature_columns(read_table(wells().assign(gain=2.5)))[-1] == "gain"


def test_row_numbers_are_no_features() -> None:
    table = wells().assign(shuffled=RNG.permutation(36))
    assert feature_columns(read_table(table)) == ["0", "1", "2", "3"]


def test_counts_and_measurements_by_name_stay() -> None:
    table = wells().assign(
        Cells_Children_Count=lambda t: codes(t.Metadata_MoA),
        Count_Cells=lambda t: codes(t.Metadata_Compound),
        num_cells=RNG.integers(50, 90, 36),
    )
    assert feature_columns(read_table(table)) == [
        *("0", "1", "2", "3"),
        *("Cells_Children_Count", "Count_Cells", "num_cells"),
    ]


def test_a_feature_can_be_kept(capsys: pytest.CaptureFixture[str]) -> None:
    table = wells().assign(grade=lambda t: codes(t.Metadata_MoA))
    assert "grade" not in feature_columns(read_table(table))
    assert "grade (it has one value in each mechanism)" in capsys.readouterr().err
    assert "grade" in feature_columns(read_table(table, features=["grade"]))
    with pytest.raises(TableError, match="--feature nothing: no such numeric column"):
        read_table(table, features=["nothing"])
    with pytest.raises(TableError, match=r"all numeric columns \(grade\) look like labels"):
        read_table(table.drop(columns=["0", "1", "2", "3"]))


def test_cellprofiler_s_book_keeping_is_metadata(capsys: pytest.CaptureFixture[str]) -> None:
    table = wells().assign(
        ImageNumber=np.arange(36) % 12,
        ExecutionTime_01LoadData=RNG.normal(size=36),
        Group_Number=1,
        Height_OrigDNA=1080,
        ModuleError_01LoadData=0,
        Image_Metadata_Focus=RNG.normal(size=36),
    )
    found = read_table(table)
    assert feature_columns(found) == ["0", "1", "2", "3"]
    assert found["Metadata_ImageNumber"].tolist() == table["ImageNumber"].tolist()
    assert "Metadata_Focus" in found
    assert "ImageNumber, ExecutionTime_01LoadData, Group_Number" in capsys.readouterr().err


def test_numbers_with_a_few_words_among_them_are_named(
    tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = wells().astype({"0": object})
    table.loc[3, "0"] = "#DIV/0!"
    table.to_csv(tmp_path / "t.csv", index=False)
    assert feature_columns(read_table(tmp_path / "t.csv")) == ["1", "2", "3"]
    assert "0 (1 cells such as '#DIV/0!') mix text and numbers" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_flags_and_dates_are_named_as_no_features(
    tmp_path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    table = wells().assign(
        is_edge=np.arange(36) % 5 == 0,
        passed=pd.array([True, None, False] * 12, dtype="boolean"),
    )
    if suffix == "parquet":
        table["imaged"] = pd.Timestamp("2024-03-01") + pd.to_timedelta(np.arange(36), unit="min")
        table["thawed"] = table["imaged"].dt.date
        table["after"] = pd.to_timedelta(np.arange(36), unit="s")
        table.to_parquet(tmp_path / "t.parquet")
    else:
        table.to_csv(tmp_path / "t.csv", index=False)
    assert feature_columns(read_table(tmp_path / f"t.{suffix}")) == ["0", "1", "2", "3"]
    dates = [f"{name} (dates or times)" for name in ("imaged", "thawed", "after")]
    named = ["is_edge (true or false)", "passed (true or false)"]
    named += dates if suffix == "parquet" else []
    said = capsys.readouterr().err
    assert (
        f"{len(named)} columns without numbers not used as features: {', '.join(named)}\n" in said
    )
    assert "as text" not in said


def test_of_many_flags_some_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    flags = pd.DataFrame({f"flag_{i}": np.arange(36) % 2 == 0 for i in range(9)})
    read_table(pd.concat([wells(), flags], axis=1))
    said = capsys.readouterr().err
    assert "9 columns without numbers not used as features: flag_0 (true or false), " in said
    assert "flag_5 (true or false) and 3 more" in said


def test_a_lincs_profile_is_recognised_and_that_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = pd.DataFrame(
        {
            "Metadata_broad_sample": ["DMSO", "BRD-1", "BRD-2"],
            "Metadata_pert_iname": ["DMSO", "taxol", "emetine"],
            "Metadata_mmoles_per_liter": [np.nan, 0.01, 0.003],
            "Metadata_moa": [None, "a|b", "c"],
            "Metadata_Assay_Plate_Barcode": [11, 11, 11],
            "Metadata_Plate_Map_Name": "C-1",
            "Metadata_well_position": ["a1", "A2", "A003"],
            "Metadata_pert_type": ["control", "trt", "control"],
            "Metadata_control_type": ["negcon", None, "poscon_cp"],
            "Cells_AreaShape_Area": [1.0, 2.0, 3.0],
        }
    )
    found = read_table(table)
    assert found["Metadata_Plate"].tolist() == ["11"] * 3
    assert found["Metadata_Well"].tolist() == ["A01", "A02", "A03"]
    assert found["Metadata_Compound"].tolist() == ["DMSO", "taxol", "emetine"]
    np.testing.assert_allclose(found["Metadata_Concentration"], [np.nan, 10, 3])
    assert found["Metadata_MoA"].tolist() == [None, "a|b", "c"]
    assert found["Metadata_Control"].tolist() == [True, False, False]
    assert found["Metadata_Plate_Map_Name"].tolist() == ["C-1"] * 3
    said = capsys.readouterr().err
    assert "Metadata_Assay_Plate_Barcode as Metadata_Plate" in said
    assert "Metadata_pert_iname as Metadata_Compound" in said
    # Reading what came of it changes nothing and says nothing of names.
    again = read_table(found)
    pd.testing.assert_frame_equal(again, found)
    assert "read " not in capsys.readouterr().err


def test_our_own_names_come_first_unless_they_are_empty() -> None:
    table = pd.DataFrame({"Metadata_Compound": ["a", "b"], "Metadata_pert_iname": ["x", "y"]})
    table["f"] = [0.5, 0.25]
    assert read_table(table)["Metadata_Compound"].tolist() == ["a", "b"]
    empty = table.assign(Metadata_Compound=None)
    assert read_table(empty)["Metadata_Compound"].tolist() == ["x", "y"]
    named = read_table(table, columns=parse_columns(["Compound=pert_iname"]))
    assert named["Metadata_Compound"].tolist() == ["x", "y"]


@pytest.mark.parametrize("setting", ["Metadata_Compound", "=x", "Metadata_Compound="])
def test_columns_have_a_form(setting: str) -> None:
    with pytest.raises(InputError, match="use the form Metadata_Compound=NAME"):
        parse_columns([setting])


def test_a_column_is_named_once() -> None:
    with pytest.raises(InputError, match="Metadata_Compound is already read from a"):
        parse_columns(["Metadata_Compound=a", "compound=b"])


def test_what_is_averaged_over_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    table = wells().assign(
        Metadata_cell_line=lambda t: t.Metadata_Plate.map(
            {"P0": "A549", "P1": "U2OS", "P2": "U2OS"}
        ),
        Metadata_Replicate=lambda t: codes(t.Metadata_Plate),
        Metadata_target=lambda t: t.Metadata_MoA,
    )
    make_profiles(read_table(table), normalisation="none")
    said = capsys.readouterr().err
    assert "Metadata_cell_line (A549, U2OS): varies within treatments and is averaged over" in said
    assert "Replicate" not in said
    assert "target" not in said


def test_treatments_without_a_dose_are_one_per_compound() -> None:
    table = wells().assign(Metadata_Concentration=np.nan)
    profiles = make_profiles(read_table(table), normalisation="none")
    assert profiles["Metadata_Compound"].tolist() == [f"c{k:02d}" for k in range(12)]
    assert profiles["Metadata_Concentration"].isna().all()
    median = table.loc[table.Metadata_Compound == "c03", "0"].median()
    assert profiles.loc[3, "0"] == pytest.approx(median)
