"""Looking at a screen before it is converted: what is there, what could be a weak label, the cost.

The cost is an estimate by a simple model that :data:`MODEL` states.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from wsdino.config import load_config, preset_names
from wsdino.device import num_cpus
from wsdino.errors import ConfigError, InputError
from wsdino.screen.correction import Correction
from wsdino.screen.survey import survey
from wsdino.tables.columns import (
    BATCH,
    COMPOUND,
    CONCENTRATION,
    CONTROL,
    PIXEL_SIZE,
    PLATE,
    PREFIX,
    SITE,
    WELL,
)
from wsdino.tables.manifest import channels_of
from wsdino.trainings import model_spec, training_config, trainings

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from wsdino.config import Config
    from wsdino.model.spec import ModelSpec
    from wsdino.screen.selection import Selection
    from wsdino.screen.survey import Survey
    from wsdino.tables.platemap import PlateMap
    from wsdino.tables.welltables import WellTable
    from wsdino.train.views import ViewPlan

# Measured with two cores that have matrix units for bfloat16: 75 GFLOP/s per core (small networks)
# to 290 (ViT-S/8), see benchmarks/results/train_step.md and the README's run. Without such units
# ViT-S/8 reaches 120. No GPU has been measured.
CPU_FLOPS, GPU_FLOPS = 100e9, 100e12
# Weights, their gradient and two moments of AdamW for the student; weights for the teacher.
STUDENT_BYTES, TEACHER_BYTES = 16, 4
MODEL = (
    "estimates, right within a factor of three or so: floating point operations of all trainings "
    "of a run (the student's counted three times, for the gradient) at 100 GFLOP/s per core and "
    "100 TFLOP/s on a GPU (assumed, not measured); memory is weights, optimiser and what the "
    "gradient needs of one batch in bfloat16, and the fields if they are kept beside it"
)
# Columns that say where a site lies, or how much, not what it is alike.
_NO_LABELS = {PLATE, WELL, SITE, BATCH, COMPOUND, CONCENTRATION, CONTROL, PIXEL_SIZE}


def inspect(
    source: str | Path,
    *,
    platemap: str | Path | pd.DataFrame | WellTable | PlateMap | None = None,
    controls: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    selection: Selection | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Look at a screen without converting anything.

    Parameters
    ----------
    source, platemap, controls, columns, selection, workers
        As for :func:`wsdino.screen.survey.survey`.

    Returns
    -------
    dict
        What can go into JSON: the facts of `survey`; ``labels``, a row per possible weak label with
        its number of values and, for another plate and another batch, how many sites have a partner
        with the same value there; ``store_bytes``; ``presets``, a row each, with what a run's
        trainings cost or the reason why the preset doesn't fit; ``model``, how that was estimated.

    Raises
    ------
    TableError, ImageError
        As `survey` does.
    """
    found = survey(
        source,
        platemap=platemap,
        controls=controls,
        columns=columns,
        selection=selection,
        workers=workers,
    )
    num_bytes = None
    if found.field_shape is not None:
        shape = (len(found.manifest), len(found.facts["channels"]), *found.field_shape)
        num_bytes = math.prod(shape) * found.dtype.itemsize
    return found.facts | {
        "labels": _labels(found.manifest),
        "store_bytes": num_bytes,
        "presets": [_cost(name, found) for name in preset_names()],
        "model": MODEL,
    }


def _labels(manifest: pd.DataFrame) -> list[dict[str, Any]]:
    """Count the partners that sites would have under each possible weak label."""
    from wsdino.train.labels import weak_labels
    from wsdino.train.pairing import Pairing

    others = [
        name
        for name in map(str, manifest.columns)
        if name.startswith(PREFIX)
        and name not in _NO_LABELS
        and not name.startswith(f"{PREFIX}QC_")
        and 1 < manifest[name].nunique() < len(manifest)
    ]
    rows = []
    for label in ("compound", "treatment", *others):
        try:
            labels = weak_labels(manifest, label)
        except ConfigError:
            continue
        counts = {row["partner_in"]: row for row in Pairing(manifest, labels).coverage()}
        rows.append(
            {
                "label": label,
                "values": len(labels.names),
                "sites": len(labels.sites),
                **{
                    f"with_partner_on_another_{where}": counts[f"another {where}"][
                        "sites_with_partner"
                    ]
                    for where in ("well", "plate", "batch")
                },
            }
        )
    return rows


def _cost(name: str, found: Survey) -> dict[str, Any]:
    """Estimate what the trainings of a preset cost, or say why it doesn't fit the screen."""
    from wsdino.train.objectives import objective_of
    from wsdino.train.train import check_views, positives, training_views

    config = load_config(name)
    if found.field_shape is None:
        return {"preset": name, "unfit": "no image can be read"}
    correction = Correction(config.screen.illumination, config.screen.scale)
    shape = correction.shape(found.field_shape)
    operations, memory, samples = 0.0, 0.0, 0.0
    try:
        for training in trainings(config):
            own = training_config(config, training)
            kind = objective_of(own.objective)
            sites = positives(found.manifest, own.pairing, objective=kind).labels.sites
            views = training_views(own.crops.global_views, own.crops.local_views, objective=kind)
            check_views(views, field_shape=shape)
            step = _step_of_one(own, channels_of(found.manifest), views)
            operations += own.train.epochs * len(sites) * step.operations
            samples += own.train.epochs * len(sites)
            at_once = own.train.batch_size / own.train.accumulate
            memory = max(memory, step.fixed_bytes + at_once * step.image_bytes)
    except InputError as error:
        return {"preset": name, "unfit": str(error)}
    channels = len(channels_of(found.manifest))
    return {
        "preset": name,
        "images_seen": round(samples),
        "flop": operations,
        "cpu_cores": num_cpus(),
        "cpu_hours": operations / (CPU_FLOPS * num_cpus()) / 3600,
        "gpu_hours": operations / GPU_FLOPS / 3600,
        "memory_bytes": round(memory),
        "fields_bytes": len(found.manifest) * channels * math.prod(shape) * found.dtype.itemsize,
    }


def _step_of_one(config: Config, channels: list[str], views: Sequence[ViewPlan]) -> _Step:
    """Add up what the views of an image cost in a training step."""
    spec = model_spec(config, tuple(channels))
    # A step looks at crops, not at tiles.
    spec = replace(spec, tile=None, tile_grid=None)
    has_teacher = hasattr(config.objective, "teacher_momentum")
    operations = num_bytes = 0.0
    for number, view in enumerate(views):
        forward = _forward(spec, view.size)
        # The teacher sees the global views, which come first.
        passes = 3 + (has_teacher and number == 0)
        operations += passes * view.num_views * forward.operations
        # In bfloat16.
        num_bytes += view.num_views * forward.kept_bytes / 2
    weights = _forward(spec, views[0].size).num_weights
    return _Step(
        operations, num_bytes, weights * (STUDENT_BYTES + (TEACHER_BYTES if has_teacher else 0))
    )


class _Step(NamedTuple):
    """What a training step costs: operations and memory per image, and memory in any case."""

    operations: float
    image_bytes: float
    fixed_bytes: float


class _Forward(NamedTuple):
    """What one view's way through the networks costs; the bytes are those of float32."""

    operations: int
    kept_bytes: int
    num_weights: int


@cache
def _forward(spec: ModelSpec, size: int) -> _Forward:
    """Send the outline of a view through the outline of the networks."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from wsdino.model.building import build_networks

    # Tensors on this device have shapes and no contents.
    with torch.device("meta"):
        networks = build_networks(spec)
        image = torch.empty(1, len(spec.channels), size, size)
    # Storages are told apart by an address that has no public name.
    weights = {each.untyped_storage()._cdata for each in networks.parameters()}  # noqa: SLF001
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()._cdata  # noqa: SLF001
        # Fused attention keeps no matrix of all tokens by all tokens.
        is_matrix = tensor.dim() > 2 and tensor.shape[-1] == tensor.shape[-2]
        if storage not in weights and not is_matrix:
            kept[storage] = tensor
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        networks(image)
    return _Forward(
        counter.get_total_flops(),
        sum(tensor.untyped_storage().nbytes() for tensor in kept.values()),
        sum(parameter.numel() for parameter in networks.parameters()),
    )
