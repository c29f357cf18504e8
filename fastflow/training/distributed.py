"""Processes that train together: torch.distributed under torchrun, with one of them, the leader, writing the run."""

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
class Team:
    """This process's rank among those that train together, and their number."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the run."""
        return self.rank == 0

    def share(self, batch: int) -> slice:
        """This process's rows of a global batch.

        Raises:
            InputError: the batch can't be divided evenly.
        """
        if batch % self.size:
            raise InputError(f"batch_size must be a multiple of the {self.size} processes, got {batch}")
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def led(self, function: Callable[[], T]) -> T:
        """What the leader's call returns, on every process, or the error that it raises; the others don't call."""
        if self.size == 1:
            return function()
        outcome: list[tuple[T | None, Exception | None] | None] = [None]
        if self.leads:
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
        """The sum of every process's part, on each, for a loss whose gradients are then averaged over the processes.

        Its gradient is `size` times the part's own: averaged over the processes, that is the gradient of the sum.
        """
        if self.size == 1:
            return part
        everywhere = part.detach().clone()
        dist.all_reduce(everywhere)
        return everywhere + self.size * (part - part.detach())

    def mean(self, values: Tensor) -> Tensor:
        """The mean of every process's values, on each."""
        if self.size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.size


ALONE = Team()


@contextmanager
def team(device: torch.device) -> Iterator[Team]:
    """The processes that torchrun started together, joined for as long as the context lasts; one of its own otherwise.

    A process group that is there already is used and left as it is.
    """
    if dist.is_available() and dist.is_initialized():
        yield Team(dist.get_rank(), dist.get_world_size())
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        try:
            yield Team(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()
    else:
        yield ALONE


def is_follower() -> bool:
    """Whether torchrun started this process as another than the leader; such a one has nothing to tell a person."""
    return int(os.environ.get("RANK", "0")) > 0


def local_device(name: str) -> str:
    """The name of this process's own device: of several on a machine, each takes the CUDA device of its number."""
    rank = os.environ.get("LOCAL_RANK")
    return f"cuda:{rank}" if name == "cuda" and rank is not None else name
