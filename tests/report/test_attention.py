from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from generated_run import MeanModel, MemoryStore
from PIL import Image

from wsdino.errors import InputError
from wsdino.model.building import build_networks
from wsdino.model.model import Model
from wsdino.model.scaling import InputScaling
from wsdino.model.spec import Architecture, ModelSpec
from wsdino.report.asked import asked_sites
from wsdino.report.attention import (
    attention_figure,
    attention_panels,
    save_attention,
    site_title,
)
from wsdino.report.attentive import on_foreground, site_maps
from wsdino.report.images import composite

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = ("DAPI", "Tubulin")


def field() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 900, (2, 24, 32)).astype(np.uint16)


def test_a_hot_patch_is_brightest_in_its_place() -> None:
    maps = np.full((1, 2, 3, 4), 0.01)
    maps[0, 1, 2, 1] = 0.9
    (row,) = attention_panels(field(), maps, channels=CHANNELS, network_names=["joint"])
    assert [panel.label for panel in row] == ["joint", "mean over heads", "head 1", "head 2"]
    heat = row[3].picture.sum(axis=2)
    assert heat.shape == (24, 32)
    inside = np.zeros((24, 32), bool)
    inside[16:24, 8:16] = True
    assert (heat == heat.max()).tolist() == inside.tolist()


def test_what_patches_do_not_fill_is_cut_off() -> None:
    maps = np.random.default_rng(1).random((1, 1, 4, 3))
    image = np.random.default_rng(2).integers(0, 900, (2, 14, 11)).astype(np.uint16)
    (row,) = attention_panels(image, maps, channels=CHANNELS, network_names=["joint"])
    assert {panel.picture.shape for panel in row} == {(12, 9, 3)}
    np.testing.assert_array_equal(row[0].picture, composite(image[:, :12, :9], CHANNELS))
    for y in range(12):
        for x in range(9):
            expected = row[2].picture[3 * (y // 3), 3 * (x // 3)]
            assert (row[2].picture[y, x] == expected).all()


def test_more_patches_than_pixels_is_an_input_error() -> None:
    with pytest.raises(InputError, match="maps of 30 by 4 patches for a field of 24 by 32 px"):
        attention_panels(field(), np.ones((1, 1, 30, 4)), channels=CHANNELS, network_names=["a"])


@pytest.mark.parametrize("method", ["fixed", "plate", "field"])
@pytest.mark.parametrize("mode", ["per_channel", "joint"])
def test_a_real_model_scales_a_site_as_for_its_embedding(
    store: MemoryStore, method: str, mode: str
) -> None:
    spec = ModelSpec(
        channels=store.channels,
        mode=mode,
        architecture=Architecture(image_size=32, dim=12, depth=1, num_heads=3),
        scaling=InputScaling(method),
    )
    model = Model(spec, build_networks(spec))
    maps = site_maps(model, store, 1)
    assert maps.shape == (len(model.network_names), 3, 6, 8)
    offset, gain = (torch.from_numpy(x[1:2]) for x in spec.scaling.for_store(store))
    expected = model.attention(store[1][None], offset=offset, gain=gain)[0]
    np.testing.assert_array_equal(maps, expected)


def test_a_network_of_one_channel_is_shown_on_that_channel_in_grey() -> None:
    rows = attention_panels(
        field(), np.ones((2, 1, 3, 4)), channels=CHANNELS, network_names=["Tubulin", "joint"]
    )
    grey, colour = rows[0][0].picture, rows[1][0].picture
    assert (grey == grey[..., :1]).all()
    assert not (colour == colour[..., :1]).all()


@pytest.mark.parametrize(
    ("shape", "names"), [((2, 3, 4), ["a"]), ((2, 1, 3, 4), ["a"]), ((1, 1, 3, 4), ["a", "b"])]
)
def test_what_does_not_fit_is_an_input_error(shape: tuple[int, ...], names: list[str]) -> None:
    with pytest.raises(InputError, match="attention"):
        attention_panels(field(), np.ones(shape), channels=CHANNELS, network_names=names)


def test_figure_has_a_row_per_network_and_a_column_per_picture() -> None:
    maps = np.random.default_rng(2).random((2, 3, 3, 4))
    figure = attention_figure(
        field(), maps, channels=CHANNELS, network_names=CHANNELS, title="cost $5 & $6"
    )
    # And a colour bar.
    assert len(figure.axes) == 2 * (2 + 3) + 1
    assert "1 is even over all patches" in figure.axes[-1].get_xlabel()
    figure.canvas.draw()


def test_save_attention_writes_a_png_per_site(tmp_path: Path, store: MemoryStore) -> None:
    paths = save_attention(MeanModel(), store, [0, 7], tmp_path / "new" / "maps")
    assert [path.name for path in paths] == ["000000_P-1_B04_1.png", "000007_P-1_B04_8.png"]
    assert sorted(path.name for path in (tmp_path / "new" / "maps").iterdir()) == sorted(
        path.name for path in paths
    )
    with Image.open(paths[0]) as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 10


@pytest.mark.parametrize("site", [-1, 8])
def test_a_site_the_store_lacks_is_an_input_error(store: MemoryStore, site: int) -> None:
    with pytest.raises(InputError, match=rf"site {site}: the store has the sites 0 to 7"):
        site_maps(MeanModel(), store, site)


def test_site_maps_takes_tensors_of_any_float_type(store: MemoryStore) -> None:
    class TensorModel(MeanModel):
        def attention(self, images: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(super().attention(images)).requires_grad_().bfloat16()

    maps = site_maps(TensorModel(), store, 2)
    assert maps.dtype == np.float32
    assert maps.shape == (3, 2, 6, 8)
    np.testing.assert_allclose(maps, site_maps(MeanModel(), store, 2), rtol=0.01)


def test_site_title_leaves_out_what_is_unknown(store: MemoryStore) -> None:
    assert site_title(store.manifest.iloc[7]) == "DMSO, P/1 B04 site 8"
    assert site_title(store.manifest.iloc[1]) == (
        "Actin-1 0.3 µM, Actin disruptors, P/1 B04 site 2"
    )


def test_colours_lie_between_quantiles_and_say_what_these_are() -> None:
    maps = np.arange(1.0, 101.0).reshape(1, 1, 10, 10)
    image = np.zeros((1, 10, 10), np.uint16)
    options = {"channels": ["DAPI"], "network_names": ["joint"]}
    (row,) = attention_panels(image, maps, quantiles=(0.25, 0.75), **options)
    assert row[0].ends is None
    low, high = np.quantile(maps, [0.25, 0.75])
    assert row[2].ends == pytest.approx((low / 50.5, high / 50.5))
    assert row[2].caption == "head 1, 0.51 to 1.5"
    flat = row[2].picture.reshape(100, 3)
    assert (flat[:25] == flat[0]).all()
    assert (flat[75:] == flat[99]).all()
    assert len({tuple(colour) for colour in flat.tolist()}) > 40


def test_attention_on_foreground_is_counted_by_pixels() -> None:
    image = np.random.default_rng(0).integers(90, 110, (2, 48, 64)).astype(np.uint16)
    # A quarter of one patch of eight pixels in the first channel, all of two in the other.
    image[0, 8:16:, 8:10] = 3000
    image[1, 24:32, 32:48] = 3000
    maps = np.full((2, 6, 8), 1.0, np.float32)
    maps[:, 1, 1] = 9
    shares = on_foreground(maps / maps[0].sum(), image, ("DAPI", "Actin"), "DAPI")
    assert shares == pytest.approx((0.25 * 9 / (47 + 9), 0.25 / 48))
    together = on_foreground(maps / maps[0].sum(), image, ("DAPI", "Actin"), "joint")
    assert together == pytest.approx(((0.25 * 9 + 2) / (47 + 9), 2.25 / 48))
    even = on_foreground(np.ones((1, 6, 8)), image, ("DAPI", "Actin"), "Actin")
    assert even == pytest.approx((2 / 48, 2 / 48))
    assert on_foreground(maps, np.full((1, 48, 64), 7, np.uint16), ("DAPI",), "DAPI") is None
    noise = np.random.default_rng(0).integers(90, 110, (1, 48, 64)).astype(np.uint16)
    assert on_foreground(maps, noise, ("DAPI",), "DAPI") is None


def test_cells_show_through_where_attention_is_low() -> None:
    maps = np.ones((1, 1, 3, 4))
    maps[0, 0, 2, 1] = 50
    (row,) = attention_panels(field(), maps, channels=CHANNELS, network_names=["joint"])
    outside = np.ones((24, 32), bool)
    outside[16:24, 8:16] = False
    np.testing.assert_array_equal(row[1].picture[outside], row[0].picture[outside])
    assert (row[1].picture[~outside] != row[0].picture[~outside]).any()


def test_fields_are_asked_for_by_site_well_and_compound(store: MemoryStore) -> None:
    manifest = store.manifest.copy()
    manifest["Metadata_Well"] = [f"B{n + 1:02d}" for n in range(8)]
    assert asked_sites(manifest, sites=[5, 5, 2]) == [5, 2]
    assert asked_sites(manifest, wells=["P/1/b3"]) == [2]
    assert asked_sites(manifest, compounds=["dmso"], num=5) == [6, 7]
    assert asked_sites(manifest, sites=[7], compounds=["DMSO", "Actin-1"]) == [7, 6, 1]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "no field is asked for"),
        ({"sites": [8]}, "site 8: the store has the sites 0 to 7"),
        ({"wells": ["B04"]}, "--well B04: expected PLATE/WELL"),
        ({"wells": ["P/1/99"]}, "--well P/1/99: '99' is no well; expected one such as B03"),
        ({"wells": ["P2/B04"]}, "no plate 'P2'; it has P/1"),
        ({"wells": ["P/1/C04"]}, "plate P/1 has no image of C04"),
        ({"compounds": ["DMS"]}, "no such compound; did you mean DMSO"),
    ],
)
def test_what_isnt_there_is_an_input_error(
    store: MemoryStore, asked: dict[str, list], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        asked_sites(store.manifest, **asked)


def test_figures_are_png_or_svg_at_the_resolution_asked(tmp_path: Path, store: MemoryStore) -> None:
    def saved(name: str, **options: Any) -> list[Path]:
        return save_attention(MeanModel(), store, [0], tmp_path / name, **options)

    png, svg = saved("a", formats=["png", "svg"], dpi=50)
    (fine,) = saved("b", dpi=100)
    sizes = []
    for path in (png, fine):
        with Image.open(path) as picture:
            sizes.append(picture.size)
    assert sizes[1] == pytest.approx([2 * side for side in sizes[0]], abs=2)
    text = svg.read_text(encoding="utf-8")
    assert "<svg" in text
    assert saved("c", formats=["svg"])[0].read_text(encoding="utf-8") == text
    for options, message in [
        ({"formats": ["pdf"]}, "--format pdf: expected png or svg"),
        ({"dpi": 0}, "--dpi 0"),
        ({"quantiles": (0.9, 0.1)}, "--quantiles 0.9 0.1"),
    ]:
        with pytest.raises(InputError, match=message):
            saved("d", **options)
    assert not (tmp_path / "d").exists()
