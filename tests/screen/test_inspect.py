"""`wsdino inspect`: what is there, before anything is converted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from helpers_run import call
from helpers_screen import write_bbbc021_folder
from wsdino.errors import TableError
from wsdino.inspection import MODEL, inspect
from wsdino.report.survey import survey_lines

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_bbbc021_folder(tmp_path_factory.mktemp("inspect") / "screen", size=(64, 96))
    images = sorted((path / "Week1" / "Week1_10001").glob("*.tif"))
    images[0].unlink()
    tifffile.imwrite(images[4], np.zeros((32, 96), np.uint16))
    images[-1].write_bytes(b"II*\0")
    (path / "Week1" / "overview.tif").write_bytes(b"")
    (path / "Week1" / "notes.txt").write_text("no image", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def found(screen: Path) -> dict[str, Any]:
    return inspect(screen, workers=1)


def test_plates_wells_sites_and_channels(found: dict[str, Any]) -> None:
    assert (found["batches"], found["plates"], found["wells"], found["sites"]) == (2, 4, 36, 71)
    assert found["sites_per_well"] == [1, 2, 2]
    assert found["channels"] == ["DAPI", "Tubulin", "Actin"]


def test_files_are_counted_and_named(found: dict[str, Any], screen: Path) -> None:
    images = found["images"]
    assert images["files"] == 71 * 3
    kinds = {kind["kind"]: kind["files"] for kind in images["kinds"]}
    # Two channels of the site whose third is missing are not looked at.
    assert kinds == {"96 x 64 uint16": 71 * 3 - 2, "96 x 32 uint16": 1}
    assert images["missing"]["count"] == 1
    assert "(channel DAPI, plate Week1_10001, well B02, site 1)" in images["missing"]["first"][0]
    assert images["left_out_sites"] == 1
    assert images["unreadable"]["count"] == 1
    assert "damaged or incomplete" in images["unreadable"]["first"][0]
    assert str(screen / "Week1" / "overview.tif") in images["unnamed"]["first"]
    # Two images of the site that is left out, and one that is none of the screen's.
    assert images["unnamed"]["count"] == 3


def test_treatments_controls_and_replicates(found: dict[str, Any]) -> None:
    assert (found["compounds"], found["treatments"]) == (8, 14)
    assert (found["annotated_compounds"], found["mechanisms"]) == (6, 3)
    assert found["controls"]["compounds"] == ["DMSO"]
    assert (found["controls"]["wells"], found["controls"]["sites"]) == (8, 16)
    assert found["controls"]["plates_without"]["count"] == 0
    assert found["replicates"] == {"wells": [2, 2, 2], "plates": [2, 2, 2], "batches": [1, 1, 1]}


def test_partners_for_each_possible_weak_label(found: dict[str, Any]) -> None:
    rows = {row["label"]: row for row in found["labels"]}
    assert list(rows) == ["compound", "treatment", "Metadata_MoA", "Metadata_Replicate"]
    assert rows["compound"]["values"] == 8
    # 7 treated wells of 2 sites on 4 plates, but for one site.
    assert rows["compound"]["sites"] == 55
    assert rows["treatment"]["values"] == 14
    for label in ("compound", "treatment"):
        assert rows[label]["with_partner_on_another_plate"] == 55
        assert rows[label]["with_partner_on_another_batch"] == 0
    assert rows["Metadata_MoA"]["with_partner_on_another_batch"] == 47
    assert rows["Metadata_MoA"]["sites"] == 47


def test_size_and_cost(found: dict[str, Any]) -> None:
    assert found["store_bytes"] == 71 * 3 * 64 * 96 * 2
    rows = {row["preset"]: row for row in found["presets"]}
    assert set(rows) == {"cpu", "default", "demo", "imagenet", "paper"}
    assert "a crop of 224 px does not fit fields" in rows["default"]["unfit"]
    cpu = rows["cpu"]
    # 16 epochs of the model and of its classifier; 55 sites to train on.
    assert cpu["images_seen"] == 32 * 55
    assert cpu["fields_bytes"] == found["store_bytes"]
    # By hand: 4 blocks of 24 d^2 n + 4 d n^2 with d = 128 and n = 65 or 17 tokens for each of three
    # channels, and what stem and norms add.
    blocks = [3 * 4 * (24 * 128**2 * n + 4 * 128 * n**2) for n in (65, 17)]
    model, classifier = 2 * 4 * blocks[0] + 2 * 3 * blocks[1], 2 * 3 * blocks[0]
    by_hand = 55 * 16 * (model + classifier)
    assert by_hand < cpu["flop"] < 1.6 * by_hand
    assert cpu["cpu_hours"] == pytest.approx(cpu["flop"] / cpu["cpu_cores"] / 100e9 / 3600)
    assert found["model"] == MODEL


def test_what_is_printed(
    screen: Path,
    found: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    lines = list(survey_lines(found))
    assert lines[0].endswith(
        "2 batches, 4 plates, 36 wells, 71 sites (1 to 2, 2 per well), channels DAPI, Tubulin, "
        "Actin"
    )
    assert "  missing: 1; sites that lack some: 1" in lines
    assert any("ingest will refuse this" in line for line in lines)
    assert call(monkeypatch, "inspect", screen, "--json", "--workers", 1) == 0
    assert json.loads(capfd.readouterr().out) == json.loads(json.dumps(found))
    assert call(monkeypatch, "inspect", screen, "--control", "unknown 1") == 0
    out = capfd.readouterr().out
    assert "controls: unknown 1; 2 wells, 4 sites" in out
    assert "plates without controls: 2" in out
    assert "weak label" in out
    assert "estimates, right within a factor of three" in out
    assert not list(screen.parent.glob("store*"))


def test_a_source_that_is_no_screen_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="this folder is not a screen"):
        inspect(tmp_path)
