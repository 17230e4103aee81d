"""From a store and plain options to a run folder with checkpoints and a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from wsdino import job
from wsdino.embed.embed import embed_store
from wsdino.errors import ConfigError
from wsdino.model.building import build_networks
from wsdino.model.model import Model
from wsdino.model.tiles import tile_sides
from wsdino.model.upload import numbered
from wsdino.profile.label_profiles import label_profiles as profiles_of_labels
from wsdino.progress import say
from wsdino.runfolder import RunPaths
from wsdino.train.fields import Fields
from wsdino.train.labels import WeakLabels, weak_labels
from wsdino.train.loop import Trainer
from wsdino.train.objectives import objective_of
from wsdino.train.objectives.base import Given, Parts
from wsdino.train.objectives.distill import DISTILL
from wsdino.train.options import fixed_options
from wsdino.train.pairing import Pairing
from wsdino.train.plan import Planner
from wsdino.train.sampler import BatchwiseSampler, Sampler
from wsdino.train.views import require_fit
from wsdino.train.watch import PlateWatch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wsdino.model.networks import ChannelNetworks
    from wsdino.model.spec import ModelSpec
    from wsdino.screen.store import Store
    from wsdino.train.objectives.base import Objective, Options
    from wsdino.train.options import Optimisation, WeakPositives
    from wsdino.train.views import ViewPlan

VIEW_SECTIONS = ("crops.global_views", "crops.local_views")
Weights = str | Path | Mapping[str, str | Path] | None


@dataclass(frozen=True)
class Positives:
    """Weak labels, and the pairing that follows from them.

    Parameters
    ----------
    labels
        Weak labels; sites that are excluded from training have code -1.
    pairing
        Draws partners; None if every crop comes from the anchor: for plain DINO, and for objectives
        without partners.
    """

    labels: WeakLabels
    pairing: Pairing | None


def positives(
    manifest: pd.DataFrame, options: WeakPositives, *, objective: Objective = DISTILL
) -> Positives:
    """Read weak labels from a manifest and, if the objective uses partners, index them.

    Parameters
    ----------
    manifest
        A valid manifest.
    options
        The weak label and the source of partners.
    objective
        The objective.

    Raises
    ------
    ConfigError
        If the weak label is missing or constant, or partners are missing and ``fallback`` is
        ``error``.
    """
    labels = weak_labels(manifest, options.label, include_controls=options.include_controls)
    if objective.needs_label and np.bincount(labels.codes[labels.sites]).max() < 2:
        raise ConfigError(
            f"pairing.label {options.label!r}: no two of the images to train on share a value, and "
            f"objective.name {objective.name} needs a label that images share, such as compound"
        )
    if not objective.takes_partners or options.label == "none":
        return Positives(labels, None)
    pairing = Pairing(
        manifest, labels, partner_from=options.partner_from, fallback=options.fallback
    )
    codes = labels.codes.copy()
    codes[~pairing.usable] = -1
    return Positives(WeakLabels(codes, labels.names), pairing)


def plate_watch(manifest: pd.DataFrame, labels: WeakLabels, options: WeakPositives) -> PlateWatch:
    """Watch plates against weak labels, or against compounds if each image is its own label."""
    codes = labels.codes
    if options.label == "none":
        codes = pd.factorize(manifest["Metadata_Compound"])[0]
    return PlateWatch(pd.factorize(manifest["Metadata_Plate"])[0], codes)


def _places_digest(manifest: pd.DataFrame) -> str:
    """Digest of the metadata that partners, steps and scaling by plate depend on."""
    columns = ["Metadata_Plate", "Metadata_Well", "Metadata_Batch", "Metadata_Control"]
    text = manifest[columns].to_csv(index=False)
    return hashlib.sha256(text.encode()).hexdigest()


def initial_networks(
    spec: ModelSpec, *, seed: int, drop_path: float = 0.0, weights: Weights = None
) -> ChannelNetworks:
    """Build networks with random weights that depend only on the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_networks(spec, drop_path=drop_path, weights=weights)


def _sampler(
    labels: WeakLabels, manifest: pd.DataFrame, options: Optimisation, *, seed: int
) -> Sampler | BatchwiseSampler:
    if options.step_from == "screen":
        return Sampler(labels, balance=options.balance, seed=seed)
    batches = manifest.groupby("Metadata_Batch", sort=False, dropna=False).ngroup()
    return BatchwiseSampler(
        labels, batches.to_numpy().astype(np.int64), balance=options.balance, seed=seed
    )


def training_views(
    global_views: ViewPlan, local_views: ViewPlan, *, objective: Objective = DISTILL
) -> list[ViewPlan]:
    """Return the views to cut: local ones only if the objective uses them."""
    if not objective.takes_local_views or not local_views.num_views:
        return [global_views]
    return [global_views, local_views]


def check_views(
    views: Sequence[ViewPlan],
    *,
    field_shape: tuple[int, int],
    sections: Sequence[str] = VIEW_SECTIONS,
) -> None:
    """Refuse views that don't fit the fields, and training without a global one.

    Parameters
    ----------
    views
        Global views, then local views if there are any.
    field_shape
        Height and width of a field in px.
    sections
        Where the config has the views.

    Raises
    ------
    ConfigError
        Names the option, and what would be right.
    """
    for view, section in zip(views, sections, strict=False):
        require_fit(view, field_shape, section=section)
    if not views[0].num_views:
        raise ConfigError(f"{sections[0]}.num_views 0: at least one is required")


def check_partners(
    views: Sequence[ViewPlan], options: WeakPositives, pairing: Pairing | None
) -> None:
    """Refuse partners that no view comes from.

    Parameters
    ----------
    views
        Global views, then local views where there are any.
    options, pairing
        Weak positives, and the pairing that follows from them.

    Raises
    ------
    ConfigError
        Names the option, and what would be right.
    """
    if pairing is None:
        return
    num_global, num_local = views[0].num_views, sum(view.num_views for view in views[1:])
    if options.partner_global_views > num_global:
        raise ConfigError(
            f"pairing.partner_global_views {options.partner_global_views}: there are only "
            f"{num_global} global views"
        )
    if options.num_partners > max(num_local, 1):
        raise ConfigError(
            f"pairing.num_partners {options.num_partners}: there are only {num_local} local views "
            "to divide among them"
        )
    if not num_local and not options.partner_global_views:
        raise ConfigError(
            f"pairing.label {options.label!r}: without local views and with "
            "pairing.partner_global_views 0, no view comes from a partner; use pairing.label none "
            "if that is intended"
        )


def require_whole_patches(
    networks: ChannelNetworks,
    views: Sequence[ViewPlan],
    *,
    tiles: Iterable[int],
    sections: Sequence[str] = VIEW_SECTIONS,
) -> None:
    """Refuse crops and tiles whose side is not a multiple of the patch.

    Parameters
    ----------
    networks
        Who sees them.
    views
        What is cut for training.
    tiles
        Sides in px of the tiles that fields are embedded by, none for whole fields.
    sections
        Where the config has the views.

    Raises
    ------
    ModelError
        Names the option.
    """
    for view, section in zip(views, sections, strict=False):
        networks.require_whole_patches(view.size, option=f"{section}.size")
    for side in sorted(tiles):
        networks.require_whole_patches(side, option="embed.tile")


def _require_statistics(networks: ChannelNetworks, options: Optimisation) -> None:
    """Refuse to learn statistics where there are none, or where processes would differ in them."""
    if not options.batch_statistics:
        return
    if job.world_size() > 1:
        raise ConfigError(
            "train.batch_statistics true: works in a single process, and this job has "
            f"{job.world_size()}; start it without torchrun, or set false"
        )
    if not networks.with_statistics():
        raise ConfigError(
            "train.batch_statistics true: this network has no batch normalisation; set false"
        )


def train(
    store: Store,
    folder: Path,
    *,
    spec: ModelSpec,
    optimisation: Optimisation,
    objective: Options,
    weak_positives: WeakPositives,
    global_views: ViewPlan,
    local_views: ViewPlan,
    weights: Weights = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Model:
    """Train a model, or resume a run that was stopped.

    Parameters
    ----------
    store
        The screen.
    folder
        Run folder: gets ``checkpoints/``, ``metrics.jsonl``, ``tensorboard/`` and, at the end,
        ``model/``.
    spec, weights
        Shape and start of the networks.
    optimisation, weak_positives, global_views, local_views
        See :mod:`wsdino.train.options` and :class:`~wsdino.train.views.ViewPlan`.
    objective
        Options of one of :data:`~wsdino.train.objectives.OBJECTIVES`: they say which.
    seed
        Seed of everything that is drawn.
    device
        Where to train.

    Returns
    -------
    Model
        The networks that embed: those of the teacher where the objective has one.

    Raises
    ------
    ConfigError
        If options don't fit each other or the screen.
    TrainingError
        If training was stopped or can't continue.
    JobError
        If another process of the job is lost.
    """
    job.start()
    device, kind = numbered(device), objective_of(objective)
    wanted = positives(store.manifest, weak_positives, objective=kind)
    views = training_views(global_views, local_views, objective=kind)
    check_views(views, field_shape=store.field_shape)
    kind.requires(objective, Given(views, epochs=optimisation.epochs))
    check_partners(views, weak_positives, wanted.pairing)
    planner = Planner(
        sampler=_sampler(wanted.labels, store.manifest, optimisation, seed=seed),
        pairing=wanted.pairing,
        weak_positives=weak_positives,
        views=views,
        batch_size=optimisation.batch_size,
        field_shape=store.field_shape,
        num_channels=len(store.channels),
        seed=seed,
    )
    student = initial_networks(spec, seed=seed, drop_path=optimisation.drop_path, weights=weights)
    require_whole_patches(student, views, tiles=tile_sides(spec.tile, spec.tile_grid))
    _require_statistics(student, optimisation)
    student.learns_statistics = optimisation.batch_statistics
    codes = wanted.labels.codes

    def label_profiles(num_components: int) -> NDArray[np.float32]:
        say("embedding the screen by the network at the start, for the profiles of its labels")
        # On a CPU many fields at once only wait for memory.
        table = embed_store(Model(spec, student, device=device), store, batch_size=4)
        return profiles_of_labels(table, codes, num_components=num_components)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        module = kind.build(
            objective,
            Parts(
                student=student,
                teacher=lambda: initial_networks(spec, seed=seed),
                num_labels=len(wanted.labels.names),
                epochs=optimisation.epochs,
                label_profiles=label_profiles,
            ),
        )
    # Tiles are how a trained network looks at fields; training sees crops, but may aim at profiles.
    unseen = () if kind.uses_profiles else ("tile", "tile_grid", "tile_summary")
    options = {
        "spec": {key: value for key, value in asdict(spec).items() if key not in unseen}
        | {"architecture": spec.architecture.identity()},
        "optimisation": fixed_options(optimisation),
        "objective": asdict(objective),
        "weak_positives": asdict(weak_positives),
        "views": [asdict(view) for view in views],
        "weights": str(weights),
        "seed": seed,
        "labels": hashlib.sha256(codes.tobytes()).hexdigest(),
        "images": store.pixels_digest,
        "places": _places_digest(store.manifest),
    }
    Trainer(
        module,
        planner=planner,
        fields=Fields(store, scaling=spec.scaling, device=device, residency=optimisation.residency),
        label_codes=torch.from_numpy(codes).to(device),
        watch=plate_watch(store.manifest, wanted.labels, weak_positives),
        clip=spec.scaling.clip,
        options=optimisation,
        samples_per_epoch=len(wanted.labels.sites),
        folder=folder,
        device=device,
        fingerprint=json.dumps(options, sort_keys=True),
    ).run()
    model = Model(spec, module.exported(), device=device)
    if job.rank() == 0:
        model.save(RunPaths(folder).model.folder)
    job.barrier()
    return model
