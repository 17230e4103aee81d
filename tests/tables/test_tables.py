from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

from helpers_tables import synthetic_design, with_features
from wsdino.errors import OutputError, TableError
from wsdino.tables.features import (
    channel_of,
    feature_columns,
    features_of,
    plate_keys,
    require_columns,
)
from wsdino.tables.h5ad import write_anndata
from wsdino.tables.reading import read_table
from wsdino.tables.tidy import tidy
from wsdino.tables.writing import write_table

SMALL = {"num_moas": 3, "num_compounds": 6, "num_treatments": 8, "num_batches": 2, "num_plates": 2}


@pytest.fixture
def table() -> pd.DataFrame:
    return with_features(synthetic_design(**SMALL))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz"])
def test_a_written_table_reads_back_the_same(table, tmp_path, suffix):
    path = tmp_path / "new folder" / f"table{suffix}"
    write_table(table, path)
    back = read_table(path)
    # CSV has no types; the numbers are the same to the last float32 bit.
    names = feature_columns(table)
    pd.testing.assert_frame_equal(back.astype(dict.fromkeys(names, np.float32)), table)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_parquet_keeps_how_profiles_were_made(table, tmp_path):
    table.attrs["wsdino"] = {"aggregation": "mean"}
    write_table(table, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").attrs == table.attrs


def test_features_are_written_as_float32_after_the_metadata(tmp_path):
    mixed = pd.DataFrame({"a": [1.5, 2.5], "Metadata_Well": ["B02", "B03"], "b": [1, 2]})
    write_table(mixed, tmp_path / "t.parquet")
    back = pd.read_parquet(tmp_path / "t.parquet")
    assert list(back) == ["Metadata_Well", "a", "b"]
    assert list(back.dtypes[["a", "b"]]) == [np.float32, np.float32]


def test_a_table_of_another_tool(tmp_path):
    path = tmp_path / "cellprofiler.csv"
    path.write_text(
        ",ImageNumber,Image_Metadata_Plate,Image_Metadata_Well,Metadata_Control,"
        "Metadata_Concentration,Nuclei_Area,Good,Comment,Cells_Count\n"
        "0,7,00123,b4,True,3,1.5,True,x,3\n1,8,00124,C12,False,,2.5,False,y,4\n",
        encoding="utf-8",
    )
    table = read_table(path)
    assert feature_columns(table) == ["Nuclei_Area", "Cells_Count"]
    assert table["Metadata_Plate"].tolist() == ["00123", "00124"]
    assert table["Metadata_Well"].tolist() == ["B04", "C12"]
    assert table["Metadata_Control"].tolist() == [True, False]
    assert table["Metadata_Concentration"].isna().tolist() == [False, True]
    assert table["Metadata_ImageNumber"].tolist() == [7, 8]
    np.testing.assert_array_equal(features_of(table), [[1.5, 3], [2.5, 4]])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.parquet", None, "no such file"),
        ("t.parquet", "no parquet", "can't be read as a table: "),
        ("t.csv", "", "can't be read as a table: it is empty"),
        ("t.csv.gz", "not compressed", "can't be read as a table: Not a gzipped file"),
        ("t.csv", "a,b\n", "no rows"),
        ("t.xlsx", "", "unknown table format"),
        ("t.csv", "Metadata_Concentration,a\n3 uM,1\n", "'3 uM'"),
        ("t.csv", "Metadata_Plate,Image_Metadata_Plate\n1,2\n", "two columns are named"),
    ],
)
def test_what_can_not_be_read_is_named(tmp_path, name, content, words):
    path = tmp_path / name
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(TableError, match=words) as error:
        read_table(path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_an_output_path_in_the_way_is_named(table, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="can't be written"):
        write_table(table, tmp_path / "file" / "t.csv")
    with pytest.raises(TableError, match="unknown table format"):
        write_table(table, tmp_path / "t.txt")


def test_features_that_are_missing_or_infinite_are_named():
    table = pd.DataFrame({"a": [1.0, 2, 3], "b": [1, np.nan, np.inf], "c": [np.nan, 1, 1]})
    with pytest.raises(TableError, match=r"feature b .* 2 of 3 rows \(2 of 3 features"):
        features_of(table)
    with pytest.raises(TableError, match="0 feature columns"):
        features_of(pd.DataFrame({"Metadata_Site": [1], "text": ["x"], "truth": [True]}))
    with pytest.raises(TableError, match="0 rows"):
        features_of(pd.DataFrame({"a": pd.Series([], dtype=float)}))


def test_columns_that_are_missing_are_named():
    table = pd.DataFrame({"Metadata_Well": ["B02"]})
    with pytest.raises(
        TableError, match="columns Metadata_MoA, Metadata_Batch; the table has Meta"
    ):
        require_columns(table, ["Metadata_Well", "Metadata_MoA", "Metadata_Batch"], purpose="NSCB")


def test_channels_come_from_names():
    assert channel_of("emb_DAPI_3") == "DAPI"
    assert channel_of("emb_joint_0") == "joint"
    assert channel_of("emb_ER_bright_12") == "ER_bright"
    assert channel_of("classical_Actin_p50") == "Actin"
    assert channel_of("Nuclei_Area") == ""


def test_a_plate_is_a_plate_within_its_batch():
    table = pd.DataFrame({"Metadata_Plate": ["P"], "Metadata_Batch": ["W"]})
    assert plate_keys(table) == ["Metadata_Batch", "Metadata_Plate"]
    assert plate_keys(table[["Metadata_Plate"]]) == ["Metadata_Plate"]


def test_anndata(table, tmp_path):
    table.loc[0, "Metadata_MoA"] = None
    write_anndata(table, tmp_path / "t.h5ad")
    data = anndata.read_h5ad(tmp_path / "t.h5ad")
    np.testing.assert_array_equal(data.X, features_of(table).astype(np.float32))
    assert data.X.dtype == np.float32
    assert list(data.var_names) == feature_columns(table)
    assert data.var["channel"].tolist() == ["DAPI"] * 6 + ["Actin"] * 6
    assert data.obs["Metadata_Compound"].tolist() == table["Metadata_Compound"].tolist()
    assert data.obs["Metadata_MoA"].isna().tolist() == table["Metadata_MoA"].isna().tolist()
    with pytest.raises(TableError, match=r"\.h5ad"):
        write_anndata(table, tmp_path / "t.zarr")


def test_anndata_has_no_slashes_in_names(table, tmp_path, capsys):
    doses = [f"{row}" for row in range(len(table))]
    write_anndata(table.assign(**{"Metadata_mg/ml": doses}), tmp_path / "t.h5ad")
    data = anndata.read_h5ad(tmp_path / "t.h5ad")
    assert data.obs["Metadata_mg_ml"].tolist() == doses
    assert "t.h5ad: Metadata_mg/ml is written as Metadata_mg_ml" in capsys.readouterr().err
    both = table.assign(**{"Metadata_mg/ml": doses, "Metadata_mg_ml": doses})
    with pytest.raises(TableError, match="mg/ml can't be written as Metadata_mg_ml, which the"):
        write_anndata(both, tmp_path / "other.h5ad")
    assert not (tmp_path / "other.h5ad").exists()


def test_tidy_leaves_features_alone(table):
    tidied = tidy(table, origin="x")
    np.testing.assert_array_equal(features_of(tidied), features_of(table))
    assert tidied is not table
