"""What all baselines share: paths in steps of one length, and the traversal protocol."""

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
from fastflow.latents.traversal import Traversal


class Stepped(ABC):
    """K paths from any latent, in steps of equal length; `step_length` can be changed at any time.

    Attributes:
        generator: whose latent space is traversed. num_directions: K. step_length: the latent distance of one step.
        path_steps: the steps of a path where nobody says how many.
    """

    path_steps = 10

    def __init__(self, generator: Generator, num_directions: int, step_length: float) -> None:
        if not isinstance(generator, Generator):
            raise InputError(
                f"generator must be a fastflow generator, got {type(generator).__name__}: wrap it in "
                "ff.generators.from_callable"
            )
        check_count(num_directions, "num_directions")
        if not (is_finite(step_length, torch.float64) and step_length > 0):
            raise InputError(f"step_length must be a positive number, got {step_length!r}")
        self.generator = generator
        self.num_directions = num_directions
        self.step_length = step_length

    @property
    def num_paths(self) -> int:
        """K."""
        return self.num_directions

    @abstractmethod
    def walk(self, z0: Tensor, index: Tensor, steps: int) -> Tensor:
        """Latents (B, steps + 1, D) from z0 (B, D) along the paths `index`, one for all () or one for each (B,)."""

    @torch.no_grad()
    def traverse(
        self,
        z0: Tensor,
        index: int | Tensor,
        steps: int = 10,
        direction: Literal["forward", "descent"] = "forward",
        *,
        labels: Tensor | None = None,
    ) -> Traversal:
        """Walk latents z0 (B, D) along the paths `index`, one for all or one for each (B,) long.

        "descent" walks the other way; `labels` are those of `fastflow.latents.traversal.traverse`.

        Raises:
            InputError: an argument that doesn't fit, by its name.
        """
        if direction not in ("forward", "descent"):
            raise InputError(f"direction must be forward or descent, got {direction!r}")
        like = self.generator.sample(1)
        check_latents(z0, self.generator.latent_dim, like)
        check_count(steps, "steps")
        walker = self
        if direction == "descent":
            walker = copy.copy(self)
            walker.step_length = -self.step_length
        latents = walker.walk(z0, check_index(index, self.num_directions, z0), steps)
        decode = self.generator.conditioned(labels)
        images = torch.stack([decode(z) for z in latents.unbind(1)], 1)
        return Traversal(latents, images, 0)
