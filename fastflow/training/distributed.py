"""Processes that train together: torch.distributed under torchrun. One of them, the leader, writes the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from fastflow.core.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together: how many there are, and this one's rank among them."""

    rank: int = 0
    size: int = 1

    @property
    def is_leader(self) -> bool:
        """Whether this process writes the run."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """This process's rows of a global batch.

        Raises:
            InputError: the batch can't be divided evenly.
        """
        if batch % self.size:
            raise InputError(f"batch_size must be a multiple of the {self.size} processes, got {batch}")
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def on_leader(self, function: Callable[[], T]) -> T:
        """Call a function in the leader alone, and return its value, or raise its error, in every process."""
        if self.size == 1:
            return function()
        outcome: list[tuple[T | None, Exception | None] | None] = [None]
        if self.is_leader:
            try:
                outcome = [(function(), None)]
            except Exception as error:
                outcome = [(None, error)]
        dist.broadcast_object_list(outcome, 0)
        assert outcome[0] is not None
        value, error = outcome[0]
        if error is not None:
            raise error
        return value  # pyright: ignore[reportReturnType]

    def total(self, part: Tensor) -> Tensor:
        """The sum of all processes' parts, for a loss whose gradients are then averaged over the processes.

        Its gradient is `size` times the part's own. The average over the processes is then the gradient of the sum.
        """
        if self.size == 1:
            return part
        everywhere = part.detach().clone()
        dist.all_reduce(everywhere)
        return everywhere + self.size * (part - part.detach())

    def mean(self, values: Tensor) -> Tensor:
        """The mean of all processes' values."""
        if self.size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.size


SINGLE_PROCESS = ProcessGroup()
"""The group of a process that trains by itself."""


@contextmanager
def process_group(device: torch.device) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started together, until the context ends.

    A process group that exists already is used and left as it is. Without torchrun the group is this process alone.
    """
    if dist.is_available() and dist.is_initialized():
        yield ProcessGroup(dist.get_rank(), dist.get_world_size())
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        try:
            yield ProcessGroup(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()
    else:
        yield SINGLE_PROCESS


def is_follower() -> bool:
    """Whether torchrun started this process, and it isn't the leader; followers print nothing."""
    return int(os.environ.get("RANK", "0")) > 0


def local_device(name: str) -> str:
    """The name of this process's device: "cuda" becomes the CUDA device whose number is the process's local rank."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if name == "cuda" and rank is not None else name
