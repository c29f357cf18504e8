"""The ends of paths: how far each path stays among the data, and the words that say so."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastflow.generators import Generator
from fastflow.latents.spaces import Features, changes, rounding

_LEAST, _MOST = 0.05, 20.0  # the visible change per latent length that is too little or too much, in medians of a path


@torch.no_grad()
def path_ends(
    generator: Generator,
    latents: Tensor,
    images: Tensor,
    start: int = 0,
    *,
    features: Features | None = None,
    moved: Tensor | None = None,
) -> Tensor:
    """The first and the last column (B, 2) long at which each path is still among the data.

    From the start outwards, a path leaves the data

    - where its distance from the mean of the generator's own latents is smaller or larger than theirs, of which one in
      a thousand is smaller and one larger; a path whose start is already beyond that leaves where it goes beyond its
      start;
    - before a step whose visible change per length in latent space is less than a twentieth of the path's median, or
      more than 20 times it: the generator no longer answers, or tears;
    - where its images aren't finite.

    Args:
        generator: the generator.
        latents: the points (B, T + 1, D) of the paths, in steps of the flow.
        images: their images (B, T + 1, C, H, W).
        start: the column of the starts, which count as data.
        features: a function from images (B, C, H, W) in [0, 1] to features (B, ...) whose change is the visible one;
            the pixels' if None.
        moved: the visible changes (B, T) of the steps, if they were measured already: see `spaces.changes`.
    """
    moved = changes(generator, images, features) if moved is None else moved
    bad = _bad_steps(latents, moved, rounding(generator, images[:, 0], features)[:, None])  # [B, T]
    far = _far(generator, latents, start)  # [B, T + 1]
    after = bad[:, start:] | far[:, start + 1 :]
    before = (bad[:, :start] | far[:, :start]).flip(1)
    last = start + _until_true(after)
    return torch.stack((start - _until_true(before), last), 1)


def ends_at(ends: Tensor, places: Tensor, start: int) -> Tensor:
    """The ends (B, 2) long of paths whose columns lie elsewhere: the last columns that aren't beyond the given ends.

    Args:
        ends: the ends (B, 2) in the flow's own steps, counted from the path's first column.
        places: where the columns lie (B, T + 1), in steps from the start.
        start: the column of the starts.
    """
    first, last = (ends - start).to(places).split(1, 1)
    return torch.stack(((places < first).sum(1), (places <= last).sum(1) - 1), 1)


def leaving(ends: Sequence[Sequence[int]], start: int, columns: int) -> str:
    """What paths do at their ends, such as "leaves the data after step 6 from 3 of 6 starts"; empty if none leaves.

    Args:
        ends: the first and last column of each path that is still among the data.
        start: the column of the starts.
        columns: the number of columns.
    """
    after = [last - start for _, last in ends if last < columns - 1]
    before = [first - start for first, _ in ends if first > 0]
    parts = []
    for word, steps in (("after", after), ("before", before)):
        if steps:
            near, far = sorted((min(steps), max(steps)), key=abs)
            where = f"step {near}" if near == far else f"steps {near} to {far}"
            parts.append(f"{word} {where}" + ("" if len(ends) == 1 else f" from {len(steps)} of {len(ends)} starts"))
    return f"leaves the data {' and '.join(parts)}" if parts else ""


def _far(generator: Generator, latents: Tensor, start: int) -> Tensor:
    """Which points (B, T + 1) are nearer to the samples' mean, or farther from it, than samples and the start are."""
    spread = generator.spread
    distance = (latents.double() - spread.mean.to(latents.device)).norm(dim=2)
    own = distance[:, start : start + 1]
    # Rounding may move a point that should be as far as its start.
    nearest = (1 - 1e-6) * own.clamp_max(spread.nearest)
    farthest = (1 + 1e-6) * own.clamp_min(spread.farthest)
    return (distance < nearest) | (distance > farthest)


def _bad_steps(latents: Tensor, change: Tensor, noise: Tensor) -> Tensor:
    """Which steps (B, T) change the images far less or far more per length in latent space than is usual there."""
    length = latents.double().diff(dim=1).norm(dim=2)
    rate = change / length.clamp_min(torch.finfo(length.dtype).tiny)
    median = rate.quantile(0.5, dim=1, keepdim=True)
    moves = (change.sum(1, keepdim=True) > change.shape[1] * noise) & (length > 0)
    stalls, tears = rate < _LEAST * median, (rate > _MOST * median) & (change > noise)
    return moves & (stalls | tears) | ~change.isfinite()


def _until_true(bad: Tensor) -> Tensor:
    """How many columns (B,) of each row (B, n) come before the first true one; n if none is."""
    return (bad.cumsum(1) == 0).sum(1)
