"""Conditions on metadata keep rows of tables and sites of stores."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from helpers_run import call, write_tiny_config
from helpers_screen import write_bbbc021_folder
from wsdino.config import load_config
from wsdino.errors import TableError
from wsdino.pipeline import open_run_store
from wsdino.preparation import prepare
from wsdino.screen.ingest import ingest
from wsdino.screen.store import Store, open_store
from wsdino.tables.keep import rows_to_keep
from wsdino.tables.reading import read_table

if TYPE_CHECKING:
    from pathlib import Path

TABLE = pd.DataFrame(
    {
        "Metadata_Plate": ["P1", "P1", "P2", "P3"],
        "Metadata_QC_Focus_DAPI": [0.1, 0.3, np.nan, 0.4],
        "Metadata_QC_Focus_Alexa 488": [0.5, 0.1, 0.5, 0.5],
        "feature": [1.0, 2.0, 3.0, 4.0],
    },
    index=[9, 9, 4, 1],
)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("Metadata_QC_Focus_DAPI > 0.2", [1, 3]),
        ("Metadata_QC_Focus_DAPI != 0.1", [1, 2, 3]),
        ('Metadata_Plate in ["P2", "P3"]', [2, 3]),
        ('Metadata_Plate.str.startswith("P") and not Metadata_QC_Focus_DAPI < 0.2', [1, 2, 3]),
        ("Metadata_QC_Focus_DAPI > 2.e-1 and Metadata_Plate != '@P.x'", [1, 3]),
        ("`Metadata_QC_Focus_Alexa 488` > 0.2 and Metadata_QC_Focus_DAPI > 0", [0, 3]),
    ],
)
def test_rows_that_meet_a_condition(condition: str, rows: list[int]) -> None:
    assert rows_to_keep(TABLE, condition, origin="t").tolist() == rows


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("Metadata_QC_Focus_DNA > 1", "no column Metadata_QC_Focus_DNA, did you mean"),
        ("feature > 1", "there is no column feature"),
        ("Metadata_QC_Focus_DAPI >", "not a condition: .*; give one such as"),
        ("Metadata_QC_Focus_DAPI + 1", "not a condition that holds for some rows"),
        ('Metadata_Plate.to_csv("kept.csv")', "the method to_csv is not for conditions"),
        ("Metadata_Plate . pipe(print)", "the method pipe is not for conditions"),
        ("@pd.io.common.os.getcwd() == Metadata_Plate", "a variable .@. is not for conditions"),
        ("1 > 0", "not a condition that holds for some rows"),
        ("Metadata_Plate > 3", "not a condition: "),
        ("Metadata_QC_Focus_DAPI > 5", "none of the 4 rows meets it"),
        # As numbers of plates without quotes, which would leave out nothing.
        ("Metadata_Plate != 1", 'Metadata_Plate is text, so compare it with text, as "1"$'),
        ("Metadata_QC_Focus_DAPI > 0 & 1 != Metadata_Plate", "Metadata_Plate is text"),
        ("`Metadata_Plate` not in (1, 2)", "Metadata_Plate is text"),
        ("not Metadata_Plate.isin([1])", "Metadata_Plate is text"),
        ("`Metadata_QC_Focus_Alexa 488` != '0.5'", "Metadata_QC_Focus_Alexa 488 is a number, so"),
        (" ", "the condition of what to keep is empty"),
    ],
)
def test_what_is_no_condition_is_refused(condition: str, message: str) -> None:
    with pytest.raises(TableError, match=message) as refused:
        rows_to_keep(TABLE, condition, origin="t.csv")
    assert str(refused.value).startswith("t.csv: ")
    assert "\n" not in str(refused.value)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("keep")
    return ingest(write_bbbc021_folder(folder / "screen"), folder / "store", workers=1)


def test_a_store_of_some_of_its_sites(store: Store) -> None:
    level = store.manifest["Metadata_QC_Intensity_DAPI"].median()
    condition = f"Metadata_QC_Intensity_DAPI > {level} or Metadata_Control"
    kept = open_store(store.path, keep=condition)
    rows = rows_to_keep(store.manifest, condition, origin="")
    assert 0 < len(rows) < len(store)
    assert len(kept) == len(rows) == kept.shape[0]
    np.testing.assert_array_equal(kept.read([-1, 0, 3]), store.read(rows[[-1, 0, 3]]))
    np.testing.assert_array_equal(kept[2], store[int(rows[2])])
    pd.testing.assert_frame_equal(kept.manifest, store.manifest.iloc[rows].reset_index(drop=True))
    for name, values in kept.statistics.items():
        np.testing.assert_array_equal(values, store.statistics[name][rows])
    assert kept.pixels_digest != store.pixels_digest
    assert kept.manifest_digest != store.manifest_digest
    assert kept.whole.pixels_digest == store.pixels_digest
    again = open_store(store.path, keep=condition)
    assert (again.pixels_digest, again.manifest_digest) == (
        kept.pixels_digest,
        kept.manifest_digest,
    )
    with pytest.raises(IndexError):
        kept[len(kept)]


def test_embed_and_profile_keep_sites(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plate = store.manifest["Metadata_Plate"].iloc[0]
    condition = f"Metadata_Plate != '{plate}'"
    some = tmp_path / "some.parquet"
    arguments = ("embed", "starter", store.path, "--out", some, "--device", "cpu")
    assert call(monkeypatch, *arguments, "--keep", condition) == 0
    expected = store.manifest[store.manifest["Metadata_Plate"] != plate]
    embedded = read_table(some)
    assert embedded["Metadata_Well"].tolist() == expected["Metadata_Well"].tolist()
    profiles = tmp_path / "profiles.parquet"
    compound = embedded["Metadata_Compound"].iloc[0]
    arguments = ("profile", some, "--normalise", "none", "--out", profiles)
    assert call(monkeypatch, *arguments, "--keep", f"Metadata_Compound != '{compound}'") == 0
    left = set(embedded["Metadata_Compound"]) - {compound}
    assert set(read_table(profiles)["Metadata_Compound"]) <= left


def test_a_run_works_on_what_is_kept(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(
        write_tiny_config(tmp_path / "tiny.yaml", input={"method": "fixed", "high": 1e6}),
        [
            f"screen.store={store.path}",
            "screen.keep=Metadata_QC_Focus_Actin > 0 and Metadata_Site == 1",
        ],
    )
    folder, kept, resolved = prepare(config, tmp_path / "run")
    assert len(kept) == len(store) / 2
    assert set(kept.manifest["Metadata_Site"]) == {1}
    coverage = json.loads(folder.paths.coverage.read_text(encoding="utf-8"))
    assert coverage["num_sites"] == int((~kept.manifest["Metadata_Control"]).sum())
    again = open_run_store(resolved, folder.path)
    assert again.pixels_digest == kept.pixels_digest
    # Before training what looks wrong is said, here a scaling for far brighter images.
    said = capsys.readouterr().err
    for channel in store.channels:
        assert f"{store.path}: warning: value range: {channel}: in half of the sites" in said
