"""What must not change a number: the same screen, told in another way."""

from __future__ import annotations

import decimal

import numpy as np
import pandas as pd
import pytest

from wsdino.errors import TableError
from wsdino.evaluate.compare import compare
from wsdino.evaluate.evidence import activity
from wsdino.evaluate.leakage import label_leakage, leakage_of
from wsdino.evaluate.neighbours import neighbours
from wsdino.evaluate.results import evaluate
from wsdino.evaluate.wells import wells_of
from wsdino.profile.aggregate import make_profiles
from wsdino.profile.normalise import normalise
from wsdino.tables.features import feature_columns
from wsdino.tables.joining import join_tables
from wsdino.tables.reading import read_table

FEATURES = [f"Cells_AreaShape_{number}" for number in range(8)]


@pytest.fixture(scope="module")
def screen() -> pd.DataFrame:
    """96 wells: three batches of two plates, eight compounds at two doses, four mechanisms."""
    generator = np.random.default_rng(5)
    effects = generator.normal(size=(8, len(FEATURES)))
    effects[4:] = effects[:4] + 0.5 * effects[4:]
    rows = []
    for plate in range(6):
        of_plate = generator.normal(size=len(FEATURES))
        wells = [("DMSO", 0.0, None)] * 8
        for compound in range(8):
            if compound % 3 == plate // 2 or compound == 0:
                moa = f"M{compound % 4}"
                wells += [(f"c{compound}", 0.3, moa), (f"c{compound}", 3.0, moa)]
        for well, (compound, dose, moa) in enumerate(wells):
            effect = 0 if moa is None else effects[int(compound[1:])] * dose**0.5
            rows.append(
                {
                    "Metadata_Plate": f"P{plate}",
                    "Metadata_Well": f"{'ABCD'[well // 4]}{well % 4 + 1:02d}",
                    "Metadata_Batch": f"B{plate // 2}",
                    "Metadata_Compound": compound,
                    "Metadata_Concentration": dose,
                    "Metadata_MoA": moa,
                    "Metadata_Control": moa is None,
                    **dict(
                        zip(
                            FEATURES,
                            of_plate + effect + 0.7 * generator.normal(size=len(FEATURES)),
                            strict=True,
                        )
                    ),
                }
            )
    return pd.DataFrame(rows)


def numbers(table: pd.DataFrame) -> dict:
    """NSC, NSCB and mAP with their neighbours."""
    profiles = make_profiles(read_table(table), normalisation="plate_controls")
    found = evaluate(profiles, num_permutations=0)
    return {name: found[name] for name in ("nsc", "nscb", "map", "num_controls", "nsc_neighbours")}


@pytest.fixture(scope="module")
def expected(screen) -> dict:
    found = numbers(screen)
    assert 0.2 < found["nsc"] < 1
    return found


def test_a_unit_belongs_to_the_dose_of_its_name(screen, expected):
    nanomolar = screen["Metadata_Concentration"] * 1000
    beside = screen.assign(Metadata_pert_dose=nanomolar, Metadata_pert_dose_unit="nM")
    assert numbers(beside) == expected
    without = screen.drop(columns="Metadata_Concentration")
    in_name = without.assign(Metadata_dose_nM=nanomolar, Metadata_dose_unit="nM")
    assert numbers(in_name) == expected
    two = without.assign(
        Metadata_dose=screen["Metadata_Concentration"],
        Metadata_dose_unit="uM",
        Metadata_pert_dose=nanomolar,
        Metadata_pert_dose_unit="nM",
    )
    assert numbers(two) == expected
    of_no_other = screen.assign(Metadata_Concentration=nanomolar, Metadata_dose_unit="nM")
    assert numbers(of_no_other) == expected


@pytest.mark.parametrize("empty", ["", " ", "nan", None])
def test_a_column_of_controls_without_any_flag_is_none(screen, expected, empty):
    assert numbers(screen.assign(Metadata_Control=empty)) == expected


def test_a_mechanism_that_is_missing_in_some_rows_is_that_of_the_others(screen, expected):
    some = screen["Metadata_MoA"].where(screen["Metadata_Plate"].isin(["P0", "P2", "P4"]))
    assert numbers(screen.assign(Metadata_MoA=some)) == expected


def test_a_treatment_with_two_mechanisms_is_refused(screen):
    row = int(np.flatnonzero(screen["Metadata_Compound"] == "c1")[0])
    two = screen.assign(Metadata_MoA=screen["Metadata_MoA"].where(screen.index != row, "M9"))
    with pytest.raises(TableError, match=r"c1 at 0.3 uM has more than one MoA: 'M9' and 'M1'"):
        numbers(two)


def test_mechanisms_of_rows_without_a_compound_take_none_from_the_others(screen, expected):
    nameless = screen[screen["Metadata_Compound"].isin(["c1", "c2"])]
    nameless = nameless.assign(Metadata_Compound=None, Metadata_Well="H12")
    assert numbers(pd.concat([screen, nameless], ignore_index=True)) == expected


def test_rows_that_are_no_controls_are_not_averaged_with_those_that_are(screen):
    flagged = screen["Metadata_Control"] & ~screen["Metadata_Well"].isin(["A01", "A02"])
    profiles = make_profiles(read_table(screen.assign(Metadata_Control=flagged)))
    solvent = profiles[profiles["Metadata_Compound"] == "DMSO"]
    assert solvent["Metadata_Control"].tolist() == [False, True]
    assert profiles["Metadata_Control"].sum() == 1
    without = make_profiles(read_table(screen[flagged | ~screen["Metadata_Control"]]))
    control = without[without["Metadata_Control"]]
    np.testing.assert_allclose(
        solvent[solvent["Metadata_Control"]][feature_columns(solvent)],
        control[feature_columns(control)],
        atol=1e-12,
    )
    assert compare(profiles, profiles)["num_treatments"] == len(profiles)


@pytest.mark.parametrize("cells", [[[1, 2]], [{"a": 1}], [1, "a", None, 2.5], [np.nan]])
def test_a_column_of_no_matter_doesn_t_matter(screen, expected, cells):
    column = [cells[row % len(cells)] for row in range(len(screen))]
    assert numbers(screen.assign(Metadata_Other=column)) == expected


def test_numbers_that_are_kept_as_objects_are_features(screen, expected):
    exact = screen[FEATURES[0]].map(lambda number: decimal.Decimal(repr(number)))
    objects = screen.assign(**{FEATURES[0]: exact, FEATURES[1]: screen[FEATURES[1]].astype(object)})
    assert numbers(objects) == expected


def test_numbers_that_are_kept_as_text_are_named(screen, capsys):
    text = {FEATURES[2]: screen[FEATURES[2]].astype(str)}
    as_text = read_table(screen.assign(**text))
    assert f"{FEATURES[2]} hold numbers as text or categories" in capsys.readouterr().err
    assert feature_columns(as_text) == [name for name in FEATURES if name != FEATURES[2]]
    read_table(screen.assign(**{FEATURES[3]: screen[FEATURES[3]].astype("category")}))
    assert f"{FEATURES[3]} hold numbers as text or categories" in capsys.readouterr().err


def test_an_index_of_a_column_s_name_is_that_column(screen, expected):
    assert numbers(screen.set_index("Metadata_Plate", drop=False)) == expected
    assert numbers(screen.set_index(["Metadata_Plate", "Metadata_Well"])) == expected
    other = screen.set_index(screen["Metadata_Plate"].str.lower())
    with pytest.raises(TableError, match="index and a column are both named Metadata_Plate"):
        read_table(other)


def test_a_constant_feature_tells_no_technical_effect(screen):
    def leakage(table: pd.DataFrame) -> dict:
        table = read_table(table)
        return leakage_of(table, normalise(table, method="plate_controls")[0])

    expected = leakage(screen)
    assert expected["plate"]["before"]["accuracy"] > expected["plate"]["before"]["chance"]
    for value in (0.1, 0.1 + 1e-13 * np.arange(len(screen))):
        assert leakage(screen.assign(Cells_AreaShape_Constant=value)) == expected


def test_the_order_of_rows_decides_nothing_that_is_drawn(screen):
    def drawn(table: pd.DataFrame) -> dict:
        table = read_table(table)
        normalised = normalise(table, method="plate_controls")[0]
        found = {"leakage": leakage_of(table, normalised)}
        return found | {"activity": activity(normalised, null_size=50)}

    expected, found = (drawn(screen), drawn(screen.sample(frac=1, random_state=1)))
    assert found["leakage"] == expected["leakage"]
    for null in ("other_position", "same_position"):
        one, other = (each["activity"]["replicating"][null] for each in (found, expected))
        assert one == pytest.approx(other, rel=1e-9)
    one, other = (each["activity"]["retrieval"] for each in (found, expected))
    assert [one["map"], *one["map_ci"]] == pytest.approx([other["map"], *other["map_ci"]], rel=1e-9)


def test_equal_neighbours_are_in_order_of_name_and_dose(screen):
    profiles = make_profiles(read_table(screen))
    profiles[feature_columns(profiles)] = np.sign(profiles[feature_columns(profiles)])
    expected = neighbours(profiles, "c1")
    names = ["neighbour_compound", "neighbour_concentration"]
    assert expected.duplicated(["concentration", "similarity", names[0]]).any()
    for seed in range(3):
        found = neighbours(profiles.sample(frac=1, random_state=seed), "c1")
        assert found[names].equals(expected[names])


def test_a_profile_of_rounding_errors_is_nobody_s_neighbour(screen):
    """Centred on each plate's controls, these are zero, up to rounding."""
    table = read_table(screen)
    profiles = make_profiles(table, normalisation="plate_controls")
    names = feature_columns(profiles)
    control = profiles.loc[profiles["Metadata_Control"], names].to_numpy()
    assert 0 < np.abs(control).max() < 1e-12
    found = neighbours(profiles, "c1", num=100)
    assert len(found) == 2 * (len(profiles) - 3)
    assert not found["is_control"].any()
    zero = profiles.copy()
    zero.loc[zero["Metadata_Compound"] == "c1", names] = control
    with pytest.raises(TableError, match="the profile of c1 is zero in every feature"):
        evaluate(zero)
    with pytest.raises(TableError, match="the profile of c1 is zero in every feature"):
        neighbours(zero, "c1")


def test_wells_of_rounding_errors_are_not_ranked(screen):
    """A plate's only well of controls, of two sites, is zero up to rounding."""
    sites = pd.concat([screen, screen.assign(**(screen[FEATURES] * 1.01))], ignore_index=True)
    one = sites[~sites["Metadata_Control"] | (sites["Metadata_Well"] == "A01")]
    normalised = normalise(read_table(one), method="plate_controls")[0]
    wells = wells_of(normalised)
    control = wells.features[wells.is_control]
    assert 0 < np.abs(control).max() < 1e-12
    assert (wells.norms > 0).tolist() == (~wells.is_control).tolist()
    assert activity(normalised, null_size=50)["num_tested"] == 0


def test_wells_of_rounding_errors_are_nobody_s_neighbours_in_leakage_either(screen):
    sites = pd.concat([screen, screen.assign(**(screen[FEATURES] * 1.01))], ignore_index=True)
    one = sites[~sites["Metadata_Control"] | (sites["Metadata_Well"] == "A01")]
    table = read_table(one)
    normalised = normalise(table, method="plate_controls")[0]
    treated = (~table["Metadata_Control"]).to_numpy()
    found = leakage_of(table, normalised)["plate"]
    without = leakage_of(table[treated], normalised[treated])["plate"]
    assert found["sample"] == "46 wells, less 6 wells zero in every feature"
    assert found["before"]["sample"] is without["sample"] is None
    for name in ("accuracy", "chance", "num_wells"):
        assert found[name] == without[name]
    assert found["num_wells"] == 40
    direct = label_leakage(normalised, "Metadata_Plate").as_dict()
    assert direct == {name: found[name] for name in direct}


def test_a_wild_well_takes_nobody_s_neighbours(screen):
    """It had made all others zero, as their lengths were told by the longest row."""
    table = read_table(screen)
    features = feature_columns(table)
    wild = table.copy()
    wild.loc[20, features[0]] = 1e15
    expected, found = (leakage_of(each, each)["batch"] for each in (table, wild))
    assert expected["sample"] is found["sample"] is None
    assert found["num_wells"] == expected["num_wells"] == len(table)
    # One well has another neighbour, and is that of few.
    assert found["accuracy"] == pytest.approx(expected["accuracy"], abs=4 / len(table))
    assert activity(wild, null_size=50)["num_tested"] == activity(table, null_size=50)["num_tested"]
    assert (wells_of(wild).norms > 0).all()


def test_tables_with_doses_of_32_bits_are_compared_whole(screen):
    profiles = make_profiles(read_table(screen))
    single = profiles["Metadata_Concentration"].astype(np.float32)
    found = compare(profiles, profiles.assign(Metadata_Concentration=single))
    assert (found["num_treatments"], found["only_first"]) == (len(profiles), 0)
    assert found["map"]["total"] == found["nsc"]["total"] == len(profiles) - 1


def test_plates_of_one_name_are_joined_where_one_table_has_some_batches_only(screen):
    named = screen.assign(Metadata_Plate="P" + (screen.index % 2).astype(str))
    named["Metadata_Well"] = [
        f"A{number + 1:02d}"
        for number in named.groupby(["Metadata_Batch", "Metadata_Plate"]).cumcount()
    ]
    metadata = [name for name in named if name.startswith("Metadata_")]
    whole = read_table(named[metadata + FEATURES[:4]])
    part = read_table(named[named["Metadata_Batch"] == "B1"][metadata + FEATURES[4:]])
    assert whole["Metadata_Plate"].iloc[0] == "B0/P0"
    assert part["Metadata_Plate"].iloc[0] == "P0"
    for tables in ([whole, part], [part, whole]):
        joined = join_tables(tables, names=["one", "other"])
        assert len(joined) == len(part)
        assert joined["Metadata_Batch"].unique().tolist() == ["B1"]
