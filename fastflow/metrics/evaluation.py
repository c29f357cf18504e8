"""What a discovery's potentials do, measured on latents that training never saw: strength, distinctness, physics."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from fastflow.arguments import check_seed
from fastflow.baselines import Random
from fastflow.errors import InputError
from fastflow.files import write_json
from fastflow.flows import flow
from fastflow.generators import Generator
from fastflow.metrics.ranking import score, smoothness
from fastflow.metrics.strength import nearest_strength
from fastflow.pde import normalized, residual_sums
from fastflow.training.classifier import PairClassifier
from fastflow.training.loop import step_rng
from fastflow.training.potentials import Potentials, untrained_potentials
from fastflow.traversal import Traverses

if TYPE_CHECKING:
    from fastflow.runs import Run

TARGETS = {"strength": [0.01, 0.1], "distinctness": 0.95, "residual": 0.05, "speed": 0.3}
"""What a healthy run reaches: pixel change per step within, accuracy at least, normalised residual at most, and the
wave equation's mean |c| at least."""


@dataclass(frozen=True)
class Pairs:
    """Consecutive images of many paths, rounded to 8 bits, and the path's potential: (N, C, H, W) twice and (N,)."""

    images: Tensor
    next_images: Tensor
    index: Tensor
    smoothness: Tensor | None = None
    """Of each pair's whole path, (N,); see `fastflow.metrics.ranking.smoothness`."""

    def strength(self) -> Tensor:
        """Each pair's mean absolute pixel change (N,), images in [0, 1]."""
        return (self.next_images - self.images).abs().flatten(1).mean(1)

    def __getitem__(self, rows: slice | Tensor) -> Pairs:
        smooth = None if self.smoothness is None else self.smoothness[rows]
        return Pairs(self.images[rows], self.next_images[rows], self.index[rows], smooth)


@dataclass(frozen=True)
class Distinctness:
    """How well a classifier trained afresh names the potential from two consecutive images, on pairs it never saw."""

    accuracy: float
    per_potential: list[float]
    confusion: list[list[int]]
    """Rows: the true potential; columns: the one named."""


def evaluate(run: Run, samples: int = 4096, seed: int = 1, progress: bool = True) -> dict[str, Any]:
    """Measure a run and write its evaluation.json.

    Half of `samples` pairs train a fresh classifier, the other half, from other starts, test it. The starts are drawn
    from the generator's own distribution, with random numbers that no training uses. Random straight directions, walked
    at the potentials' own strength, are put through the same test.

    Returns:
        The contents of evaluation.json.

    Raises:
        InputError: too few samples for the number of potentials, or a negative seed.
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
    write_json(run.folder / "evaluation.json", result)
    return result


def check_evaluation(run: Run, samples: int, seed: int) -> None:
    """Raise InputError unless `evaluate` can be told this."""
    least = 2 * run.bank.num_potentials
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < least:
        raise InputError(
            f"samples must be a whole number of at least {least}, two for every potential, got {samples!r}"
        )
    check_seed(seed)


@torch.no_grad()
def path_pairs(source: Traverses, path_steps: int, samples: int, seed: int) -> Pairs:
    """`samples` pairs, each of its own start, potential and place on the path, from anything that traverses."""
    generator = source.generator
    z0, index, place = _draw(generator, source.num_paths, samples, path_steps, seed)
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


def _smoothness(pairs: Pairs, count: int) -> list[float | None]:
    """The mean smoothness of each potential's paths, or of all with `count` 1; None for paths of a single step."""
    assert pairs.smoothness is not None
    index = pairs.index if count > 1 else torch.zeros_like(pairs.index)
    means = [float(pairs.smoothness[index == k].mean()) for k in range(count)]
    return [mean if math.isfinite(mean) else None for mean in means]


def measure_distinctness(pairs: Pairs, num_classes: int, seed: int, epochs: int = 30) -> Distinctness:
    """Train a classifier on the first half of the pairs and test it on the second."""
    half = len(pairs.index) // 2
    train, test = pairs[:half], pairs[half:]
    _, channels, height, width = pairs.images.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = PairClassifier((channels, height, width), num_classes).to(pairs.images)
    _train_classifier(classifier, train, seed, epochs)
    with torch.no_grad():
        named = classifier(test.images, test.next_images).argmax(1)
    confusion = torch.bincount(test.index * num_classes + named, minlength=num_classes**2).view(num_classes, -1)
    correct = confusion.diag()
    return Distinctness(
        accuracy=int(correct.sum()) / len(test.index),
        per_potential=(correct / confusion.sum(1)).tolist(),
        confusion=confusion.tolist(),
    )


def random_directions(generator: Generator, count: int, strength: float, path_steps: int, seed: int) -> Random:
    """Random directions whose steps change the pixels by `strength` in the mean, or come closest to it."""
    return nearest_strength(Random(generator, count, seed=seed), strength, path_steps=path_steps, seed=seed)


@torch.no_grad()
def measure_residual(potentials: Potentials, run: Run, samples: int, seed: int) -> tuple[float, list[float]]:
    """The normalised residual at points on paths, over all potentials and for each."""
    bank, pde, companion = potentials
    config, count = run.config, bank.num_potentials
    z0, index, place = _draw(run.generator, count, samples, config.path_steps, seed)
    path = flow(
        bank,
        z0,
        index,
        config.path_steps,
        dt=config.dt,
        method=config.method,
        step_length=config.step_length,
        companion=companion,
    )
    z, t = path[torch.arange(samples, device=z0.device), place], place.to(z0) * config.dt

    sums = residual_sums(pde, bank.jet(z, t, index), z, t, index, count)
    return float(normalized(sums.sum(1))), normalized(sums).tolist()


def _draw(generator: Generator, count: int, samples: int, path_steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Starts (N, D), and a potential and a place on the path for each; no training draws these."""
    rng = step_rng(seed, 0, stream=1)
    z0 = generator.sample(samples, rng)
    place = torch.randint(path_steps, (samples,), generator=rng).to(z0.device)
    return z0, (torch.arange(samples) % count).to(z0.device), place


def _train_classifier(classifier: nn.Module, train: Pairs, seed: int, epochs: int) -> None:
    optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3)
    rng = step_rng(seed, 1, stream=1)
    for _ in range(epochs):
        for rows in torch.randperm(len(train.index), generator=rng).split(128):
            batch = train[rows.to(train.index.device)]
            loss = functional.cross_entropy(classifier(batch.images, batch.next_images), batch.index)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
