"""Convolutional backbones: any that pools, its statistics kept, its inputs in its own units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from wsdino.errors import ModelError
from wsdino.model.backbone import timm_backbone, width_of
from wsdino.model.building import build_networks
from wsdino.model.model import Model, load_model
from wsdino.model.scaling import InputScaling
from wsdino.model.spec import Architecture, ModelSpec
from wsdino.model.units import InputUnits, imagenet_units

if TYPE_CHECKING:
    from pathlib import Path

CHANNELS = ("DAPI", "Actin")


def spec_of(backbone: str = "test_efficientnet", **changes: Any) -> ModelSpec:
    return ModelSpec(CHANNELS, architecture=Architecture(backbone=backbone, **changes))


def images_of(size: int = 32, *, num: int = 3, channels: int = 2) -> torch.Tensor:
    shape = (num, channels, size, size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def build(name: str, **options: Any) -> Any:
    given = {"in_channels": 2, "image_size": 32, "pool": "token", "drop_path": 0.0}
    return timm_backbone(name, pretrained=False, **given | options)


@pytest.mark.parametrize(
    "name", ["test_efficientnet", "test_resnet", "test_convnext", "test_mambaout", "lcnet_050"]
)
def test_any_network_that_pools_embeds(name: str) -> None:
    network = build(name).eval()
    found = network(images_of())
    assert found.shape == (3, width_of(network))
    model = Model(spec_of(name), build_networks(spec_of(name)))
    pixels = np.random.default_rng(0).integers(0, 4000, (2, 2, 40, 33), dtype=np.uint16)
    vectors = model.embed(pixels)
    assert vectors.shape == (2, len(model.feature_names)) == (2, 2 * width_of(network))


def test_what_does_not_pool_or_lacks_an_option_is_refused_in_one_line() -> None:
    for name, options, match in (
        ("mobilenetv5_300m_enc", {}, r"makes \(1, 2048, .*\) of one image, and not 2048 "),
        ("vgg11", {"drop_path": 0.1}, r"does not support train.drop_path 0.1"),
    ):
        with torch.device("meta"), pytest.raises(ModelError, match=match) as caught:
            build(name, **options)
        assert "\n" not in str(caught.value)
        assert f"architecture.backbone '{name}'" in str(caught.value)


def with_statistics(network: Any) -> Any:
    """Give every layer of batch normalisation statistics of its own."""
    torch.manual_seed(3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
    return network


def test_in_training_as_in_evaluation_statistics_are_those_of_the_weights() -> None:
    networks = with_statistics(build_networks(spec_of()))
    images = images_of()
    before = {name: value.clone() for name, value in networks.named_buffers()}
    expected = networks.eval()(images)
    networks.train()
    assert networks.training
    torch.testing.assert_close(networks(images), expected)
    torch.testing.assert_close(networks(images[:1]), expected[:1], rtol=1e-4, atol=1e-5)
    assert before
    for name, value in networks.named_buffers():
        assert torch.equal(value, before[name]), name
    networks(images).square().sum().backward()
    trained = {name for name, p in networks.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in networks.named_parameters()}


def test_timm_alone_would_normalise_over_the_batch() -> None:
    """The test above could not fail if the network had nothing that changes in training."""
    network = with_statistics(build("test_efficientnet")).train()
    images = images_of()
    in_training = network(images)
    assert (in_training - network.eval()(images)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_convnext"])
def test_a_file_of_three_colours_is_read_for_any_number_of_channels(
    tmp_path: Path, name: str
) -> None:
    torch.manual_seed(0)
    colours = with_statistics(timm.create_model(name)).eval()
    save_file(colours.state_dict(), tmp_path / "colours.safetensors")
    colours.reset_classifier(0)
    networks = build_networks(spec_of(name), weights=tmp_path / "colours.safetensors").eval()
    images = images_of()
    blocks = [colours(images[:, [i]].repeat(1, 3, 1, 1)) for i in range(2)]
    torch.testing.assert_close(networks(images), torch.cat(blocks, dim=1), rtol=1e-4, atol=1e-5)


def test_a_saved_model_is_the_same(tmp_path: Path) -> None:
    spec = spec_of(expects="imagenet")
    model = Model(spec, with_statistics(build_networks(spec)))
    model.save(tmp_path)
    again = load_model(tmp_path)
    assert again.spec == spec
    pixels = np.random.default_rng(0).integers(0, 4000, (2, 2, 40, 33), dtype=np.uint16)
    np.testing.assert_array_equal(again.embed(pixels), model.embed(pixels))


def test_attention_is_refused_by_name() -> None:
    model = Model(spec_of(), build_networks(spec_of()))
    pixels = np.zeros((1, 2, 32, 32), dtype=np.uint16)
    with pytest.raises(ModelError, match=r"need a vision transformer .* kind EfficientNet"):
        model.attention(pixels)


# Units.


def test_grey_levels_are_standardised_as_the_network_s_photographs_were() -> None:
    images = torch.rand(2, 2, 8, 8)
    units = imagenet_units("tf_efficientnet_lite0", standard_scores=False)
    torch.testing.assert_close(units(images), (images - 0.5) / 0.5)
    units = imagenet_units("resnet18.a1_in1k", standard_scores=False)
    torch.testing.assert_close(units(images), (images - 0.449) / 0.226)


def test_standard_scores_are_those_of_imagenet_s_pixels() -> None:
    scores = images_of()
    units = imagenet_units("tf_efficientnet_lite0", standard_scores=True)
    torch.testing.assert_close(units(scores), (0.449 + 0.226 * scores - 0.5) / 0.5)
    # Where the network was trained with ImageNet's own mean and deviation, they are what it saw.
    assert imagenet_units("resnet18", standard_scores=True) == InputUnits()
    assert InputUnits()(scores) is scores


@pytest.mark.parametrize("method", ["fixed", "field"])
def test_the_networks_of_a_spec_see_these_units(method: str) -> None:
    spec = ModelSpec(
        CHANNELS,
        architecture=Architecture(backbone="test_efficientnet", expects="imagenet"),
        scaling=InputScaling(method),
    )
    torch.manual_seed(0)
    networks = build_networks(spec).eval()
    images = images_of()
    units = imagenet_units("test_efficientnet", standard_scores=method == "field")
    seen = units(images).flatten(0, 1).unsqueeze(1)
    (split,) = networks.split(images)
    torch.testing.assert_close(split, seen)
    torch.testing.assert_close(networks(images), networks.networks[0](seen).reshape(3, -1))


def test_a_network_of_which_nothing_is_known_is_refused() -> None:
    with pytest.raises(ModelError, match=r"expects imagenet: timm doesn't state .* 'vit'"):
        build_networks(spec_of("vit", expects="imagenet"))
