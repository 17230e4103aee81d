"""The backbone that the package ships: it is there, small, and serves any channels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.metrics import roc_auc_score

from wsdino.config import load_config
from wsdino.errors import ModelError
from wsdino.model.building import build_networks
from wsdino.model.model import Model, load_model
from wsdino.model.packaged import starter_folder
from wsdino.model.spec import STARTER_TILE, starter_spec
from wsdino.report.attentive import on_foreground
from wsdino.screen.measures import foreground_mask
from wsdino.simulate import Difficulty
from wsdino.simulate.layouts import CHANNELS, layout_table
from wsdino.simulate.plates import describe_sites
from wsdino.simulate.render import render

WEIGHTS = starter_folder() / "model.safetensors"


def fields(num_channels: int, *, seed: int = 0) -> np.ndarray:
    shape = (2, num_channels, 96, 80)
    return np.random.default_rng(seed).integers(100, 4000, shape).astype(np.uint16)


def test_the_file_is_small_and_in_half_precision() -> None:
    assert WEIGHTS.stat().st_size <= 6e6
    with safe_open(WEIGHTS, "pt") as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 no mapping
    assert {tensor.dtype for tensor in tensors} == {torch.float16}
    assert all(tensor.isfinite().all() for tensor in tensors)


@pytest.mark.parametrize("channels", [("DNA",), ("DAPI", "Tubulin", "Actin"), tuple("abcde")])
def test_it_sees_any_number_of_channels_each_alone(channels: tuple[str, ...]) -> None:
    model = load_model("starter", channels=channels)
    assert model.channels == channels
    assert model.spec.tile == STARTER_TILE
    images = fields(len(channels))
    vectors = model.embed(images)
    dim = vectors.shape[1] // len(channels)
    assert vectors.shape == (2, len(channels) * dim)
    assert np.isfinite(vectors).all()
    alone = load_model("starter", channels=channels[-1:]).embed(images[:, -1:])
    np.testing.assert_allclose(vectors[:, -dim:], alone, rtol=0.02, atol=0.02)
    assert model.attention(images).shape[:2] == (2, len(channels))


def test_its_attention_is_on_cells() -> None:
    """Untrained it is even, and of a network that was left alone it avoids them."""
    sites = describe_sites(layout_table("small", sites=1), Difficulty(), seed=3, size=192)
    images = np.stack([render(site, seed=3, size=192) for site in sites[::40]])
    maps = load_model("starter", channels=CHANNELS).attention(images)
    for image, networks in zip(images, maps, strict=True):
        for index, channel in enumerate(CHANNELS):
            share, area = on_foreground(networks[index], image, CHANNELS, channel) or (0, 1)
            assert share / area > 1.5
            # Pixels of the mask are two wide, patches eight.
            mask = foreground_mask(image[index]).reshape(24, 4, 24, 4).mean(axis=(1, 3)) > 0.5
            assert roc_auc_score(mask.ravel(), networks[index].mean(axis=0).ravel()) > 0.8


def test_it_is_not_what_it_was_before_training() -> None:
    spec = starter_spec(("a",))
    state = build_networks(spec, weights="starter").state_dict()
    torch.manual_seed(0)
    for name, value in build_networks(spec).state_dict().items():
        assert not torch.equal(state[name], value), name


def test_one_network_of_all_channels_can_start_from_it() -> None:
    """A grey image, the same in all channels, is seen as the starter sees one channel."""
    spec = starter_spec(("a", "b", "c"))
    one = load_model("starter", channels=("a",))
    joint = build_networks(
        type(spec)(spec.channels, "joint", spec.architecture, spec.scaling), weights="starter"
    )
    images = fields(1)
    grey = np.repeat(images, 3, axis=1)
    model = Model(type(spec)(spec.channels, "joint", spec.architecture, spec.scaling, 64), joint)
    np.testing.assert_allclose(model.embed(grey), one.embed(images), rtol=0.02, atol=0.02)


def test_it_needs_channels() -> None:
    with pytest.raises(ModelError, match=r"^starter: .* channels"):
        load_model("starter")


def test_another_shape_is_refused_in_one_line() -> None:
    spec = starter_spec(("a",))
    wider = type(spec.architecture)(dim=96)
    with pytest.raises(ModelError, match=r"^starter: does not fit this backbone") as caught:
        build_networks(type(spec)(("a",), "shared", wider), weights="starter")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", ["demo"])
def test_presets_that_start_from_it_have_its_shape(preset: str) -> None:
    config = load_config(preset)
    assert config.model.weights == "starter"
    assert config.architecture == starter_spec(("a",)).architecture
    assert config.input == starter_spec(("a",)).scaling
