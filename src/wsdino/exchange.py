"""Models in and out: loading one by name, exporting that of a run, importing other code's."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from wsdino.atomic import sweep, visible
from wsdino.errors import InputError, ModelError, OutputError, did_you_mean
from wsdino.lock import one_writer
from wsdino.progress import say
from wsdino.runfolder import ModelPaths, RunPaths, is_made_from
from wsdino.runrecord import RunRecord

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wsdino.config import Config
    from wsdino.model.model import Model
    from wsdino.model.published import PublishedModel


def export_model(run: Path, out: Path, *, onnx: bool = False) -> None:
    """Export a run's model, with a model card that gives its origin.

    The folder is as the Hugging Face Hub wants it.

    Parameters
    ----------
    run
        Run folder with a trained model.
    out
        Folder to write: absent, empty, or an exported model, which is replaced. It will hold
        ``config.json``, ``model.safetensors``, ``README.md`` and, where the run has made profiles,
        ``normalisation.npz``: the normalisation fitted on this model's embeddings.
    onnx
        Whether to write ``model.onnx`` too (:func:`wsdino.model.onnx.onnx_files`).

    Raises
    ------
    ModelError
        If there is no trained model, or it can't be exported as ONNX.
    OutputError
        If `out` holds something else, or can't be written.
    """
    from wsdino.model.model import load_model
    from wsdino.runrecord import read_run

    record, model = read_run(run), load_model(run)
    if out.resolve() in {run.resolve(), RunPaths(run).model.folder.resolve()}:
        raise OutputError(f"{out}: is the run itself; give --out a new folder")
    _require_room(out)
    beside: dict[str, bytes] = {}
    if normalisation := _normalisation_of(run):
        beside[ModelPaths(out).normalisation.name] = normalisation.read_bytes()
    if onnx:
        from wsdino.model.onnx import onnx_files

        beside |= onnx_files(model)
    _save(model, out, record, beside=beside, normalisation=normalisation)


def import_model(
    weights: str | dict[str, str],
    out: Path,
    *,
    config: Config,
    channels: Sequence[str],
    published: PublishedModel | None = None,
) -> None:
    """Build a model from weights saved by DINO, WS-DINO, timm or the code of a published model.

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
    published
        The model that `config` describes, where it is one that others published; the folder then
        holds a model card with its source and licence.

    Raises
    ------
    InputError
        If weights and channels don't determine which network sees which channel.
    ModelError
        If a file can't be read, or does not fit the architecture.
    OutputError
        If `out` holds something else, or can't be written.
    """
    from wsdino.model.building import build_networks
    from wsdino.model.model import Model
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
    if published is not None:
        published.require_channels(channels)
        spec = replace(spec, origin=published.name)
    model = Model(spec, build_networks(spec, weights=weights))
    _save(model, out, RunRecord(out) if published else None)


def config_like(
    source: str, settings: Sequence[str], *, per_channel: bool
) -> tuple[Config, PublishedModel | None]:
    """Make the config of an import.

    Parameters
    ----------
    source
        A preset, a YAML file, or a published model.
    settings
        ``a.b=value`` strings.
    per_channel
        Whether there is a file for each channel.

    Returns
    -------
    Config
        What the model is to be.
    PublishedModel or None
        Which one it is.

    Raises
    ------
    InputError
        If a setting has no effect on an import, or changes a published model's network.
    """
    from wsdino.config import load_config, preset_names
    from wsdino.model.published import PUBLISHED, find_published
    from wsdino.trainings import MODEL_KEYS

    keys = [setting.partition("=")[0] for setting in settings]
    for setting, key in zip(settings, keys, strict=True):
        if not any(key == each or key.startswith(f"{each}.") for each in MODEL_KEYS):
            raise InputError(
                f"--set {setting}: has no effect on an import, which takes only "
                f"{', '.join(MODEL_KEYS)}; leave it out"
            )
    if (published := find_published(source)) is None:
        known = [*preset_names(), *(entry.name for entry in PUBLISHED)]
        if not (
            source in known or Path(source).suffix in {".yaml", ".yml"} or Path(source).is_file()
        ):
            raise InputError(
                f"--like {source}: no such preset or published model{did_you_mean(source, known)}; "
                f"give one of {', '.join(known)}, or a YAML file"
            )
        # One file per channel means one network per channel.
        mode = ["model.mode=per_channel"] if per_channel else []
        return load_config(source, [*mode, *settings]), None
    if per_channel:
        raise InputError(f"--like {source}: one file serves its channels; give it without CHANNEL=")
    for setting, key in zip(settings, keys, strict=True):
        if not key.startswith(("embed.", "input.")):
            raise InputError(
                f"--set {setting}: the network of {source} is fixed; only input.* and embed.* may "
                "differ"
            )
    published.require_scaling(keys)
    return load_config("default", [*published.settings(), *settings]), published


def _normalisation_of(run: Path) -> Path | None:
    """Return the normalisation in a run or exported model, if it belongs to the current model."""
    paths, exported = RunPaths(run), ModelPaths(run)
    if exported.config.is_file():
        return exported.normalisation if exported.normalisation.is_file() else None
    if not paths.normalisation.is_file():
        return None
    if not is_made_from(run, paths.normalisation, paths.model.weights):
        say(
            f"{paths.normalisation}: was not fitted on embeddings of the current model, so the "
            "model is exported without it; wsdino run makes it again"
        )
        return None
    return paths.normalisation


def _save(
    model: Model,
    out: Path,
    record: RunRecord | None = None,
    *,
    beside: Mapping[str, bytes] | None = None,
    normalisation: Path | None = None,
) -> None:
    """Write a model's folder, with a card if it is known where the model comes from."""
    from wsdino.profile.fitted import load_normalisation
    from wsdino.report.card import model_card

    normaliser, files = {}, beside or {}
    if normalisation is not None:
        normaliser = {
            "file": ModelPaths(out).normalisation.name,
            **load_normalisation(normalisation).info,
        }
    card = ""
    if record is not None:
        card = model_card(
            record,
            model.spec,
            num_features=len(model.feature_names),
            normaliser=normaliser,
            graphs=[name for name in files if name.endswith(".onnx")],
        )
    with one_writer(out):
        sweep(out)
        model.save(out, card=card, beside=files, normaliser=normaliser)


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


def model_for(
    source: str, store: Path, *, device: str = "cpu", beside: Sequence[str] = ()
) -> Model:
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
    beside
        Names that the command takes instead of a model, for those who misspell one.

    Raises
    ------
    ModelError
        If there is none, or a name could also be a folder.
    """
    from wsdino.model.model import load_model
    from wsdino.model.packaged import PACKAGED, STARTER, find_packaged
    from wsdino.model.weights import is_url
    from wsdino.screen.store import open_store

    if source != STARTER and not find_packaged(source):
        if not Path(source).exists() and not is_url(source):
            known = (STARTER, *beside, *(each.name for each in PACKAGED))
            near = did_you_mean(source, known)
            raise ModelError(
                f"{source}: no such run or model{near}; give a run folder, an exported model, "
                f"{', '.join((STARTER, *beside))}, or a package such as {PACKAGED[0].name}"
            )
        return load_model(source, device=device)
    if Path(source).is_dir():
        raise ModelError(
            f"{source}: ambiguous between the backbone and the folder of that name; use "
            f"./{source} for the folder, or run from another directory for the backbone"
        )
    return load_model(source, channels=open_store(store).channels, device=device)
