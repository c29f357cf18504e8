"""Strength: how much a step changes the pixels, and step lengths that give methods equal strength."""

from __future__ import annotations

import copy
import math
from typing import Any, TypeVar

import torch

from fastflow.core.checks import check_count, check_seed, is_finite
from fastflow.core.errors import InputError
from fastflow.core.rng import step_rng
from fastflow.latents.traversal import Traverses, check_source

Source = TypeVar("Source", bound=Traverses)

FIRST, LONGEST = 0.1, 1e3
"""The first and the greatest step length in latent space that are tried."""

CLOSE = 0.002
"""The relative difference from the wanted strength at which the search ends."""

_TRIALS = 25
_FARTHEST = math.log(4)  # the greatest change of a step length's logarithm in one trial


@torch.no_grad()
def pixel_change(source: Traverses, *, path_steps: int | None = None, samples: int = 256, seed: int = 1) -> float:
    """The mean absolute change of 8-bit pixels, as values in [0, 1], over all steps of `samples` paths.

    The starts are drawn by random numbers that no training uses, and are shared out evenly among the paths.
    """
    path_steps = check_source(source, path_steps)
    check_count(samples, "samples")
    check_seed(seed)
    generator = source.generator
    rng = step_rng(seed, 4, stream=1)
    z0, labels = generator.sample(samples, rng), generator.draw_labels(samples, rng)
    index = torch.arange(samples, device=z0.device) % source.num_paths
    total = 0.0
    for rows in torch.arange(samples, device=z0.device).split(64):
        classes = None if labels is None else labels[rows]
        images = generator.eight_bit(source.traverse(z0[rows], index[rows], path_steps, labels=classes).images)
        total += float(images.diff(dim=1).abs().flatten(1).mean(1).double().sum())
    return total / samples


def match_strength(
    source: Source, strength: float, *, path_steps: int | None = None, samples: int = 256, seed: int = 1
) -> Source:
    """Return the same paths, so long that a step changes the pixels by `strength`.

    The change is measured by `pixel_change`, on the paths as the source usually gives them, even ones for a discovery
    and a baseline. What is set is the length of the flow's own steps in latent space, as `step_length` in a run's
    configuration would set it: the flow then goes along the same gradients, but no longer at its own speed. The source
    itself stays as it is. The length that was found is the result's `.step_length`.

    Args:
        source: a run or a baseline.
        strength: the mean absolute pixel change of a step, for pixels in [0, 1]; the `pixel_change` of another method,
            to match it.
        path_steps: the steps of each path; the source's own number if None.
        samples: how many paths are measured.
        seed: the seed of the starts.

    Raises:
        InputError: the strength isn't a positive number, or no step length comes within 5% of it.
    """
    if not (is_finite(strength, torch.float64) and strength > 0):
        raise InputError(f"strength must be a positive number, got {strength!r}")
    found = nearest_strength(source, strength, path_steps=path_steps, samples=samples, seed=seed)
    reached = pixel_change(found, path_steps=path_steps, samples=samples, seed=seed)
    if abs(reached - strength) > 0.05 * strength:
        raise InputError(
            f"no step length gives {type(source).__name__} a pixel change of {strength:g} per step: the nearest, "
            f"{found.step_length:g}, gives {reached:g}; ask for less, or for fewer path_steps"
        )
    return found


def nearest_strength(
    source: Source, strength: float, *, path_steps: int | None = None, samples: int = 256, seed: int = 1
) -> Source:
    """Like `match_strength`, but where the strength can't be reached, return the nearest that was found."""

    def change(length: float) -> float:
        return pixel_change(_with_step_length(source, length), path_steps=path_steps, samples=samples, seed=seed)

    # Secant steps on logarithms, where change against length is nearly a straight line; bisection where they fail. Very
    # long steps leave the latents that the generator knows, and change less again, so lengths are raised slowly.
    low, high = 0.0, math.inf
    length = FIRST if source.step_length is None else min(source.step_length, LONGEST)
    tried: list[tuple[float, float]] = []
    while len(tried) < _TRIALS:
        reached = change(length)
        tried.append((length, reached))
        if abs(reached - strength) <= CLOSE * strength or (reached < strength and length == LONGEST):
            break
        low, high = (length, high) if reached < strength else (low, length)
        slope = 1.0
        if len(tried) > 1 and min(reached, tried[-2][1]) > 0:
            slope = math.log(reached / tried[-2][1]) / math.log(length / tried[-2][0])
        log_ratio = math.log(strength / reached) / slope if reached > 0 and slope > 0.05 else math.inf
        guess = length * math.exp(log_ratio) if abs(log_ratio) < _FARTHEST else math.inf
        if low < guess < min(high, LONGEST):
            length = guess
        elif high == math.inf:
            length = min(2 * length, LONGEST)
        else:
            length = math.sqrt(low * high) if low > 0 else high / 8
    return _with_step_length(source, min(tried, key=lambda pair: abs(pair[1] - strength))[0])


def _with_step_length(source: Source, step_length: float) -> Source:
    """A copy of the source whose steps have this length."""
    changed: Any = copy.copy(source)
    changed.step_length = step_length
    return changed
