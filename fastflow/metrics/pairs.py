"""Pairs of consecutive images on paths from held-out starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastflow.core.rng import step_rng
from fastflow.generators import Generator
from fastflow.latents.traversal import Traverses
from fastflow.metrics.ranking import smoothness


@dataclass(frozen=True)
class Pairs:
    """Pairs of consecutive images of many paths, rounded to 8 bits, with the number of each pair's path."""

    images: Tensor
    """(N, C, H, W)"""
    next_images: Tensor
    """(N, C, H, W)"""
    index: Tensor
    """The number of each pair's path or potential, (N,)."""
    smoothness: Tensor | None = None
    """The smoothness of each pair's whole path, (N,); see `fastflow.metrics.ranking.smoothness`."""

    def strength(self) -> Tensor:
        """Each pair's mean absolute pixel change (N,), images in [0, 1]."""
        return (self.next_images - self.images).abs().flatten(1).mean(1)

    def __getitem__(self, rows: slice | Tensor) -> Pairs:
        smooth = None if self.smoothness is None else self.smoothness[rows]
        return Pairs(self.images[rows], self.next_images[rows], self.index[rows], smooth)


@torch.no_grad()
def path_pairs(source: Traverses, path_steps: int, samples: int, seed: int) -> Pairs:
    """Draw `samples` pairs from a run or baseline, each with a start, a path and a place on the path of its own."""
    generator = source.generator
    z0, index, place = draw_places(generator, source.num_paths, samples, path_steps, seed)
    labels = generator.draw_labels(samples, step_rng(seed, 2, stream=1))
    rows = torch.arange(samples, device=z0.device)
    pairs, smooth = [], []
    for chunk in rows.split(256):  # whole paths of all samples could be too many images at once
        classes = None if labels is None else labels[chunk]
        images = generator.eight_bit(source.traverse(z0[chunk], index[chunk], path_steps, labels=classes).images)
        here = place[chunk]
        pairs.append((images[rows[: len(chunk)], here], images[rows[: len(chunk)], here + 1]))
        smooth.append(smoothness(images))
    images, next_images = (torch.cat(part) for part in zip(*pairs, strict=True))
    return Pairs(images, next_images, index, torch.cat(smooth))


def draw_places(
    generator: Generator, count: int, samples: int, path_steps: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Starts (N, D), and for each a potential (N,) and a place (N,) on its path; no training draws these."""
    rng = step_rng(seed, 0, stream=1)
    z0 = generator.sample(samples, rng)
    place = torch.randint(path_steps, (samples,), generator=rng).to(z0.device)
    return z0, (torch.arange(samples) % count).to(z0.device), place
