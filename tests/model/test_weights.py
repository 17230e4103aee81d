from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from helpers_weights import (
    CHANNELS,
    FORMATS,
    NAME,
    SIZE,
    embedding_of_grey,
    images_of,
    rgb_vit,
    save_dino,
    save_plain,
    save_safetensors,
    small_spec,
)
from wsdino.errors import ModelError
from wsdino.model.building import build_networks
from wsdino.model.model import load_model
from wsdino.model.spec import ModelSpec
from wsdino.model.weights import load_backbone_weights, read_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_of_any_format_embeds_as_its_network_does(tmp_path: Path, name: str) -> None:
    vit, images = rgb_vit(), images_of()
    FORMATS[name](vit, tmp_path / name)
    networks = build_networks(small_spec(), weights=tmp_path / name).eval()
    torch.testing.assert_close(networks(images), embedding_of_grey(vit, images))


def test_load_model_reads_a_checkpoint_by_its_backbone_s_name(tmp_path: Path) -> None:
    save_dino(rgb_vit(depth=12), tmp_path / "dino.pth")
    model = load_model(tmp_path / "dino.pth", channels=CHANNELS, backbone=NAME, mode="per_channel")
    images = np.random.default_rng(0).integers(0, 9000, (2, 2, 48, 48), dtype=np.uint16)
    assert model.embed(images).shape == (2, 384)
    first, second = (network.state_dict() for network in model.networks.networks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    with pytest.raises(ModelError, match="needs the name of its timm backbone"):
        load_model(tmp_path / "dino.pth", channels=CHANNELS)
    with pytest.raises(ModelError, match="need the names of the channels"):
        load_model(tmp_path / "dino.pth", backbone=NAME)


@pytest.mark.parametrize("num_channels", [1, 2, 3, 5])
def test_grey_in_all_channels_embeds_as_grey_in_three(num_channels: int) -> None:
    vit = rgb_vit()
    other = timm.create_model(
        NAME, num_classes=0, img_size=SIZE, dynamic_img_size=True, depth=2, in_chans=num_channels
    ).eval()
    load_backbone_weights(other, vit.state_dict(), origin="a file")
    grey = images_of(channels=1)
    torch.testing.assert_close(
        other(grey.repeat(1, num_channels, 1, 1)), vit(grey.repeat(1, 3, 1, 1))
    )


def test_positions_are_interpolated_to_the_native_grid() -> None:
    vit = rgb_vit(size=64)
    smaller = timm.create_model(
        NAME, num_classes=0, img_size=SIZE, dynamic_img_size=True, depth=2
    ).eval()
    load_backbone_weights(smaller, vit.state_dict(), origin="a file")
    assert smaller.pos_embed.shape == (1, 5, 192)
    images = images_of(channels=3)
    torch.testing.assert_close(smaller(images), vit(images))


def test_positions_without_a_class_token_are_interpolated_too() -> None:
    options = {"num_classes": 0, "dynamic_img_size": True, "depth": 1}
    torch.manual_seed(0)
    large, small = (
        timm.create_model("deit3_small_patch16_224", img_size=size, **options).eval()
        for size in (64, 32)
    )
    for size, target in ((64, small), (64, large)):
        load_backbone_weights(target, large.state_dict(), origin=f"a file of {size} px")
    images = images_of(channels=3)
    torch.testing.assert_close(small(images), large(images))


def test_a_file_for_each_channel(tmp_path: Path) -> None:
    vits = {channel: rgb_vit(seed=i) for i, channel in enumerate(CHANNELS)}
    for channel, vit in vits.items():
        save_safetensors(vit, tmp_path / f"{channel}.safetensors")
    files = {channel: tmp_path / f"{channel}.safetensors" for channel in reversed(CHANNELS)}
    spec = replace(small_spec(), mode="per_channel")
    networks, images = build_networks(spec, weights=files).eval(), images_of()
    expected = [embedding_of_grey(vits[c], images[:, [i]]) for i, c in enumerate(CHANNELS)]
    torch.testing.assert_close(networks(images), torch.cat(expected, dim=1))
    for wrong in (small_spec(), replace(spec, channels=("DAPI", "ER"))):
        with pytest.raises(ModelError, match=r"one file per channel requires model\.mode"):
            build_networks(wrong, weights=files)


def refused(path: Path, match: str, spec: ModelSpec | None = None) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        build_networks(spec or small_spec(), weights=path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_weight_file_is_refused_in_one_line(tmp_path: Path) -> None:
    refused(tmp_path / "absent.pth", "no such weight file")
    for name in ("garbage.pth", "garbage.safetensors"):
        (tmp_path / name).write_bytes(os.urandom(1000))
        refused(tmp_path / name, "not a readable weight file")
    save_plain(rgb_vit(), tmp_path / "whole.pth")
    half = (tmp_path / "whole.pth").read_bytes()[:100_000]
    (tmp_path / "half.pth").write_bytes(half)
    refused(tmp_path / "half.pth", "not a readable weight file")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    refused(tmp_path / "empty.pth", "no backbone weights under")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    refused(tmp_path / "list.pth", "holds a list instead of a dict")


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch evil",)


def test_a_checkpoint_can_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"teacher": {}, "args": Evil()}, tmp_path / "evil.pth")
    refused(tmp_path / "evil.pth", "not a readable weight file")
    assert not (tmp_path / "evil").exists()


def test_weights_of_another_shape_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save_plain(rgb_vit(depth=1), path)
    refused(path, r"tensors are missing or of another shape, first blocks\.1")
    save_plain(rgb_vit(depth=3), path)
    refused(path, r"of its \d+ tensors don't belong to it, first blocks\.2")
    small = replace(small_spec().architecture, dim=96)
    refused(path, "missing or of another shape", replace(small_spec(), architecture=small))
    refused(path, "missing or of another shape", ModelSpec(CHANNELS))
    state = rgb_vit().state_dict()
    torch.save({**state, "pos_embed": torch.zeros(1, 12, 192)}, path)
    refused(path, r"pos_embed of shape \(1, 12, 192\) is not a square grid")
    torch.save({**state, "decoder.weight": torch.zeros(3)}, path)
    build_networks(small_spec(), weights=path)


def test_another_key_can_be_asked_for(tmp_path: Path) -> None:
    save_dino(rgb_vit(), tmp_path / "dino.pth")
    student = read_state_dict(tmp_path / "dino.pth", key="student")
    backbone = {name: value for name, value in student.items() if not name.startswith("head.")}
    torch.testing.assert_close(backbone, dict(rgb_vit(seed=9).state_dict()))


# Weights from the network: real servers on this machine.


@pytest.fixture
def serve() -> Iterator[Callable[[type[BaseHTTPRequestHandler] | partial], str]]:
    """Start a server with the given handler; return its address."""
    servers = []

    def start(handler: type[BaseHTTPRequestHandler] | partial) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


class Folder(SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, *_: Any) -> None:
        pass


def test_weights_at_a_url_are_fetched_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder, seed in (("a", 0), ("b", 1)):
        save_dino(rgb_vit(seed=seed), tmp_path / folder / "checkpoint.pth")
    address, images = serve(partial(Folder, directory=str(tmp_path))), images_of()
    for folder, seed in (("a", 0), ("b", 1)):
        url = f"{address}/{folder}/checkpoint.pth"
        networks = build_networks(small_spec(), weights=url).eval()
        expected = embedding_of_grey(rgb_vit(seed=seed), images)
        torch.testing.assert_close(networks(images), expected)
        (tmp_path / folder / "checkpoint.pth").unlink()
        again = build_networks(small_spec(), weights=url).eval()
        torch.testing.assert_close(again(images), expected)
    with pytest.raises(ModelError, match=r"absent.pth: can't be downloaded: .*404") as no:
        build_networks(small_spec(), weights=f"{address}/absent.pth")
    assert "\n" not in str(no.value)
    with pytest.raises(ModelError, match="can't be downloaded"):
        build_networks(small_spec(), weights="http://127.0.0.1:9/nobody-is-there.pth")


def test_a_model_at_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    save_safetensors(rgb_vit(depth=12), tmp_path / "vit.safetensors")
    url = serve(partial(Folder, directory=str(tmp_path))) + "/vit.safetensors"
    images = np.random.default_rng(0).integers(0, 9000, (1, 2, 32, 32), dtype=np.uint16)
    models = [
        load_model(source, channels=CHANNELS, backbone=NAME)
        for source in (url, tmp_path / "vit.safetensors")
    ]
    np.testing.assert_array_equal(models[0].embed(images), models[1].embed(images))


class Hub(Folder):
    """As much of a model hub as timm asks for: one file of one repository."""

    path_of_file = "/timm/test_vit.r160_in1k/resolve/main/model.safetensors"

    def send_head(self) -> Any:
        if self.path != self.path_of_file:
            self.send_error(404)
            return None
        self.path = "/model.safetensors"
        return super().send_head()

    def end_headers(self) -> None:
        self.send_header("ETag", '"1234"')
        self.send_header("X-Repo-Commit", "0" * 40)
        super().end_headers()


HUB_SCRIPT = """
import sys, torch
from wsdino.errors import ModelError
from wsdino.model.building import build_networks
from wsdino.model.spec import Architecture, ModelSpec

def networks(name):
    spec = ModelSpec(("a", "b"), architecture=Architecture(backbone=name))
    return build_networks(spec, weights="timm").eval()

images = torch.load(sys.argv[1])
torch.save(networks("test_vit.r160_in1k")(images), sys.argv[2])
try:
    networks("test_vit2.r160_in1k")
except ModelError as error:
    print(error)
"""


def test_timm_s_own_weights_come_from_its_hub(tmp_path: Path, serve: Callable[..., str]) -> None:
    torch.manual_seed(0)
    vit = timm.create_model("test_vit.r160_in1k").eval()
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    images = torch.randn(2, 2, 160, 160)
    torch.save(images, tmp_path / "images.pt")
    address = serve(partial(Hub, directory=str(tmp_path)))
    # The address of the hub is read when its client is imported.
    done = subprocess.run(
        [sys.executable, "-c", HUB_SCRIPT, tmp_path / "images.pt", tmp_path / "features.pt"],
        env=os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    vit.reset_classifier(0)
    features = torch.load(tmp_path / "features.pt")
    torch.testing.assert_close(features, embedding_of_grey(vit, images))
    assert "model.weights 'timm': the weights of 'test_vit2.r160_in1k' can't be" in done.stdout
    assert len(done.stdout.splitlines()) == 1
