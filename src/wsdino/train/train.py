"""From a store and plain options to a run folder with checkpoints and a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from wsdino.errors import ConfigError
from wsdino.model.model import Model
from wsdino.model.spec import ModelSpec, build_networks
from wsdino.model.upload import numbered
from wsdino.train import distributed
from wsdino.train.contrast import Contrast
from wsdino.train.crops import require_fit
from wsdino.train.fields import Fields
from wsdino.train.labels import WeakLabels, weak_labels
from wsdino.train.loop import Trainer
from wsdino.train.objectives import Classification, SelfDistillation, TrainingObjective
from wsdino.train.options import decisive
from wsdino.train.pairing import Pairing
from wsdino.train.plan import Planner
from wsdino.train.sampler import BatchwiseSampler, Sampler
from wsdino.train.watch import PlateWatch

if TYPE_CHECKING:
    from wsdino.model.networks import ChannelNetworks
    from wsdino.screen.store import Store
    from wsdino.train.crops import ViewPlan
    from wsdino.train.options import Distillation, Objective, Optimisation, WeakPositives

Weights = str | Path | Mapping[str, str | Path] | None


@dataclass(frozen=True)
class Positives:
    """Weak labels, and the pairing that follows from them.

    Parameters
    ----------
    labels
        Weak labels; sites that are not trained on have code -1.
    pairing
        Draws partners; None for plain DINO, contrast and classification, where every crop is the
        anchor's.
    """

    labels: WeakLabels
    pairing: Pairing | None


def positives(
    manifest: pd.DataFrame, options: WeakPositives, *, objective: Objective = "distill"
) -> Positives:
    """Read weak labels off a manifest and index the partners.

    Raises
    ------
    ConfigError
        If the weak label is absent or constant, or partners are lacking and that is refused.
    """
    labels = weak_labels(manifest, options.label, include_controls=options.include_controls)
    if objective == "contrast" and options.label == "none":
        raise ConfigError(
            "pairing.label 'none': train.objective contrast needs a weak label that images share, "
            "such as compound"
        )
    if objective != "distill" or options.label == "none":
        return Positives(labels, None)
    pairing = Pairing(
        manifest, labels, partner_from=options.partner_from, fallback=options.fallback
    )
    codes = labels.codes.copy()
    codes[~pairing.usable] = -1
    return Positives(WeakLabels(codes, labels.names), pairing)


def plate_watch(manifest: pd.DataFrame, labels: WeakLabels, options: WeakPositives) -> PlateWatch:
    """Watch plates against weak labels; where each image is its own label, against compounds."""
    codes = labels.codes
    if options.label == "none":
        codes = pd.factorize(manifest["Metadata_Compound"])[0]
    return PlateWatch(pd.factorize(manifest["Metadata_Plate"])[0], codes)


def initial_networks(
    spec: ModelSpec, *, seed: int, drop_path: float = 0.0, weights: Weights = None
) -> ChannelNetworks:
    """Build networks whose random weights depend on the seed alone."""
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
    global_views: ViewPlan, local_views: ViewPlan, *, objective: Objective
) -> list[ViewPlan]:
    """Return the views that are cut: a classifier sees global ones alone."""
    if objective == "classify" or not local_views.num_views:
        return [global_views]
    return [global_views, local_views]


def check_views(
    views: list[ViewPlan],
    options: WeakPositives,
    pairing: Pairing | None,
    *,
    objective: Objective,
    field_shape: tuple[int, int],
) -> None:
    """Refuse views that make no sense together, or don't fit the fields.

    Parameters
    ----------
    views
        Global views, then local views where there are any.
    options, pairing
        Weak positives, and the pairing that follows from them.
    objective
        What is minimised.
    field_shape
        Height and width of a field in px.

    Raises
    ------
    ConfigError
        Names the option, and what would be right.
    """
    for view in views:
        require_fit(view, field_shape)
    num_global, num_local = views[0].num_views, sum(view.num_views for view in views[1:])
    if not num_global:
        raise ConfigError("crops.global_views.num_views 0: at least one is needed")
    if objective == "distill" and num_global + num_local < 2:
        raise ConfigError("crops: one view in all; distillation compares at least two")
    if pairing is None:
        return
    if options.partner_global_views > num_global:
        raise ConfigError(
            f"pairing.partner_global_views {options.partner_global_views}: there are only "
            f"{num_global} global views"
        )
    if not num_local and not options.partner_global_views:
        raise ConfigError(
            f"pairing.label {options.label!r}: without local views and with "
            "pairing.partner_global_views 0 no view comes from a partner; use pairing.label none "
            "if that is meant"
        )


def train(
    store: Store,
    folder: Path,
    *,
    spec: ModelSpec,
    optimisation: Optimisation,
    distillation: Distillation,
    weak_positives: WeakPositives,
    global_views: ViewPlan,
    local_views: ViewPlan,
    weights: Weights = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Model:
    """Train a model, or go on with a run that was stopped.

    Parameters
    ----------
    store
        The screen.
    folder
        Run folder: gets ``checkpoints/``, ``metrics.jsonl``, ``tensorboard/`` and, at the end,
        ``model/``.
    spec, weights
        Shape and start of the networks.
    optimisation, distillation, weak_positives, global_views, local_views
        See :mod:`wsdino.train.options` and :class:`~wsdino.train.crops.ViewPlan`.
    seed
        Seed of everything that is drawn.
    device
        Where to train.

    Returns
    -------
    Model
        The teacher (distill) or the network (classify), for embedding.

    Raises
    ------
    ConfigError
        If options don't fit each other or the screen.
    TrainingError
        If training was stopped or can't go on.
    JobError
        If another process of the job is gone.
    """
    distributed.start()
    device, objective = numbered(device), optimisation.objective
    wanted = positives(store.manifest, weak_positives, objective=objective)
    views = training_views(global_views, local_views, objective=objective)
    check_views(
        views,
        weak_positives,
        wanted.pairing,
        objective=objective,
        field_shape=store.field_shape,
    )
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
    for size, option in [*((v.size, "crops: size") for v in views), (spec.tile, "embed.tile")]:
        student.require_whole_patches(size or 0, option=option)
    module: TrainingObjective
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        if objective == "classify":
            module = Classification(student, num_labels=len(wanted.labels.names))
        else:
            teacher = initial_networks(spec, seed=seed)
            given: dict[str, Any] = {"options": distillation, "epochs": optimisation.epochs}
            if objective == "contrast":
                num_labels = len(wanted.labels.names)
                module = Contrast(student, teacher, num_labels=num_labels, **given)
            else:
                module = SelfDistillation(student, teacher, **given)
    options = {
        # Tiles are how a trained network looks at fields; training sees crops.
        "spec": {key: value for key, value in asdict(spec).items() if not key.startswith("tile")}
        | {"architecture": spec.architecture.identity()},
        "optimisation": decisive(optimisation),
        "distillation": asdict(distillation),
        "weak_positives": asdict(weak_positives),
        "views": [asdict(view) for view in views],
        "weights": str(weights),
        "seed": seed,
        "labels": hashlib.sha256(wanted.labels.codes.tobytes()).hexdigest(),
    }
    Trainer(
        module,
        planner=planner,
        fields=Fields(store, scaling=spec.scaling, device=device, residency=optimisation.residency),
        label_codes=torch.from_numpy(wanted.labels.codes).to(device),
        watch=plate_watch(store.manifest, wanted.labels, weak_positives),
        clip=spec.scaling.clip,
        options=optimisation,
        samples_per_epoch=len(wanted.labels.sites),
        folder=folder,
        device=device,
        fingerprint=json.dumps(options, sort_keys=True),
    ).run()
    model = Model(spec, module.exported(), device=device)
    if distributed.rank() == 0:
        model.save(folder / "model")
    distributed.barrier()
    return model
