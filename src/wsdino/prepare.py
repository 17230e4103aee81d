"""What happens before the first stage: checks, the store, and a record of what is run where."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsdino.config import load_config
from wsdino.errors import ConfigError, ModelError, TableError
from wsdino.progress import say, show
from wsdino.stages import CONFIG, RunFolder, write_text

if TYPE_CHECKING:
    import pandas as pd

    from wsdino.config import Config
    from wsdino.model.model import Model
    from wsdino.screen.store import Store
    from wsdino.train.pairing import Pairing

TRAINING_SECTIONS = ("seed", "model", "architecture", "input", "pairing", "crops", "distill")
NEED_CONTROLS = ("tvn", "plate_controls")


def prepare(
    config: Config, out: Path, *, evaluated: bool = False
) -> tuple[RunFolder, Store, Config]:
    """Open the run folder and the store, check that they fit the config, and note both.

    In a job of several processes the first one checks and writes, and the others open.

    Parameters
    ----------
    config
        The resolved config.
    out
        Run folder.
    evaluated
        Whether mechanisms are to be matched in the end, which takes annotated treatments.

    Returns
    -------
    tuple
        Run folder, store, and the config with absolute paths.

    Raises
    ------
    InputError
        The subclass that fits; nothing is written then.
    """
    from wsdino.screen.store import open_store
    from wsdino.train import distributed

    distributed.start()
    resolve_device(config.device)
    path = config.screen.store or out / "store"
    absolute = {
        name: value and value.absolute()
        for name in ("source", "design", "store")
        for value in [getattr(config.screen, name)]
    }
    resolved = config.model_copy(update={"screen": config.screen.model_copy(update=absolute)})
    distributed.only_first(lambda: _check_and_note(config, resolved, out, path, evaluated))
    folder, store = RunFolder(out), open_store(path)
    record = out / "environment.json"
    text = json.dumps(environment(resolved), indent=1) + "\n"
    folder.before_work = lambda: write_text(record, text)
    return folder, store, resolved


def _check_and_note(
    config: Config, resolved: Config, out: Path, path: Path, evaluated: bool
) -> None:
    """Check config, folder and screen; make the store; write config, environment and coverage."""
    from wsdino.screen.correction import Correction
    from wsdino.screen.images import planes_of, read_site
    from wsdino.screen.manifest import read_manifest

    RunFolder(out)
    _refuse_other_training(config, out)
    source = config.screen.source
    if source is not None and not path.exists():
        # Ingesting may take an hour: what would be refused after it is refused before.
        manifest = read_manifest(
            source, design=config.screen.design, controls=config.screen.controls
        )
        field = read_site(planes_of(manifest)[0])
        shape = Correction(config.screen.illumination, config.screen.scale).shape(field.shape)
        check(config, manifest, shape, origin=str(source), evaluated=evaluated)
    store = _store(config, path)
    check(config, store.manifest, store.field_shape, origin=str(store.path), evaluated=evaluated)
    write_text(out / CONFIG, resolved.to_yaml())
    if not (out / "environment.json").is_file():
        write_text(out / "environment.json", json.dumps(environment(resolved), indent=1) + "\n")
    coverage(config, store, out)


def _refuse_other_training(config: Config, out: Path) -> None:
    """Refuse options that differ from those which something in the run folder was trained with."""
    if not (out / CONFIG).is_file():
        return
    before = load_config(out / CONFIG)
    for trained in (out, *(out / "baselines" / name for name in ("classifier", "dino"))):
        if not any((trained / "checkpoints").glob("*.pt")):
            continue
        classifier = trained.name == "classifier"
        options = [training_options(each, classifier=classifier) for each in (before, config)]
        if options[0] != options[1]:
            raise ConfigError(
                f"{trained}: was trained with {_difference('', *options)}; give --out another "
                f"folder, or delete {trained / 'checkpoints'} to train anew"
            )


def training_options(config: Config, *, classifier: bool = False) -> dict[str, Any]:
    """Return what a training depends on: that of the run, or of the classifier beside it."""
    from wsdino.train.options import decisive

    options = {key: plain(getattr(config, key)) for key in TRAINING_SECTIONS}
    options["architecture"] = config.architecture.identity()
    options["train"] = decisive(config.train)
    if classifier:
        options["baselines"] = {
            "classifier": decisive(config.baselines.classifier),
            "classifier_views": plain(config.baselines.classifier_views),
        }
    return options


def _difference(key: str, old: Any, new: Any) -> str:
    """Name the first option that differs, and both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        name = next(name for name in old | new if old.get(name) != new.get(name))
        return _difference(f"{key}.{name}".lstrip("."), old.get(name), new.get(name))
    return f"{key} {json.dumps(old)}, and {json.dumps(new)} is wanted now"


def _store(config: Config, path: Path) -> Store:
    from wsdino.screen.correction import Correction
    from wsdino.screen.ingest import correction_of, ingest
    from wsdino.screen.store import open_store

    screen = config.screen
    if screen.source is not None:
        return ingest(
            screen.source,
            path,
            design=screen.design,
            controls=screen.controls,
            illumination=screen.illumination,
            scale=screen.scale,
        )
    if screen.store is None and not path.exists():
        raise ConfigError(
            "config key screen.source: empty; name a screen (--set screen.source=FOLDER) or a "
            "finished store (--set screen.store=STORE)"
        )
    store = open_store(path)
    made, wanted = correction_of(store.attributes), Correction(screen.illumination, screen.scale)
    if made != wanted and wanted != Correction():
        say(
            f"{path}: was made with illumination {made.illumination} and scale {made.scale:g}; "
            f"screen.illumination {wanted.illumination} and screen.scale {wanted.scale:g} are for "
            "a screen.source"
        )
    return store


def check(
    config: Config,
    manifest: pd.DataFrame,
    field_shape: tuple[int, ...],
    *,
    origin: str,
    evaluated: bool,
) -> None:
    """Refuse what would fail hours later: normalisation, labels, crops and tiles.

    Parameters
    ----------
    config
        The resolved config.
    manifest
        Of the screen.
    field_shape
        Height and width of its fields in px.
    origin
        What to call the screen in an error.
    evaluated
        Whether mechanisms are to be matched in the end.

    Raises
    ------
    InputError
        The subclass that fits.
    """
    from wsdino.model.tiles import tile_boxes
    from wsdino.train.train import positives

    controls, method = manifest["Metadata_Control"], config.profile.normalise
    if method in NEED_CONTROLS and controls.sum() < 2:
        raise TableError(
            f"{origin}: has {controls.sum()} control sites, and profile.normalise {method} is "
            "fitted on at least two; use --set profile.normalise=whiten_all or plate, or name the "
            "controls with screen.controls"
        )
    if evaluated:
        annotated = manifest[manifest["Metadata_MoA"].notna() & ~controls]
        if annotated["Metadata_Compound"].nunique() < 2:
            raise TableError(
                f"{origin}: Metadata_Compound has {annotated['Metadata_Compound'].nunique()} "
                "compounds with a known Metadata_MoA, and matching needs two; without an "
                "evaluation there are wsdino train, embed and profile"
            )
    if "frozen" in config.baselines.names and config.model.weights is None:
        raise ConfigError(
            "baselines.names: frozen is the network before training, which without model.weights "
            "is the same as untrained; leave it out, or give model.weights"
        )
    found = positives(manifest, config.pairing, objective=config.train.objective)
    height, width = field_shape
    _check_crops(config, found.pairing, (height, width))
    tile_boxes((height, width), config.embed.tile, config.embed.tile_grid)


def _check_crops(config: Config, pairing: Pairing | None, field_shape: tuple[int, int]) -> None:
    from wsdino.train.train import check_views, training_views

    crops, goal = config.crops, config.train.objective
    views = training_views(crops.global_views, crops.local_views, objective=goal)
    check_views(views, config.pairing, pairing, objective=goal, field_shape=field_shape)
    if "classifier" in config.baselines.names:
        check_views(
            [config.baselines.classifier_views],
            config.pairing,
            None,
            objective="classify",
            field_shape=field_shape,
        )


def environment(config: Config) -> dict[str, Any]:
    """Say what a run ran on: versions, hardware, git commit, command and seed."""
    import torch

    wanted = ("wsdino", "torch", "timm", "numpy", "pandas", "scikit-learn", "zarr", "copairs")
    git = subprocess.run(  # noqa: S603 fixed arguments
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "command": ["wsdino", *sys.argv[1:]],
        "seed": config.seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "num_threads": torch.get_num_threads(),
        "device": resolve_device(config.device),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "git_commit": git.stdout.strip() or None,
        "versions": {name: metadata.version(name) for name in wanted},
    }


def resolve_device(wanted: str) -> str:
    """Turn ``auto`` into ``cuda`` where there is one, else ``cpu``."""
    import torch

    num_devices, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK", "0"))
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"config key device: {wanted!r}, but no CUDA device is there; use cpu")
    if wanted == "cuda" and local >= num_devices:
        raise ConfigError(
            f"config key device: a process has number {local} on this host, which has "
            f"{num_devices} CUDA device(s); use torchrun --nproc-per-node {num_devices}"
        )
    return wanted


def model_for(source: str, store: Path, *, device: str = "cpu") -> Model:
    """Load the model of a run, an exported one, or ``starter``, for the channels of a store.

    Raises
    ------
    ModelError
        If there is none, or ``starter`` could also be a folder.
    """
    from wsdino.model.model import load_model
    from wsdino.model.weights import STARTER
    from wsdino.screen.store import open_store

    if source != STARTER:
        return load_model(source, device=device)
    if Path(source).is_dir():
        raise ModelError(
            f"{source}: the package's own backbone, or the folder of that name? ./{source} is the "
            "folder; from another directory the name means the backbone"
        )
    return load_model(source, channels=open_store(store).channels, device=device)


def coverage(config: Config, store: Store, out: Path) -> None:
    """Print and write how many sites have partners, before training."""
    from wsdino.report.coverage import coverage_table, coverage_title
    from wsdino.train.train import positives

    found = positives(store.manifest, config.pairing, objective=config.train.objective)
    record = {
        "label": config.pairing.label,
        "num_labels": len(found.labels.names),
        "num_sites": len(found.labels.sites),
        "partner_from": config.pairing.partner_from,
        "fallback": config.pairing.fallback,
        "rows": found.pairing.coverage() if found.pairing else [],
    }
    say(coverage_title(record))
    if record["rows"]:
        show(coverage_table(record))
    write_text(out / "coverage.json", json.dumps(record, indent=1) + "\n")


def plain(section: Any) -> Any:
    """Turn a section of the config, or any value of it, into what JSON holds."""
    if hasattr(section, "model_dump"):
        return section.model_dump(mode="json")
    return asdict(section) if hasattr(section, "__dataclass_fields__") else section
