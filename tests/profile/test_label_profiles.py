"""Profiles of weak labels against a loop."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from wsdino.profile.label_profiles import label_profiles
from wsdino.profile.normalise import normalise
from wsdino.tables.features import features_of


def table_of(*, num_labels: int = 6, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Sites of labels on three plates, each of which has a shift, with two controls on each."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"P{plate}", f"c{label}" if label >= 0 else "DMSO", label, label < 0)
        for plate in range(3)
        for label in [*range(num_labels), -1, -1, -2]
    ]
    plates, compounds, codes, controls = (list(each) for each in zip(*rows, strict=True))
    codes = np.array(codes)
    centres, shifts = rng.normal(size=(num_labels, 8)), rng.normal(size=(3, 8))
    # Two labels look alike.
    centres[1] = centres[0] + 0.1
    values = rng.normal(scale=0.3, size=(len(rows), 8)) + np.repeat(shifts, num_labels + 3, axis=0)
    values[codes >= 0] += centres[codes[codes >= 0]]
    # The last row of each plate is treated and has no label.
    has_none = codes == -2
    frame = pd.DataFrame(
        {
            "Metadata_Plate": plates,
            "Metadata_Well": [f"A{number + 1:02d}" for number in range(len(rows))],
            "Metadata_Compound": compounds,
            "Metadata_Control": np.array(controls) & ~has_none,
        }
    )
    features = pd.DataFrame(values.astype(np.float32), columns=[f"emb_a_{i}" for i in range(8)])
    return pd.concat([frame, features], axis=1), np.maximum(codes, -1)


@pytest.mark.parametrize("num_components", [2, 5])
def test_they_are_components_of_the_mean_directions(num_components: int) -> None:
    table, codes = table_of()
    found = label_profiles(table, codes, num_components=num_components)
    assert (found.shape, found.dtype) == ((6, num_components), np.float32)
    named = table["Metadata_Compound"].where(codes >= 0, None)
    whitened = normalise(table.assign(Metadata_L=named), method="weak_label", label="L")[0]
    values = features_of(whitened)
    directions = []
    for label in range(6):
        mean = np.mean([values[row] for row in range(len(table)) if codes[row] == label], axis=0)
        directions.append(mean / np.linalg.norm(mean))
    centred = np.array(directions) - np.mean(directions, axis=0)
    # Components keep cosines as far as their number allows, whatever their signs.
    left, lengths, _ = np.linalg.svd(centred)
    expected = left[:, :num_components] * lengths[:num_components]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-5)


def test_labels_that_look_alike_have_profiles_that_are_alike() -> None:
    table, codes = table_of()
    found = label_profiles(table, codes, num_components=5)
    cosines = np.triu(found @ found.T, 1)
    assert np.unravel_index(cosines.argmax(), cosines.shape) == (0, 1)
    assert cosines[0, 1] > 0.5


def test_two_labels_are_opposite() -> None:
    table, codes = table_of(num_labels=2)
    found = label_profiles(table, codes, num_components=1)
    assert sorted(found[:, 0].tolist()) == pytest.approx([-1, 1], abs=1e-6)
