"""Paths from held-out starts, which no training draws: the measures of paths begin with these."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fastflow.core.checks import check_count, check_seed
from fastflow.core.rng import step_rng
from fastflow.generators import Generator
from fastflow.latents.traversal import Traversal, Traverses

_CHUNK = 64
"""How many starts are traversed at once: the images of all paths together could be too many."""


@torch.no_grad()
def held_out_paths(
    source: Traverses,
    path_steps: int,
    samples: int,
    seed: int,
    *,
    traverse: Callable[..., Traversal] | None = None,
) -> Iterator[tuple[int, Traversal]]:
    """Each path's number with its traversals, a few at a time, from the same `samples` starts for all paths.

    The starts, and their classes where the generator has classes, are drawn by random numbers that no training uses.

    Args:
        source: a run or a baseline.
        path_steps: the steps of each path.
        samples: how many starts there are.
        seed: the seed of the starts.
        traverse: how the source traverses, such as `flow_of(source)`; as it usually does if None.

    Raises:
        InputError: samples or seed can't be used.
    """
    traverse = source.traverse if traverse is None else traverse
    z0, labels = held_out_starts(source.generator, samples, seed)
    for k in range(source.num_paths):
        for rows in torch.arange(samples, device=z0.device).split(_CHUNK):
            classes = None if labels is None else labels[rows]
            yield k, traverse(z0[rows], k, path_steps, labels=classes)


def held_out_starts(generator: Generator, samples: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """The latents (N, D) at which `held_out_paths` begin, and their classes (N,) where the generator has classes."""
    check_count(samples, "samples")
    check_seed(seed)
    rng = step_rng(seed, 3, stream=1)
    return generator.sample(samples, rng), generator.draw_labels(samples, rng)
