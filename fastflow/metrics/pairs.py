"""Pairs of consecutive images on paths, and how well a classifier tells the paths apart by them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastflow.core.rng import step_rng
from fastflow.generators import Generator
from fastflow.latents.classifiers import PairClassifier
from fastflow.latents.traversal import Traverses
from fastflow.metrics.ranking import smoothness


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


@torch.no_grad()
def path_pairs(source: Traverses, path_steps: int, samples: int, seed: int) -> Pairs:
    """`samples` pairs, each of its own start, potential and place on the path, from anything that traverses."""
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


def draw_places(
    generator: Generator, count: int, samples: int, path_steps: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Starts (N, D), and a potential and a place on the path for each; no training draws these."""
    rng = step_rng(seed, 0, stream=1)
    z0 = generator.sample(samples, rng)
    place = torch.randint(path_steps, (samples,), generator=rng).to(z0.device)
    return z0, (torch.arange(samples) % count).to(z0.device), place
