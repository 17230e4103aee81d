from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsdino.errors import TableError
from wsdino.tables.h5ad import write_anndata
from wsdino.tables.lists import labels_of, read_labels, require_one_label, with_json
from wsdino.tables.reading import read_table
from wsdino.tables.writing import write_table

NAMES = ["2019;A", '["x"', "it's", 'a "b"', "W1, W2", "Woche 3 µ", "007", "NA"]


def table_of(cells: list) -> pd.DataFrame:
    table = pd.DataFrame({"Metadata_Compound": [f"c{i}" for i in range(len(cells))]})
    table["Metadata_Batch"] = pd.Series(cells, dtype=object)
    return table.assign(x=1.5)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz"])
def test_lists_survive_a_file(tmp_path, suffix):
    cells = [NAMES, ["W1"], ["W1", None, "W2"], None]
    write_table(table_of(cells), tmp_path / f"t{suffix}")
    assert read_table(tmp_path / f"t{suffix}")["Metadata_Batch"].tolist() == cells


def test_files_hold_what_other_tools_can_read(tmp_path):
    table = table_of([["W1", "W2"], ["W3"]])
    write_table(table, tmp_path / "t.csv")
    raw = pd.read_csv(tmp_path / "t.csv")["Metadata_Batch"]
    assert raw.tolist() == ['["W1", "W2"]', '["W3"]']
    write_table(table, tmp_path / "t.parquet")
    column = pd.read_parquet(tmp_path / "t.parquet")["Metadata_Batch"]
    assert [list(cell) for cell in column] == [["W1", "W2"], ["W3"]]
    write_anndata(table, tmp_path / "t.h5ad")
    found = anndata.read_h5ad(tmp_path / "t.h5ad").obs["Metadata_Batch"]
    assert found.tolist() == raw.tolist()


def test_lists_that_pandas_alone_has_written(tmp_path):
    cells = [["W1", "it's"], ["W3"]]
    table_of(cells).to_csv(tmp_path / "t.csv", index=False)
    assert read_table(tmp_path / "t.csv")["Metadata_Batch"].tolist() == cells


@pytest.mark.parametrize("text", ["['W1' 'W2']", '["W1"', '["W1", 3]', "['W1'"])
def test_what_is_nearly_a_list_is_refused(tmp_path, text):
    # NumPy's print of an array: Python would read one label, W1W2.
    table_of([text, text]).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(TableError, match=r"t.csv: Metadata_Batch holds .*; expected a name or"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("text", ["[1, 2]", "[a]", "W1;W2", "{}", "nan"])
def test_text_is_one_label(text):
    (cell,) = read_labels(pd.Series([text], name="Metadata_Plate"), origin="t")
    assert cell == text
    assert labels_of(cell) == [text]


def test_labels_of_a_cell():
    assert labels_of(None) == labels_of(float("nan")) == labels_of(pd.NA) == []
    assert labels_of(7) == ["7"]
    assert labels_of(np.array(["a", None], dtype=object)) == ["a", None]


@given(st.lists(st.lists(st.text(max_size=5), min_size=1, max_size=4), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_any_names_survive_json(cells):
    texts = with_json(table_of(cells))["Metadata_Batch"]
    assert read_labels(texts, origin="t").tolist() == cells


def test_one_label_a_row_can_be_asked_for():
    table = table_of(["W1", ["W1", "W2"]])
    with pytest.raises(TableError, match=r"x needs one Metadata_Batch .* found \['W1', 'W2'\]"):
        require_one_label(table, ["Metadata_Plate", "Metadata_Batch"], purpose="x")
    require_one_label(table.head(1), ["Metadata_Batch"], purpose="x")
