"""The geometry of paths in image space: their length, their curvature, and their consistency over starts.

Distances are those of images in [0, 1], or of features that a function of the user's own computes; results say which.
No network is downloaded: to measure lengths by LPIPS, bring its features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fastflow.core.checks import is_finite
from fastflow.core.errors import InputError
from fastflow.core.rng import step_rng
from fastflow.latents.spaces import Features, in_space
from fastflow.latents.traversal import Traverses, check_source, flow_of
from fastflow.metrics.held_out import held_out_paths, held_out_starts


@dataclass(frozen=True)
class PathLength:
    """How far images move along paths."""

    score: float
    """The mean over paths and starts."""
    per_path: list[float]
    """(K,): the length of each path."""
    standard_error: float
    """The standard error of `score`, from the spread over the starts; NaN for a single start."""
    space: str
    """The space of the distances, "pixels" or "features"."""
    epsilon: float
    samples: int


@dataclass(frozen=True)
class Curvature:
    """How sharply images change direction from one step to the next."""

    score: float
    """The mean over the paths that move, in radians: 0 on a straight line, pi / 2 at random, pi to and fro."""
    per_path: list[float | None]
    """(K,): the value for each path; None for a path whose images don't move."""
    space: str
    """The space of the distances, "pixels" or "features"."""
    samples: int


@dataclass(frozen=True)
class Consistency:
    """How alike a path's changes of images are from all starts."""

    score: float
    """The mean over the paths that move: 1 if changes are the same from all starts, 0 if they are unrelated."""
    per_path: list[float | None]
    """(K,): the value for each path; None for a path whose images don't move."""
    across: float | None
    """The same for changes along different paths from different starts; None if fewer than two paths move."""
    space: str
    """The space of the distances, "pixels" or "features"."""
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
    """Perceptual path length (Karras et al., CVPR 2019, section 4.1), along given paths instead of chords.

    E_t[ d(G(z(t)), G(z(t + e))) / e^2 ], where z(t) goes from a path's start to its end as t goes from 0 to 1, straight
    between its steps. One t is drawn uniformly for each start and path. d is the mean squared difference of pixels in
    [0, 1] or of features. The paper has LPIPS, which is also a squared distance: bring its features to measure by it. A
    path that is twice as long has four times the score, so compare at equal strength.

    Args:
        source: a run or a baseline.
        path_steps: the steps of each path; the source's own number if None.
        features: a function from images to features; pixels are compared if None.
        epsilon: the step e. Images aren't rounded to 8 bits, which would hide such small steps.
        samples: how many starts there are.
        seed: the seed of the starts.

    Raises:
        InputError: the features fail or aren't finite, or an argument can't be used.
    """
    path_steps = check_source(source, path_steps)
    if not (is_finite(epsilon, torch.float64) and 0 < epsilon <= 0.1):
        raise InputError(f"epsilon must be a number above 0 and at most 0.1, got {epsilon!r}")
    generator = source.generator
    _, labels = held_out_starts(source.generator, samples, seed)
    rng = step_rng(seed, 7, stream=1)
    found: list[list[Tensor]] = [[] for _ in range(source.num_paths)]
    for k, path in held_out_paths(source, path_steps, samples, seed):
        done = sum(map(len, found[k]))
        rows = torch.arange(len(path.latents), device=path.latents.device)
        t = torch.rand(len(rows), generator=rng, dtype=torch.float64).to(rows.device) * (1 - epsilon)
        decode = generator.conditioned(None if labels is None else labels[done : done + len(rows)])
        here, there = (
            in_space(generator, decode(_along(path.latents, rows, place)), features) for place in (t, t + epsilon)
        )
        found[k].append((there - here).square().mean(1) / epsilon**2)
    each = torch.stack([torch.cat(path) for path in found])  # [K, N]
    error = float(each.mean(0).std()) / samples**0.5 if samples > 1 else math.nan
    return PathLength(
        score=float(each.mean()),
        per_path=each.mean(1).tolist(),
        standard_error=error,
        space=_space(features),
        epsilon=epsilon,
        samples=samples,
    )


@torch.no_grad()
def curvature(
    source: Traverses,
    *,
    path_steps: int | None = None,
    features: Features | None = None,
    samples: int = 64,
    seed: int = 1,
) -> Curvature:
    """The mean angle along a path between consecutive changes x_t - x_{t-1} and x_{t+1} - x_t of its images.

    By this angle Henaff et al. (Nature Neuroscience 2019) measure how straight a video is. Steps that change nothing
    have no angle and are left out. Images aren't rounded to 8 bits, whose noise would bend every path. The arguments
    and errors are those of `path_length`.

    Raises:
        InputError: also if no path moves, or paths have fewer than 2 steps.
    """
    path_steps = check_source(source, path_steps)
    if path_steps < 2:
        raise InputError(f"path_steps must be at least 2, so that a path can bend, got {path_steps}")
    total = torch.zeros(2, source.num_paths, dtype=torch.float64)
    for k, path in held_out_paths(source, path_steps, samples, seed):
        images = path.images
        points = in_space(source.generator, images.flatten(0, 1), features).unflatten(0, images.shape[:2])
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
    """The mean cosine between a path's changes x_T - x_0 of images from two starts.

    LatentCLR (Yueksel et al., ICCV 2021) raises this number within a path and lowers it across paths, in features of
    the generator. In pixels it is high if the same pixels change in the same way; in features of a network, if the
    change is of the same kind. Starts from which nothing changes are left out. The arguments and errors are those of
    `path_length`.

    Raises:
        InputError: also if no path moves from two starts.
    """
    path_steps = check_source(source, path_steps)
    changes: list[list[Tensor]] = [[] for _ in range(source.num_paths)]
    # Only the ends count, and they are the same whether steps are even or not.
    for k, path in held_out_paths(source, path_steps, samples, seed, traverse=flow_of(source)):
        ends = torch.stack((path.images[:, 0], path.images[:, -1]), 1)
        points = in_space(source.generator, ends.flatten(0, 1), features).unflatten(0, ends.shape[:2])
        change = points.diff(dim=1)
        moves = _moves(change, points)
        changes[k].append(functional.normalize(change * moves[..., None], dim=2, eps=1e-300)[:, 0])
    units = torch.stack([torch.cat(path) for path in changes])  # [K, N, P]; zero where nothing moves
    moving = units.square().sum(2).round()  # [K, N], 0 or 1

    sums, counts = units.sum(1), moving.sum(1)  # [K, P], [K]
    # The sum over pairs of different starts is the sum over all pairs, |sum u|^2, minus that of each start with itself.
    pairs = counts * (counts - 1)
    within = (sums.square().sum(1) - counts) / pairs.clamp_min(1)
    per_path = [float(value) if count else None for value, count in zip(within, pairs, strict=True)]
    # Likewise between paths, minus the pairs with the same start.
    everything, places = units.sum(0), moving.sum(0)  # [N, P], [N]
    between = everything.sum(0).square().sum() - sums.square().sum() - everything.square().sum() + moving.sum()
    count = places.sum() ** 2 - counts.square().sum() - places.square().sum() + moving.sum()
    across = float(between / count) if count else None
    return Consistency(_mean(per_path), per_path, across, _space(features), samples)


def _along(latents: Tensor, rows: Tensor, t: Tensor) -> Tensor:
    """The points (B, D) at the shares t (B,) of paths (B, T + 1, D), which are straight between their steps."""
    steps = latents.shape[1] - 1
    place = t * steps
    before = place.long().clamp_max(steps - 1)
    first, second = latents[rows, before], latents[rows, before + 1]
    return first + (place - before).to(latents)[:, None] * (second - first)


def _space(features: Features | None) -> str:
    """The name of the space in which distances are measured."""
    return "pixels" if features is None else "features"


def _moves(steps: Tensor, points: Tensor) -> Tensor:
    """Which steps (B, T, P) between points (B, T + 1, P) are more than rounding errors, (B, T)."""
    size = points.square().mean((1, 2), keepdim=True).sqrt()[..., 0]  # [B, 1]
    return steps.square().mean(2).sqrt() > 1e-6 * size.clamp_min(1e-6)


def _mean(per_path: list[float | None]) -> float:
    """The mean over the paths that move."""
    moving = [value for value in per_path if value is not None]
    if not moving:
        raise InputError(
            "no path changes the images, so that there is nothing to measure: take longer steps or more starts"
        )
    return sum(moving) / len(moving)
