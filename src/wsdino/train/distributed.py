"""The few collective operations that training needs; with one process they do nothing."""

from __future__ import annotations

import os

import torch
from torch import Tensor, distributed


def start() -> None:
    """Join the process group that ``torchrun`` describes in the environment, if it does."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        # NCCL moves what lies on GPUs and nothing else; numbers for the log lie on the CPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend)


def rank() -> int:
    """Return this process's number."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_reduce_sum(value: Tensor) -> Tensor:
    """Return the sum of `value` over all processes; `value` itself stays as it is."""
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


def barrier() -> None:
    """Wait until every process is here."""
    if distributed.is_initialized():
        distributed.barrier()
