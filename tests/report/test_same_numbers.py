"""A quantity has one number and one name wherever it is: on the page, the terminal, in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from wsdino.evaluate.compare import compare
from wsdino.evaluate.evidence import activity_of
from wsdino.evaluate.results import evaluate_sites
from wsdino.profile.aggregate import make_profiles
from wsdino.profile.normalise import normalise
from wsdino.report.activity import (
    activity_lines,
    comparison_lines,
    consistency_lines,
    ranked,
)
from wsdino.report.background import further_numbers
from wsdino.report.columns import metadata_columns
from wsdino.report.compounds import treatments as table_of
from wsdino.report.explorer import Places
from wsdino.report.plates import plates
from wsdino.report.sections import headline, left_out
from wsdino.report.terminal import left_out_lines, print_results
from wsdino.report.treated import Treated, treated_of
from wsdino.report.words import well_distance
from wsdino.runrecord import RunRecord

# Compound, its doses, mechanism.
COMPOUNDS = (
    ("alpha, beta", (0.1, 1.0, 10.0, 30.0), "Kin|Aur"),
    ("<b>bold</b>", (3.0,), "Aur"),
    ("Überöl", (1.0, 3.0), "Aur"),
    ("123", (5.0,), "Kin"),
    ("zeta", (2.0,), "Kin"),
    ("0042", (5.0,), None),
)
FEATURES = [f"Cells_AreaShape_{number}" for number in range(8)]


@pytest.fixture(scope="module")
def sites() -> pd.DataFrame:
    """Three plates of two sites a well, four controls each; a compound may lack its mechanism."""
    rng = np.random.default_rng(0)
    effects = {name: rng.normal(size=len(FEATURES)) for name, _, _ in COMPOUNDS}
    rows = []
    for plate in ("P1", "P2", "P3"):
        wells: list[tuple[str, float, str | None]] = [("DMSO", 0.0, None)] * 4
        wells += [(name, dose, moa) for name, doses, moa in COMPOUNDS for dose in doses]
        for number, (name, dose, moa) in enumerate(wells):
            for site in (1, 2):
                values = effects.get(name, 0 * effects["123"]) * np.log1p(dose)
                values = values + 0.5 * rng.normal(size=len(FEATURES))
                rows.append(
                    {
                        "Metadata_Plate": plate,
                        "Metadata_Well": f"{'BCDE'[number // 4]}{number % 4 + 2:02d}",
                        "Metadata_Site": site,
                        "Metadata_Batch": "W1" if plate == "P1" else "W2",
                        "Metadata_Compound": name,
                        "Metadata_Concentration": dose,
                        # Known on the other plates only.
                        "Metadata_MoA": None if plate == "P1" else moa,
                        "Metadata_Control": name == "DMSO",
                        "Metadata_PubChem_CID": 2_723_949 + len(name),
                        "Metadata_Camera": "left" if site == 1 else "right",
                        "Metadata_Temperature": 36.0 + site + number,
                        **dict(zip(FEATURES, values, strict=True)),
                    }
                )
    return pd.DataFrame(rows)


def judged(sites: pd.DataFrame, normalisation: str) -> RunRecord:
    """What a run folder would have of a table of sites."""
    results = evaluate_sites(sites, normalisation=normalisation, num_permutations=10)
    profiles = make_profiles(sites, normalisation=normalisation)
    return RunRecord(Path("run"), results=results, profiles=profiles)


@pytest.fixture(scope="module")
def record(sites: pd.DataFrame) -> RunRecord:
    return judged(sites, "plate_controls")


@pytest.fixture(scope="module")
def treated(record: RunRecord) -> Treated:
    return treated_of(record)


def columns_of(frame: pd.DataFrame) -> dict[str, Any]:
    return {column.name: column for column in metadata_columns(frame)}


def test_a_whole_number_keeps_its_digits(treated: Treated) -> None:
    """Identifiers that are numbers became those of other compounds, and counts were rounded."""
    shown = {column.name: column for column in treated.columns}["PubChem CID"]
    expected = [2_723_949 + len(compound) for compound, _ in treated.keys]
    assert [shown.text(row) for row in range(len(treated))] == list(map(str, expected))
    assert shown.as_dict()["values"] == expected
    assert shown.digits == 7
    table = table_of(treated)
    place = table["heads"].index("PubChem CID")
    assert sorted(row[place] for row in table["rows"]) == sorted(map(str, expected))
    assert sorted(row[place + 1] for row in table["data"]["rows"]) == sorted(expected)
    assert table["data"]["heads"][place]["digits"] == 7
    frame = pd.DataFrame({"Metadata_Wells": [1234, 5], "Metadata_Share": [1234.56, 5]})
    columns = columns_of(frame)
    assert [columns["Wells"].text(row) for row in (0, 1)] == ["1234", "5"]
    assert [columns["Share"].text(row) for row in (0, 1)] == ["1235", "5"]


def test_the_most_active_come_first_in_one_order_everywhere(
    record: RunRecord, treated: Treated
) -> None:
    rows = record.results["activity"]["treatments"]
    on_terminal = [
        (row["Metadata_Compound"], row["Metadata_Concentration"]) for row in ranked(rows)
    ]
    frame = treated.frame[["Metadata_Compound", "Metadata_Concentration"]]
    on_page = [tuple(frame.iloc[row]) for row in treated.by_activity]
    assert on_page == on_terminal
    # Equal q values are ordered by mAP before distance, whatever the order of the profiles is.
    alike = [
        {"corrected_p_value": 0.2, "mean_average_precision": 0.5, "distance": 9.0},
        {"corrected_p_value": 0.2, "mean_average_precision": 0.8, "distance": 1.0},
        {"corrected_p_value": 0.2, "mean_average_precision": 0.8, "distance": 1.0},
    ]
    for order in ([0, 1, 2], [2, 1, 0]):
        some = frame.iloc[order].reset_index(drop=True)
        facts = tuple(alike[row] for row in order)
        own = Treated(some, treated.features[:3], facts, frozenset())
        named = [some["Metadata_Concentration"][row] for row in own.by_activity]
        assert named == [frame["Metadata_Concentration"][row] for row in (1, 2, 0)]


def test_a_mechanism_that_some_wells_lack_is_that_of_the_others(
    record: RunRecord, treated: Treated
) -> None:
    moas = {
        (row["Metadata_Compound"], row["Metadata_Concentration"]): row["Metadata_MoA"]
        for row in record.results["activity"]["treatments"]
    }
    expected = {(name, dose): moa for name, doses, moa in COMPOUNDS for dose in doses}
    assert moas == expected
    assert treated.moas == [expected[key] for key in moas_keys(treated)]


def moas_keys(treated: Treated) -> list[tuple[str, float]]:
    frame = treated.frame
    return list(
        zip(frame["Metadata_Compound"], frame["Metadata_Concentration"].tolist(), strict=True)
    )


def test_a_well_is_described_by_all_its_sites(sites: pd.DataFrame, treated: Treated) -> None:
    """Not by its first one, whose values were shown as those of the well."""
    normalised = normalise(sites, method="plate_controls")[0]
    level = Places(treated, normalised, 0).level("wells")
    columns = {column.name: column for column in level.columns}
    means = sites.groupby(["Metadata_Plate", "Metadata_Well"])["Metadata_Temperature"].mean()
    of_well = {f"{plate} {well}": value for (plate, well), value in means.items()}
    assert columns["Temperature"].values == [of_well[well] for well in level.wells]
    assert not {"Camera", "Site"} & set(columns)
    assert columns["PubChem CID"].values[:5] == [2_723_953.0] * 4 + [2_723_960.0]


def test_a_control_is_no_treatment_of_its_name(treated: Treated, sites: pd.DataFrame) -> None:
    """Wells of one treatment may be controls in part."""
    flagged = sites.assign(Metadata_Control=sites["Metadata_Well"] == "C02")
    rows = treated.rows_of(flagged)
    expected = treated.rows_of(sites)
    assert set(np.array(rows)[flagged["Metadata_Control"]]) == {-1}
    others = ~flagged["Metadata_Control"].to_numpy()
    assert np.array_equal(np.array(rows)[others], np.array(expected)[others])


def test_distances_that_were_fitted_with_the_own_label_are_called_so(
    sites: pd.DataFrame,
) -> None:
    """Treatments leave their compound out of the fit, wells don't: these are two numbers."""
    record = judged(sites, "weak_label")
    treated = treated_of(record)
    normalised = normalise(sites, method="weak_label")[0]
    level = Places(treated, normalised, 0).level("wells")
    (own,) = [column for column in level.columns if column.name.startswith("Distance")]
    of_treatment = {column.name: column for column in treated.columns}["Distance to controls"]
    medians = [
        np.median([value for value, row in zip(own.values, level.of, strict=True) if row == each])
        for each in range(len(treated))
    ]
    assert not np.allclose(medians, of_treatment.values, rtol=0.1)
    name = "Distance to controls, own label in the fit"
    assert own.name == well_distance(record.results) == name
    shown = plates(normalised, None, distance=well_distance(record.results))
    assert [measure["name"] for measure in shown["measures"]] == [name]
    assert shown["has_own_label"]


def test_distances_of_wells_are_those_of_treatments_without_labels(
    sites: pd.DataFrame, record: RunRecord, treated: Treated
) -> None:
    normalised = normalise(sites, method="plate_controls")[0]
    level = Places(treated, normalised, 0).level("wells")
    own, of_treatment = (
        {column.name: column.values for column in columns}["Distance to controls"]
        for columns in (level.columns, treated.columns)
    )
    for row, expected in enumerate(of_treatment):
        wells = [value for value, of in zip(own, level.of, strict=True) if of == row]
        assert len(wells) == 3
        assert np.median(wells) == pytest.approx(expected)
    shown = plates(normalised, None, distance=well_distance(record.results))
    assert not shown["has_own_label"]
    values = shown["measures"][0]["data"]["values"]
    assert sorted(values) == pytest.approx(sorted(own), rel=1e-4)


def test_treatments_without_a_mechanism_are_not_counted_among_the_others(
    record: RunRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    """The counts of what was left out are of all ten treatments."""
    print_results(record.results, name="run")
    said = " ".join(capsys.readouterr().out.split())
    assert "9 treatments with a mechanism, 1 without; normalisation" in said
    assert any(
        "1 of 10 treatments: it has no MoA: 0042" in line for line in left_out_lines(record.results)
    )
    assert ("Treatments", "9 with a mechanism, 1 without") in headline(record)["method"]
    rows = dict(further_numbers(record)["rows"])
    assert rows["treatments that are controls"] == "1"
    assert not any("unannotated" in name for name in rows)


def test_what_replicates_lack_in_a_fold_is_not_said_of_the_whole_screen(
    sites: pd.DataFrame,
) -> None:
    """There are wells enough of other treatments, but not among the compounds of each fold."""
    plain, folded = (
        activity_of(sites, normalisation=name, null_size=50) for name in ("none", "weak_label")
    )
    assert plain["replicating"]["other_position"]
    assert folded["replicating"]["other_position"] is None
    expected = (
        "percent replicating is not defined: too few wells of other treatments among the compounds "
        "of a fold"
    )
    assert expected in activity_lines(folded)


def test_what_a_comparison_leaves_out_is_said(record: RunRecord) -> None:
    assert record.profiles is not None
    second = record.profiles[record.profiles["Metadata_Compound"] != "zeta"]
    renamed = record.profiles.replace({"Metadata_Compound": {"0042": "0043"}})
    found = [
        {"second": name, **compare(record.profiles, other), "notes": []}
        for name, other in (("same", record.profiles), ("less", second), ("other", renamed))
    ]
    lines = comparison_lines(found)
    assert "less: left out: 0 treatments that it alone has, 1 that only the first has" in lines
    assert "other: left out: 1 treatment that it alone has, 1 that only the first has" in lines
    assert not any(line.startswith("same: left out") for line in lines)


def test_the_same_batches_are_one_label_whatever_their_order_in_the_table(
    sites: pd.DataFrame,
) -> None:
    """A treatment that was seen on W2 first had a colour of its own."""
    moved = (sites["Metadata_Compound"] == "zeta") & (sites["Metadata_Plate"] == "P3")
    table = pd.concat([sites[moved], sites[~moved], sites[moved].assign(Metadata_Batch="W3")])
    frame = make_profiles(table, normalisation="standardise_all")
    listed = {tuple(dict.fromkeys(cell)) for cell in frame["Metadata_Batch"]}
    assert listed == {("W2", "W1", "W3"), ("W1", "W2")}
    assert set(columns_of(frame)["Batch"].values) == {"W1, W2, W3", "W1, W2"}


def test_rows_of_an_unknown_compound_are_no_treatment(sites: pd.DataFrame) -> None:
    """On the page they were one without a name, or named None, and others' nearest."""
    empty = sites[sites["Metadata_Compound"] == "0042"].assign(
        Metadata_Compound=None, Metadata_MoA=None, Metadata_Well="H12"
    )
    record = judged(pd.concat([sites, empty], ignore_index=True), "plate_controls")
    treated = treated_of(record)
    assert len(treated) == record.results["activity"]["num_treatments"] == 10
    assert all(treated.names)
    shown = {column.name: column for column in treated.columns}
    assert "" not in shown["Nearest other compound"].values
    rows = left_out(record)["tables"][0]["rows"]
    (unknown,) = [row["queries"] for row in rows if row["reason"] == "it has no compound"]
    assert unknown == ["no compound 5 µM"]


def test_a_treatment_that_was_no_query_is_neither_right_nor_wrong(
    record: RunRecord, treated: Treated
) -> None:
    answers = {
        (row["compound"], row["concentration"]): "right" if row["correct"] else "wrong"
        for row in record.results["nsc_neighbours"]
    }
    assert 0 < list(answers.values()).count("wrong") < len(answers) < len(treated)
    shown = {column.name: column for column in treated.columns}["NSC neighbour"]
    assert shown.values == [answers.get(key, "not asked") for key in moas_keys(treated)]


def test_results_under_a_further_normalisation_are_not_told_of_the_runs_own(
    record: RunRecord, sites: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = judged(sites, "weak_label").results
    print_results(record.results | {"beside": {"weak_label": beside}}, name="run")
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if "weak labels (compound) were used" in line]
    assert line.startswith("weak_label: weak labels (compound) were used; with the query's")


def test_the_map_of_consistency_is_told_from_that_of_matching(record: RunRecord) -> None:
    """Of a|b it takes both labels, and its gallery has the mechanisms of a single compound."""
    (found,) = record.results["consistency"]
    assert found["map"] != pytest.approx(record.results["map"], abs=0.01)
    (line,) = consistency_lines(record.results)
    assert line.endswith(
        "(mean over labels of the mAP among all treatments that have one: "
        f"{np.mean([row['mean_average_precision'] for row in found['labels']]):.3f})"
    )


def test_what_is_averaged_over_is_said_once(
    sites: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not for each fold of each deal again."""
    found = evaluate_sites(sites, normalisation="weak_label", num_permutations=0)
    assert found["held_out"]["nsc_total"] == found["nsc_total"] > 0
    assert capsys.readouterr().err.count("Metadata_Camera (left, right): varies") == 1
