"""Predictors of known factors, which purity and correlations need for images that aren't strokes."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from fastflow.core.checks import check_count, check_seed
from fastflow.core.errors import InputError
from fastflow.core.rng import step_rng
from fastflow.datasets import FactorSequences

PARTS = (0.8, 0.9)
"""The shares of images at which the training and the validation part end; the rest are the test part."""


class FactorRegressor(nn.Module):
    """A predictor of attributes (B, A) from images (B, C, H, W) in [0, 1], for `purity` and `attribute_correlation`.

    A factor with an order becomes one attribute: its value as a share of its range, from 0 to 1. A factor without an
    order becomes one attribute for each value: the value's probability.

    Attributes:
        names: the attributes' names, (A,), such as "scale", or "shape 0", "shape 1", ...
        told: for each factor by name, how well it is predicted on images of the test part: R^2, or the accuracy for a
            factor without an order. Where this is poor, nothing can be concluded from the attribute: leave it out.
        samples: the number of images in the test part.
    """

    def __init__(self, image_shape: tuple[int, int, int], factors: dict[str, int], categorical: Sequence[str]) -> None:
        super().__init__()
        channels, height, width = image_shape
        layers: list[nn.Module] = []
        inputs, size = channels, min(height, width)
        for outputs in (32, 32, 64, 64):
            if size < 4:
                break
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.ReLU()]
            inputs, size = outputs, size // 2
        self.factors, self.categorical = factors, tuple(categorical)
        self.widths = [count if name in categorical else 1 for name, count in factors.items()]
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.LazyLinear(128), nn.ReLU(), nn.Linear(128, sum(self.widths))
        )
        with torch.no_grad():
            self.layers(torch.zeros(1, *image_shape))
        self.names = [
            label
            for name, width in zip(factors, self.widths, strict=True)
            for label in ([f"{name} {value}" for value in range(width)] if name in categorical else [name])
        ]
        self.told: dict[str, float] = {}
        self.samples = 0

    def forward(self, images: Tensor) -> Tensor:
        """The attributes (B, A) of images (B, C, H, W)."""
        parts = [
            part.softmax(1) if name in self.categorical else part
            for name, part in zip(self.factors, self.outputs(images), strict=True)
        ]
        return torch.cat(parts, 1)

    def outputs(self, images: Tensor) -> list[Tensor]:
        """The logits (B, values) of each factor, or its value (B, 1) if it has an order."""
        return list(self.layers(images).split(self.widths, 1))


def factor_regressor(
    data: FactorSequences,
    *,
    factors: Sequence[str] | None = None,
    categorical: Sequence[str] | None = None,
    samples: int = 10_000,
    epochs: int = 10,
    seed: int = 0,
    progress: bool = True,
) -> FactorRegressor:
    """Train a small convolutional network to predict the factors of a grid's images, by Adam in batches of 64.

    Give it images that the generator to be measured wasn't trained on, such as `ff.datasets.dsprites(split="test")`. It
    learns from 80% of them, chooses the epoch that is best on 10%, and measures each factor on the rest. A factor that
    can't be seen in its images, such as the orientation of a square beyond 90 degrees, is predicted poorly: look at
    `.told`, and name in `factors` those that are predicted well.

    Args:
        data: starting images and their factors.
        factors: the factors to predict; if None, all that have two values or more.
        categorical: the factors without an order; if None, "shape" where there is one.
        samples: how many of the images to use, or all if there are fewer.
        epochs: how often to pass over the training part.
        seed: the seed of the split, the weights and the batches.
        progress: show a progress bar.

    Raises:
        InputError: there is no such factor, there are fewer than 100 images, or an argument can't be used.
    """
    known, chosen, unordered = _checked(data, factors, categorical)
    check_count(samples, "samples")
    check_count(epochs, "epochs")
    check_seed(seed)
    samples = min(samples, len(data))
    if samples < 100:
        raise InputError(f"a regressor needs at least 100 images, got {samples}")
    rng = step_rng(seed, 8, stream=1)
    rows = torch.randperm(len(data), generator=rng)[:samples]
    labels = data.factors_of(rows)[:, [known.index(name) for name in chosen]]
    parts = rows.tensor_split([round(share * samples) for share in PARTS])
    truth = labels.tensor_split([round(share * samples) for share in PARTS])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FactorRegressor(data.image_shape, {name: data.source.factors[name] for name in chosen}, unordered)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    best, weights = float("inf"), network.state_dict()
    with tqdm(total=epochs, desc="factor regressor", unit="epoch", leave=False, disable=not progress) as bar:
        for _ in range(epochs):
            for batch in torch.randperm(len(parts[0]), generator=rng).split(64):
                loss = _loss(network, data.starts(parts[0][batch]), truth[0][batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                reached = float(_loss(network, data.starts(parts[1]), truth[1]))
            if reached < best:
                best, weights = reached, copy.deepcopy(network.state_dict())
            bar.set_postfix(validation=f"{best:.4f}", refresh=False)
            bar.update()
    network.load_state_dict(weights)
    network.told, network.samples = _test_scores(network, data.starts(parts[2]), truth[2]), len(parts[2])
    return network.requires_grad_(False).eval()


def _checked(
    data: FactorSequences, factors: Sequence[str] | None, categorical: Sequence[str] | None
) -> tuple[list[str], list[str], list[str]]:
    """The names of all factors of the grid, of those to predict, and of those to predict that have no order."""
    if not isinstance(data, FactorSequences):
        raise InputError(
            f"a regressor needs a data set with known factors, such as dsprites, got {type(data).__name__}"
        )
    known = list(data.source.factors)
    varying = [name for name, count in data.source.factors.items() if count > 1]
    chosen = varying if factors is None else list(factors)
    unordered = [name for name in ("shape",) if name in chosen] if categorical is None else list(categorical)
    for what, given, names, among in (
        ("factors", factors, chosen, varying),
        ("categorical", categorical, unordered, chosen),
    ):
        if isinstance(given, str) or not set(names) <= set(among):
            raise InputError(f"{what} must be a list of names among {', '.join(among)}, got {given!r}")
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(f"factors must be names, each once, got {factors!r}")
    return known, chosen, unordered


def _loss(network: FactorRegressor, images: Tensor, truth: Tensor) -> Tensor:
    """The factors' mean loss: cross-entropy without an order, else squared error over the variance on a full grid."""
    total = images.new_zeros(())
    for (name, count), output, value in zip(network.factors.items(), network.outputs(images), truth.T, strict=True):
        if name in network.categorical:
            total = total + functional.cross_entropy(output, value)
        else:
            variance = (count + 1) / (count - 1) / 12
            total = total + functional.mse_loss(output[:, 0], value / (count - 1)) / variance
    return total / len(network.factors)


@torch.no_grad()
def _test_scores(network: FactorRegressor, images: Tensor, truth: Tensor) -> dict[str, float]:
    """How well each factor is predicted: R^2, or the accuracy for a factor without an order."""
    scores = {}
    for (name, count), output, value in zip(network.factors.items(), network.outputs(images), truth.T, strict=True):
        if name in network.categorical:
            scores[name] = float((output.argmax(1) == value).double().mean())
        else:
            known = value.double() / (count - 1)
            scores[name] = float(1 - (output[:, 0].double() - known).square().mean() / known.var(correction=0))
    return scores
