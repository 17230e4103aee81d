"""Each planted error is said, on one small simulated screen, and nothing is said of clean ones.

`benchmarks/planted.py` counts on thirty screens.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import tifffile

from helpers_planted import PLANTED, Planted, in_8_bit, redrawn, with_labels_moved
from helpers_screen import write_bbbc021_folder
from wsdino.screen.check.evidence import Evidence, Finding
from wsdino.screen.check.stored import (
    evidence_of,
    findings_of,
    measures_of,
    quality_columns,
    warnings_of,
)
from wsdino.screen.check.table import CHECKS, MOST_LINES, lines, run_checks
from wsdino.screen.check.wells import SHIFTS
from wsdino.screen.ingest import ingest
from wsdino.screen.measures import NUM_BANDS
from wsdino.screen.store import Store, open_store
from wsdino.simulate import simulate

if TYPE_CHECKING:
    from pathlib import Path

PLATE = "Week2_201"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("clean")
    simulate(folder / "screen", layout="small", size=96, sites=2, seed=300, workers=1)
    return ingest(folder / "screen", folder / "store", workers=1)


@pytest.fixture(scope="module")
def clean(store: Store) -> Evidence:
    return evidence_of(store)


def test_nothing_is_said_of_clean_screens(clean: Evidence, tmp_path: Path) -> None:
    assert run_checks(clean) == []
    tiny = ingest(write_bbbc021_folder(tmp_path / "tiny"), tmp_path / "store", workers=1)
    assert findings_of(tiny) == []


@pytest.mark.parametrize("planted", PLANTED, ids=lambda each: each.name)
def test_a_planted_error_is_said(planted: Planted, store: Store, clean: Evidence) -> None:
    found = run_checks(planted.plant(clean, store, PLATE, np.random.default_rng(0)))
    said = [each for each in found if each.check == planted.check]
    assert said, found
    assert all(PLATE in each.text and "\n" not in each.text for each in said)


def resized(evidence: Evidence, plate: str, octaves: float) -> Evidence:
    """Measures of a plate whose cells are larger."""
    measures, rows = evidence.measures.copy(), evidence.plates[plate]
    measures["extent"][rows] *= 2**octaves
    bands = np.arange(NUM_BANDS)
    measures["spectrum"][rows] = np.apply_along_axis(
        lambda spectrum: np.interp(bands - 2 * octaves, bands, spectrum),
        2,
        measures["spectrum"][rows],
    )
    return replace(evidence, measures=measures)


def test_a_plate_is_compared_with_its_batch_whose_cells_are_smaller(clean: Evidence) -> None:
    both = (PLATE, "Week2_202")

    def said(*octaves: float) -> list[str]:
        evidence = clean
        for plate, one in zip(both, octaves, strict=True):
            evidence = resized(evidence, plate, one)
        return [each.text for each in run_checks(evidence) if each.check == "magnification"]

    assert said(-0.2, -0.2) == []
    # As far from all others, neither is said where the other of its batch goes along, or stays.
    assert said(0.35, 0.35) == []
    assert said(0.35, 0.0) == []
    (found,) = said(0.35, -0.2)
    assert found.startswith(f"plate {PLATE}: what DAPI shows is 1.3 times as large as on the other")


def test_every_check_has_a_planted_error() -> None:
    assert {planted.check for planted in PLANTED} == {check.name for check in CHECKS}


def test_swapped_channels_are_named(store: Store, clean: Evidence) -> None:
    swap = next(planted for planted in PLANTED if planted.check == "swapped")
    (found,) = [
        each
        for each in run_checks(swap.plant(clean, store, PLATE, np.random.default_rng(1)))
        if each.check == "swapped"
    ]
    one, other = np.random.default_rng(1).choice(3, 2, replace=False)
    names = {clean.channels[one], clean.channels[other]}
    assert {name for name in clean.channels if f"{name} looks like" in found.text} < names
    assert all(name in found.text for name in names)


def test_labels_are_moved_back_where_they_belong(clean: Evidence) -> None:
    said = run_checks(with_labels_moved(clean, PLATE))
    (found,) = (each for each in said if each.check == "shifted labels")
    # Its only replicate may as well be the wrong one, the other way round.
    assert "plate Week2_201" in found.text
    assert "plate Week2_202" in found.text
    assert "if its labels are moved" in found.text


def test_shifts_undo_each_other() -> None:
    places = [(row, column) for row in range(1, 7) for column in range(1, 11)]
    for shift in SHIFTS:
        there, back = shift.wells(places), SHIFTS[shift.inverse].wells(places)
        for place, target in there.items():
            if target in back:
                assert back[target] == place


def test_8_bit_data_under_a_scaling_for_16_bit(store: Store, clean: Evidence) -> None:
    everything = redrawn(clean, store, np.arange(len(store)), in_8_bit)
    (found,) = [each for each in run_checks(everything) if each.check == "value range"]
    assert "no pixel is above 255: 8-bit data in 16-bit images" in found.text
    under = [
        each.text
        for each in run_checks(replace(everything, scaling=(0.0, 10_000.0)))
        if each.check == "value range"
    ]
    assert len(under) == 3
    assert all("8-bit data under a scaling for brighter images" in text for text in under)
    # The same scaling suits 16 bits, and one that fits suits 8.
    assert not run_checks(replace(clean, scaling=(0.0, 10_000.0)))
    fitting = run_checks(replace(everything, scaling=(0.0, 255.0)))
    assert "value range" not in {each.check for each in fitting}


def test_many_findings_of_a_kind_are_counted() -> None:
    findings = [Finding("blank", f"plate {number}") for number in range(MOST_LINES + 3)]
    told = lines([*findings, Finding("swapped", "plate 9")])
    assert told[:2] == ["blank: plate 0", "blank: plate 1"]
    assert told[MOST_LINES:] == ["blank: 3 more like these", "swapped: plate 9"]


@pytest.fixture
def screen(tmp_path: Path) -> Path:
    return write_bbbc021_folder(tmp_path / "screen")


def blacken(screen: Path, folder: str = "Week1/Week1_10001") -> dict[Path, bytes]:
    """Replace a channel of a plate; return the files' contents of before."""
    before = {path: path.read_bytes() for path in sorted((screen / folder).glob("*_w2*.tif"))}
    for path in before:
        tifffile.imwrite(path, np.zeros((64, 64), np.uint16))
    return before


def test_ingest_says_it_and_keeps_it(screen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = blacken(screen)
    assert len(before) == 18
    out = screen.parent / "store"
    store = ingest(screen, out, workers=1)
    text = "plate Week1_10001, Tubulin: black, every pixel is 0, in every site"
    assert f"{out}: warning: blank: {text}\n" in capsys.readouterr().err
    record = json.loads((out / "check.json").read_text(encoding="utf-8"))
    assert record["findings"] == [{"check": "blank", "text": text}]
    assert findings_of(store) == [Finding("blank", text)]
    # It is said again of a finished store, and no more once the images are right.
    ingest(screen, out, workers=1)
    assert text in capsys.readouterr().err
    for path, content in before.items():
        path.write_bytes(content)
    mended = ingest(screen, out, workers=1)
    assert "warning" not in capsys.readouterr().err
    assert findings_of(mended) == []


def test_the_manifest_has_the_quality_of_each_site(screen: Path) -> None:
    out = screen.parent / "store"
    first = min((screen / "Week1" / "Week1_10001").glob("*_B02_s1_w1*.tif"))
    image = tifffile.imread(first)
    image[:32] = 4095
    tifffile.imwrite(first, image.clip(0, 4095))
    store = ingest(screen, out, workers=1)
    manifest = store.manifest
    assert set(quality_columns(store.channels)) <= set(manifest)
    row = manifest[manifest["FileName_DAPI"] == first.name].iloc[0]
    assert row["Metadata_QC_Saturation_DAPI"] == pytest.approx(0.5, abs=0.01)
    assert row["Metadata_QC_Intensity_DAPI"] == pytest.approx(image.clip(0, 4095).mean())
    assert manifest["Metadata_QC_Saturation_Actin"].eq(0).all()
    assert manifest["Metadata_QC_Focus_DAPI"].between(0, 1).all()
    # Nothing is written where nothing has changed.
    before = (out / "manifest.parquet").stat().st_mtime_ns
    ingest(screen, out, workers=1)
    assert (out / "manifest.parquet").stat().st_mtime_ns == before


def test_a_store_of_an_earlier_version_is_measured(screen: Path) -> None:
    blacken(screen)
    out = screen.parent / "store"
    new = measures_of(ingest(screen, out, workers=1))
    manifest = pd.read_parquet(out / "manifest.parquet")
    manifest.drop(columns=quality_columns(("DAPI", "Tubulin", "Actin"))).to_parquet(
        out / "manifest.parquet"
    )
    (out / "measures.npy").unlink()
    (out / "check.json").unlink()
    old = open_store(out)
    assert ["black" in line for line in warnings_of(old)] == [True]
    assert np.load(out / "measures.npy").tobytes() == new.tobytes()
    assert set(quality_columns(old.channels)) <= set(ingest(screen, out, workers=1).manifest)
