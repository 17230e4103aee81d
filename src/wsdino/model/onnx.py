"""A model as ONNX graphs, for programs without torch: what it makes of a tile."""

from __future__ import annotations

import copy
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from wsdino.errors import ModelError
from wsdino.model.positions import keep_one_size
from wsdino.model.tiles import tile_shapes

if TYPE_CHECKING:
    from wsdino.model.model import Model
    from wsdino.model.networks import ChannelNetworks

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
INPUTS, OUTPUT = ("images", "offset", "gain"), "embedding"
TOLERANCE = 1e-4
"""Largest difference from torch's embedding, relative to the largest of its values (or 1)."""
LARGEST_BYTES = 2**31 - 2**20
"""As large as one ONNX file can be, with some room for the graph."""


class _TileGraph(nn.Module):
    """Scaling and networks, for tiles of one size."""

    def __init__(self, networks: ChannelNetworks, clip: tuple[float, float]) -> None:
        super().__init__()
        self.networks, self.clip = networks, clip

    def forward(self, images: Tensor, offset: Tensor, gain: Tensor) -> Tensor:
        """Embed (N, C, h, w) intensities, scaled by (N, C) offset and gain: (N, F)."""
        scaled = (images - offset[:, :, None, None]) * gain[:, :, None, None]
        embedding: Tensor = self.networks(scaled.clamp(*self.clip))
        return embedding


def onnx_files(model: Model) -> dict[str, bytes]:
    """Export a model as ONNX, and run each graph to see that it gives the model's embedding.

    A graph embeds tiles of one size. Its inputs are ``images`` (N, C, h, w) float32, intensities as
    stored, and ``offset`` and ``gain`` (N, C) float32 of the input scaling; its output
    ``embedding`` is (N, F) float32. N is any number. The model's config is in its metadata, under
    ``wsdino``.

    Parameters
    ----------
    model
        Any model that sees tiles.

    Returns
    -------
    dict of str to bytes
        Contents by file name: ``model.onnx``, or one for each size that tiles have.

    Raises
    ------
    ModelError
        If packages are missing, the model sees whole fields or is too large, or a graph can't be
        made or gives other numbers.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ModelError(
            f"--onnx: needs the package {missing[0]}, which isn't installed; pip install "
            "'wsdino[onnx]'"
        )
    if model.spec.tile is None:
        raise ModelError(
            "--onnx: a graph is made for images of one size, and this model sees whole fields "
            "(embed.tile null); export it without"
        )
    size = sum(each.numel() * each.element_size() for each in model.networks.state_dict().values())
    if size > LARGEST_BYTES:
        raise ModelError(
            f"--onnx: the weights are {size / 2**30:.1f} GiB, and one ONNX file can hold 2; export "
            "it without"
        )
    shapes = tile_shapes(model.spec.tile, model.spec.tile_grid)
    names = {shape: f"model_{shape[0]}x{shape[1]}.onnx" for shape in shapes}
    if len(shapes) == 1:
        names = {shapes[0]: "model.onnx"}
    return {name: _export(model, shape) for shape, name in names.items()}


def _export(model: Model, shape: tuple[int, int]) -> bytes:
    from onnx.helper import set_model_props

    networks = copy.deepcopy(model.networks).cpu().eval()
    for network in networks.networks:
        keep_one_size(network, shape)
    graph = _TileGraph(networks, model.spec.scaling.clip).eval()
    # Torch would take a batch of one for a constant.
    example = _example(model, shape, num=2)
    num = {0: torch.export.Dim("N")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                graph,
                example,
                dynamo=True,
                verbose=False,
                external_data=False,
                input_names=INPUTS,
                output_names=(OUTPUT,),
                dynamic_shapes=dict.fromkeys(INPUTS, num),
            )
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise ModelError(f"--onnx: torch can't export this network ({reason})") from error
    assert program is not None, "with dynamo it always is"
    proto = program.model_proto
    set_model_props(proto, {"wsdino": model.spec.to_json()})
    content: bytes = proto.SerializeToString()
    _require_same(model, content, shape)
    return content


def _example(model: Model, shape: tuple[int, int], *, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random intensities, within the bounds of fixed scaling, with an offset and gain."""
    low, high = float(model.spec.scaling.low), float(model.spec.scaling.high)
    channels = len(model.channels)
    chance = torch.Generator().manual_seed(0)
    images = low + (high - low) * torch.rand((num, channels, *shape), generator=chance)
    if model.spec.scaling.method == "fixed":
        offset, gain = torch.full((num, channels), low), torch.full((num, channels), high - low)
        return images, offset, 1 / gain
    std, mean = torch.std_mean(images, dim=(2, 3), correction=0)
    return images, mean, 1 / std


@torch.inference_mode()
def _require_same(model: Model, content: bytes, shape: tuple[int, int]) -> None:
    import onnxruntime

    # Another number of images than it was made with.
    images, offset, gain = _example(model, shape, num=3)
    networks = copy.deepcopy(model.networks).cpu().eval()
    wanted = _TileGraph(networks, model.spec.scaling.clip)(images, offset, gain).numpy()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    given = {name: each.numpy() for name, each in zip(INPUTS, (images, offset, gain), strict=True)}
    (found,) = session.run([OUTPUT], given)
    difference = float(np.abs(found - wanted).max() / max(1.0, float(np.abs(wanted).max())))
    if not difference <= TOLERANCE:
        raise ModelError(
            f"--onnx: the graph's embedding differs by {difference:.1g} from torch's, more than "
            f"{TOLERANCE:g}; it is not written"
        )
