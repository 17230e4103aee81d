"""The training loop: steps, records, checkpoints, signals and resuming."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wsdino import job
from wsdino.errors import ConfigError, TrainingError
from wsdino.model.precision import autocast, uses_bfloat16
from wsdino.model.upload import send
from wsdino.progress import Meter, say
from wsdino.runfolder import RunPaths
from wsdino.train.checkpoint import load_newest, save_checkpoint
from wsdino.train.collapse import name_collapse
from wsdino.train.journal import Journal, note_of, summary_of
from wsdino.train.optimiser import adamw, clip_gradients, restorer, set_schedule, step_if_finite
from wsdino.train.prefetch import Prefetch
from wsdino.train.reading import Reading
from wsdino.train.schedules import cosine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from wsdino.train.fields import Fields
    from wsdino.train.journal import Record
    from wsdino.train.objectives.base import Measured, Metrics, TrainingObjective
    from wsdino.train.options import Optimisation
    from wsdino.train.plan import Planner, StepPlan
    from wsdino.train.watch import PlateWatch

# Consecutive records with clustering by plate before a warning: at the start it is normal.
LASTING = 5
# Records without a collapse after which its return is reported again.
FORGOTTEN = 50


class Trainer:
    """Trains an objective.

    Parameters
    ----------
    objective
        A module that is also a :class:`~wsdino.train.objectives.base.TrainingObjective`.
    planner
        Draws the plan of each step.
    fields
        Source of the pixels.
    label_codes
        (N,) int64 weak label of every site, on the device.
    watch
        Watches whether images cluster by plate.
    clip
        Range of scaled inputs.
    options
        How to train.
    samples_per_epoch
        Images to train on.
    folder
        Run folder.
    device
        Where to train.
    fingerprint
        The options as JSON; checkpoints with different ones are refused.
    """

    def __init__(
        self,
        objective: TrainingObjective,
        *,
        planner: Planner,
        fields: Fields,
        label_codes: Tensor,
        watch: PlateWatch,
        clip: tuple[float, float],
        options: Optimisation,
        samples_per_epoch: int,
        folder: Path,
        device: torch.device,
        fingerprint: str,
    ) -> None:
        assert isinstance(objective, nn.Module)
        options.require_equal_parts(job.world_size())
        self.module: nn.Module = objective.to(device)
        self.objective, self.planner, self.fields = objective, planner, fields
        self.label_codes, self.clip, self.options = label_codes, clip, options
        self.folder, self.device, self.fingerprint = folder, device, fingerprint
        self.watch = watch
        self._last_named: dict[str, int] = {}
        if options.compile:
            objective.compile_parts()
        self.optimiser = adamw(objective.trainable)
        self.trainable: nn.Module = objective.trainable
        if job.world_size() > 1:
            self.trainable = DistributedDataParallel(objective.trainable)
        self.steps_per_epoch = samples_per_epoch / options.batch_size
        self.total_steps = max(1, math.ceil(options.epochs * self.steps_per_epoch))
        convolutional = objective.trainable.networks.is_convolutional
        self.bfloat16 = uses_bfloat16(options.precision, device, is_convolutional=convolutional)
        self.share = options.batch_size // job.world_size()

    def run(self) -> None:
        """Train to the end, or until a signal asks to stop.

        Raises
        ------
        TrainingError
            If stopped by a signal, or by too many non-finite steps; the state is saved.
        JobError
            If another process is lost.
        """
        first, records = self._resume()
        with Journal(self.folder, records) if job.rank() == 0 else _nothing() as journal:
            if first >= self.total_steps:
                return
            with (
                _stop_requests() as stop_requested,
                Meter("train", self.total_steps, first) as meter,
                self._prefetch(first) as prefetch,
                job.lost_processes(),
            ):
                self._steps(first, prefetch, stop_requested, journal, meter)
            if journal and (summary := summary_of(journal.records[-1])):
                say(summary)

    def _steps(
        self,
        first: int,
        prefetch: Prefetch,
        stop_requested: Callable[[], bool],
        journal: Journal | None,
        meter: Meter,
    ) -> None:
        last_save = last_log = time.monotonic()
        bad_steps, last_logged = 0, first
        shown: Metrics = {}
        self.module.train()
        for step in range(first, self.total_steps):
            plan, views = prefetch.take()
            record = self.step(step, plan, views, meanwhile=prefetch.cut_ahead)
            bad_steps = 0 if record["applied"] else bad_steps + 1
            done = step + 1
            if self._is_logged(done, record):
                now = time.monotonic()
                elapsed = max(now - last_log, 1e-9)
                record["samples_per_s"] = (done - last_logged) * self.options.batch_size / elapsed
                record["data_wait"] = prefetch.waited_s / elapsed
                last_log, last_logged, prefetch.waited_s = now, done, 0.0
                self._log(record, plan, journal)
            if bad_steps >= self.options.max_bad_steps:
                # Skipped steps leave no trace: this is the state before them.
                self.save(done - bad_steps, journal)
                raise TrainingError(
                    f"training stopped at step {done}: loss {record['loss']}, gradient norm "
                    f"{record['grad_norm']} for {bad_steps} steps in a row; the state before them "
                    "is saved; try a lower train.learning_rate in a new run folder"
                )
            shown |= record
            meter.advance(1, note_of(shown))
            overdue = time.monotonic() - last_save > 60 * self.options.checkpoint_minutes
            stopping, due = self._agree(stop_requested(), overdue)
            # Two checkpoints are kept: bad steps must not push out the last good state.
            if done == self.total_steps or stopping or (due and not bad_steps):
                self.save(done, journal)
                last_save = time.monotonic()
            if stopping and done < self.total_steps:
                raise TrainingError(
                    f"stopped by a signal after step {done} of {self.total_steps}; the same "
                    "command resumes from there"
                )

    def _agree(self, stop_requested: bool, overdue: bool) -> tuple[bool, bool]:
        """Stop if any process is asked to; save when the first one's clock is due."""
        is_first = job.rank() == 0
        asked = torch.tensor([float(stop_requested), float(overdue and is_first)])
        stopping, due = job.all_reduce_max(asked).tolist()
        return stopping > 0, due > 0

    def _is_logged(self, done: int, record: Metrics) -> bool:
        regular = done % self.options.log_every == 0
        return regular or done == self.total_steps or not record["applied"]

    def _log(self, record: Metrics, plan: StepPlan, journal: Journal | None) -> None:
        """Complete and write a record; report a collapse."""
        record |= self.objective.diagnostics()
        if "teacher_entropy" in record:
            record["kl"] = record["loss"] - record["teacher_entropy"]
        features = self.objective.image_features()
        record |= self.watch.measure(plan.sites[0][:, -features.shape[1] :], features)
        if not journal:
            return
        journal.write(record)
        lasting = [past.get("plate_clustering") or 0.0 for past in journal.records[-LASTING:]]
        if found := name_collapse(record | {"plate_clustering": min(lasting)}):
            kind, now = found.split(":", maxsplit=1)[0], len(journal.records)
            if now - self._last_named.get(kind, -FORGOTTEN) >= FORGOTTEN:
                say(f"warning: step {record['step']:.0f}: {found}")
            self._last_named[kind] = now

    def _prefetch(self, first: int) -> Prefetch:
        start = job.rank() * self.share
        return Prefetch(
            self.planner,
            self.fields,
            share=slice(start, start + self.share),
            clip=self.clip,
            steps=range(first, self.total_steps),
        )

    def step(
        self, step: int, plan: StepPlan, views: list[Tensor], *, meanwhile: Callable[[], None]
    ) -> Metrics:
        """Take one step.

        Parameters
        ----------
        step
            Number of the step, from 0.
        plan
            Images of the whole batch.
        views
            This process's views, (V, B, C, h, w) each; see :func:`~wsdino.train.plan.cut_views`.
        meanwhile
            Called once all except the teacher's update is queued on the device.

        Returns
        -------
        dict
            The record of the step.
        """
        opt, epoch = self.options, step / self.steps_per_epoch
        warmup = round(opt.warmup_epochs * self.steps_per_epoch)
        lr = cosine(
            step,
            start=opt.learning_rate,
            end=opt.final_learning_rate,
            total=self.total_steps,
            warmup=warmup,
        )
        decay = cosine(
            step, start=opt.weight_decay, end=opt.final_weight_decay, total=self.total_steps
        )
        set_schedule(self.optimiser, lr=lr, weight_decay=decay)
        record: Metrics = {
            "step": step + 1,
            "epoch": (step + 1) / self.steps_per_epoch,
            "samples": (step + 1) * opt.batch_size,
            "lr": lr,
            "weight_decay": decay,
            **self.objective.before_step(epoch),
        }
        self._seed_torch(step)
        undo = restorer(self.objective.trainable)
        labels = self.label_codes[send(plan.anchors, self.device)]
        with autocast(self.device, enabled=self.bfloat16):
            targets = self.objective.target(views, labels)
        measured = self._accumulate_gradients(views, targets)
        self.objective.after_backward(epoch)
        # A multi-network module is clipped network by network, as if each trained alone.
        norm = clip_gradients(self._parameters_by_network(), opt.clip_gradient)
        # Everything that a step reads from the device is read here, in one go, and only once the
        # device has other work.
        numbers = torch.stack([*measured.values(), norm])
        reading = Reading(numbers)
        step_if_finite(self.optimiser, numbers)
        meanwhile()
        values = reading.result()
        record |= dict(zip([*measured, "grad_norm"], values, strict=True))
        finite = all(map(math.isfinite, values))
        (self.objective.after_step if finite else undo)()
        self.optimiser.zero_grad(set_to_none=True)
        return record | {"applied": float(finite)}

    def _seed_torch(self, step: int) -> None:
        """Make stochastic depth a function of seed, step and rank: nothing to save, or to lose."""
        entropy = [self.planner.seed, 3, step, job.rank()]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))

    def _accumulate_gradients(self, views: list[Tensor], targets: list[Tensor]) -> Measured:
        num_parts = self.options.accumulate
        size = self.share // num_parts
        sums: Measured = {}
        for part in range(num_parts):
            images = slice(part * size, (part + 1) * size)
            # Targets have one row per input of a network: several per image where it is shared.
            factor = targets[0].shape[1] // self.share
            rows = slice(images.start * factor, images.stop * factor)
            with self._reduced_if(part + 1 == num_parts):
                with autocast(self.device, enabled=self.bfloat16):
                    loss, metrics = self.objective.loss(
                        self.trainable, [x[:, images] for x in views], [t[:, rows] for t in targets]
                    )
                (loss / num_parts).backward()
            for key, value in metrics.items():
                sums[key] = sums.get(key, 0) + value / num_parts
        values = job.all_reduce_mean(torch.stack([*sums.values()]))
        return dict(zip(sums, values, strict=True))

    def _reduced_if(self, wanted: bool) -> AbstractContextManager[None]:
        """Average gradients over ranks only if wanted: once per step, with the last part."""
        if wanted or not isinstance(self.trainable, DistributedDataParallel):
            return nullcontext()
        return self.trainable.no_sync()

    def _parameters_by_network(self) -> list[list[Tensor]]:
        headed = self.objective.trainable
        pairs = zip(headed.networks.networks, headed.heads, strict=True)
        return [[*network.parameters(), *head.parameters()] for network, head in pairs]

    def save(self, step: int, journal: Journal | None) -> None:
        """Write a checkpoint (the first process) and wait until it is there (the others)."""
        if journal:
            save_checkpoint(
                RunPaths(self.folder).checkpoints,
                step,
                {
                    "step": step,
                    "fingerprint": self.fingerprint,
                    "objective": self.module.state_dict(),
                    "optimiser": self.optimiser.state_dict(),
                    "watch": self.watch.state_dict(),
                    "records": [r for r in journal.records if (r["step"] or 0) <= step],
                },
            )
        job.barrier()

    def _resume(self) -> tuple[int, list[Record]]:
        state = load_newest(RunPaths(self.folder).checkpoints)
        self._require_agreement(self.fingerprint, "options, weak labels or another version")
        self._require_agreement(str(state and state["step"]), "checkpoints")
        if state is None:
            self.objective.begin()
            return 0, []
        if state["fingerprint"] != self.fingerprint:
            raise self._other_training(state["fingerprint"])
        self.module.load_state_dict(state["objective"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.watch.load_state_dict(state["watch"])
        say(f"resuming from step {state['step']} of {self.total_steps}")
        return int(state["step"]), state["records"]

    def _other_training(self, fingerprint: str) -> ConfigError:
        before, now = json.loads(fingerprint), json.loads(self.fingerprint)
        differ = {key for key in before | now if before.get(key) != now.get(key)}
        if "images" in before and differ <= {"images", "places"}:
            folder = RunPaths(self.folder).checkpoints
            what = "images" if "images" in differ else "plates, wells or batches of the images"
            return ConfigError(
                f"{self.folder}: its checkpoints were trained on other {what} than those now in "
                f"the store; give --out another folder, or delete {folder} to train again"
            )
        return ConfigError(
            f"{self.folder}: its checkpoints were trained with other options or weak labels, or by "
            "an earlier version; use the options of its config.yaml, or give --out another folder"
        )

    def _require_agreement(self, found: str, what: str) -> None:
        """Refuse to train on hosts that see different things."""
        number = float(int(hashlib.sha256(found.encode()).hexdigest()[:12], 16))
        span = torch.tensor([number, -number], dtype=torch.float64)
        if job.all_reduce_max(span).sum() != 0:
            raise ConfigError(
                f"{self.folder}: the processes of this job found different {what} there; store and "
                "run folder must be on a file system that all hosts share"
            )


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM and Ctrl-C into a request that is checked after each step."""
    received: list[int] = []
    previous = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, lambda got, _: received.append(got))
    except ValueError:
        # Not in the main thread (a notebook's executor): signal handlers are left alone.
        pass
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
