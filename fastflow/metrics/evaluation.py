"""The evaluation of a run: strength, distinctness, smoothness and residual, on latents that training never saw."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

import torch
from tqdm import tqdm

from fastflow.baselines import Random
from fastflow.core.checks import check_seed
from fastflow.core.errors import InputError
from fastflow.core.files import write_sealed
from fastflow.engine.paths import integrate
from fastflow.engine.pde import normalized, residual_sums
from fastflow.generators import Generator
from fastflow.metrics.distinctness import measure_distinctness
from fastflow.metrics.pairs import Pairs, draw_places, path_pairs
from fastflow.metrics.ranking import score
from fastflow.metrics.strength import nearest_strength
from fastflow.saved.run import SavedRun
from fastflow.training.potentials import Potentials, untrained_potentials
from fastflow.training.run_folder import begin_writing

TARGETS = {"strength": [0.01, 0.1], "distinctness": 0.95, "residual": 0.05, "speed": 0.3}
"""The targets of a healthy run.

They are the range of the pixel change per step, the least accuracy, the greatest normalised residual, and the least
mean |c| of the wave equation.
"""


def evaluate(run: SavedRun, samples: int = 4096, seed: int = 1, progress: bool = True) -> dict[str, Any]:
    """Measure a run and write its evaluation.json.

    Half of `samples` pairs train a new classifier; the other half, which have other starts, test it. The starts are
    drawn from the generator's own distribution, with random numbers that no training uses. Random straight directions
    with the potentials' strength take the same test.

    Args:
        run: the run to measure.
        samples: how many pairs of images to draw.
        seed: the seed of all draws.
        progress: say what is being done.

    Returns:
        The contents of evaluation.json.

    Raises:
        InputError: too few samples for the number of potentials, a negative seed, or a folder that can't be written.
    """
    begun = time.perf_counter()
    check_evaluation(run, samples, seed)
    count = run.bank.num_potentials
    pairs = path_pairs(run, run.path_steps, samples, seed)
    strength = pairs.strength()
    mean_strength = float(strength.mean())
    if progress:
        tqdm.write("evaluating: training a fresh classifier on the potentials, then one on random directions")
    distinctness = measure_distinctness(pairs, count, seed)
    random = random_directions(run.generator, count, mean_strength, run.path_steps, seed)
    random_pairs = path_pairs(random, run.path_steps, samples, seed)

    after = measure_residual(run.potentials, run, samples, seed)
    before = measure_residual(untrained_potentials(run.config, run.generator), run, samples, seed)
    each_strength = [float(strength[pairs.index == k].mean()) for k in range(count)]
    each_smooth = _smoothness(pairs, count)
    scores = [
        score(accuracy, smooth, strong, count, TARGETS["strength"])
        for accuracy, smooth, strong in zip(distinctness.per_potential, each_smooth, each_strength, strict=True)
    ]
    result = {
        "samples": samples,
        "seed": seed,
        "path_steps": run.config.path_steps,
        "training_steps": run.step,
        "weights": run.weights,
        "strength": {
            "mean": mean_strength,
            "per_potential": each_strength,
            "target": TARGETS["strength"],
        },
        "distinctness": {
            **asdict(distinctness),
            "target": TARGETS["distinctness"],
            "random_directions": {
                "accuracy": measure_distinctness(random_pairs, count, seed).accuracy,
                "strength": float(random_pairs.strength().mean()),
            },
        },
        "smoothness": {
            "per_potential": each_smooth,
            "random_directions": _smoothness(random_pairs, 1)[0],
        },
        "ranking": {
            "order": sorted(range(count), key=lambda k: -scores[k]),
            "scores": scores,
        },
        "residual": {
            "before": before[0],
            "after": after[0],
            "per_potential": after[1],
            "target": TARGETS["residual"],
            "equation": run.pde.equation,
            "coefficient_target": TARGETS["speed"] if run.config.pde == "wave" else None,
            "coefficients": {name: value.reshape(-1).tolist() for name, value in run.pde.constants().items()},
        },
        "seconds": time.perf_counter() - begun,
    }
    return write_sealed(run.folder / "evaluation.json", result)


def check_evaluation(run: SavedRun, samples: int, seed: int) -> None:
    """Raise InputError unless `evaluate` can use these arguments, and can write its result."""
    least = 2 * run.bank.num_potentials
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < least:
        raise InputError(
            f"samples must be a whole number of at least {least}, two for every potential, got {samples!r}"
        )
    check_seed(seed)
    begin_writing(run.folder / "evaluation.json")


def _smoothness(pairs: Pairs, count: int) -> list[float | None]:
    """The mean smoothness of each potential's paths, or of all paths if `count` is 1; None for paths of one step."""
    assert pairs.smoothness is not None
    index = pairs.index if count > 1 else torch.zeros_like(pairs.index)
    means = [float(pairs.smoothness[index == k].mean()) for k in range(count)]
    return [mean if math.isfinite(mean) else None for mean in means]


def random_directions(generator: Generator, count: int, strength: float, path_steps: int, seed: int) -> Random:
    """Random directions whose steps change the pixels by `strength` in the mean, or as nearly as they can."""
    return nearest_strength(Random(generator, count, seed=seed), strength, path_steps=path_steps, seed=seed)


@torch.no_grad()
def measure_residual(potentials: Potentials, run: SavedRun, samples: int, seed: int) -> tuple[float, list[float]]:
    """The normalised residual at points on held-out paths: over all potentials, and for each potential."""
    bank, pde, companion = potentials
    config, count = run.config, bank.num_potentials
    z0, index, place = draw_places(run.generator, count, samples, config.path_steps, seed)
    path = integrate(bank, z0, index, config.path_steps, t0=0.0, integration=config.integration, companion=companion)
    z, t = path[torch.arange(samples, device=z0.device), place], place.to(z0) * config.dt

    sums = residual_sums(pde, bank.jet(z, t, index), z=z, t=t, index=index, num_potentials=count)
    return float(normalized(sums.sum(1))), normalized(sums).tolist()
