"""One job of several processes; with a single process everything here does nothing.

Numbers travel through collective operations, everything else (which processes are present, what
the first one found, which have failed) through the job's key-value store. Waiting for another
process happens in Python: it has no time limit, and a signal or the failure of another process
ends it at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from wsdino import progress
from wsdino.device import num_cpus
from wsdino.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

JOIN_WITHIN = timedelta(minutes=10)
# Longer than a process ever lags behind another in a step; dead ones are noticed elsewhere at once.
STEP_WITHIN = timedelta(minutes=30)
POLL_S = 0.02
EXPLAIN_WITHIN_S = 2.0
LEAVE_WITHIN_S = 30.0
_FAILED, _LEFT = "failed", "left"


class _Meeting:
    """The job's store, and how many times the processes have met in it."""

    def __init__(self, store: Store) -> None:
        self.store, self._number = store, 0

    def next_key(self) -> str:
        self._number += 1
        return f"meeting {self._number}"


class _State:
    meeting: _Meeting | None = None


def start() -> None:
    """Join the job that ``torchrun`` describes in the environment, if it does."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or distributed.is_initialized():
        return
    local, backend = int(os.environ.get("LOCAL_RANK", "0")), "gloo"
    if torch.cuda.is_available():
        if local < torch.cuda.device_count():
            torch.cuda.set_device(local)
        if distributed.is_nccl_available():
            # NCCL only moves tensors on GPUs; numbers for the log are on the CPU.
            backend = "cpu:gloo,cuda:nccl"
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        # torchrun sets one thread per process, however many CPUs there are.
        local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        torch.set_num_threads(max(1, num_cpus() // local_size))
    shared, own_rank, size = next(rendezvous("env://", timeout=JOIN_WITHIN))
    # torchrun keeps its store over a restart: what earlier processes left there, even their
    # addresses, must not be used.
    store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", shared)
    distributed.init_process_group(
        backend, store=store, rank=own_rank, world_size=size, timeout=STEP_WITHIN
    )
    _State.meeting = _Meeting(PrefixStore("wsdino", store))
    progress.set_quiet(own_rank > 0)


def finish() -> None:
    """Leave the job; the first process leaves last, as the others may be using its store."""
    if not distributed.is_initialized():
        return
    if _State.meeting is not None:
        with suppress(RuntimeError):
            _leave(_State.meeting.store)
    distributed.destroy_process_group()
    _State.meeting = None


def _leave(store: Store) -> None:
    if rank() > 0:
        store.add(_LEFT, 1)
        return
    deadline = time.monotonic() + LEAVE_WITHIN_S
    while store.add(_LEFT, 0) < world_size() - 1 and time.monotonic() < deadline:
        time.sleep(POLL_S)


def rank() -> int:
    """Return this process's number."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_reduce_sum(value: Tensor) -> Tensor:
    """Return the sum of `value` over all processes; `value` itself is unchanged."""
    return _all_reduce(value, distributed.ReduceOp.SUM)


def all_reduce_max(value: Tensor) -> Tensor:
    """Return the elementwise maximum of `value` over all processes."""
    return _all_reduce(value, distributed.ReduceOp.MAX)


def _all_reduce(value: Tensor, operation: distributed.ReduceOp.RedOpType) -> Tensor:
    if world_size() == 1:
        return value
    result = value.clone()
    distributed.all_reduce(result, operation)
    return result


def all_reduce_mean(value: Tensor) -> Tensor:
    """Return the mean of `value` over all processes."""
    return all_reduce_sum(value) / world_size()


def sum_over_ranks(value: Tensor) -> Tensor:
    """Return the sum of `value` over all processes; gradients flow through it.

    The gradient on each process is the sum of the gradients of all processes.
    """
    if world_size() == 1:
        return value
    result: Tensor = _SumOverRanks.apply(value)
    return result


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        return all_reduce_sum(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return all_reduce_sum(gradients[0])


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes, in their order: (n, ...) on each -> (n * processes, ...).

    `rows` has the same shape everywhere; no gradient flows through.
    """
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    distributed.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def barrier() -> None:
    """Wait until every process is here.

    Raises
    ------
    JobError
        If another process has failed meanwhile.
    """
    if _State.meeting is None:
        return
    store, key = _State.meeting.store, _State.meeting.next_key()
    store.add(key, 1)
    _wait(lambda: store.add(key, 0) >= world_size())


def only_first(work: Callable[[], T]) -> T:
    """Let the first process work while the others wait, and share its result with all of them.

    Parameters
    ----------
    work
        Returns something JSON-serialisable.

    Raises
    ------
    JobError
        On the other processes, if the first one failed.
    """
    if _State.meeting is None:
        return work()
    store, key = _State.meeting.store, _State.meeting.next_key()
    if rank() == 0:
        result = work()
        store.set(key, json.dumps(result))
        return result
    _wait(lambda: store.check([key]))
    found: T = json.loads(store.get(key))
    return found


def _wait(is_there: Callable[[], bool]) -> None:
    assert _State.meeting is not None
    with lost_processes():
        while not is_there():
            if _State.meeting.store.check([_FAILED]):
                raise JobError
            time.sleep(POLL_S)


@contextmanager
def lost_processes() -> Iterator[None]:
    """Turn errors of collective operations caused by a lost process into a JobError."""
    try:
        yield
    except RuntimeError as error:
        # Gloo has no error type of its own.
        is_lost = isinstance(error, distributed.DistError) or "gloo" in str(error).lower()
        if world_size() > 1 and is_lost:
            raise JobError from error
        raise


def is_first_report(message: str) -> bool:
    """Whether no process of the job has reported this message yet: it is printed once per job."""
    if _State.meeting is None:
        return True
    name = hashlib.sha256(message.encode()).hexdigest()
    with suppress(RuntimeError):
        return bool(_State.meeting.store.add(f"said {name}", 1) == 1)
    return True


def fail(status: int) -> None:
    """Tell the other processes that this one has reported why it fails, and its exit status."""
    if _State.meeting is not None:
        with suppress(RuntimeError):
            _State.meeting.store.set(_FAILED, str(status))


def reported_status() -> int | None:
    """Exit status of the process that reported why it failed; None if it ended silently."""
    if _State.meeting is None:
        return None
    deadline = time.monotonic() + EXPLAIN_WITHIN_S
    with suppress(RuntimeError):
        while time.monotonic() < deadline:
            if _State.meeting.store.check([_FAILED]):
                return int(_State.meeting.store.get(_FAILED))
            time.sleep(POLL_S)
    return None
