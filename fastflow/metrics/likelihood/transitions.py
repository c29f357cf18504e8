"""How the latents of a run move: by its own transition, or along straight directions."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastflow.latents.transitions import row_by_row
from fastflow.metrics.likelihood.chains import Transition


class Straight(NamedTuple):
    """Equal steps along directions (K, D), one for each step of a transformation."""

    directions: Tensor

    def mean(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """See `Transition`."""
        return z + self.directions.to(z)[k]

    def log_std(self, k: Tensor, n: Tensor) -> None:
        """See `Transition`."""


class Jump(NamedTuple):
    """A transition that takes all n steps at once, with a noise of its own."""

    transition: Any

    def mean(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """See `Transition`."""
        return self.transition.jump(z, k, n)

    def log_std(self, k: Tensor, n: Tensor) -> Tensor | None:
        """See `Transition`."""
        return self.transition.jump_log_std(k, n)

    def jacobian(self, z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """See `Transition`."""
        return row_by_row(self.mean, z, k, n)


class Changing(NamedTuple):
    """A transition along transformations that change on the way, each of which begins anew at its own first step.

    What it takes for the transformations k are the numbers of the items.
    """

    transition: Transition
    k: Tensor
    """(N, S) long: the transformation of each of S steps of each item."""
    number: Tensor
    """(N, S) long: how many steps the same transformation has led before."""

    @classmethod
    def of(cls, transition: Transition, k: Tensor) -> Changing:
        """A transition along the transformations (N, S) of each step."""
        steps = torch.arange(k.shape[1], device=k.device).expand_as(k)
        begins = torch.cat((k[:, :1] < 0, k[:, 1:] != k[:, :-1]), 1)
        return cls(transition, k, steps - torch.where(begins, steps, 0).cummax(1).values)

    def mean(self, z: Tensor, item: Tensor, n: Tensor) -> Tensor:
        """See `Transition`."""
        return self.transition.mean(z, self.k[item, n], self.number[item, n])

    def log_std(self, item: Tensor, n: Tensor) -> Tensor | None:
        """See `Transition`."""
        return self.transition.log_std(self.k[item, n], self.number[item, n])

    def jacobian(self, z: Tensor, item: Tensor, n: Tensor) -> Tensor:
        """See `Transition`."""
        own = getattr(self.transition, "jacobian", None)
        if own is None:
            return row_by_row(self.mean, z, item, n)
        return own(z, self.k[item, n], self.number[item, n])


def transition_of(run: Any, directions: Tensor | None, steps: int) -> Transition:
    """How the latents of a run move from one frame to the next: along directions, or by what it was trained with.

    Args:
        steps: how many steps there are at most.
    """
    if directions is not None:
        return Straight(directions / frames_of(run))
    freeze = getattr(run.transition, "frozen", None)
    return run.transition if freeze is None else freeze(max(steps, 1))


def transformations_of(run: Any, directions: Tensor | None) -> int:
    """K, the number of transformations that a run's latents can move by."""
    if directions is not None:
        return len(run.transformations)
    return run.transition.num_transformations


def frames_of(run: Any) -> int:
    """The number of frames that follow the first one on a path of the run's training."""
    return getattr(run.config, "path_frames", run.config.path_steps)


def jump_of(transition: Transition, k: Tensor, n: Tensor) -> Jump | None:
    """The transition over n (B,) steps at once along k (B,); None if it has no noise of its own."""
    has_noise = getattr(transition, "jump_log_std", None)
    return None if has_noise is None or has_noise(k, n) is None else Jump(transition)
