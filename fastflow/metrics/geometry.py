"""The shape of paths as images show it: their length, how they bend, and whether they do the same from everywhere.

Distances are those of images in [0, 1], or of the features that a function of the user's own gives for them; results
say which. No network is downloaded, so lengths are no LPIPS unless one brings it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fastflow.core.checks import is_finite
from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining
from fastflow.core.rng import step_rng
from fastflow.generators import Generator
from fastflow.latents.traversal import Traverses, check_source
from fastflow.metrics.walks import starts, walks

Features = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) in [0, 1] to features (B, ...)."""


@dataclass(frozen=True)
class PathLength:
    """How far images travel along paths."""

    score: float
    """The mean over paths and starts."""
    per_path: list[float]
    """(K,)"""
    standard_error: float
    """Of the score, by the spread over the starts, each with one place on each path."""
    space: str
    """"pixels" or "features"."""
    epsilon: float
    samples: int


@dataclass(frozen=True)
class Curvature:
    """How sharply images turn from one step to the next."""

    score: float
    """The mean over the paths that move, in radians: 0 on a straight line, pi / 2 at random, pi to and fro."""
    per_path: list[float | None]
    """(K,); None for a path whose images don't move."""
    space: str
    """"pixels" or "features"."""
    samples: int


@dataclass(frozen=True)
class Consistency:
    """Whether a path changes images alike from all starts."""

    score: float
    """The mean over the paths that move: 1 if the change is the same from everywhere, 0 if unrelated."""
    per_path: list[float | None]
    """(K,); None for a path whose images don't move."""
    across: float | None
    """The same between changes along different paths from different starts; None where fewer than two paths move."""
    space: str
    """"pixels" or "features"."""
    samples: int


@torch.no_grad()
def path_length(
    source: Traverses,
    *,
    path_steps: int | None = None,
    features: Features | None = None,
    epsilon: float = 1e-4,
    samples: int = 256,
    seed: int = 1,
) -> PathLength:
    """Perceptual path length (Karras et al., CVPR 2019, section 4.1), along paths that are given in place of chords.

    E_t[ d(G(z(t)), G(z(t + e))) / e^2 ], z(t) going from a path's start to its end, straight between its steps, as t
    goes from 0 to 1, and t drawn uniformly, one for each start and path. d is the mean squared difference of pixels in
    [0, 1] or of features, where the paper has LPIPS, another squared distance: bring its features to have that. A path
    that is twice as long has four times the score: compare at equal strength.

    Args:
        source: a run or a baseline.
        path_steps: of a path; the source's own if None.
        features: of images; pixels if None.
        epsilon: e. Images aren't rounded to 8 bits, which would hide such small steps.

    Raises:
        InputError: the features fail or aren't finite, or an argument can't be used.
    """
    path_steps = check_source(source, path_steps)
    if not (is_finite(epsilon, torch.float64) and 0 < epsilon <= 0.1):
        raise InputError(f"epsilon must be a number above 0 and at most 0.1, got {epsilon!r}")
    generator = source.generator
    _, labels = starts(source, samples, seed)
    rng = step_rng(seed, 7, stream=1)
    found: list[list[Tensor]] = [[] for _ in range(source.num_paths)]
    for k, walk in walks(source, path_steps, samples, seed):
        done = sum(map(len, found[k]))
        rows = torch.arange(len(walk.latents), device=walk.latents.device)
        t = torch.rand(len(rows), generator=rng, dtype=torch.float64).to(rows.device) * (1 - epsilon)
        decode = generator.conditioned(None if labels is None else labels[done : done + len(rows)])
        here, there = (
            _in_space(generator, decode(_along(walk.latents, rows, place)), features) for place in (t, t + epsilon)
        )
        found[k].append((there - here).square().mean(1) / epsilon**2)
    each = torch.stack([torch.cat(path) for path in found])  # [K, N]
    error = float(each.mean(0).std()) / samples**0.5 if samples > 1 else math.nan
    return PathLength(float(each.mean()), each.mean(1).tolist(), error, _space(features), epsilon, samples)


@torch.no_grad()
def curvature(
    source: Traverses,
    *,
    path_steps: int | None = None,
    features: Features | None = None,
    samples: int = 64,
    seed: int = 1,
) -> Curvature:
    """The angle between consecutive changes x_t - x_{t-1} and x_{t+1} - x_t, in the mean over a path.

    It is how Henaff et al. (Nature Neuroscience 2019) measure how straight a video is. Steps that change nothing have
    no angle and are left out. Images aren't rounded to 8 bits, whose noise would turn every path. Arguments and errors
    are those of `path_length`.

    Raises:
        InputError: also where no path moves, or has fewer than 2 steps.
    """
    path_steps = check_source(source, path_steps)
    if path_steps < 2:
        raise InputError(f"a path bends at 2 steps or more, path_steps is {path_steps}")
    total = torch.zeros(2, source.num_paths, dtype=torch.float64)
    for k, walk in walks(source, path_steps, samples, seed):
        images = walk.images
        points = _in_space(source.generator, images.flatten(0, 1), features).unflatten(0, images.shape[:2])
        steps = points.diff(dim=1)
        moves = _moves(steps, points)
        both = moves[:, 1:] & moves[:, :-1]
        cosine = functional.cosine_similarity(steps[:, 1:], steps[:, :-1], dim=2, eps=1e-300)
        total[0, k] += float(cosine.clamp(-1, 1).acos()[both].sum())
        total[1, k] += int(both.sum())
    per_path = [float(angle / count) if count else None for angle, count in total.T]
    return Curvature(_mean(per_path), per_path, _space(features), samples)


@torch.no_grad()
def consistency(
    source: Traverses,
    *,
    path_steps: int | None = None,
    features: Features | None = None,
    samples: int = 64,
    seed: int = 1,
) -> Consistency:
    """Whether a path does the same from everywhere: the mean cosine between its changes x_T - x_0 from two starts.

    It is what LatentCLR (Yueksel et al., ICCV 2021) raises within a path and lowers across paths, in features of
    the generator there. In pixels it asks for the same change at the same place; in features of a network, for the same
    kind of change. Starts from which nothing changes are left out. Arguments and errors are those of `path_length`.

    Raises:
        InputError: also where no path moves from two starts.
    """
    path_steps = check_source(source, path_steps)
    changes: list[list[Tensor]] = [[] for _ in range(source.num_paths)]
    for k, walk in walks(source, path_steps, samples, seed):
        ends = torch.stack((walk.images[:, 0], walk.images[:, -1]), 1)
        points = _in_space(source.generator, ends.flatten(0, 1), features).unflatten(0, ends.shape[:2])
        change = points.diff(dim=1)
        moves = _moves(change, points)
        changes[k].append(functional.normalize(change * moves[..., None], dim=2, eps=1e-300)[:, 0])
    units = torch.stack([torch.cat(path) for path in changes])  # [K, N, P]; zero where nothing moves
    moving = units.square().sum(2).round()  # [K, N], 0 or 1

    sums, counts = units.sum(1), moving.sum(1)  # [K, P], [K]
    # The sum over pairs of different starts is that over all, |sum u|^2, less each with itself.
    pairs = counts * (counts - 1)
    within = (sums.square().sum(1) - counts) / pairs.clamp_min(1)
    per_path = [float(value) if count else None for value, count in zip(within, pairs, strict=True)]
    # Likewise between paths, less each start with itself there.
    everything, places = units.sum(0), moving.sum(0)  # [N, P], [N]
    between = everything.sum(0).square().sum() - sums.square().sum() - everything.square().sum() + moving.sum()
    count = places.sum() ** 2 - counts.square().sum() - places.square().sum() + moving.sum()
    across = float(between / count) if count else None
    return Consistency(_mean(per_path), per_path, across, _space(features), samples)


def _along(latents: Tensor, rows: Tensor, t: Tensor) -> Tensor:
    """The points (B, D) at the shares t (B,) of paths (B, T + 1, D), straight between their steps."""
    steps = latents.shape[1] - 1
    place = t * steps
    before = place.long().clamp_max(steps - 1)
    first, second = latents[rows, before], latents[rows, before + 1]
    return first + (place - before).to(latents)[:, None] * (second - first)


def _in_space(generator: Generator, images: Tensor, features: Features | None) -> Tensor:
    """Points (B, P) in float64."""
    images = generator.scaled(images)
    if features is None:
        return images.flatten(1).double()
    with explaining("features"):
        points = features(images)
        if len(points) != len(images) or not bool(points.isfinite().all()):
            raise InputError(
                f"features must be finite, a row for each of {len(images)} images, got {tuple(points.shape)}"
            )
        return points.flatten(1).double()


def _space(features: Features | None) -> str:
    return "pixels" if features is None else "features"


def _moves(steps: Tensor, points: Tensor) -> Tensor:
    """Which steps (B, T, P) between points (B, T + 1, P) are more than their rounding, (B, T)."""
    size = points.square().mean((1, 2), keepdim=True).sqrt()[..., 0]  # [B, 1]
    return steps.square().mean(2).sqrt() > 1e-6 * size.clamp_min(1e-6)


def _mean(per_path: list[float | None]) -> float:
    moving = [value for value in per_path if value is not None]
    if not moving:
        raise InputError("no path moves: there is nothing to measure")
    return sum(moving) / len(moving)
