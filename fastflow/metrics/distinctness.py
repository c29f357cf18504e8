"""Distinctness: how well a classifier that is trained afresh tells paths apart by pairs of consecutive images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from fastflow.core.rng import step_rng
from fastflow.latents.classifiers import PairClassifier
from fastflow.metrics.pairs import Pairs


@dataclass(frozen=True)
class Distinctness:
    """How well a newly trained classifier names the potential of two consecutive images, on pairs that it never saw."""

    accuracy: float
    per_potential: list[float]
    confusion: list[list[int]]
    """The counts of pairs: rows for the true potential, columns for the potential that was named."""


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
    """Train by Adam, in batches of 128."""
    optimizer = torch.optim.Adam(classifier.parameters(), lr=2e-3)
    rng = step_rng(seed, 1, stream=1)
    for _ in range(epochs):
        for rows in torch.randperm(len(train.index), generator=rng).split(128):
            batch = train[rows.to(train.index.device)]
            loss = functional.cross_entropy(classifier(batch.images, batch.next_images), batch.index)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
