from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers_train import TINY
from wsdino.errors import ModelError
from wsdino.model.building import build_networks
from wsdino.model.networks import ChannelNetworks
from wsdino.model.spec import ModelSpec

CHANNELS = ("DAPI", "Tubulin", "Actin")


def networks_of(mode: str) -> ChannelNetworks:
    torch.manual_seed(0)
    return build_networks(ModelSpec(CHANNELS, mode=mode, architecture=TINY)).eval()


def images_of(num: int = 2, size: int = 16) -> Tensor:
    return torch.randn((num, 3, size, size), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("mode", "num_networks", "num_inputs", "names"),
    [
        ("per_channel", 3, 1, list(CHANNELS)),
        ("shared", 1, 1, list(CHANNELS)),
        ("joint", 1, 3, ["joint"]),
    ],
)
def test_modes(mode: str, num_networks: int, num_inputs: int, names: list[str]) -> None:
    networks = networks_of(mode)
    assert len(networks.networks) == num_networks
    assert networks.input_names == names
    assert networks.dim == 16
    features = networks(images_of())
    assert features.shape == (2, 16 * len(names)) == (2, len(networks.feature_names))
    assert networks.feature_names[0] == f"emb_{names[0]}_0"
    assert networks.feature_names[-1] == f"emb_{names[-1]}_15"
    assert len(set(networks.feature_names)) == len(networks.feature_names)
    assert networks.attention(images_of()).shape == (2, len(names), 2, 2, 2)
    assert {tuple(x.shape[1:]) for x in networks.split(images_of())} == {(num_inputs, 16, 16)}
    assert networks.views_per_image == (3 if mode == "shared" else 1)
    assert networks.patch_size == 8


@pytest.mark.parametrize("mode", ["per_channel", "shared", "joint"])
def test_embedding_equals_network_by_network_by_hand(mode: str) -> None:
    networks, images = networks_of(mode), images_of()
    if mode == "joint":
        blocks = [networks.networks[0](images)]
        maps = None
    else:
        per_channel = [networks.networks[i if mode == "per_channel" else 0] for i in range(3)]
        blocks = [net(images[:, i : i + 1]) for i, net in enumerate(per_channel)]
        from wsdino.model.backbone import cls_attention

        maps = [cls_attention(net, images[:, i : i + 1]) for i, net in enumerate(per_channel)]
    torch.testing.assert_close(networks(images), torch.cat(blocks, dim=1))
    if maps:
        torch.testing.assert_close(networks.attention(images), torch.stack(maps, dim=1))


@pytest.mark.parametrize("mode", ["per_channel", "shared"])
def test_a_channel_s_features_depend_on_that_channel_alone(mode: str) -> None:
    networks, images = networks_of(mode), images_of()
    altered = images.clone()
    altered[:, 1] += 1
    changed = (networks(altered) != networks(images)).any(dim=0)
    assert changed[16:32].any()
    assert not changed[:16].any()
    assert not changed[32:].any()


def test_per_channel_gradients_stay_in_their_network() -> None:
    networks = networks_of("per_channel")
    networks(images_of())[:, 16:32].square().sum().backward()
    touched = [
        any(p.grad is not None and bool(p.grad.any()) for p in network.parameters())
        for network in networks.networks
    ]
    assert touched == [False, True, False]


def test_networks_of_channels_start_differently() -> None:
    first, second, _ = networks_of("per_channel").networks
    assert not torch.equal(first.blocks[0].attn.qkv.weight, second.blocks[0].attn.qkv.weight)


def test_a_wrong_number_of_channels_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"2 channels.*made for 3: DAPI, Tubulin, Actin"):
        networks_of("shared")(images_of()[:, :2])


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"model.mode 'both': use one of per_channel, shared, joint"
    ):
        networks_of("both")


def test_sizes_are_whole_patches_where_there_are_patches() -> None:
    networks = networks_of("joint")
    networks.require_whole_patches(24, option="embed.tile")
    with pytest.raises(ModelError, match=r"embed.tile 20 px: not a multiple .* patch of 8 px"):
        networks.require_whole_patches(20, option="embed.tile")
    convolutional = ChannelNetworks(CHANNELS, "joint", lambda num: torch.nn.Conv2d(num, 4, 3))
    assert convolutional.patch_size == 1
    convolutional.require_whole_patches(21, option="embed.tile")
