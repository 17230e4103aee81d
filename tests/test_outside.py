"""Bytes from outside: one typed line, whatever is wrong; nothing is waited for or unpacked."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest

from helpers_run import finish, start
from wsdino.config import load_config
from wsdino.errors import ConfigError, ImageError, ModelError, TableError, WsdinoError
from wsdino.outside import parse_json, read_json, reading
from wsdino.profile.fitted import load_normalisation
from wsdino.progress import printable
from wsdino.screen.images import read_planes
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("raised", "reason"),
    [
        (KeyError("plates"), "KeyError 'plates'"),
        (ValueError("not\n  a number"), "not a number"),
        (RecursionError("maximum"), "it is nested too deeply"),
        (MemoryError(), "it asks for more memory than there is"),
        (RuntimeError(), "RuntimeError"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (ValueError("x" * 300), "x" * 200 + "..."),
    ],
)
def test_whatever_is_raised_becomes_one_line(raised: Exception, reason: str) -> None:
    with pytest.raises(TableError) as caught, reading("a.csv", TableError, advice="mend it"):
        raise raised
    assert str(caught.value) == f"a.csv: can't be read: {reason}; mend it"
    assert caught.value.__cause__ is raised


def test_typed_errors_pass_unchanged() -> None:
    with pytest.raises(ModelError, match=r"^own$"), reading("a", TableError):
        raise ModelError("own")


@pytest.mark.parametrize("source", ["undefined_name", "import wsdino.nothing", "assert False"])
def test_mistakes_of_our_own_are_no_damage(source: str) -> None:
    """What no bytes can cause keeps its type where it is raised in the package, and only there."""
    kinds = (NameError, ImportError, AssertionError)
    with pytest.raises(kinds), reading("a.csv", TableError):
        exec(source, {"__name__": "wsdino.tables.files"})
    with pytest.raises(TableError, match=r"a\.csv: can't be read"), reading("a.csv", TableError):
        exec(source, {"__name__": "decoder"})


def test_errors_that_say_more_than_missing_files_are_kept() -> None:
    class UnreachableError(FileNotFoundError):
        pass

    with pytest.raises(TableError, match=r"^s3://a: no such file"), reading("s3://a", TableError):
        raise FileNotFoundError("s3://a")
    said = r"^s3://a: can't be read: no answer$"
    with pytest.raises(TableError, match=said), reading("s3://a", TableError):
        raise UnreachableError("no answer")


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"a\.json: no such file"):
        read_json(tmp_path / "a.json", TableError)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[1]", "found '\\[1\\]': input should be a valid dictionary"),
        ('{"a": {"b": "c"}}', "a.b: found 'c': input should be a valid number"),
        ("{", "Expecting property name"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_the_shape_of_json_is_checked(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(TableError, match=f"a.json: can't be read as JSON: .*{reason}"):
        read_json(path, TableError, dict[str, dict[str, float]])
    path.write_text('{"a": {"b": 1}}', encoding="utf-8")
    assert read_json(path, TableError, dict[str, dict[str, float]]) == {"a": {"b": 1}}


def test_what_is_valid_is_returned_as_it_is() -> None:
    assert parse_json('{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize("name", ["image.tif", "image.png", "image.npy"])
def test_pipes_are_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(ImageError, match="neither a file nor a folder, but a pipe"):
        read_planes(tmp_path / name)


def test_gzip_that_grows_without_bound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    # Parts of a gzip file are one after the other in what it unpacks to.
    path.write_bytes(gzip.compress(bytes(2**20)) * 300)
    with pytest.raises(TableError, match=r"unpack to .* or more, which no table or image does"):
        read_table(path)


def test_archives_that_grow_without_bound_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "normalisation.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("a.npy", "w") as member,
    ):
        for _ in range(300):
            member.write(bytes(2**20))
    with pytest.raises(TableError, match=r"unpack to .* or more"):
        load_normalisation(path)


def test_a_config_nested_thousands_deep_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text("a: " + "[" * 3000, encoding="utf-8")
    with pytest.raises(ConfigError, match="not YAML: it is nested too deeply"):
        load_config(path)


def test_messages_neither_colour_the_terminal_nor_fill_it() -> None:
    assert printable("a\x1b[31mb\u202ec\nd") == "a\\x1b[31mb\\u202ec\nd"
    assert printable("Größe 5 µM") == "Größe 5 µM"
    long = printable(f"path: {'x' * 50_000}; do this")
    assert len(long) < 2100
    assert long.startswith("path: x")
    assert long.endswith("x; do this")
    assert "[... 48015 characters ...]" in long


def test_the_command_line_escapes_what_it_quotes(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(
        "Metadata_Plate,Metadata_Well,emb_a_0\nP1,\x1b[2JA01\x07,1.0\n", encoding="utf-8"
    )
    status, _, err = finish(start("profile", table, "--out", tmp_path / "out.parquet"))
    assert status == 2
    assert "\x1b" not in err
    assert "\\x1b[2JA01" in err
    assert err.count("\n") == 1


def test_arrays_of_objects_run_no_code(tmp_path: Path) -> None:
    path = tmp_path / "image.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(WsdinoError, match="Python objects in dtype"):
        read_planes(path)


def test_numbers_with_more_digits_than_floats_have_are_names(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    barcode = "99999999999999999999"
    rows = [f"P1,A0{i},{barcode},{i}.5" for i in (1, 2)]
    path.write_text(
        "\n".join(["Metadata_Plate,Metadata_Well,Metadata_Code,emb_a_0", *rows]), encoding="utf-8"
    )
    assert read_table(path)["Metadata_Code"].tolist() == [barcode] * 2


def test_counts_are_read_beside_missing_mechanisms(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    lines = ["Metadata_Plate,Metadata_Well,Metadata_MoA,count,emb_a_0"]
    lines += [f"P1,A0{i},{'' if i % 2 else 'Eg5'},{i * i},{i}.5" for i in range(1, 9)]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert read_table(path)["count"].tolist() == [i * i for i in range(1, 9)]


def test_json_of_any_kind_is_parsed() -> None:
    assert parse_json(json.dumps([1, "a"]), list[int | str]) == [1, "a"]
