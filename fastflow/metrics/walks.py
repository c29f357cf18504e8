"""Walking what traverses from starts that no training draws: what all measures of paths begin with."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fastflow.core.checks import check_count, check_seed
from fastflow.core.rng import step_rng
from fastflow.latents.traversal import Traversal, Traverses

_CHUNK = 64
"""Starts walked at once: whole paths of all of them could be too many images."""


@torch.no_grad()
def walks(source: Traverses, path_steps: int, samples: int, seed: int) -> Iterator[tuple[int, Traversal]]:
    """Each path's number and its traversals, from the same `samples` starts for all paths and a few at a time.

    The starts, and their classes where the generator has such, are drawn by random numbers that no training uses.

    Raises:
        InputError: samples or seed can't be used.
    """
    z0, labels = starts(source, samples, seed)
    for k in range(source.num_paths):
        for rows in torch.arange(samples, device=z0.device).split(_CHUNK):
            classes = None if labels is None else labels[rows]
            yield k, source.traverse(z0[rows], k, path_steps, labels=classes)


def starts(source: Traverses, samples: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """The latents (N, D) that `walks` begins at, and their classes (N,) where the generator has such."""
    check_count(samples, "samples")
    check_seed(seed)
    rng = step_rng(seed, 3, stream=1)
    return source.generator.sample(samples, rng), source.generator.draw_labels(samples, rng)
