"""Models in and out: loading one by name, exporting that of a run, importing other code's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from wsdino.atomic import sweep, visible, writing
from wsdino.errors import InputError, ModelError, OutputError
from wsdino.lock import one_writer
from wsdino.progress import say
from wsdino.runfolder import ModelPaths, RunPaths, is_made_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wsdino.config import Config
    from wsdino.model.model import Model


def export_model(run: Path, out: Path) -> None:
    """Export a run's model, with a model card that gives its origin.

    Parameters
    ----------
    run
        Run folder with a trained model.
    out
        Folder to write: absent, empty, or an exported model, which is replaced. It will hold
        ``config.json``, ``model.safetensors``, ``README.md`` and, where the run has made profiles,
        ``normalisation.npz``: the normalisation fitted on this model's embeddings.

    Raises
    ------
    ModelError
        If there is no trained model.
    OutputError
        If `out` holds something else, or can't be written.
    """
    from wsdino.model.model import load_model
    from wsdino.report.card import model_card
    from wsdino.runrecord import read_run

    record, model = read_run(run), load_model(run)
    if out.resolve() in {run.resolve(), RunPaths(run).model.folder.resolve()}:
        raise OutputError(f"{out}: is the run itself; give --out a new folder")
    _require_room(out)
    card = model_card(record, model.spec, num_features=len(model.feature_names))
    _save(model, out, card, normalisation=_normalisation_of(run))


def import_model(
    weights: str | dict[str, str], out: Path, *, config: Config, channels: Sequence[str]
) -> None:
    """Build a model from weights saved by DINO, WS-DINO or timm.

    Parameters
    ----------
    weights
        A file or URL that serves every network, or one for each channel.
    out
        Folder to write, as for :func:`export_model`.
    config
        Gives the channel mode, architecture, input scaling and tiles.
    channels
        Names in the order of the image's channel axis; may be empty where `weights` names them.

    Raises
    ------
    InputError
        If weights and channels don't determine which network sees which channel.
    ModelError
        If a file can't be read, or does not fit the architecture.
    OutputError
        If `out` holds something else, or can't be written.
    """
    from wsdino.model.model import Model
    from wsdino.model.spec import build_networks
    from wsdino.trainings import model_spec

    if isinstance(weights, dict):
        channels = _require_same_channels(channels, weights)
    elif not channels:
        raise InputError(
            f"{weights}: the channels are unknown; name each with --channel, or give CHANNEL=FILE "
            "for each"
        )
    _require_room(out)
    spec = model_spec(config, tuple(channels))
    model = Model(spec, build_networks(spec, weights=weights))
    _save(model, out)


def _normalisation_of(run: Path) -> bytes | None:
    """Return the normalisation in a run or exported model, if it belongs to the current model."""
    paths, exported = RunPaths(run), ModelPaths(run)
    if exported.config.is_file():
        return exported.normalisation.read_bytes() if exported.normalisation.is_file() else None
    if not paths.normalisation.is_file():
        return None
    if not is_made_from(run, paths.normalisation, paths.model.weights):
        say(
            f"{paths.normalisation}: was not fitted on embeddings of the current model, so the "
            "model is exported without it; wsdino run makes it again"
        )
        return None
    return paths.normalisation.read_bytes()


def _save(model: Model, out: Path, card: str = "", *, normalisation: bytes | None = None) -> None:
    with one_writer(out):
        sweep(out)
        model.save(out, card=card)
        if normalisation is not None:
            with writing(ModelPaths(out).normalisation) as partial:
                partial.write_bytes(normalisation)


def weights_by_channel(weights: Sequence[str]) -> str | dict[str, str]:
    """Distinguish one file for all channels from one file per channel.

    Raises
    ------
    InputError
        If it is neither, or a channel is named twice.
    """
    if len(weights) == 1 and Path(weights[0]).is_file():
        # Names such as epoch=99-step=1000.ckpt don't name a channel.
        return weights[0]
    named = [re.fullmatch(r"([^=/\\:]+)=(.+)", text) for text in weights]
    if len(weights) == 1 and named[0] is None:
        return weights[0]
    found: dict[str, str] = {}
    for text, match in zip(weights, named, strict=True):
        if match is None:
            raise InputError(f"{text}: with several files, give each as CHANNEL=FILE")
        if match[1] in found:
            raise InputError(f"{text}: channel {match[1]} already has {found[match[1]]}")
        found[match[1]] = match[2]
    return found


def _require_same_channels(channels: Sequence[str], weights: dict[str, str]) -> Sequence[str]:
    if channels and set(channels) != set(weights):
        raise InputError(
            f"--channel {', '.join(channels)}: the files are for {', '.join(weights)}; leave "
            "--channel out, or name the same channels in the order of the images"
        )
    return channels or list(weights)


def _require_room(out: Path) -> None:
    others = visible(out) - {path.name for path in ModelPaths(out).all}
    if others or (out.exists() and not out.is_dir()):
        raise OutputError(f"{out}: exists and is not a model; give --out a new or empty folder")


def model_for(source: str, store: Path, *, device: str = "cpu") -> Model:
    """Load a model for the channels of a store.

    Parameters
    ----------
    source
        A run, an exported model, ``starter``, or a package of
        :data:`~wsdino.model.packaged.PACKAGED`.
    store
        Whose channels it is for, where it doesn't bring its own.
    device
        Where it computes.

    Raises
    ------
    ModelError
        If there is none, or a name could also be a folder.
    """
    from wsdino.model.model import load_model
    from wsdino.model.packaged import find_packaged
    from wsdino.model.weights import STARTER
    from wsdino.screen.store import open_store

    if source != STARTER and not find_packaged(source):
        return load_model(source, device=device)
    if Path(source).is_dir():
        raise ModelError(
            f"{source}: ambiguous between the backbone and the folder of that name; use "
            f"./{source} for the folder, or run from another directory for the backbone"
        )
    return load_model(source, channels=open_store(store).channels, device=device)
