"""Treatments, their columns and pictures, as the sections share them."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from generated_run import MemoryStore, make_run, make_screen, make_sites, treatments
from PIL import Image
from skimage.color import rgb2lab

from wsdino.report import pictures as taking
from wsdino.report.columns import Column, controls_of, metadata_columns, natural
from wsdino.report.compounds import compounds, dose_rows, dose_svg
from wsdino.report.compounds import treatments as table_of
from wsdino.report.explorer import Places, explorer_data, scaled, treatment_level
from wsdino.report.pictures import colour_matrix, plate_labels, take_pictures, well_labels
from wsdino.report.style import channel_colours, moa_styles
from wsdino.report.treated import Treated, nearest_rows, treated_of
from wsdino.runrecord import Omitted, RunRecord, read_run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return read_run(make_run(tmp_path_factory.mktemp("treated") / "run", num_steps=0))


@pytest.fixture(scope="module")
def treated(record: RunRecord) -> Treated:
    return treated_of(record)


def test_nearest_rows_are_those_of_a_naive_search() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(700, 5))
    features[3] = 0
    groups = [str(n) for n in rng.integers(0, 200, len(features))]
    rows, cosines = nearest_rows(features, 4, groups=groups)
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-300)
    for row in [0, 1, 511, 512, 699]:
        others = [n for n in range(700) if groups[n] != groups[row] and n != 3]
        best = sorted(others, key=lambda n: -float(unit[row] @ unit[n]))[:4]
        assert rows[row].tolist() == best
        np.testing.assert_allclose(cosines[row], unit[best] @ unit[row], atol=1e-12)
    assert rows[3].tolist() == [-1] * 4
    assert not (rows == 3).any()


def test_fewer_others_than_asked_are_said_to_be_missing() -> None:
    rows, cosines = nearest_rows(np.eye(3), 5)
    assert rows.tolist() == [[1, 2, -1, -1, -1], [0, 2, -1, -1, -1], [0, 1, -1, -1, -1]]
    assert np.isnan(cosines[:, 2:]).all()


def test_activity_joins_its_treatment(record: RunRecord, treated: Treated) -> None:
    columns = {column.name: column for column in treated.columns}
    for row, (compound, dose) in enumerate(treated.keys):
        (found,) = [
            each
            for each in record.results["activity"]["treatments"]
            if each["Metadata_Compound"] == compound
            and f"{each['Metadata_Concentration']:g} µM" == dose
        ]
        assert columns["q value"].values[row] == found["corrected_p_value"]
        assert columns["Active"].values[row] == ("active" if found["is_active"] else "not active")
    wrong = {
        (each["compound"], f"{each['concentration']:g} µM")
        for each in record.results["nsc_neighbours"]
        if not each["correct"]
    }
    assert treated.wrong == wrong


def test_columns_have_a_text_and_a_code_for_each_row() -> None:
    frame = pd.DataFrame(
        {
            "Metadata_Compound": ["a", "b", None],
            "Metadata_Plate": [["P10", "P2"], ["P1", "P2", "P3", "P4"], None],
            "Metadata_Count": [3.0, np.nan, np.inf],
            "Metadata_Same": ["x", "x", "x"],
            "Metadata_Concentration": [0.1, 0.30000001, np.nan],
        }
    )
    found = {column.name: column for column in metadata_columns(frame)}
    assert list(found) == ["Compound", "Concentration, µM", "Plate"]
    assert found["Plate"].values == ["P2, P10", "4 of them", None]
    assert found["Compound"].as_dict()["codes"] == [0, 1, -1]
    assert found["Concentration, µM"].as_dict()["values"] == [0.1, 0.3, None]
    assert found["Concentration, µM"].text(2) == "-"
    assert sorted(["w10", "w9", "W1"], key=natural) == ["W1", "w9", "w10"]
    assert Column("x", ["b", "a"]).as_dict() == {"name": "x", "labels": ["a", "b"], "codes": [1, 0]}


def test_what_isnt_known_to_be_a_control_is_none() -> None:
    frame = pd.DataFrame({"Metadata_Control": pd.Series([True, None, False], dtype=object)})
    assert controls_of(frame).tolist() == [True, False, False]
    assert controls_of(pd.DataFrame({"x": [1]})).tolist() == [False]


def test_a_plate_is_named_with_its_batch_where_it_must_be() -> None:
    frame = pd.DataFrame({"Metadata_Plate": ["1", "1", "2"], "Metadata_Batch": ["a", "b", "a"]})
    assert plate_labels(frame) == ["1 (a)", "1 (b)", "2"]


def _planes(uri: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as picture:
        return np.asarray(picture)


def test_a_plate_has_one_contrast_that_of_its_controls(treated: Treated) -> None:
    sites = make_sites(treated.frame, num_plates=2)
    store = make_screen(sites)
    store.images[...] = 0
    # A ramp from 0 to 1,000 in controls; a treatment at half of that, a second one above it.
    is_control = sites["Metadata_Control"].to_numpy()
    store.images[is_control] = np.linspace(0, 1000, 48 * 64).reshape(48, 64).astype(np.uint16)
    store.images[0, 1] = 500
    store.images[1] = 2000
    found = take_pictures(treated, store)
    # Those of the other plate are beside its wells.
    assert set(found.of_plate) == {"P/1", "P/2"}
    assert set(found.of_treatment) == set(range(9))
    half = _planes(found.of_treatment[0].uri)
    assert half[..., 1].mean() == pytest.approx(128, abs=3)
    assert half[..., [0, 2]].max() <= 4
    assert _planes(found.of_treatment[1].uri).min() >= 251
    assert found.of_treatment[1].place == "P/1 C02 site 1"
    assert found.has_planes


def test_pictures_shrink_until_they_fit(treated: Treated, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sites = make_sites(treated.frame)
    names = [name for name in sites if name.startswith("Metadata_")]
    images = rng.integers(0, 4000, (len(sites), 3, 200, 200)).astype(np.uint16)
    store = MemoryStore(images, sites[names])
    whole = take_pictures(treated, store)
    assert whole.shown_px == 200 or whole.shown_px == taking.MAX_PX
    monkeypatch.setattr(taking, "BASE_BYTES", 300_000)
    small = take_pictures(treated, store)
    pictures = [*small.of_treatment.values(), *small.of_plate.values()]
    assert sum(len(picture.uri) for picture in pictures) <= 300_000
    assert taking.MIN_PX <= small.shown_px < whole.shown_px
    assert {_planes(p.uri).shape for p in pictures} == {(small.shown_px, small.shown_px, 3)}
    assert not small.beside
    # No smaller than that: what doesn't fit then lies beside the page, whole, the least active.
    rows = tuple({"corrected_p_value": 0.1 * (9 - row)} for row in range(9))
    monkeypatch.setattr(taking, "BASE_BYTES", 60_000)
    some = take_pictures(replace(treated, rows=rows), store, folder="my run-pictures")
    inside = {row for row, own in some.of_treatment.items() if own.uri.startswith("data:")}
    assert 0 < len(inside) < 9
    assert inside == set(range(9 - len(inside), 9))
    assert some.shown_px == taking.MIN_PX
    within = [*some.of_plate.values(), *(some.of_treatment[row] for row in inside)]
    assert sum(len(own.uri) for own in within) <= 60_000
    for row in set(range(9)) - inside:
        place, _, name = some.of_treatment[row].uri.partition("/")
        assert place == "my%20run-pictures"
        with Image.open(io.BytesIO(some.beside[name])) as picture:
            np.testing.assert_array_equal(picture, _planes(whole.of_treatment[row].uri))
    assert len(some.beside) == 9 - len(inside)


def test_more_channels_than_planes_are_coloured_before(treated: Treated) -> None:
    store = make_screen(make_sites(treated.frame))
    store.images = np.concatenate([store.images, store.images[:, :1]], axis=1)
    store.channels = ("DAPI", "Tubulin", "Actin", "ER")
    found = take_pictures(treated, store)
    assert not found.has_planes
    assert colour_matrix(found) == ""


def test_the_filter_gives_each_plane_its_channels_colour(treated: Treated) -> None:
    found = take_pictures(treated, make_screen(make_sites(treated.frame)))
    matrix = np.array(colour_matrix(found).split(), dtype=float).reshape(4, 5)
    colours = np.array(channel_colours(("DAPI", "Tubulin", "Actin")))
    np.testing.assert_allclose(matrix[:3, :3], colours.T, atol=0.003)
    assert matrix[3].tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [(None, "no store"), ("Metadata_Plate", "lacks"), ("Metadata_Compound", "none of the treat")],
)
def test_without_pictures_the_reason_is_given(
    treated: Treated, change: str | None, reason: str
) -> None:
    store = make_screen(make_sites(treated.frame))
    if change == "Metadata_Plate":
        store.manifest = store.manifest.drop(columns=change)
    elif change:
        store.manifest[change] = "other"
    with pytest.raises(Omitted, match=reason):
        take_pictures(treated, store if change else None)


# Machado, Oliveira and Fernandes 2009 (doi 10.1109/TVCG.2009.113), severity 1, on linear RGB.
DEFICIENCIES = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
               [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
               [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
               [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_dna_tubulin_and_actin_stay_apart_with_colour_vision_deficiencies(kind: str) -> None:
    colours = np.array(channel_colours(("DAPI", "Tubulin", "Actin")))
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(DEFICIENCIES[kind]).T, 0, 1)
    shown = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(shown[None])[0]
    apart = [np.linalg.norm(lab[a] - lab[b]) for a, b in [(0, 1), (0, 2), (1, 2)]]
    # Green and red, as before, have 28.
    assert min(apart) > 50


def test_levels_have_wells_with_their_treatment_and_distance(treated: Treated) -> None:
    sites = make_sites(treated.frame.iloc[:2], num_plates=2, num_controls=2, num_sites=1)
    places = Places(treated, sites, seed=0)
    assert places.names == ["wells"]
    wells = places.level("wells")
    assert wells.name == "wells"
    assert [row for row in wells.of if row >= 0] == [0, 1, 0, 1]
    assert wells.of.count(-1) == 4
    assert wells.names[1] == "Actin-1 0.3 µM, P/1 C02"
    assert {column.name for column in wells.columns} >= {"Plate", "Batch", "Control", "Mechanism"}
    distance = next(c for c in wells.columns if c.name == "Distance to controls")
    assert all(value is not None and value > 0 for value in distance.values)
    again = make_sites(treated.frame.iloc[:1], num_plates=1, num_controls=2, num_sites=2)
    assert Places(treated, again, seed=0).names == ["wells", "sites"]
    assert Places(treated, sites.drop(columns="Metadata_Well"), seed=0).names == []
    assert Places(treated, None, seed=0).names == []


def test_coordinates_are_whole_numbers_that_keep_their_order() -> None:
    points = np.array([[-1.0, 3.0], [0.0, 3.0], [1.0, 3.0]])
    assert scaled(points).tolist() == [[0, 5000], [5000, 5000], [10000, 5000]]


def test_the_page_data_are_the_same_every_time(treated: Treated) -> None:
    points = np.random.default_rng(0).normal(size=(9, 2))
    styles = moa_styles({moa for moa in treated.moas if moa})

    def made() -> str:
        level = treatment_level(treated, points, "PCA")
        return json.dumps(explorer_data([level.as_dict()], treated, None, styles))

    assert made() == made()
    data = json.loads(made())
    assert all(row not in [other for other, _ in own] for row, own in enumerate(data["neighbours"]))
    assert all(len(own) == 8 for own in data["neighbours"])


def test_the_table_has_the_most_active_first_and_every_treatment(treated: Treated) -> None:
    found = table_of(treated)
    at = found["heads"].index("q value")
    q = [row[1 + at] for row in found["data"]["rows"]]
    assert q == sorted(q)
    assert sorted(row[0] for row in found["data"]["rows"]) == list(range(9))
    assert found["heads"][1] == "Mechanism"
    assert found["heads"][-2:] == ["Nearest other compound", "Its cosine"]


def test_a_compound_has_its_doses_in_order(treated: Treated, record: RunRecord) -> None:
    frame = treatments(3).assign(Metadata_Compound="one", Metadata_MoA="m")
    frame["Metadata_Concentration"] = [3.0, 1.0, 10.0, 2.0, 100.0, 30.0, 0.1, 0.3, np.nan]
    rows = tuple({"distance": 1.0 + n} for n in range(9))
    own = Treated(frame, treated.features, rows, frozenset())
    (shown,) = compounds(own, None, record)["compounds"]
    doses = [dose["dose"] for dose in shown["doses"]]
    assert doses[0] == "no concentration"
    assert doses[1:] == [f"{d:g} µM" for d in (0.1, 0.3, 1, 2, 3, 10, 30, 100)]
    assert shown["curve"].count("h.01") == 8
    assert "0.1 µM: 7" in shown["curve"]
    assert dose_svg(own, [0], None, {}) == ""
    # What is drawn, as numbers: doses with a fit have it beside them.
    curve = {"doses": [0.1, 100.0], "fitted": [6.5, 5.5]}
    curve |= {"fitted_low": [6.0, 5.0], "fitted_high": [7.25, 6.12345]}
    saved = dose_rows(own, [8, 6, 7, 4], curve)
    assert saved == [
        [0.1, 7.0, 6.5, 6.0, 7.25],
        [0.3, 8.0, None, None, None],
        [100.0, 5.0, 5.5, 5.0, 6.123],
    ]
    assert dose_rows(own, [6], None) == [[0.1, 7.0, None, None, None]]


def test_a_dose_curve_is_hill_s_and_its_band_stays_above_zero(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", num_per_moa=1, num_doses=5)
    own = treated_of(read_run(run))
    doses = [0.1 * 3**power for power in range(5)]
    curve = {"bottom": 1.0, "top": 5.0, "ec50": 0.4, "slope": 6.0, "doses": doses}
    curve["fitted"] = [1 + 4 / (1 + (0.4 / dose) ** 6) for dose in doses]
    curve["fitted_low"] = [-27.0, -3.0, 1.0, 2.0, 3.0]
    curve["fitted_high"] = [2.0, 3.0, 4.0, 6.0, 6.5]
    rows = [own.keys.index(key) for key in own.keys if key[0] == own.keys[0][0]]
    found = ET.fromstring(dose_svg(own, rows, curve, {"control_distance_p95": 1.5}))
    paths = {path.get("class"): path.get("d") for path in found.iter("path")}
    # The axis: from the top of the scale down to 0, then to the highest dose.
    left, top, bottom, right = (float(n) for n in re.findall(r"[\d.]+", paths["axis"]))
    points = {
        name: np.array(
            [list(map(float, pair.split())) for pair in re.split("[MLZ]+", paths[name]) if pair]
        )
        for name in ("fit", "band")
    }
    for name in points:
        assert points[name][:, 1].min() >= top
        assert points[name][:, 1].max() <= bottom + 0.05
    # At its doses it is what was fitted, between them Hill's curve and not a line.
    scale = float(found.findall("text")[2].text)
    px = (bottom - top) / scale
    x = left + (right - left) * np.log(np.array(doses) / doses[0]) / np.log(81)
    drawn = np.interp(x, points["fit"][:, 0], points["fit"][:, 1])
    np.testing.assert_allclose((bottom - drawn) / px, curve["fitted"], atol=0.02 * scale)
    middle = np.interp((x[1] + x[2]) / 2, points["fit"][:, 0], points["fit"][:, 1])
    between = 1 + 4 / (1 + (0.4 / np.sqrt(doses[1] * doses[2])) ** 6)
    assert (bottom - middle) / px == pytest.approx(between, abs=0.02 * scale)
    assert abs(between - np.mean(curve["fitted"][1:3])) > 0.04 * scale


def test_density_and_quality_are_means_over_the_sites_of_wells_and_treatments(
    record: RunRecord,
) -> None:
    assert record.profiles is not None
    sites = make_sites(record.profiles, num_sites=2)
    rng = np.random.default_rng(3)
    sites["Metadata_QC_Foreground_DAPI"] = rng.random(len(sites))
    sites["Metadata_QC_Focus_DAPI"] = rng.random(len(sites))
    treated = treated_of(record, sites)
    (density,) = [column for column in treated.columns if column.name == "Cell density"]
    for compound, found in zip(treated.frame["Metadata_Compound"], density.values, strict=True):
        own = sites[sites["Metadata_Compound"] == compound]
        assert found == pytest.approx(own["Metadata_QC_Foreground_DAPI"].mean())
    level = Places(treated, sites, 0).level("wells")
    columns = {column.name: column.values for column in level.columns}
    keys = ["Metadata_Plate", "Metadata_Well"]
    for name, source in (("Cell density", "Foreground"), ("QC Focus DAPI", "Focus")):
        means = sites.groupby(keys)[f"Metadata_QC_{source}_DAPI"].mean()
        of_well = {f"{plate} {well}": value for (plate, well), value in means.items()}
        assert columns[name] == pytest.approx([of_well[well] for well in level.wells])


def test_every_other_well_has_a_picture_where_there_are_few(
    record: RunRecord, treated: Treated, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert record.profiles is not None
    store = make_screen(make_sites(record.profiles, num_sites=2))
    found = take_pictures(treated, store)
    shown = [*found.of_treatment.values(), *found.of_plate.values(), *found.of_well.values()]
    wells = well_labels(store.manifest)
    assert sorted(picture.well for picture in shown) == sorted(set(wells))
    for well, picture in found.of_well.items():
        row = store.manifest.iloc[wells.index(well)]
        assert picture.place == f"{row['Metadata_Plate']} {row['Metadata_Well']} site 1"
        names = [*treated.frame["Metadata_Compound"], "DMSO"]
        assert names[picture.row] == row["Metadata_Compound"]
    # A treatment that isn't in the profiles is not a control for that.
    fewer = Treated(treated.frame[1:], treated.features[1:], treated.rows[1:], frozenset())
    places = {picture.place for picture in take_pictures(fewer, store).of_well.values()}
    left_out = store.manifest["Metadata_Compound"] == treated.frame["Metadata_Compound"].iloc[0]
    assert places
    for row in store.manifest[left_out].to_dict("records"):
        assert f"{row['Metadata_Plate']} {row['Metadata_Well']} site 1" not in places
    monkeypatch.setattr(taking, "MAX_WELLS", len(set(wells)) - 1)
    assert take_pictures(treated, store).of_well == {}
