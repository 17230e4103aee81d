"""The options of training that don't depend on the objective, each with its range.

Those of an objective are in its module, see :mod:`wsdino.train.objectives`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from pydantic import AllowInfNan

from wsdino.errors import ConfigError
from wsdino.model.names import Precision  # noqa: TC001 pydantic reads it
from wsdino.model.spec import Count  # noqa: TC001 pydantic reads it

Positive = Annotated[float, Gt(0), AllowInfNan(False)]
NonNegative = Annotated[float, Ge(0), AllowInfNan(False)]
Fraction = Annotated[float, Ge(0), Le(1)]

Residency = Literal["auto", "device", "stream"]


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How a network is trained.

    Parameters
    ----------
    epochs
        Length of the run; an epoch is as many samples as there are images to train on.
    batch_size
        Images per step, over all processes.
    accumulate
        Parts that a process splits its share of the batch into, to save memory.
    balance
        ``label``: every weak label equally often; ``image``: every image equally often.
    step_from
        Source of the images of one step: the whole ``screen``, or one ``batch`` of it, each
        equally often.
    learning_rate, final_learning_rate
        AdamW's, following a cosine from the first to the second after the warm-up.
    warmup_epochs
        Epochs of linear rise of the learning rate, at most `epochs`.
    weight_decay, final_weight_decay
        Cosine from the first to the second; none on biases, norms and gains.
    clip_gradient
        Largest gradient norm of one network, None for no clipping.
    drop_path
        Stochastic depth of the student.
    batch_statistics
        Whether batch normalisation of a convolutional network goes by the batch at hand, or part of
        it, and learns new running statistics; otherwise it keeps those it came with. Only in a
        single process.
    precision
        ``bfloat16`` autocast or ``float32``; ``auto``: bfloat16 on a GPU and, unless the network is
        convolutional, on a CPU with AMX.
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

    Raises
    ------
    ConfigError
        If the warm-up is longer than the run.
    """

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
    batch_statistics: bool = False
    precision: Precision = "auto"
    compile: bool = False
    residency: Residency = "auto"
    log_every: Count = 10
    checkpoint_minutes: Positive = 5.0
    max_bad_steps: Count = 20

    def __post_init__(self) -> None:
        if self.warmup_epochs > self.epochs:
            raise ConfigError(
                f"warmup_epochs {self.warmup_epochs:g}: the warm-up is longer than the run, which "
                f"has epochs {self.epochs:g}; give at most that"
            )

    def require_equal_parts(self, num_processes: int, *, section: str = "train") -> None:
        """Refuse a batch that can't be divided among processes and their parts.

        Parameters
        ----------
        num_processes
            How many processes train together.
        section
            Where the config has these options.

        Raises
        ------
        ConfigError
            If the batch is no multiple of them.
        """
        parts = num_processes * self.accumulate
        if self.batch_size % parts:
            raise ConfigError(
                f"{section}.batch_size {self.batch_size}: not a multiple of the {parts} parts it "
                f"is divided into ({num_processes} processes x {section}.accumulate "
                f"{self.accumulate})"
            )


@dataclass(frozen=True, kw_only=True)
class WeakPositives:
    """The weak label and the source of partners.

    Parameters
    ----------
    label
        ``compound``, ``treatment`` (compound and concentration), ``none`` (each image its own:
        plain DINO), or the name of any manifest column, with or without ``Metadata_``.
    include_controls
        Whether negative controls are trained on.
    partner_from
        The partner lies in another ``image``, ``well``, ``plate`` or ``batch``.
    fallback
        For an anchor without such a partner: ``relax`` takes the strictest weaker requirement that
        can be met; ``drop`` does not train on it; ``error`` refuses the run.
    num_partners
        Number of partners that the local crops of an anchor are divided among (the paper: 1).
    partner_global_views
        Global crops that come from the first partner instead of the anchor (the paper: 0).
    """

    label: str = "compound"
    include_controls: bool = False
    partner_from: Literal["image", "well", "plate", "batch"] = "plate"
    fallback: Literal["relax", "drop", "error"] = "relax"
    num_partners: Count = 1
    partner_global_views: Annotated[int, Ge(0)] = 0


# Options that may change when a run is resumed, because they don't affect its result.
CHANGEABLE = ("residency", "log_every", "checkpoint_minutes", "max_bad_steps")


def fixed_options(options: Optimisation) -> dict[str, Any]:
    """Return, by name, the options that must stay fixed when a run is resumed."""
    return {key: value for key, value in asdict(options).items() if key not in CHANGEABLE}
