"""Paths along the singular vectors of a generator's Jacobian, which turn with it."""

from __future__ import annotations

import torch
from torch import Tensor

from fastflow.baselines.base import Baseline
from fastflow.baselines.directions import pooled
from fastflow.core.errors import InputError
from fastflow.generators import Generator
from fastflow.generators.change import generator_change

_COLUMNS = 512
"""How many columns of Jacobians are computed at once."""


class JacobianVectors(Baseline):
    """Curved paths that need no training: path k follows the k-th right singular vector of the generator's Jacobian.

    The Jacobian is that of the images, pooled to 32 x 32 at most, at each point of the path anew. From step to step a
    path keeps to the vector nearest its last step, with that one's sign, so that it isn't lost where singular values
    cross. At a start the vectors are in the order of their singular values, and have the sign that brightens the image.
    Straight directions are the same at all points, so this is what curved ones have to beat. It takes D passes of the
    generator a step.

    Args:
        generator: the generator whose latent space is traversed.
        num_directions: K, the number of paths, at most D.
        step_length: the length of one step in latent space.
    """

    def __init__(self, generator: Generator, num_directions: int, step_length: float = 0.1) -> None:
        super().__init__(generator, num_directions, step_length)
        if num_directions > generator.latent_dim:
            raise InputError(f"num_directions must be at most {generator.latent_dim}, the latents' width")

    def path(self, z0: Tensor, index: Tensor, steps: int) -> Tensor:
        """Latents (B, steps + 1, D) from z0 (B, D); see `Baseline.path`."""
        rows, index = torch.arange(len(z0), device=z0.device), index.expand(len(z0))
        points, last = [z0], None
        for _ in range(steps):
            vectors, brightens = self._vectors(points[-1])  # (B, D, D), a vector in each row
            if last is None:
                direction = vectors[rows, index] * brightens[rows, index, None]
            else:
                cosines = (vectors @ last[:, :, None])[:, :, 0]
                nearest = cosines.abs().argmax(1)
                direction = vectors[rows, nearest] * cosines[rows, nearest].sign()[:, None]
            last = direction
            points.append(points[-1] + self.step_length * direction)
        return torch.stack(points, 1)

    def _vectors(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The right singular vectors (B, D, D) at latents z (B, D), in rows, and the signs (B, D) that brighten."""
        count, width = z.shape
        each = max(1, _COLUMNS // width)
        found = [
            self._of_some(*part)
            for part in zip(z.split(each), self.labels_of(count, each), strict=True)
        ]  # fmt: skip
        vectors, signs = (torch.cat(part) for part in zip(*found, strict=True))
        return vectors, signs

    def _of_some(self, z: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        count, width = z.shape
        unit = torch.eye(width, dtype=z.dtype, device=z.device).repeat(count, 1)
        labels = None if labels is None else labels.repeat_interleave(width)
        decode = self.generator.conditioned(labels)
        _, change = generator_change(
            decode, z.repeat_interleave(width, 0), unit, forward_mode=self.generator.forward_mode
        )
        columns = pooled(change, 32).flatten(1).double().view(count, width, -1)  # (B, D, F): each row is J e_i
        _, vectors = torch.linalg.eigh(columns @ columns.mT)
        vectors = vectors.flip(2).mT.contiguous()  # (B, D, D), the largest singular value's first
        brightness = (vectors @ columns.sum(2)[:, :, None])[:, :, 0]
        return vectors.to(z), torch.where(brightness < 0, -1.0, 1.0).to(z)
