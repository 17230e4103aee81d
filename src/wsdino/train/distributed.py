"""The few collective operations that training needs; with one process they do nothing."""

from __future__ import annotations

import os

import torch
from torch import Tensor, distributed


def start() -> None:
    """Join the process group that ``torchrun`` describes in the environment, if it does."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def rank() -> int:
    """Return this process's number."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def all_reduce_sum(value: Tensor) -> Tensor:
    """Return the sum of `value` over all processes; `value` itself stays as it is."""
    if world_size() == 1:
        return value
    total = value.clone()
    distributed.all_reduce(total)
    return total


def all_reduce_mean(value: Tensor) -> Tensor:
    """Return the mean of `value` over all processes."""
    return all_reduce_sum(value) / world_size()


def barrier() -> None:
    """Wait until every process is here."""
    if distributed.is_initialized():
        distributed.barrier()
