"""CSV in the dialects that spreadsheets, instruments and other tools write."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from wsdino.errors import TableError
from wsdino.tables.files import column_names, read_file
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    from pathlib import Path

PACKED = gzip.compress(b"abc" * 99, mtime=0)
TEXT = (
    "Metadata_Plate,Metadata_Well, Metadata_Compound,Metadata_Concentration,Metadata_Note,f\n"
    '00123,a1,NA,0.5,"a, b",1.5\n'
    "00124,A002, täxol ,,None,-2\n"
)


def written(path: Path, text: str = TEXT, encoding: str = "utf-8") -> Path:
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def separated(by: str, *, decimal: str = ".") -> str:
    cells = [line.replace('"a, b"', "a & b").split(",") for line in TEXT.splitlines()]
    return "\n".join(by.join(cell.replace(".", decimal) for cell in row) for row in cells) + "\n"


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("t.csv", TEXT, "utf-8"),
        ("t.csv", TEXT, "utf-8-sig"),
        ("t.csv", TEXT, "utf-16"),
        ("t.csv", TEXT, "utf-16-le"),
        ("t.csv", TEXT, "utf-16-be"),
        ("t.csv", TEXT, "latin-1"),
        ("t.csv.gz", TEXT, "utf-8"),
        ("t.csv", TEXT.replace("\n", "\r\n"), "utf-8"),
        ("t.csv", TEXT.replace("\n", "\r"), "utf-8"),
        ("t.csv", "\n\n" + TEXT, "utf-8"),
        ("t.csv", TEXT.replace("\n", ",\n"), "utf-8"),
        ("t.csv", separated(";"), "utf-8"),
        ("t.csv", separated(";", decimal=","), "utf-8"),
        ("t.csv", "sep=;\n" + separated(";"), "utf-8"),
        ("t.csv", separated("\t"), "utf-8"),
        ("t.csv", separated("|"), "utf-8"),
        ("t.tsv", separated("\t"), "utf-16"),
        ("t.txt", separated("\t"), "utf-8"),
        ("t.txt.gz", separated("\t"), "utf-8"),
    ],
)
def test_dialects_are_read_alike(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    table = read_table(written(tmp_path / name, text, encoding))
    assert table["Metadata_Plate"].tolist() == ["00123", "00124"]
    assert table["Metadata_Well"].tolist() == ["A01", "A02"]
    assert table["Metadata_Compound"].tolist() == ["NA", "täxol"]
    np.testing.assert_array_equal(table["Metadata_Concentration"], [0.5, np.nan])
    assert table["Metadata_Note"].tolist()[1] == "None"
    assert table["f"].tolist() == [1.5, -2]
    assert "Metadata_Compound" in {name.strip() for name in column_names(tmp_path / name)}


def test_what_was_guessed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read_file(written(tmp_path / "l.csv", TEXT, "latin-1"))
    assert "l.csv: not UTF-8, so it is read as Windows-1252" in capsys.readouterr().err
    read_file(written(tmp_path / "s.csv", separated(";", decimal=",")))
    assert "decimal commas as points in 2 columns" in capsys.readouterr().err


def test_r_writes_row_names_without_a_name(tmp_path: Path) -> None:
    path = written(tmp_path / "r.csv", '"Metadata_Well","f"\n"1","a1",2\n"2","a2",3\n')
    table = read_table(path)
    assert table["Metadata_Well"].tolist() == ["A01", "A02"]
    assert table["f"].tolist() == [2, 3]


def test_a_row_that_an_unquoted_comma_made_longer_is_refused(tmp_path: Path) -> None:
    """Not taken for one with a row's number, which every row would have."""
    path = tmp_path / "t.csv"
    path.write_text("Metadata_Compound,a,b\n2,4-DNP,0.1,0.2\ntaxol,0.3,0.4\n", encoding="utf-8")
    words = r"the header has 3 cells, data row 1 4 and data row 2 3; cells that hold ',' must be in"
    with pytest.raises(TableError, match=words):
        read_file(path)
    path.write_text("Metadata_Compound,a,b\ntaxol,0.3,0.4\n2,4-DNP,0.1,0.2\n", encoding="utf-8")
    with pytest.raises(TableError, match="Expected 3 fields in line 3, saw 4"):
        read_file(path)


def test_a_quoted_cell_may_come_after_a_space(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        'Metadata_Compound, a\n "2,4-DNP", 0.1\n "x ""y""", 0.2\n , 0.3\n', encoding="utf-8"
    )
    found = read_file(path)
    assert found["Metadata_Compound"].tolist()[:2] == ["2,4-DNP", 'x "y"']
    assert found["Metadata_Compound"].isna().tolist() == [False, False, True]
    assert found["a"].tolist() == [0.1, 0.2, 0.3]


def test_a_point_of_thousands_is_no_decimal_point(tmp_path: Path) -> None:
    text = "Metadata_Compound;Metadata_Concentration;f\nx;0,5;1\ny;1.000;2\n"
    with pytest.raises(TableError, match="Metadata_Concentration is '0,5' in data row 1"):
        read_table(written(tmp_path / "t.csv", text))


def test_commas_in_names_are_no_decimals(tmp_path: Path) -> None:
    text = "Metadata_Compound;Metadata_Plate;f\n2,4;1,5;0,5\n3,4;2,5;1\n"
    table = read_table(written(tmp_path / "t.csv", text))
    assert table["Metadata_Compound"].tolist() == ["2,4", "3,4"]
    assert table["Metadata_Plate"].tolist() == ["1,5", "2,5"]
    assert table["f"].tolist() == [0.5, 1]


def test_a_packed_or_renamed_file_is_known_by_its_contents(tmp_path: Path) -> None:
    (tmp_path / "packed.csv").write_bytes(gzip.compress(TEXT.encode(), mtime=0))
    pd.DataFrame({"Metadata_Plate": [7.0], "f": [1.0]}).to_parquet(tmp_path / "parquet.csv")
    assert read_table(tmp_path / "packed.csv")["Metadata_Plate"].tolist() == ["00123", "00124"]
    assert read_table(tmp_path / "parquet.csv")["Metadata_Plate"].tolist() == ["7"]


def test_parquet_keeps_identifiers_in_an_index_and_numbers_as_text(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "Metadata_Plate": [1053601756.0, 2.0],
            "Metadata_Well": pd.Categorical(["A01", "B02"]),
            "Metadata_Compound": pd.array([7, 8], dtype="Int64"),
            "Metadata_Control": pd.array([True, None], dtype="boolean"),
            "f": [0.25, 0.5],
        }
    )
    table.set_index(["Metadata_Plate", "Metadata_Well"]).to_parquet(tmp_path / "t.parquet")
    found = read_table(tmp_path / "t.parquet")
    assert found["Metadata_Plate"].tolist() == ["1053601756", "2"]
    assert found["Metadata_Well"].tolist() == ["A01", "B02"]
    assert found["Metadata_Compound"].tolist() == ["7", "8"]
    assert found["Metadata_Control"].tolist() == [True, False]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("t.csv.gz", gzip.compress(TEXT.encode() * 1000, mtime=0)[:90], "can't be read as a table"),
        (
            "t.csv.gz",
            gzip.compress(b"abc" * 99, mtime=0)[:12] + b"\xff" * 40,
            "can't be read as a table",
        ),
        ("t.parquet", b"PAR1" + b"\0" * 40, "can't be read as a table"),
        ("t.csv", b"PK\x03\x04" + b"\0" * 40, "an Excel workbook; save the sheet as CSV"),
        ("t.csv", b"a,b\n1,2,3,4\n", "the first row has 4 cells but the header has 2"),
        ("t.csv", b"a,b\n1,2\n1,2,3,4\n", "can't be read as a table"),
        ("t.csv", b"a,b,a\n1,2,3\n", "two columns are named a; column names must be unique"),
        ("t.csv", b"\n\n", "it is empty"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TableError, match=words) as caught:
        read_table(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plain_file_is_read_as_any_other(tmp_path):
    """Whether it is parsed where it lies or from memory, with letters across the blocks' ends."""
    rows = [f"P{i},A01,µ{'ü' * (i % 7)},{i}.5" for i in range(60_000)]
    text = "\n".join(['"Metadata_Plate",Metadata_Well,Metadata_Compound,x', *rows]) + "\n"
    (tmp_path / "plain.csv").write_text(text, encoding="utf-8")
    plain = read_file(tmp_path / "plain.csv")
    assert plain.shape == (60_000, 4)
    assert plain["Metadata_Compound"].tolist() == [f"µ{'ü' * (i % 7)}" for i in range(60_000)]
    others = {
        "mark": b"\xef\xbb\xbf" + text.encode(),
        "windows": text.replace("\n", "\r\n").encode(),
        "utf16": text.encode("utf-16"),
        "packed": gzip.compress(text.encode(), 1),
        "empty_first": b"\n\n" + text.encode(),
        "hint": b"sep=,\n" + text.encode(),
    }
    for name, data in others.items():
        (tmp_path / f"{name}.csv").write_bytes(data)
        pd.testing.assert_frame_equal(read_file(tmp_path / f"{name}.csv"), plain)


def test_a_letter_that_is_cut_off_is_no_utf_8(tmp_path, capsys):
    (tmp_path / "cut.csv").write_bytes("Metadata_Plate,x\nP1,1\nµ".encode()[:-1])
    assert read_file(tmp_path / "cut.csv")["Metadata_Plate"].tolist() == ["P1", "Â"]
    assert "read as Windows-1252" in capsys.readouterr().err
