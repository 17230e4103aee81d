"""Harmony's measurements, and the polynomials by which it found the light to be uneven."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from helpers_layouts import SIZE, profile_of, tags_of, write_harmony
from wsdino.errors import InputError, TableError
from wsdino.screen.ingest import ingest
from wsdino.screen.layouts.harmony import flat_field
from wsdino.screen.layouts.xml import parse
from wsdino.screen.manifest import read_manifest
from wsdino.screen.selection import Selection

if TYPE_CHECKING:
    from pathlib import Path

WELLS = pd.DataFrame(
    {
        "Metadata_Well": ["A02", "P24"],
        "Metadata_Compound": ["DMSO", "x"],
        "Metadata_MoA": [None, "m"],
    }
)


@pytest.mark.parametrize(
    ("version", "name"), [(5, "Index.idx.xml"), (6, "Index.idx.xml"), (7, "Index.xml")]
)
@pytest.mark.parametrize("where", ["", "Images", "index", ".."])
def test_every_version_from_every_place(
    tmp_path: Path, version: int, name: str, where: str
) -> None:
    folder = write_harmony(tmp_path / "BR1__2021-05-02T16_02_51-Measurement1", version, name=name)
    source = folder / "Images" / name if where == "index" else folder / where
    found = read_manifest(source, platemap=WELLS)
    assert tags_of(found) == [[111, 112], [211, 212], [1111, 1112], [1211, 1212]]
    assert found["Metadata_Plate"].unique().tolist() == ["BR1"]
    assert found["Metadata_Well"].tolist() == ["A02", "A02", "P24", "P24"]
    assert found["Metadata_Site"].tolist() == [1, 2, 1, 2]
    channels = [n.removeprefix("FileName_") for n in found if n.startswith("FileName_")]
    assert channels == ["HOECHST 33342", "Alexa 488"]


def test_planes_and_time_points(tmp_path: Path) -> None:
    folder = write_harmony(tmp_path / "m", 5, planes=3, times=2)
    with pytest.raises(
        TableError, match=r"3 z planes \(1, 2, 3\); choose one, as --z 1 or, for the max"
    ):
        read_manifest(folder, platemap=WELLS)
    with pytest.raises(TableError, match=r"2 time points \(0, 1\); choose one, as --time 0"):
        read_manifest(folder, platemap=WELLS, selection=Selection(z=1))
    found = read_manifest(folder, platemap=WELLS, selection=Selection(z=2, time=1))
    assert tags_of(found) == [[171, 172], [271, 272], [1171, 1172], [1271, 1272]]
    found = read_manifest(folder, platemap=WELLS, selection=Selection(z="max", time=0))
    assert tags_of(found) == [[131, 132], [231, 232], [1131, 1132], [1231, 1232]]


def naive(coefficients: list[list[float]]) -> np.ndarray:
    height, width = SIZE
    function = np.zeros(SIZE)
    for row in range(height):
        for column in range(width):
            x, y = (column - (width - 1) / 2) * 0.1, (row - (height - 1) / 2) * 0.2
            for terms in coefficients:
                for power, coefficient in enumerate(terms):
                    function[row, column] += coefficient * x ** (len(terms) - 1 - power) * y**power
    return function


COEFFICIENTS = [[1.2], [0.07, -0.09], [-0.4, 0.2, -0.5], [0.1, 0.2, -0.4, 0.1]]


def test_flat_field_polynomials_divide_the_images(tmp_path: Path) -> None:
    one, two = (
        write_harmony(tmp_path / plate, 7, plate=plate, profiles=profiles, start=start)
        for plate, profiles, start in (
            ("BR1", {1: profile_of(COEFFICIENTS)}, 20_000),
            ("BR2", None, 30_000),
        )
    )
    path = one / "Images" / "Index.idx.xml"
    function = flat_field(path, 1, SIZE)
    np.testing.assert_allclose(function, naive(COEFFICIENTS), rtol=1e-6)
    assert np.ptp(function) > 0.2
    np.testing.assert_array_equal(flat_field(path, 2, (3, 4)), np.ones((3, 4)))
    store = ingest(tmp_path, tmp_path / "store", platemap=WELLS)
    assert store.channels == ("HOECHST 33342", "Alexa 488")
    expected = np.rint([20_111 / function[0, 0], 20_112])
    np.testing.assert_array_equal(store[0][:, 0, 0], expected)
    np.testing.assert_array_equal(store[0][0, 2], np.rint(3 / function[2]))
    assert store[4][:, 0, 0].tolist() == [30_111, 30_112]
    plain = ingest(tmp_path, tmp_path / "plain", platemap=WELLS, illumination="none")
    assert plain[0][:, 0, 0].tolist() == [20_111, 20_112]
    # A measurement without any has none.
    alone = read_manifest(two, platemap=WELLS)
    assert not [name for name in alone if "Illum" in name]


def test_the_foreground_s_profile_counts_where_there_is_one(tmp_path: Path) -> None:
    background = profile_of([[9.0]])
    foreground = profile_of([[1.5], [0.5, 0.25]]).replace("Background", "Foreground")
    both = background[:-1] + ", " + foreground[1:]
    folder = write_harmony(tmp_path / "m", 5, profiles={1: both, 2: background})
    path = folder / "Images" / "Index.idx.xml"
    np.testing.assert_allclose(flat_field(path, 1, SIZE), naive([[1.5], [0.5, 0.25]]), rtol=1e-6)
    np.testing.assert_allclose(flat_field(path, 2, SIZE), 9)


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = "r01c02f02p01-ch1sk1fk1fl1.tiff"
    folder = write_harmony(tmp_path / "m", 5, failed=(failed,))
    with pytest.raises(TableError, match="column FileName_HOECHST 33342 is empty in data row 2"):
        read_manifest(folder, platemap=WELLS)
    assert "1 image left out (marked as failed)" in capsys.readouterr().err
    write_harmony(tmp_path / "again", 5)
    with pytest.raises(TableError, match=r"is of plate BR1, as .* is; read one of them alone"):
        read_manifest(tmp_path, platemap=WELLS)
    index = folder / "Images" / "Index.idx.xml"
    whole = index.read_text(encoding="utf-8")
    for text, line in (
        ("<EvaluationInputData/>", "lists no images"),
        (whole[:300], "damaged XML: "),
        (whole.replace("<Row>1</Row>", "", 1), "image 111 lacks a URL, Row, Col, FieldID or"),
        (
            whole.replace("f02p01-ch1", "f01p01-ch1").replace("<FieldID>2<", "<FieldID>1<"),
            "both the",
        ),
        ('<!DOCTYPE a [<!ENTITY b "c">]>' + whole.partition("?>")[2], "declares a document type"),
    ):
        index.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=line) as caught:
            read_manifest(folder, platemap=WELLS)
        assert str(caught.value).startswith(str(index))
        assert "\n" not in str(caught.value)


def test_a_profile_of_another_size_is_refused(tmp_path: Path) -> None:
    profile = profile_of([[1.0]], size=(12, 16))
    folder = write_harmony(tmp_path / "m", 5, profiles={1: profile})
    with pytest.raises(InputError, match="function is 12 x 16, and the images are 6 x 8 px"):
        ingest(folder, tmp_path / "store", platemap=WELLS)


def test_entities_are_refused(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><x>&b;</x>'
    (tmp_path / "bomb.xml").write_text(bomb, encoding="utf-8")
    with pytest.raises(TableError, match=r"bomb.xml: declares a document type"):
        parse(tmp_path / "bomb.xml")
    (tmp_path / "plain.xml").write_text(
        '<a:x xmlns:a="u" a:b="1" c="2"><a:y>t</a:y></a:x>', encoding="utf-8"
    )
    root = parse(tmp_path / "plain.xml")
    assert (root.tag, root.attrib, root.findtext("y")) == ("x", {"b": "1", "c": "2"}, "t")
    with pytest.raises(TableError, match=r"none.xml: no such file"):
        parse(tmp_path / "none.xml")
