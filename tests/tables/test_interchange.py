"""What wsdino writes, others read, and the other way round."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from helpers_run import call
from helpers_tables import synthetic_design, with_features
from wsdino.errors import TableError
from wsdino.evaluate.evidence import activity
from wsdino.profile.aggregate import aggregate, make_profiles
from wsdino.profile.normalise import normalise
from wsdino.report.layout import with_map_columns
from wsdino.tables.features import feature_columns, features_of
from wsdino.tables.reading import read_table
from wsdino.tables.workspace_dl import read_workspace_dl, write_workspace_dl
from wsdino.tables.writing import write_table

if TYPE_CHECKING:
    from pathlib import Path

WELL = ["Metadata_Batch", "Metadata_Plate", "Metadata_Well", "Metadata_Compound"]


@pytest.fixture(scope="module")
def sites() -> pd.DataFrame:
    return with_features(
        synthetic_design(num_moas=3, num_compounds=6, num_treatments=8, num_batches=2, num_sites=2)
    )


def test_profiles_survive_anndata_with_lists_provenance_and_map(sites, tmp_path: Path) -> None:
    profiles = with_map_columns(make_profiles(sites))
    write_table(profiles, tmp_path / "p.h5ad")
    write_table(profiles, tmp_path / "p.parquet")
    found, expected = read_table(tmp_path / "p.h5ad"), read_table(tmp_path / "p.parquet")
    map_columns = ["Metadata_UMAP_1", "Metadata_UMAP_2"]
    pd.testing.assert_frame_equal(*(t.drop(columns=map_columns) for t in (found, expected)))
    np.testing.assert_allclose(found[map_columns], profiles[map_columns], rtol=1e-6)
    assert found.attrs == expected.attrs
    assert found.attrs["wsdino"]["normalisation"]["method"] == "tvn"
    data = anndata.read_h5ad(tmp_path / "p.h5ad")
    assert data.obs_names.is_unique
    assert data.obs_names[0] == "c00_0.1"
    assert json.loads(data.uns["wsdino"])["wsdino"]["aggregation"] == "published"
    np.testing.assert_allclose(data.obsm["X_umap"], profiles[map_columns], rtol=1e-6)


def test_sites_are_named_by_their_place(sites, tmp_path: Path) -> None:
    write_table(pd.concat([sites, sites.head(1)]), tmp_path / "s.h5ad")
    names = anndata.read_h5ad(tmp_path / "s.h5ad").obs_names
    assert (names[0], names[1], names[-1]) == ("W0_W0_0_B02_0", "W0_W0_0_B02_1", "W0_W0_0_B02_0-1")


def test_anndata_of_another_tool_has_features_in_x_alone(sites, tmp_path: Path) -> None:
    names = feature_columns(sites)
    obs = pd.DataFrame(
        {
            "plate": sites["Metadata_Plate"].astype("category"),
            "well": sites["Metadata_Well"],
            "pert_iname": sites["Metadata_Compound"],
            "dose_um": sites["Metadata_Concentration"],
            "n_cells": np.arange(len(sites)) * 1.5,
        }
    ).set_axis(map(str, sites.index))
    matrix = sparse.csr_matrix(features_of(sites, dtype=np.float32))
    data = anndata.AnnData(matrix, obs=obs, var=pd.DataFrame(index=names))
    data.write_h5ad(tmp_path / "theirs.h5ad")
    found = read_table(tmp_path / "theirs.h5ad")
    assert feature_columns(found) == names
    np.testing.assert_array_equal(features_of(found), features_of(sites))
    for name in ("Plate", "Well", "Compound", "Concentration"):
        assert found[f"Metadata_{name}"].tolist() == sites[f"Metadata_{name}"].tolist()
    assert found["Metadata_n_cells"].tolist() == obs["n_cells"].tolist()


@pytest.mark.parametrize("command", ["profile", "evaluate", "activity"])
def test_commands_take_anndata(
    sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    found = {}
    for suffix in (".parquet", ".h5ad"):
        write_table(sites, tmp_path / f"s{suffix}")
        out = tmp_path / f"out{suffix}"
        options = {
            "profile": ("--out", out),
            "evaluate": ("--from-sites", "--json", out),
            "activity": ("--null-size", 50, "--json", out),
        }[command]
        assert call(monkeypatch, command, tmp_path / f"s{suffix}", *options) == 0
        found[suffix] = (
            read_table(out) if command == "profile" else json.loads(out.read_text(encoding="utf-8"))
        )
    if command == "profile":
        pd.testing.assert_frame_equal(found[".h5ad"], found[".parquet"])
    else:
        assert found[".h5ad"] == found[".parquet"]


def test_damaged_anndata_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.h5ad").write_text("nothing of the kind", encoding="utf-8")
    with pytest.raises(TableError, match=r"t\.h5ad: can't be read as a table: "):
        read_table(tmp_path / "t.h5ad")


def test_the_gallery_s_layout_is_written_and_read(
    sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table(sites, tmp_path / "s.parquet")
    command = ("profile", tmp_path / "s.parquet", "--to", "gallery", "--out", tmp_path / "source_1")
    assert call(monkeypatch, *command, "--network", "wsdino_ab12") == 0
    root = tmp_path / "source_1" / "workspace_dl"
    assert capsys.readouterr().out.strip() == str(root)
    one = root / "embeddings/wsdino_ab12/W0/W0_0/B02-0/embedding.parquet"
    assert len(pd.read_parquet(one)) == 1
    assert (root / "profiles/wsdino_ab12/W0/W0_0/W0_0.parquet").is_file()
    wells = pd.read_parquet(root / "collated/wsdino_ab12/collated.parquet")
    assert len(wells) == len(sites.drop_duplicates(WELL))
    treatments = read_table(root / "consensus/wsdino_ab12/consensus.parquet")
    expected = make_profiles(sites)
    np.testing.assert_allclose(features_of(treatments), features_of(expected), rtol=1e-5)
    # All that were written come back, from the top or any part.
    keys = [*WELL[:3], "Metadata_Site"]
    back = read_table(tmp_path / "source_1").sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(
        back, sites.sort_values(keys, ignore_index=True)[list(back)], check_dtype=False
    )
    assert set(read_table(root / "profiles" / "wsdino_ab12" / "W0")["Metadata_Batch"]) == {"W0"}
    # The same again, after it was killed half-way or not, goes on; other features are refused.
    (root / "consensus/wsdino_ab12/consensus.parquet").unlink()
    (root / "collated/wsdino_ab12/.partial-0123-collated.parquet").write_text(
        "half", encoding="utf-8"
    )
    assert call(monkeypatch, *command, "--network", "wsdino_ab12") == 0
    assert len(read_table(root / "consensus/wsdino_ab12/consensus.parquet")) == len(treatments)
    assert not list(root.rglob(".partial-*"))
    capsys.readouterr()
    write_table(sites.iloc[1:], tmp_path / "s.parquet")
    assert call(monkeypatch, *command, "--network", "wsdino_ab12") == 2
    assert "features are there already" in capsys.readouterr().err
    assert call(monkeypatch, *command) == 2
    assert "--network" in capsys.readouterr().err


def test_a_tree_of_another_tool_has_its_metadata_in_its_paths(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    for number, site in enumerate(("A01-1", "B12-2")):
        place = tmp_path / "workspace_dl/embeddings/net/2021_Batch1/BR01" / site
        place.mkdir(parents=True)
        cells = pd.DataFrame({"emb_x": list(vectors[number])})
        cells.to_parquet(place / "embedding.parquet")
    table = read_workspace_dl(tmp_path, pd.read_parquet)
    np.testing.assert_array_equal(features_of(table, dtype=np.float32), vectors.reshape(6, 4))
    assert table["Metadata_Well"].tolist() == ["A01"] * 3 + ["B12"] * 3
    assert table["Metadata_Site"].tolist() == [1] * 3 + [2] * 3
    assert set(table["Metadata_Plate"]) == {"BR01"}
    other = tmp_path / "workspace_dl/embeddings/other/b/p/A01-1"
    other.mkdir(parents=True)
    pd.DataFrame({"x": [1.0]}).to_parquet(other / "embedding.parquet")
    with pytest.raises(TableError, match=r"2 networks \(net, other\); give the folder of one"):
        read_table(tmp_path)


def test_a_plate_that_can_be_no_folder_is_refused(sites, tmp_path: Path) -> None:
    wells = sites.assign(Metadata_Plate="../P1")
    with pytest.raises(TableError, match=r"Metadata_Plate '\.\./P1' can't be the name of a folder"):
        write_workspace_dl(wells, wells, wells, tmp_path, network="net")
    assert list(tmp_path.iterdir()) == []


def test_pycytominer_reads_ours_and_we_read_theirs(sites, tmp_path: Path) -> None:
    """Its aggregation and standardisation of our table give our numbers, and its file our table."""
    theirs = pytest.importorskip("pycytominer", reason="needs pycytominer")
    write_table(sites, tmp_path / "ours.parquet")
    names = feature_columns(sites)
    loaded = pd.read_parquet(tmp_path / "ours.parquet")
    wells = theirs.aggregate(loaded, strata=WELL, features=names, operation="mean")
    ours = aggregate(sites, by=WELL).sort_values(WELL, ignore_index=True)
    np.testing.assert_allclose(wells[names], ours[names], rtol=1e-5)
    theirs.normalize(
        profiles=loaded,
        features=names,
        meta_features=[name for name in loaded if name not in names],
        samples="all",
        method="standardize",
        output_file=str(tmp_path / "theirs.csv"),
    )
    found = read_table(tmp_path / "theirs.csv")
    expected, _ = normalise(sites, method="standardise_all")
    assert feature_columns(found) == names
    np.testing.assert_allclose(features_of(found), features_of(expected), atol=1e-3)
    assert found["Metadata_Control"].tolist() == sites["Metadata_Control"].tolist()


def test_copairs_reads_ours_and_we_read_theirs(sites, tmp_path: Path) -> None:
    """Its mAP of our file is ours, and its table with average precisions is one for us."""
    from copairs.map import average_precision, mean_average_precision

    wells = aggregate(normalise(sites)[0], by=[*WELL, "Metadata_Concentration"])
    write_table(wells, tmp_path / "wells.parquet")
    loaded = pd.read_parquet(tmp_path / "wells.parquet")
    dose = loaded["Metadata_Concentration"].astype(str)
    loaded["Metadata_T"] = loaded["Metadata_Compound"] + dose
    names = feature_columns(loaded)
    scores = average_precision(
        loaded.filter(regex="^Metadata"),
        loaded[names].to_numpy(),
        pos_sameby=["Metadata_T"],
        pos_diffby=[],
        neg_sameby=["Metadata_Plate"],
        neg_diffby=["Metadata_Control"],
        progress_bar=False,
    )
    treated = scores[~scores["Metadata_Control"]].dropna(subset="average_precision")
    found = mean_average_precision(
        treated, ["Metadata_T"], null_size=200, threshold=0.05, seed=0, progress_bar=False
    ).set_index("Metadata_T")["mean_average_precision"]
    ours = activity(read_table(tmp_path / "wells.parquet"), null_size=200)["treatments"]
    assert len(ours) == 8
    for row in ours:
        key = f"{row['Metadata_Compound']}{row['Metadata_Concentration']}"
        assert row["mean_average_precision"] == pytest.approx(found[key], abs=1e-6)
    theirs = pd.concat([scores, loaded[names]], axis=1)
    theirs.to_csv(tmp_path / "theirs.csv", index=False)
    assert set(names) <= set(feature_columns(read_table(tmp_path / "theirs.csv")))


@pytest.mark.parametrize("column", ["Metadata_Plate", "Metadata_Site"])
def test_a_row_without_a_place_is_refused(tmp_path: Path, column: str) -> None:
    names = {"Metadata_Batch": "b", "Metadata_Plate": "P1", "Metadata_Well": "A01"}
    sites = pd.DataFrame([{**names, "Metadata_Site": site, "emb_DNA_0": 1.0} for site in "123"])
    sites.loc[1, column] = None
    with pytest.raises(TableError, match=f"{column} is missing in some rows"):
        write_workspace_dl(sites, sites, sites, tmp_path, network="net")
    assert list(tmp_path.iterdir()) == []
