"""Predictors of known factors: what purity and correlations need where images aren't strokes."""

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
"""Of the images, the first to learn from, up to the second to choose the epoch by, and the rest to measure on."""


class FactorRegressor(nn.Module):
    """Images (B, C, H, W) in [0, 1] to attributes (B, A), a predictor for `purity` and `attribute_correlation`.

    A factor with an order is an attribute, its value as a share of its range, from 0 to 1. Of one without, each value
    is an attribute, its probability.

    Attributes:
        names: the attributes', as (A,): "scale", or "shape 0", "shape 1", ..
        told: of each factor by name, how well it is told from images that nothing was learned from: R^2, or the
            accuracy of one without an order. An attribute that isn't told can't be said to stay: leave it out.
        samples: how many images that was measured on.
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
        """For each factor its logits (B, values), or its value (B, 1)."""
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
    """Train a small convolutional network to tell the factors of a grid's images, by Adam in batches of 64.

    Give it images that the generator to be measured wasn't trained on, `ff.datasets.dsprites(split="test")` for one. Of
    those it learns from 80%, keeps the epoch that is best on 10%, and says how well it tells each factor of the rest. A
    factor that its images don't show, as the orientation of a square beyond 90 degrees, isn't told: look at `.told`,
    and name in `factors` those that are.

    Args:
        data: starting images and their factors.
        factors: which; all that have two values or more if None.
        categorical: those without an order; "shape" if None, where there is one.
        samples: how many of the images, or all if there are fewer.
        epochs: passes over the part to learn from.

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
    best, kept = float("inf"), network.state_dict()
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
                best, kept = reached, copy.deepcopy(network.state_dict())
            bar.set_postfix(validation=f"{best:.4f}", refresh=False)
            bar.update()
    network.load_state_dict(kept)
    network.told, network.samples = _told(network, data.starts(parts[2]), truth[2]), len(parts[2])
    return network.requires_grad_(False).eval()


def _checked(
    data: FactorSequences, factors: Sequence[str] | None, categorical: Sequence[str] | None
) -> tuple[list[str], list[str], list[str]]:
    """All the grid's factors, those that are asked for, and those of them that have no order."""
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
    """Cross-entropy of factors without an order, and squared errors of others over their variance on a full grid."""
    total = images.new_zeros(())
    for (name, count), output, value in zip(network.factors.items(), network.outputs(images), truth.T, strict=True):
        if name in network.categorical:
            total = total + functional.cross_entropy(output, value)
        else:
            variance = (count + 1) / (count - 1) / 12
            total = total + functional.mse_loss(output[:, 0], value / (count - 1)) / variance
    return total / len(network.factors)


@torch.no_grad()
def _told(network: FactorRegressor, images: Tensor, truth: Tensor) -> dict[str, float]:
    told = {}
    for (name, count), output, value in zip(network.factors.items(), network.outputs(images), truth.T, strict=True):
        if name in network.categorical:
            told[name] = float((output.argmax(1) == value).double().mean())
        else:
            known = value.double() / (count - 1)
            told[name] = float(1 - (output[:, 0].double() - known).square().mean() / known.var(correction=0))
    return told
