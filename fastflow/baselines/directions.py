"""Straight directions in latent space."""

from __future__ import annotations

import torch
from torch import Tensor

from fastflow.arguments import check_count, check_index, check_latents
from fastflow.generators import Generator
from fastflow.traversal import Traversal


class Random:
    """Random unit directions, each walked in steps of equal length: what any learned direction has to beat.

    Args:
        generator: whose latent space is traversed.
        num_directions: K.
        step_length: the latent distance of one step.
        seed: of the directions.
    """

    def __init__(self, generator: Generator, num_directions: int, step_length: float = 0.1, seed: int = 0) -> None:
        check_count(num_directions, "num_directions")
        rng = torch.Generator().manual_seed(seed)
        directions = torch.randn(num_directions, generator.latent_dim, generator=rng)
        self.generator = generator
        self.directions = (directions / directions.norm(dim=1, keepdim=True)).to(generator.sample(1))
        self.step_length = step_length

    @torch.no_grad()
    def traverse(self, z0: Tensor, index: int | Tensor, steps: int = 10, *, labels: Tensor | None = None) -> Traversal:
        """Walk latents z0 (B, D) along the directions `index`, one for all or one for each (B,) long.

        `labels` are those of `fastflow.traversal.traverse`.

        Raises:
            InputError: an argument that doesn't fit, by its name.
        """
        check_latents(z0, self.generator.latent_dim, self.directions)
        check_count(steps, "steps")
        step = self.step_length * self.directions[check_index(index, len(self.directions), z0)]
        latents = z0[:, None] + step[:, None] * torch.arange(steps + 1, device=z0.device, dtype=z0.dtype)[:, None]
        decode = self.generator.conditioned(labels)
        images = torch.stack([decode(z) for z in latents.unbind(1)], 1)
        return Traversal(latents, images, 0)
