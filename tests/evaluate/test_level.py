from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from helpers_tables import profile_table, synthetic_design, with_features
from wsdino.errors import TableError
from wsdino.evaluate.intervals import average_precisions
from wsdino.evaluate.level import joined_labels, require_treatments
from wsdino.evaluate.matching import match_moa
from wsdino.evaluate.results import evaluate, evaluate_sites
from wsdino.profile.aggregate import aggregate, make_profiles
from wsdino.tables.reading import read_table
from wsdino.tables.writing import write_table

if TYPE_CHECKING:
    import pandas as pd

TREATMENT = ["Metadata_Compound", "Metadata_Concentration"]


@pytest.fixture(scope="module")
def sites() -> pd.DataFrame:
    return with_features(synthetic_design(num_treatments=20, num_compounds=10, num_moas=4))


def wells_of(sites: pd.DataFrame) -> pd.DataFrame:
    return aggregate(sites, by=["Metadata_Batch", "Metadata_Plate", "Metadata_Well", *TREATMENT])


@pytest.mark.parametrize("judge", [match_moa, average_precisions, evaluate])
def test_sites_and_wells_are_not_scored(sites, judge):
    with pytest.raises(TableError, match=r"the rows are sites, .*c09 0.1 uM has 120 rows"):
        judge(sites)
    with pytest.raises(TableError, match=r"the rows are wells, .*c09 0.1 uM has 30 rows"):
        judge(wells_of(sites))
    # Replicates in other columns than the usual ones are recognised by the treatment alone.
    plates = aggregate(sites, by=[*TREATMENT, "Metadata_Plate"])
    with pytest.raises(TableError, match=r"^expected one row for each treatment \(c09 0.1"):
        judge(plates)


def test_the_advice_is_right(sites):
    """What the message says to do works, whatever the table has."""
    treated = sites[~sites["Metadata_Control"]]
    bare = sites.drop(columns="Metadata_Plate").assign(Metadata_Control=False)
    for table, options, arguments in (
        (sites, "", {}),
        (treated, " --normalise whiten_all", {"normalisation": "whiten_all"}),
        (
            bare,
            " --normalise whiten_all --aggregate mean",
            {"normalisation": "whiten_all", "aggregation": "mean"},
        ),
    ):
        with pytest.raises(TableError) as error:
            require_treatments(table, command="wsdino evaluate t.csv")
        assert f"`wsdino evaluate t.csv --from-sites{options}`" in str(error.value)
        with pytest.raises(TableError) as error:
            require_treatments(table)
        call = ", ".join(["table", *(f'{k}="{v}"' for k, v in arguments.items())])
        assert f"`make_profiles({call})`" in str(error.value)
        assert evaluate(make_profiles(table, **arguments), num_permutations=0)["nsc_total"] == 20
        assert evaluate_sites(table, num_permutations=0, **arguments)["nsc_total"] == 20


def test_a_site_or_a_well_in_each_row_is_recognised_where_none_repeats():
    """One field of each treatment: its rows are fields, not normalised, not profiles."""
    table = profile_table(list("abcd"), list("xxyy"), np.eye(4))
    assert match_moa(table).num_total == 4
    for column, unit in (("Site", "sites"), ("Well", "wells")):
        with pytest.raises(TableError, match=f"rows are {unit}, .*the table has Metadata_{column}"):
            match_moa(table.assign(**{f"Metadata_{column}": 1}))
        assert match_moa(table.assign(**{f"Metadata_{column}": None})).num_total == 4


def test_profiles_of_one_site_each_are_profiles(tmp_path):
    sites = profile_table(list("abcd"), list("xxyy"), np.eye(4), Plate=["p"] * 4, Site=[1] * 4)
    profiles = make_profiles(sites.assign(Metadata_Well="A01"), normalisation="none")
    for suffix in (".parquet", ".csv"):
        write_table(profiles, tmp_path / f"p{suffix}")
        assert match_moa(read_table(tmp_path / f"p{suffix}")).num_total == 4


def test_controls_and_unannotated_treatments_may_repeat():
    table = profile_table(
        ["a", "b", "DMSO", "DMSO", "new", "new"], ["x", "x", None, None, None, None], np.eye(6),
        Control=[False, False, True, True, False, False],
    )  # fmt: skip
    assert match_moa(table).num_total == 2


def test_doses_that_are_not_known_do_not_tell_rows_apart():
    table = profile_table(list("aabb"), list("xxxx"), np.eye(4), concentrations=[np.nan] * 4)
    with pytest.raises(TableError, match=r"each treatment \(a has 2 rows\)"):
        match_moa(table)
    without = table.drop(columns="Metadata_Concentration")
    with pytest.raises(TableError, match=r"a has 2 rows.*with a column Metadata_Concentration"):
        match_moa(without)


def test_profiles_of_an_earlier_version_are_refused(sites):
    old = make_profiles(sites).drop(columns=["Metadata_Plate", "Metadata_Batch"])
    several = old.assign(Metadata_Plate="P1;P2", Metadata_Batch="W1")
    with pytest.raises(TableError, match=r"Metadata_Plate holds 'P1;P2': an earlier version"):
        match_moa(several)
    assert match_moa(old.assign(Metadata_Plate="P1", Metadata_Batch="W1")).num_total == 20


def test_names_that_look_joined_are_told():
    table = profile_table(list("abcd"), list("xxyy"), np.eye(4), Batch=["1", "1;2", ["3"], None])
    assert joined_labels(table) == "1;2"
    assert joined_labels(table.iloc[[0, 2, 3]]) is None
    assert joined_labels(table.drop(columns="Metadata_Batch")) is None
    notes = evaluate(table, num_permutations=9)["notes"]
    assert any("NSCB takes '1;2' as one batch" in note for note in notes)
