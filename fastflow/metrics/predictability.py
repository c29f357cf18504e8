"""Variation predictability (the VP score): how well a network that saw few examples names the path of a step."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from fastflow.core.checks import check_count, check_seed
from fastflow.core.errors import InputError
from fastflow.core.rng import step_rng
from fastflow.latents.classifiers import ImageShape, PairClassifier
from fastflow.latents.traversal import Traverses, check_source
from fastflow.metrics.factor_tables import Sizes
from fastflow.metrics.pairs import Pairs, path_pairs

TRAIN, VALIDATION = 0.1, 0.1
"""The shares of pairs to train on and to choose the epoch by; the rest are the test part."""


@dataclass(frozen=True)
class Predictability:
    """How well a network that saw a few steps of each path names the path of others."""

    network: str
    """The network, "published" or "small". Scores of the two can't be compared with each other."""
    score: float
    """The accuracy on the test part, averaged over the seeds; 1 / K by guessing."""
    standard_error: float | None
    """The standard error of `score`, from the spread over the seeds; None for a single seed."""
    validation: float
    """The accuracy on the validation part, averaged over the seeds."""
    per_seed: list[float]
    """The accuracy on the test part for each seed."""
    per_path: list[float]
    """(K,): the accuracy on the test part for each path, averaged over the seeds."""
    epoch: list[int]
    """The epoch, counted from 1, that was best on the validation part, for each seed."""
    strength: float
    """The mean absolute pixel change of a step; compare methods at equal strength."""
    sizes: Sizes
    """The numbers of pairs in the parts, for each seed."""


class VariationPredictor(nn.Module):
    """The published network: four convolutions of the difference of two images, averaged over the image.

    Args:
        image_shape: the images' shape (C, H, W), of any size.
        num_paths: the number of paths, K.
    """

    def __init__(self, image_shape: ImageShape, num_paths: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, kernel, stride in (
            (image_shape[0], 64, 7, 2), (64, 64, 3, 1), (64, 128, 3, 1), (128, 256, 3, 1),
        ):  # fmt: skip
            layers += [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
            if len(layers) == 6:
                layers += [nn.MaxPool2d(3, 2, 1)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, num_paths))

    def forward(self, images: Tensor, next_images: Tensor) -> Tensor:
        """Logits (B, K) for consecutive images, each (B, C, H, W) in [0, 1]."""
        return self.layers(2 * (next_images - images))  # the difference of images scaled to -1 .. 1


class Recipe(NamedTuple):
    """A network and the settings with which Adam trains it."""

    name: str
    network: Callable[[ImageShape, int], nn.Module]
    epochs: int
    batch_size: int
    learning_rate: float


PUBLISHED = Recipe("published", VariationPredictor, epochs=200, batch_size=32, learning_rate=0.01)
SMALL = Recipe("small", PairClassifier, epochs=60, batch_size=64, learning_rate=2e-3)


def vp_score(
    source: Traverses,
    *,
    path_steps: int | None = None,
    samples: int = 10_000,
    seed: int = 1,
    seeds: int = 3,
    progress: bool = True,
) -> Predictability:
    """The VP score (Zhu et al., Learning disentangled representations with latent variation predictability, ECCV 2020).

    `samples` pairs of consecutive 8-bit images are drawn, each with a start, a path and a place on the path of its own.
    A network learns from 10% of them to name the path that made the step. The score is its accuracy on the others.

    The network and settings are those of the authors' code: the difference of the images, Adam with learning rate 0.01,
    batches of 32, 200 epochs. There the best epoch is chosen on the test part; here it is chosen on another 10%. Pairs,
    split and weights are drawn anew for each seed. All this is meant for a GPU; for small images on a CPU there is
    `vp_score_fast`.

    Args:
        source: a run or a baseline.
        path_steps: the steps of each path; the source's own number if None.
        samples: how many pairs to draw.
        seed: the first seed.
        seeds: how many seeds are used, from the first on.
        progress: show a progress bar.

    Raises:
        InputError: there are fewer than 20 samples for each path, or an argument can't be used.
    """
    return _score(
        source, PUBLISHED, path_steps=path_steps, samples=samples, seed=seed, seeds=seeds, progress=progress
    )  # fmt: skip


def vp_score_fast(
    source: Traverses,
    *,
    path_steps: int | None = None,
    samples: int = 4_000,
    seed: int = 1,
    seeds: int = 3,
    progress: bool = True,
) -> Predictability:
    """Like `vp_score`, with a smaller network on fewer pairs: a measure of its own, not an estimate of the VP score.

    The network is the classifier "small" of a discovery, which sees an image and its change. It is trained for 60
    epochs in batches of 64 with learning rate 0.002. The arguments and errors are those of `vp_score`.
    """
    return _score(source, SMALL, path_steps=path_steps, samples=samples, seed=seed, seeds=seeds, progress=progress)


class Fold(NamedTuple):
    """The accuracies that one training reached."""

    epoch: int
    """The epoch, counted from 1, that was best on the validation part."""
    validation: float
    test: float
    per_path: Tensor
    """(K,): the accuracy on the test part for each path."""


def _score(
    source: Traverses,
    recipe: Recipe,
    *,
    path_steps: int | None,
    samples: int,
    seed: int,
    seeds: int,
    progress: bool,
) -> Predictability:
    """Train and measure a network for each seed."""
    path_steps = check_source(source, path_steps)
    check_count(samples, "samples")
    check_count(seeds, "seeds")
    check_seed(seed)
    count = source.num_paths
    if samples < 20 * count:
        raise InputError(
            f"samples must be at least {20 * count}, so that the tenth to learn from has two for every path, got "
            f"{samples}"
        )
    folds, strengths = [], []
    total = seeds * recipe.epochs
    with tqdm(total=total, desc=f"VP, {recipe.name} network", unit="epoch", leave=False, disable=not progress) as bar:
        for each in range(seed, seed + seeds):
            pairs = path_pairs(source, path_steps, samples, each)
            strengths.append(float(pairs.strength().mean()))
            folds.append(train_and_measure(pairs, count, recipe, each, bar))
    tests = [fold.test for fold in folds]
    train, validation, test = (len(rows) for rows in _parts(samples, seed))
    return Predictability(
        network=recipe.name,
        score=statistics.fmean(tests),
        standard_error=statistics.stdev(tests) / seeds**0.5 if seeds > 1 else None,
        validation=statistics.fmean(fold.validation for fold in folds),
        per_seed=tests,
        per_path=torch.stack([fold.per_path for fold in folds]).mean(0).tolist(),
        epoch=[fold.epoch for fold in folds],
        strength=statistics.fmean(strengths),
        sizes=Sizes(train, validation, test),
    )


def train_and_measure(pairs: Pairs, num_paths: int, recipe: Recipe, seed: int, bar: tqdm[Any]) -> Fold:
    """Train on one part of the pairs, choose the epoch that is best on another, and measure it on the rest."""
    _, channels, height, width = pairs.images.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = recipe.network((channels, height, width), num_paths).to(pairs.images)
    train, validation, test = (pairs[rows.to(pairs.index.device)] for rows in _parts(len(pairs.index), seed))
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    rng = step_rng(seed, 5, stream=1)
    best, epoch, weights = -1.0, 0, network.state_dict()
    for number in range(1, recipe.epochs + 1):
        network.train()
        for rows in torch.randperm(len(train.index), generator=rng).split(recipe.batch_size):
            if len(rows) < 2:
                continue  # batch normalisation needs a variance
            batch = train[rows.to(train.index.device)]
            loss = functional.cross_entropy(network(batch.images, batch.next_images), batch.index)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        reached = float(_correct(network, validation).mean())
        if reached > best:
            best, epoch, weights = reached, number, copy.deepcopy(network.state_dict())
        bar.set_postfix(validation=f"{best:.3f}", refresh=False)
        bar.update()
    network.load_state_dict(weights)
    correct = _correct(network, test)
    per_path = torch.stack([correct[test.index == k].mean() for k in range(num_paths)])
    return Fold(epoch, best, float(correct.mean()), per_path)


@torch.no_grad()
def _correct(network: nn.Module, pairs: Pairs) -> Tensor:
    """Whether the network names each pair's path correctly: (N,) in float64, 0 or 1."""
    network.eval()
    chunks = (pairs[rows] for rows in torch.arange(len(pairs.index), device=pairs.index.device).split(512))
    named = torch.cat([network(chunk.images, chunk.next_images).argmax(1) for chunk in chunks])
    return (named == pairs.index).double()


def _parts(samples: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of the training, validation and test parts."""
    order = torch.randperm(samples, generator=step_rng(seed, 6, stream=1))
    train, validation = round(TRAIN * samples), round(VALIDATION * samples)
    return order[:train], order[train : train + validation], order[train + validation :]
