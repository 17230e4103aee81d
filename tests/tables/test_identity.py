"""What a well, a control, a dose, a compound and a plate are."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsdino.errors import TableError
from wsdino.tables.control_words import control_of
from wsdino.tables.doses import merge_equal_doses
from wsdino.tables.identity import normalise_well
from wsdino.tables.reading import read_table
from wsdino.tables.tidy import tidy

ROWS = [chr(65 + i) for i in range(26)] + [f"A{c}" for c in "ABCDEF"]


def table(**columns: list) -> pd.DataFrame:
    num = len(next(iter(columns.values())))
    return pd.DataFrame(
        {f"Metadata_{name}": values for name, values in columns.items()}
        | {"f": np.linspace(0.1, 0.9, num)}
    )


@given(st.integers(0, 31), st.integers(1, 48), st.integers(0, 2), st.booleans())
def test_all_ways_to_write_a_well_are_one(row: int, column: int, zeros: int, lower: bool) -> None:
    ours = f"{ROWS[row]}{column:02d}"
    for text in (f"{ROWS[row]}{'0' * zeros}{column}", f"r{row + 1:02d}c{column:02d}", f" {ours} "):
        assert normalise_well(text.lower() if lower else text) == ours


def test_what_names_no_well_is_refused_with_its_row() -> None:
    with pytest.raises(TableError, match="Metadata_Well is 'ZZ99' in data row 2; a well is"):
        read_table(table(Well=["A1", "ZZ99"]))


@pytest.mark.parametrize("word", ["true", "1", "Yes", "negcon", "control", "negative control"])
def test_words_for_negative_controls(word: str) -> None:
    assert control_of(word) is True


@pytest.mark.parametrize(
    "word", ["false", "0", "no", "trt", "poscon", "poscon_cp", "poscon_diverse", "positive"]
)
def test_words_for_everything_else(word: str) -> None:
    assert control_of(word) is False


def test_a_missing_flag_is_never_true(capsys: pytest.CaptureFixture[str]) -> None:
    found = read_table(table(Compound=list("abcd"), Control=["negcon", None, "poscon", "trt"]))
    assert found["Metadata_Control"].tolist() == [True, False, False, False]
    assert "Metadata_Control is empty in 1 of 4 rows" in capsys.readouterr().err
    with pytest.raises(TableError, match="Metadata_Control is 'maybe' in data row 2"):
        read_table(table(Compound=list("ab"), Control=["true", "maybe"]))


def test_controls_are_named_else_flagged_else_dmso(capsys: pytest.CaptureFixture[str]) -> None:
    given_ = table(Compound=["DMSO", "dmso ", "water", "x"], MoA=["DMSO", None, "none", "m"])
    found = read_table(given_)
    assert found["Metadata_Control"].tolist() == [True, True, False, False]
    assert found["Metadata_Compound"].tolist() == ["DMSO", "DMSO", "water", "x"]
    said = capsys.readouterr().err
    assert "controls named dmso are taken as DMSO" in said
    assert (
        "no column Metadata_Control, so DMSO is taken as the negative control (2 of 4 rows)" in said
    )
    assert found["Metadata_MoA"].tolist() == [None, None, None, "m"]
    named = read_table(given_, controls=["Water"])
    assert named["Metadata_Control"].tolist() == [False, False, True, False]


def test_flagged_controls_of_several_compounds_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = table(
        Compound=["DMSO", "AMG900", "dmso", "x"], pert_type=["control", "control", "control", "trt"]
    )
    assert read_table(given)["Metadata_Control"].tolist() == [True, True, True, False]
    advice = (
        "2 compounds are flagged as negative controls (AMG900, DMSO); if some are positive ones, "
        "name the negative one by --control NAME (in a config screen.controls)"
    )
    assert advice in capsys.readouterr().err
    found = read_table(given, controls=["DMSO"])
    assert found["Metadata_Control"].tolist() == [True, False, True, False]
    assert "flagged" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("column", "values", "micromolar"),
    [
        ("Metadata_Concentration", ["0.5", "NA"], [0.5, np.nan]),
        ("Metadata_Concentration_mM", [0.01, 1], [10, 1000]),
        ("Metadata_Concentration_nM", [10, 1000], [0.01, 1]),
        ("Metadata_Dose (µM)", [3, 10], [3, 10]),
        ("concentration_uM", [3, 10], [3, 10]),
        ("Metadata_mmoles_per_liter", [0.01, None], [10, np.nan]),
        ("Metadata_mmoles_per_liter2", [0.01, 0.02], [10, 20]),
    ],
)
def test_concentrations_are_micromolar(column: str, values: list, micromolar: list) -> None:
    given_ = table(Compound=["x", "y"]).assign(**{column: values})
    found = read_table(given_)
    np.testing.assert_allclose(found["Metadata_Concentration"], micromolar, rtol=1e-15)
    assert [name for name in found if not name.startswith("Metadata_")] == ["f"]


def test_units_beside_the_concentration_are_heeded_once() -> None:
    given_ = table(Compound=["x", "y"], Concentration=[500, 3], Concentration_Unit=["nM", "uM"])
    found = read_table(given_)
    assert found["Metadata_Concentration"].tolist() == [0.5, 3]
    assert read_table(found)["Metadata_Concentration"].tolist() == [0.5, 3]
    with pytest.raises(TableError, match="Concentration_Unit is 'mg/ml' in data row 1"):
        read_table(given_.assign(Metadata_Concentration_Unit="mg/ml"))


@pytest.mark.parametrize("unit", ["Concentration_Units", "dose_unit"])
def test_a_unit_in_a_column_s_name_and_beside_it_counts_once(unit: str) -> None:
    given_ = table(Compound=["x", "y"], mmoles_per_liter=[0.5, 3])
    given_[f"Metadata_{unit}"] = ["mM", None]
    found = read_table(given_)
    assert found["Metadata_Concentration"].tolist() == [500, 3000]
    assert read_table(found)["Metadata_Concentration"].tolist() == [500, 3000]
    with pytest.raises(TableError, match=f"Metadata_{unit} is 'uM' in data row 2, but the name of"):
        read_table(given_.assign(**{f"Metadata_{unit}": ["mM", "uM"]}))


def test_units_of_another_column_of_doses_are_left_alone() -> None:
    given_ = table(Compound=["x", "y"], Concentration=[0.5, 3], dose=[500, 3000])
    found = read_table(given_.assign(Metadata_dose_unit="nM"))
    assert found["Metadata_Concentration"].tolist() == [0.5, 3]
    assert found["Metadata_dose_unit"].tolist() == ["nM", "nM"]


@pytest.mark.parametrize(
    ("given_", "found"),
    [
        (["1.1", "1.10"], ["1.1", "1.10"]),
        (["1E5", "10E4"], ["1E5", "10E4"]),
        (["123456789012345678", "123456789012345679"], [123456789012345678, 123456789012345679]),
        (["123456789012345678", ""], ["123456789012345678", None]),
        (["1e400", "2"], ["1e400", "2"]),
        (["-0.0", "0"], [0, 0]),
        (["0.50", "1.00"], [0.5, 1]),
    ],
)
def test_labels_that_look_like_numbers_stay_apart(given_: list, found: list) -> None:
    read = tidy(pd.DataFrame({"Metadata_Donor": given_}, dtype=object), origin="t")
    assert read["Metadata_Donor"].tolist() == found


def test_doses_that_differ_by_rounding_are_the_roundest_of_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    doses = [3.33333333333076923, 3.3333333333333330, 20, 19.9998446614006889, 0, 1e-9, 10, 10.05]
    found = read_table(table(Compound=["x"] * 8, Concentration=doses))
    assert found["Metadata_Concentration"].tolist() == [
        *([doses[1]] * 2),
        *([20] * 2),
        *(0, 1e-9, 10, 10.05),
    ]
    said = capsys.readouterr().err
    assert "2 concentrations differ only by rounding from another of their compound" in said
    assert "x at 10 and 10.05 uM differ by less than 1 % and count as different" in said


@given(st.lists(st.sampled_from([0.1, 0.3, 1, 3, 10]), min_size=1), st.randoms())
def test_merging_doses_undoes_noise(doses: list[float], random) -> None:
    noisy = [dose * (1 + random.uniform(-1e-6, 1e-6)) for dose in doses]
    frame = table(Compound=["x"] * len(doses), Concentration=noisy)
    found = merge_equal_doses(frame, origin="t")["Metadata_Concentration"]
    one = dict(zip(doses, found, strict=True))
    assert found.tolist() == [one[dose] for dose in doses]
    assert set(found) <= set(noisy)
    backwards = merge_equal_doses(frame[::-1], origin="t")["Metadata_Concentration"]
    assert backwards.tolist() == found.tolist()[::-1]


@pytest.mark.parametrize(
    ("same", "expected"),
    [
        ([0.1, float(np.float32(0.1)), 0.1000001], 0.1),
        ([10.0, 9999.9995 / 1000, 10.0001], 10.0),
        ([3.16227, 3.16228], 3.16227),  # the least of equally round ones
        ([1e-5, 1.00001e-5], 1e-5),
        ([1200.0, 1200.01], 1200.0),
    ],
)
def test_equal_doses_are_one_value_in_any_order_of_rows(same: list[float], expected: float) -> None:
    for doses in itertools.permutations(same):
        found = merge_equal_doses(
            table(Compound=["x"] * len(same), Concentration=list(doses)), origin="t"
        )
        assert found["Metadata_Concentration"].tolist() == [expected] * len(same)


def test_names_that_differ_by_case_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    read_table(table(Compound=["Taxol", "taxol ", "taxol", "NA"], MoA=["m", "M", "m", "n"]))
    said = capsys.readouterr().err
    assert "Metadata_Compound has names that differ only by case or spaces" in said
    assert "different: Taxol, taxol\n" in said
    assert "Metadata_MoA has names that differ" in said
    assert "Metadata_Compound holds NA, which is taken as a name" in said


def test_an_unknown_mechanism_is_no_mechanism(capsys: pytest.CaptureFixture[str]) -> None:
    found = read_table(table(Compound=list("abc"), MoA=["NA", " m ", "nan"]))
    assert found["Metadata_MoA"].tolist() == [None, "m", None]
    assert (
        "Metadata_MoA is 'NA' in 2 rows, which is taken to mean unknown" in capsys.readouterr().err
    )


@pytest.mark.parametrize("word", ["unknown", "Unknown ", "-666", "?", "n.a."])
def test_other_words_for_an_unknown_mechanism(word: str) -> None:
    found = read_table(table(Compound=list("abc"), MoA=[word, "m", word]))
    assert found["Metadata_MoA"].tolist() == [None, "m", None]


@pytest.mark.parametrize("doses", [[-666, 2.5], ["-666", "2.5"], [-666.0, 2.5]])
def test_cmap_s_number_for_a_missing_dose_is_none(doses: list) -> None:
    found = read_table(table(Compound=["DMSO", "x"], Concentration=doses))
    np.testing.assert_array_equal(found["Metadata_Concentration"], [np.nan, 2.5])
    with pytest.raises(TableError, match=r"Metadata_Concentration is '-665.0' in data row 1"):
        read_table(table(Compound=["DMSO", "x"], Concentration=[-665.0, 1]))


def test_a_plate_is_a_plate_within_its_batch(capsys: pytest.CaptureFixture[str]) -> None:
    given_ = table(Compound=list("abc"), Plate=[1, 1, 2], Batch=["x", "y", "y"])
    found = read_table(given_)
    assert found["Metadata_Plate"].tolist() == ["x/1", "y/1", "2"]
    assert "1 plate name in several batches" in capsys.readouterr().err
    assert read_table(found)["Metadata_Plate"].tolist() == ["x/1", "y/1", "2"]
