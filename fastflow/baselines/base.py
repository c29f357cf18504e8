"""What all baselines share: paths of one step length, and the traversal protocol."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from fastflow.core.checks import check_count, is_finite
from fastflow.core.errors import InputError
from fastflow.engine.inputs import check_index, check_latents
from fastflow.generators import Generator
from fastflow.generators.base import as_generator
from fastflow.latents.spaces import Features
from fastflow.latents.traversal import Traversal, check_even, seen


class Baseline(ABC):
    """K paths from any latent, computed in steps of equal length; `step_length` can be changed at any time.

    Attributes:
        generator: the generator whose latent space is traversed. num_directions: K.
        step_length: the length of a step in latent space, before `traverse` makes the steps even.
        path_steps: the number of steps of a path if nothing else is asked for.
    """

    path_steps = 10
    _labels: Tensor | None = None
    """The classes (B,) of the latents that are traversed, if they are given."""

    def __init__(self, generator: Generator, num_directions: int, step_length: float) -> None:
        self.generator = as_generator(generator)
        check_count(num_directions, "num_directions")
        if not (is_finite(step_length, torch.float64) and step_length > 0):
            raise InputError(f"step_length must be a positive number, got {step_length!r}")
        self.num_directions = num_directions
        self.step_length = step_length

    def __init_subclass__(cls) -> None:
        """A class written when `path` was called `walk` works as it did."""
        super().__init_subclass__()
        if "walk" in cls.__dict__ and "path" not in cls.__dict__:
            cls.path = cls.walk

    @property
    def num_paths(self) -> int:
        """K, the number of paths."""
        return self.num_directions

    def labels_of(self, count: int, each: int) -> list[Tensor | None]:
        """The classes of `count` latents that are taken `each` at a time; None for every piece if there are none."""
        if self._labels is None:
            return [None] * -(-count // each)
        return list(self._labels.split(each))

    @abstractmethod
    def path(self, z0: Tensor, index: Tensor, steps: int) -> Tensor:
        """Latents (B, steps + 1, D) from z0 (B, D) along the paths `index`: () for all latents, or (B,)."""

    def walk(self, z0: Tensor, index: Tensor, steps: int) -> Tensor:
        """The same as `path`, by its former name."""
        return self.path(z0, index, steps)

    @torch.no_grad()
    def traverse(
        self,
        z0: Tensor,
        index: int | Tensor,
        steps: int = 10,
        direction: Literal["forward", "descent"] = "forward",
        *,
        labels: Tensor | None = None,
        even: bool | None = None,
        features: Features | None = None,
    ) -> Traversal:
        """Move latents z0 (B, D) along the paths `index`, one for all latents or one for each, (B,) long.

        Args:
            direction: "forward", or "descent" for the opposite way.
            labels: the latents' classes, as for `fastflow.latents.traversal.traverse`.
            even: whether each step makes the same visible change. True if None; False for steps of `step_length`.
            features: what even steps change equally, as for `fastflow.latents.traversal.traverse`.

        Raises:
            InputError: an argument doesn't fit; the message names it.
        """
        if direction not in ("forward", "descent"):
            raise InputError(f"direction must be forward or descent, got {direction!r}")
        even = True if even is None else even
        check_even(even, features)
        check_latents(z0, self.generator.latent_dim, self.generator.like)
        check_count(steps, "steps")
        mover = copy.copy(self)
        mover._labels = None if labels is None else self.generator.check_labels(labels, z0)
        if direction == "descent":
            mover.step_length = -self.step_length
        latents = mover.path(z0, check_index(index, self.num_directions, z0).each, steps)
        return seen(self.generator, latents, labels=labels, even=even, features=features)
