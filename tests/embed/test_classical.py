from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage, stats

from helpers_screen import CHANNELS, write_bbbc021_folder
from wsdino.embed.classical import classical_features, classical_names, classical_table
from wsdino.errors import TableError
from wsdino.evaluate.results import evaluate_sites
from wsdino.screen.bbbc021 import read_bbbc021_tables
from wsdino.screen.ingest import ingest
from wsdino.tables.features import feature_columns, features_of

RNG = np.random.default_rng(0)


def fields(num: int = 3, dtype: type = np.uint16) -> np.ndarray:
    """Smooth blobs on a noisy background."""
    blobs = ndimage.gaussian_filter(RNG.normal(size=(num, 3, 96, 80)), (0, 0, 3, 3))
    return (60 + 25 * blobs / blobs.std() + RNG.normal(size=blobs.shape)).clip(1).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_statistics_equal_numpy_and_scipy(dtype):
    images = fields(dtype=dtype)
    features, names = classical_features(images, channels=CHANNELS)
    assert features.shape == (3, 54)
    assert features.dtype == np.float64
    assert names == classical_names(CHANNELS)
    column = {name: features[:, i] for i, name in enumerate(names)}
    for i, image in enumerate(images.astype(np.float64)):
        for c, channel in enumerate(CHANNELS):
            pixels = image[c]
            expected = {
                "cv": pixels.std() / pixels.mean(),
                "skewness": stats.skew(pixels, axis=None),
                "kurtosis": stats.kurtosis(pixels, axis=None),
                "p01": np.log(np.percentile(pixels, 1, method="nearest") / pixels.mean() + 0.01),
                "p75": np.log(np.percentile(pixels, 75, method="nearest") / pixels.mean() + 0.01),
                "gradient": (
                    np.abs(np.diff(pixels, axis=0)).mean() + np.abs(np.diff(pixels, axis=1)).mean()
                )
                / pixels.std(),
            }
            level = pixels - pixels.mean()
            for px in (1, 2, 4):
                blurred = ndimage.gaussian_filter(level, 1, truncate=3)
                energy = ((level - blurred) ** 2).mean() / pixels.var()
                expected[f"granularity{px}px"] = np.log(energy + 1e-8)
                level = blurred[::2, ::2]
            for name, value in expected.items():
                assert column[f"classical_{channel}_{name}"][i] == pytest.approx(value, rel=1e-3), (
                    name
                )
        correlation = np.corrcoef(image[0].ravel(), image[2].ravel())[0, 1]
        assert column["classical_DAPI.Actin_correlation"][i] == pytest.approx(correlation, abs=1e-4)


def test_statistics_do_not_see_the_intensity_scale():
    images = fields()
    scale = np.array([2, 5, 30], dtype=np.uint16)[None, :, None, None]
    one, two = (classical_features(x)[0] for x in (images, images * scale))
    np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


def test_blank_fields_give_finite_numbers():
    for value in (0, 7):
        features, _ = classical_features(np.full((2, 3, 64, 64), value, dtype=np.uint8))
        assert np.isfinite(features).all()


def test_fields_do_not_see_each_other():
    images = fields(4)
    alone = np.concatenate([classical_features(images[i : i + 1])[0] for i in range(4)])
    np.testing.assert_allclose(classical_features(images)[0], alone, rtol=1e-6, atol=1e-9)


def test_what_can_not_be_measured_is_named():
    with pytest.raises(TableError, match="48x80 px are too small"):
        classical_features(np.zeros((1, 1, 48, 80), dtype=np.uint8))
    with pytest.raises(TableError, match="2 names for 3 channels"):
        classical_features(fields(1), channels=["a", "b"])


def test_one_channel_has_no_correlations():
    features, names = classical_features(fields(2)[:, :1])
    assert features.shape == (2, len(names)) == (2, 17)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_table_has_the_store_s_metadata(tmp_path, workers, capsys):
    store = ingest(write_bbbc021_folder(tmp_path / "screen", num_weeks=1), tmp_path / "store")
    table = classical_table(store, workers=workers)
    assert len(table) == len(store)
    assert table["Metadata_Compound"].tolist() == store.manifest["Metadata_Compound"].tolist()
    assert feature_columns(table) == classical_names(store.channels)
    expected = classical_features(np.stack([store[i] for i in range(len(store))]))[0]
    np.testing.assert_allclose(features_of(table), expected, rtol=1e-4, atol=1e-4)
    assert "classical statistics" in capsys.readouterr().err


def test_real_fields_are_told_apart(real_data, real_statistics):
    folder, table = real_data / "bbbc021_fields_256", real_statistics
    assert len(table) == 660
    results = evaluate_sites(table, normalisation="whiten_all", num_permutations=0)
    assert (results["nsc_total"], results["nscb_total"]) == (55, 49)
    assert results["nsc_correct"] >= 51
    assert results["nscb_correct"] >= 45
    with pytest.raises(TableError, match="found 0 in 660 rows; use one of whiten"):
        evaluate_sites(table)
    design = read_bbbc021_tables(folder / "BBBC021_v1_image.csv", folder / "BBBC021_v1_moa.csv")
    assert set(design["Metadata_Plate"]) == set(table["Metadata_Plate"])
