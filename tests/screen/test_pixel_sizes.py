"""The width of a pixel, wherever a screen says it, and what becomes of it in a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

from helpers_layouts import (
    tagged,
    wells,
    write_cellvoyager,
    write_harmony,
    write_jdce,
    write_omezarr,
)
from helpers_screen import write_bbbc021_folder
from wsdino.errors import InputError, TableError
from wsdino.screen.ingest import ingest
from wsdino.screen.lengths import pixel_size
from wsdino.screen.manifest import read_manifest
from wsdino.screen.pixel_sizes import pixel_size_of
from wsdino.screen.survey import survey

METASERIES = """<MetaData><PlaneInfo>
<prop id="spatial-calibration-state" type="bool" value="{state}"/>
<prop id="spatial-calibration-x" type="float" value="0.6451"/>
<prop id="spatial-calibration-y" type="float" value="0.6451"/>
<prop id="spatial-calibration-units" type="string" value="um"/>
</PlaneInfo><SetInfo></SetInfo></MetaData>"""


@pytest.mark.parametrize(
    ("length", "unit", "expected"),
    [
        ("2.9e-07", "m", 0.29),
        (325, "nm", 0.325),
        (0.5, "\N{MICRO SIGN}m", 0.5),
        (0.5, "\N{GREEK SMALL LETTER MU}m", 0.5),
        (0.5, "Micrometer", 0.5),
        # A placeholder, no unit, no number, and the pitch of dots on paper.
        (1.0, "pixel", None),
        (1.0, None, None),
        ("", "um", None),
        (float("nan"), "um", None),
        (0.0352, "cm", None),
    ],
)
def test_lengths_are_in_micrometres_or_unknown(
    length: object, unit: object, expected: float | None
) -> None:
    assert pixel_size(length, unit) == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ome": True, "metadata": {"PhysicalSizeX": 0.65, "PhysicalSizeXUnit": "µm"}}, 0.65),
        ({"ome": True, "metadata": {"PhysicalSizeX": 650, "PhysicalSizeXUnit": "nm"}}, 0.65),
        ({"ome": True}, None),
        ({"imagej": True, "resolution": (2, 2), "metadata": {"unit": "um"}}, 0.5),
        ({"imagej": True, "resolution": (2, 2)}, None),
        ({"metadata": None, "resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}, 0.5),
        ({"metadata": None, "resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({"metadata": None}, None),
        ({"metadata": None, "description": METASERIES.format(state="on")}, 0.6451),
        ({"metadata": None, "description": METASERIES.format(state="off")}, None),
    ],
)
def test_what_a_tiff_says(tmp_path: Path, options: dict[str, Any], expected: float | None) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, tagged(1), **options)
    assert pixel_size_of(path) == (None if expected is None else pytest.approx(expected))


def test_a_damaged_or_missing_image_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "image.tif").write_bytes(b"II*\0\xff\xff\xff\xff")
    assert pixel_size_of(tmp_path / "image.tif") is None
    assert pixel_size_of(tmp_path / "none.tif") is None
    assert pixel_size_of(tmp_path / "image.png") is None


def test_omezarr_multiplies_its_scales_and_needs_a_unit(tmp_path: Path) -> None:
    sites = pd.DataFrame({"Metadata_Plate": ["P"], "Metadata_Well": ["B02"], "Metadata_Site": [1]})
    pixels = np.ones((1, 3, 8, 12), np.uint16)
    write_omezarr(tmp_path / "P.zarr", sites, pixels, "0.4")
    image = zarr.open_group(tmp_path / "P.zarr/B/2/1", mode="r+")
    assert pixel_size_of(tmp_path / "P.zarr/B/2/1") is None
    (scales,) = image.attrs.asdict()["multiscales"]
    scale = {"type": "scale", "scale": [1.0, 1.0, 1.0, 0.7, 0.65]}
    scales["datasets"][0]["coordinateTransformations"] = [scale]
    image.attrs["multiscales"] = [scales]
    assert pixel_size_of(tmp_path / "P.zarr/B/2/1") is None
    scales["axes"][4]["unit"] = "micrometer"
    scales["coordinateTransformations"] = [{"type": "scale", "scale": [1.0, 1.0, 1.0, 2.0, 2.0]}]
    image.attrs["multiscales"] = [scales]
    assert pixel_size_of(tmp_path / "P.zarr/B/2/1") == pytest.approx(1.3)
    read = read_manifest(tmp_path / "P.zarr", platemap=wells("B02", "B03"))
    assert read["Metadata_PixelSize"].tolist() == pytest.approx([1.3])


@pytest.mark.parametrize("version", [5, 6])
def test_harmony_says_it_in_metres(tmp_path: Path, version: int) -> None:
    folder = write_harmony(tmp_path / "harmony", version)
    index = folder / "Images/Index.idx.xml"
    width = '<ImageResolutionX Unit="m">5.9772E-07</ImageResolutionX>'
    before = "</Image>" if version == 5 else "</Entry>"
    index.write_text(
        index.read_text(encoding="utf-8").replace(before, width + before), encoding="utf-8"
    )
    read = read_manifest(folder, platemap=wells("A02", "P24"))
    assert read["Metadata_PixelSize"].tolist() == pytest.approx([0.59772] * len(read))


def test_cellvoyager_and_imagexpress_say_it_in_micrometres(tmp_path: Path) -> None:
    folder = write_cellvoyager(tmp_path / "yokogawa")
    detail = folder / "MeasurementDetail.mrf"
    given = 'bts:HorizontalPixelDimension="0.325" bts:Ch='
    detail.write_text(
        detail.read_text(encoding="utf-8").replace("bts:Ch=", given), encoding="utf-8"
    )
    read = read_manifest(folder, platemap=wells("B06", "C11"))
    assert set(read["Metadata_PixelSize"]) == {0.325}

    folder = write_jdce(tmp_path / "imagexpress", steps=1)
    stack = json.loads((folder / "scan.jdce").read_text(encoding="utf-8"))
    protocol = stack["ImageStack"]["AutoLeadAcquisitionProtocol"]
    protocol["ObjectiveCalibration"] = {"PixelWidth": 0.345}
    for binning, expected in ((None, {0.345}), ("1 X 1", {0.345}), ("2 X 2", None)):
        protocol["Camera"] = {} if binning is None else {"Binning": binning}
        (folder / "scan.jdce").write_text(json.dumps(stack), encoding="utf-8")
        read = read_manifest(folder, platemap=wells("B07", "B08"))
        assert (set(read["Metadata_PixelSize"]) if expected else None) == expected
        assert ("Metadata_PixelSize" in read) == bool(expected)


@pytest.fixture
def screen(tmp_path: Path) -> Path:
    """A screen that doesn't say it."""
    return write_bbbc021_folder(tmp_path / "screen", size=(48, 65))


def test_halved_images_have_pixels_of_twice_the_width(tmp_path: Path, screen: Path) -> None:
    store = ingest(screen, tmp_path / "halved", scale=0.5, pixel_size=0.5, workers=1)
    # 65 px become 32, not 32.5.
    assert store.field_shape == (24, 32)
    np.testing.assert_allclose(store.pixel_sizes, 0.5 * 65 / 32)
    whole = ingest(screen, tmp_path / "whole", pixel_size=0.5, workers=1)
    np.testing.assert_array_equal(whole.pixel_sizes, 0.5)


def test_a_store_of_which_nothing_is_known_learns_it_later_and_keeps_it(
    tmp_path: Path, screen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ingest(screen, tmp_path / "store", workers=1)
    assert np.isnan(store.pixel_sizes).all()
    assert "Metadata_PixelSize" not in store.manifest
    store = ingest(screen, tmp_path / "store", pixel_size=0.8, workers=1)
    assert set(store.pixel_sizes) == {0.8}
    assert "Metadata_PixelSize (new)" in capsys.readouterr().err
    assert set(ingest(screen, tmp_path / "store", workers=1).pixel_sizes) == {0.8}


def test_what_the_user_gives_takes_precedence_and_is_said(
    screen: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = read_manifest(screen, pixel_size=0.6)
    read = read_manifest(table, pixel_size=0.5)
    assert set(read["Metadata_PixelSize"]) == {0.5}
    assert "0.5 µm wide, as given, although the screen says 0.6 µm" in capsys.readouterr().err


def test_each_plate_is_as_its_first_image_says(screen: Path) -> None:
    table = read_manifest(screen)
    first = table.groupby("Metadata_Plate", sort=False).head(1)
    path = Path(first["PathName_DAPI"].iloc[1], first["FileName_DAPI"].iloc[1])
    size = (20000, 20000)
    tifffile.imwrite(path, tifffile.imread(path), resolution=size, resolutionunit="CENTIMETER")
    read = read_manifest(screen)
    is_on_it = read["Metadata_Plate"] == first["Metadata_Plate"].iloc[1]
    np.testing.assert_array_equal(read["Metadata_PixelSize"], np.where(is_on_it, 0.5, np.nan))
    assert survey(screen).facts["pixel_sizes"] == [0.5]


def test_a_table_gives_it_for_each_site_and_is_checked(tmp_path: Path, screen: Path) -> None:
    table = read_manifest(screen)
    table["pixel_size_um"] = ["0.5", *["0.25"] * (len(table) - 1)]
    path = tmp_path / "manifest.csv"
    table.to_csv(path, index=False)
    read = read_manifest(path)
    assert read["Metadata_PixelSize"].tolist() == [0.5] + [0.25] * (len(table) - 1)
    table["pixel_size_um"] = "325"
    table.to_csv(path, index=False)
    with pytest.raises(TableError, match=r"Metadata_PixelSize is '325' .* micrometres, 0\.01 to"):
        read_manifest(path)
    with pytest.raises(InputError, match="pixel size 325: expected the width"):
        read_manifest(screen, pixel_size=325)
