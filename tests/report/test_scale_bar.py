"""Scale bars: a round length, and as long as it says at any resolution."""

from __future__ import annotations

import numpy as np
import pytest
from generated_run import MeanModel, make_store
from matplotlib.patches import Rectangle

from wsdino.report.attention import attention_figure
from wsdino.report.attentive import site_maps
from wsdino.report.scale_bar import MAX_SHARE, scale_bar


@pytest.mark.parametrize(
    ("pixel_size", "num_pixels", "label"),
    [
        (0.65, 512, "100 µm"),
        (0.3225, 512, "50 µm"),
        (1.2, 256, "100 µm"),
        (0.65, 48, "10 µm"),
        (0.1, 20, "500 nm"),
        (0.05, 100, "2 µm"),
    ],
)
def test_the_longest_round_length_that_fits(pixel_size: float, num_pixels: int, label: str) -> None:
    bar = scale_bar(pixel_size, num_pixels)
    assert bar is not None
    assert bar.label == label
    assert bar.length / pixel_size == pytest.approx(bar.share * num_pixels)
    assert MAX_SHARE / 2.5 < bar.share <= MAX_SHARE
    assert bar.width == f"{100 * bar.share:.3f}%"


@pytest.mark.parametrize("pixel_size", [float("nan"), 0.0])
def test_no_bar_where_nothing_is_known(pixel_size: float) -> None:
    assert scale_bar(pixel_size, 512) is None


@pytest.mark.parametrize("pixel_size", [0.65, float("nan")])
def test_a_figure_for_papers_has_it_on_the_field(pixel_size: float) -> None:
    store, model = make_store(), MeanModel()
    figure = attention_figure(
        np.asarray(store[0]),
        site_maps(model, store, 0),
        channels=store.channels,
        network_names=model.network_names,
        pixel_size=pixel_size,
    )
    bars = [patch for axes in figure.axes for patch in axes.patches if isinstance(patch, Rectangle)]
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    if np.isnan(pixel_size):
        assert (bars, texts) == ([], [])
        return
    assert texts == ["10 µm"] * 3
    np.testing.assert_allclose([bar.get_width() for bar in bars], 10 / 0.65)
    assert all(bar.get_x() + bar.get_width() < 64 for bar in bars)
