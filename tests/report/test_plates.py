"""Heat maps of plates and their edge."""

from __future__ import annotations

import re
from base64 import b64decode
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import tifffile
from generated_run import make_run, make_screen, make_sites
from PIL import Image

from wsdino.report.illumination import edge_to_centre, illumination
from wsdino.report.plates import Measured, edge_effect, plate_svg, plates
from wsdino.runrecord import Omitted
from wsdino.screen.ingest import ingest
from wsdino.screen.store import Store, open_store

if TYPE_CHECKING:
    from pathlib import Path


def whole_plates(num: int = 2, shape: tuple[int, int] = (8, 12)) -> pd.DataFrame:
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    one = pd.DataFrame({"row": rows.ravel(), "column": columns.ravel()})
    one["value"] = np.random.default_rng(0).normal(size=len(one))
    one["is_control"] = one["column"].isin([0, 5])
    return pd.concat([one.assign(plate=f"p{n}", value=one["value"] + 10 * n) for n in range(num)])


def with_edge(table: pd.DataFrame, change: float, *, rows: bool = True) -> pd.DataFrame:
    edge = (table["row"].isin([0, 7]) | table["column"].isin([0, 11])) & rows
    return table.assign(value=table["value"] + change * edge)


def test_an_edge_effect_is_named_and_plates_may_differ() -> None:
    table = whole_plates()
    assert "no edge effect seen" in edge_effect(Measured("x", table), (8, 12))["text"]
    seen = edge_effect(Measured("x", with_edge(table, -3.0)), (8, 12))
    assert seen["is_seen"]
    assert "at the edge lower by" in seen["text"]
    assert "20 control wells at the edge, 12 inside" in seen["text"]


def test_treatments_at_the_edge_are_no_edge_effect_where_controls_tell() -> None:
    table = whole_plates()
    active = with_edge(table, 5.0).where(~table["is_control"], table)
    assert not edge_effect(Measured("x", active), (8, 12))["is_seen"]


def lit_screen(folder: Path, function: np.ndarray) -> Store:
    """Ingest two plates whose table names the same function for both, of one channel."""
    np.save(folder / "illum.npy", function)
    rng, rows = np.random.default_rng(0), []
    for plate in ("P1", "P2"):
        for channel in ("DNA", "ER"):
            pixels = rng.poisson(400, (40, 60)).astype(np.uint16)
            tifffile.imwrite(folder / f"{plate}_{channel}.tif", pixels)
        row = {"Metadata_Plate": plate, "Metadata_Well": "A01", "Metadata_Site": 1}
        row |= {"Metadata_Compound": "DMSO", "FileName_IllumER": "illum.npy"}
        rows.append(row | {f"FileName_{c}": f"{plate}_{c}.tif" for c in ("DNA", "ER")})
    pd.DataFrame(rows).to_csv(folder / "load_data.csv", index=False)
    return ingest(folder / "load_data.csv", folder / "store", scale=0.5)


def test_illumination_functions_are_drawn_with_their_edge(tmp_path: Path) -> None:
    function = np.full((40, 60), 0.6)
    function[4:-4, 6:-6] = 1.2
    store = lit_screen(tmp_path, function)
    shown = illumination(store)
    assert shown is not None
    assert shown["method"] == "given"
    assert [picture[:3] for picture in shown["pictures"]] == [
        ("P1", "ER", "0.50"),
        ("P2", "ER", "0.50"),
    ]
    assert shown["data"][1:] == [["P1", "ER", "0.500"], ["P2", "ER", "0.500"]]
    picture = Image.open(BytesIO(b64decode(shown["pictures"][0][3].partition(",")[2])))
    assert picture.size == (60, 40)
    grey = np.asarray(picture.convert("L")).astype(float) / 255 + 0.5
    np.testing.assert_allclose(grey[:2], function[0, 0] / function.mean(), atol=0.06)
    np.testing.assert_allclose(grey[15:25, 20:40], 1.2 / function.mean(), atol=0.06)
    kept = open_store(store.path, keep="Metadata_Plate == 'P2'")
    assert [picture[0] for picture in illumination(kept)["pictures"]] == ["P2"]
    (tmp_path / "illum.npy").unlink()
    assert illumination(store) is None
    assert illumination(None) is None


def test_an_even_light_has_an_edge_like_its_centre() -> None:
    assert edge_to_centre(np.full((30, 50), 3.0)) == 1
    rows, columns = np.mgrid[-1:1:201j, -1:1:301j]
    vignette = 1 - 0.4 * (rows**2 + columns**2) / 2
    # By integration over the border of a tenth, and over the middle fifth, of such a square.
    border = (4 / 3 * 2 - 0.64 * 4 * 0.64 / 3 * 2) / (4 - 2.56)
    assert edge_to_centre(vignette) == pytest.approx(
        (1 - 0.2 * border) / (1 - 0.2 * 2 * 0.04 / 3), abs=0.01
    )


def test_where_outer_wells_are_empty_the_edge_is_that_of_the_wells_in_use() -> None:
    table = whole_plates()
    inner = table[table["row"].between(1, 6) & table["column"].between(1, 10)]
    found = edge_effect(Measured("x", inner), (8, 12))
    assert found["text"].startswith("no edge effect seen (4 control wells at the edge of the wells")
    outer = inner["row"].isin([1, 6]) | inner["column"].isin([1, 10])
    found = edge_effect(Measured("x", inner.assign(value=inner["value"] - 3.0 * outer)), (8, 12))
    assert found["is_seen"]
    assert found["text"].startswith("edge effect: at the edge of the wells in use lower by")


def test_of_few_wells_nothing_is_said_of_the_edge() -> None:
    table = whole_plates(num=1)
    few = table[table["row"].between(3, 4) & table["column"].between(3, 6)]
    text = edge_effect(Measured("x", few), (8, 12))["text"]
    assert text == "8 of 8 wells at the edge of the wells in use, so an edge effect can't be told"


def test_wells_have_the_shade_of_their_value_and_controls_a_dot() -> None:
    own = pd.DataFrame(
        {
            "plate": "a<b",
            "row": [0, 1, 2],
            "column": [0, 1, 2],
            "value": [-5.0, 0.5, 9.0],
            "is_control": [False, True, False],
        }
    )
    svg = plate_svg(own, (8, 12), (0.0, 1.0), "x")
    found = dict(re.findall(r'class="step-(\d)" d="(M[^"]*)"', svg))
    assert {step: path.split("h")[0] for step, path in found.items()} == {
        "0": "M0 0",
        "4": "M1 1",
        "7": "M2 2",
    }
    assert 'class="control" d="M1.5 1h.01"' in svg
    assert 'data-plate="a&lt;b"' in svg
    assert "highest 9 in C03" in svg


def test_wells_next_to_each_other_are_one_line_and_every_well_is_drawn_once() -> None:
    own = whole_plates(1)
    own = own[(own["row"] != 3) | (own["column"] != 4)].sample(frac=1, random_state=0)
    svg = plate_svg(own.assign(value=np.where(own["row"] < 4, 0.0, 1.0)), (8, 12), (0.0, 1.0), "x")
    found = dict(re.findall(r'class="step-(\d)" d="([^"]*)"', svg))
    assert found["0"] == "M0 0h12M0 1h12M0 2h12M0 3h4M5 3h7"
    assert found["7"] == "".join(f"M0 {row}h12" for row in range(4, 8))
    svg = plate_svg(own, (8, 12), (-1.0, 1.0), "x")
    drawn = [
        (int(row), int(column) + n)
        for path in re.findall(r'class="step-\d" d="([^"]*)"', svg)
        for column, row, length in re.findall(r"M(\d+) (\d+)h(\d+)", path)
        for n in range(int(length))
    ]
    assert sorted(drawn) == sorted(zip(own["row"], own["column"], strict=True))


def test_measures_are_those_that_are_known(tmp_path) -> None:
    profiles = pd.read_parquet(make_run(tmp_path / "run", num_steps=0) / "profiles.parquet")
    sites = make_sites(profiles, num_sites=2)
    store = make_screen(sites)
    assert [measure["name"] for measure in plates(None, store)["measures"]] == [
        "Mean intensity, DAPI",
        "Mean intensity, Tubulin",
        "Mean intensity, Actin",
    ]
    store.manifest["Metadata_QC_Focus_DAPI"] = np.arange(len(sites), dtype=float)
    found = plates(sites, store)
    names = [measure["name"] for measure in found["measures"]]
    assert names == ["Distance to controls", "Focus DAPI"]
    focus, wells = found["measures"][1], found["wells"]
    assert focus["data"]["name"] == "Focus DAPI"
    # Two sites a well, a plate's 12 wells apart.
    assert focus["data"]["values"][0] == 6.0
    assert (wells["plates"][wells["plate"][0]], wells["well"][0]) == ("P/1", "B02")
    assert len(focus["data"]["values"]) == len(wells["plate"]) == len(wells["well"]) == 24
    assert [name for name, _ in focus["plates"]] == ["P/1", "P/2"]
    with pytest.raises(Omitted, match="neither normalised sites nor a store"):
        plates(None, None)
