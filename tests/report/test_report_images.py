from __future__ import annotations

import base64
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from wsdino.report.images import composite, data_uri, example_sites, middle, stretch
from wsdino.report.style import BLUE, YELLOW


def test_stretch_maps_percentiles_to_zero_and_one() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(100, 60000, (2, 50, 40)).astype(np.uint16)
    out = stretch(image)
    for channel, result in zip(image.astype(float), out, strict=True):
        low, high = np.percentile(channel, [0.5, 99.7])
        expected = [[min(max((p - low) / (high - low), 0), 1) for p in row] for row in channel]
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_stretch_ignores_gain_and_offset_and_survives_flat_channels() -> None:
    image = np.random.default_rng(0).integers(0, 200, (1, 9, 9)).astype(np.uint16)
    np.testing.assert_allclose(stretch(image), stretch(image * 7 + 1000), atol=1e-6)
    assert not stretch(np.full((1, 4, 4), 9, np.uint8)).any()


@pytest.mark.parametrize(("channel", "colour"), [("DAPI", BLUE), ("Tubulin", YELLOW)])
def test_composite_shows_a_channel_in_its_colour(
    channel: str, colour: tuple[float, float, float]
) -> None:
    channels = ("Actin", "DAPI", "Tubulin")
    image = np.zeros((3, 8, 8), np.uint16)
    image[channels.index(channel), 2:4, 5] = 5000
    picture = composite(image, channels)
    assert picture.shape == (8, 8, 3)
    assert picture.dtype == np.uint8
    assert picture[2, 5].tolist() == [round(255 * share) for share in colour]
    assert picture[0, 0].tolist() == [0, 0, 0]


def test_middle_is_a_centred_square() -> None:
    image = np.arange(2 * 10 * 7).reshape(2, 10, 7)
    np.testing.assert_array_equal(middle(image, 5), image[:, 2:7, 1:6])
    assert middle(image, 100).shape == (2, 7, 7)


def test_data_uri_is_a_small_jpeg_of_the_picture() -> None:
    picture = np.full((300, 600, 3), (10, 200, 90), np.uint8)
    head, body = data_uri(picture, max_px=120).split(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(body))) as back:
        assert back.size == (120, 60)
        assert np.abs(np.asarray(back).astype(int) - picture[0, 0]).max() < 6


def sites() -> pd.DataFrame:
    rows = [
        (compound, dose, plate, well)
        for compound, doses in (("a", (1.0, 2.0)), ("b", (1.0,)))
        for dose in doses
        for plate in ("p1", "p2")
        for well in ("B02", "B03")
        for _ in range(2)
    ]
    names = ["Metadata_Compound", "Metadata_Concentration", "Metadata_Plate", "Metadata_Well"]
    return pd.DataFrame(rows, columns=names, index=range(100, 100 + len(rows)))


def test_examples_spread_over_compounds_then_treatments_then_plates_then_wells() -> None:
    frame = sites()
    chosen = example_sites(frame, num=6)
    assert len(set(chosen)) == 6
    picked = frame.iloc[chosen]
    assert picked["Metadata_Compound"].iloc[:2].tolist() == ["a", "b"]
    assert picked["Metadata_Compound"].value_counts().to_dict() == {"a": 3, "b": 3}
    a = picked[picked["Metadata_Compound"] == "a"]
    assert set(a["Metadata_Concentration"]) == {1.0, 2.0}
    b = picked[picked["Metadata_Compound"] == "b"]
    assert b["Metadata_Plate"].tolist()[:2] == ["p1", "p2"]
    assert b["Metadata_Well"].iloc[2] != b["Metadata_Well"].iloc[0]


def test_examples_are_never_more_than_there_are() -> None:
    frame = sites()
    assert sorted(example_sites(frame, num=99)) == list(range(len(frame)))
    assert example_sites(frame.iloc[:0], num=3) == []
    assert example_sites(frame[[]], num=2) == [0, 1]
