"""The options of training, each with its range; the config is made of these."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from wsdino.model.precision import Precision  # noqa: TC001 pydantic reads it

Count = Annotated[int, Gt(0)]
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Le(1)]

Objective = Literal["distill", "contrast", "classify"]
Residency = Literal["auto", "device", "stream"]


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How a network is trained.

    Parameters
    ----------
    objective
        ``distill`` (DINO; with partners WS-DINO), ``contrast`` (an image against what a teacher
        makes of each weak label, :class:`~wsdino.train.contrast.Contrast`), or ``classify``
        (cross-entropy on the weak label).
    epochs
        Length of the run; an epoch is as many samples as there are images to train on.
    batch_size
        Images per step, over all processes.
    accumulate
        Parts that a process splits its share of the batch into, to need less memory.
    balance
        ``label``: every weak label equally often; ``image``: every image equally often.
    step_from
        Where the images of one step come from: the whole ``screen``, or one ``batch`` of it, each
        equally often.
    learning_rate, final_learning_rate
        AdamW, cosine from the first to the second after the warm-up.
    warmup_epochs
        Epochs of linear rise of the learning rate.
    weight_decay, final_weight_decay
        Cosine from the first to the second; none on biases, norms and gains.
    clip_gradient
        Largest gradient norm of one network, None for no clipping.
    drop_path
        Stochastic depth of the student.
    precision
        ``bfloat16`` autocast or ``float32``; ``auto``: bfloat16 on a GPU and on a CPU with AMX.
    compile
        Whether networks and loss go through ``torch.compile``: the first step takes a minute or
        more, and on a CPU needs a C++ compiler.
    residency
        Where the fields lie: ``device`` memory, or ``stream`` from the store with one step of
        prefetch; ``auto``: on the device if they take less than half of its free memory.
    log_every
        Steps between two records.
    checkpoint_minutes
        Minutes between two checkpoints.
    max_bad_steps
        Steps in a row with a non-finite loss or gradient after which training stops.
    """

    objective: Objective = "distill"
    epochs: Positive = 100.0
    batch_size: Count = 32
    accumulate: Count = 1
    balance: Literal["label", "image"] = "label"
    step_from: Literal["screen", "batch"] = "screen"
    learning_rate: Positive = 5e-4
    final_learning_rate: NonNegative = 1e-6
    warmup_epochs: NonNegative = 10.0
    weight_decay: NonNegative = 0.04
    final_weight_decay: NonNegative = 0.04
    clip_gradient: Positive | None = 3.0
    drop_path: Fraction = 0.1
    precision: Precision = "auto"
    compile: bool = False
    residency: Residency = "auto"
    log_every: Count = 10
    checkpoint_minutes: Positive = 5.0
    max_bad_steps: Count = 20


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Head, targets and teacher of self-distillation (arXiv 2104.14294).

    Parameters
    ----------
    num_prototypes, head_hidden_dim, head_bottleneck_dim, head_batch_norm, norm_last_layer
        See :class:`~wsdino.train.head.DINOHead`.
    targets
        ``center``: centring and sharpening; ``sinkhorn``: Sinkhorn-Knopp.
    student_temp
        Temperature of the student.
    warmup_teacher_temp, teacher_temp, teacher_temp_warmup_epochs
        Temperature of the teacher: linear from the first to the second.
    center_momentum
        Momentum of the centre (`targets` = ``center`` only).
    teacher_momentum, final_teacher_momentum
        Momentum of the teacher's moving average, cosine from the first to the second.
    freeze_last_layer_epochs
        Epochs during which the prototypes stay as they were drawn.
    koleo_weight
        Weight of :func:`~wsdino.train.loss.koleo_loss` of each global view; 0: not used.
    """

    num_prototypes: Count = 4096
    head_hidden_dim: Count = 512
    head_bottleneck_dim: Count = 128
    head_batch_norm: bool = False
    norm_last_layer: bool = True
    targets: Literal["center", "sinkhorn"] = "sinkhorn"
    student_temp: Positive = 0.1
    warmup_teacher_temp: Positive = 0.04
    teacher_temp: Positive = 0.04
    teacher_temp_warmup_epochs: NonNegative = 0.0
    center_momentum: Fraction = 0.9
    teacher_momentum: Fraction = 0.996
    final_teacher_momentum: Fraction = 1.0
    freeze_last_layer_epochs: NonNegative = 1.0
    koleo_weight: NonNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class WeakPositives:
    """What the weak label is and from where partners come.

    Parameters
    ----------
    label
        See :func:`~wsdino.train.labels.weak_labels`.
    include_controls
        Whether negative controls are trained on.
    partner_from, fallback
        See :class:`~wsdino.train.pairing.Pairing`.
    num_partners
        Partners that the local crops of an anchor are divided among (the paper: 1).
    partner_global_views
        Global crops that come from the first partner instead of the anchor (the paper: 0).
    """

    label: str = "compound"
    include_controls: bool = False
    partner_from: Literal["image", "well", "plate", "batch"] = "plate"
    fallback: Literal["relax", "drop", "error"] = "relax"
    num_partners: Count = 1
    partner_global_views: Annotated[int, Ge(0)] = 0


# What may change between two parts of a run without changing what it comes to.
INDECISIVE = ("residency", "log_every", "checkpoint_minutes", "max_bad_steps")


def decisive(options: Optimisation) -> dict[str, Any]:
    """Return the options that decide what a training comes to, by name."""
    return {key: value for key, value in asdict(options).items() if key not in INDECISIVE}
