"""BigGAN, class-conditional, through the package pytorch-pretrained-biggan."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastflow.core.errors import InputError
from fastflow.core.files import read_json
from fastflow.core.plugins import explaining, imported
from fastflow.generators.base import Generator
from fastflow.generators.state_dicts import load_weights, make_for, read_state_dict


def biggan(model: Any, classes: Sequence[int] = (207,), truncation: float = 0.4) -> Generator:
    """A generator from a `pytorch_pretrained_biggan.BigGAN`, with images in [-1, 1].

    Args:
        classes: classes of ImageNet; every sample draws one of them, and keeps it along its path.
        truncation: the factor of latents, which are normal numbers within two standard deviations.

    Raises:
        InputError: the model doesn't have a class, or truncation is outside (0, 1].
    """
    count = model.config.num_classes
    if not all(label < count for label in classes):
        raise InputError(f"classes must lie in 0..{count - 1}, got {', '.join(map(str, classes))}")
    if not 0 < truncation <= 1:
        raise InputError(f"truncation must lie in (0, 1], got {truncation!r}")
    network = _Conditional(model, truncation)

    def sample(number: int, rng: torch.Generator) -> Tensor:
        return truncation * truncated_normal(number, network.latent_dim, rng)

    return Generator(network, network.latent_dim, value_range=(-1.0, 1.0), sample=sample, classes=classes)


def load_biggan(folder: str | Path, classes: Sequence[int] = (207,), truncation: float = 0.4) -> Generator:
    """A generator from a folder with BigGAN's config.json and pytorch_model.bin, as they are published.

    Raises:
        InputError: the package or a file is missing, or the weights belong to another configuration.
    """
    package = imported("pytorch_pretrained_biggan", "biggan", "generator biggan")
    folder = Path(folder)
    config, file = read_json(folder / "config.json"), folder / "pytorch_model.bin"
    if not isinstance(config, dict):
        raise InputError(f"{str(folder / 'config.json')!r} must hold a JSON object, BigGAN's configuration")
    state, where = read_state_dict(file), repr(str(folder / "config.json"))
    with explaining(f"making the BigGAN of {where}"):
        model = make_for(lambda: package.BigGAN(package.BigGANConfig.from_dict(config)), state, where)
    load_weights(model, state, f"weights file {str(file)!r}")
    return biggan(model, classes, truncation)


def truncated_normal(count: int, width: int, rng: torch.Generator) -> Tensor:
    """Normal random numbers (count, width), conditioned on [-2, 2]."""
    edge = math.erf(math.sqrt(2))  # P(|x| < 2)
    uniform = 2 * torch.rand(count, width, generator=rng, dtype=torch.float64) - 1
    return (math.sqrt(2) * torch.erfinv(edge * uniform)).float()


class _Conditional(nn.Module):
    def __init__(self, model: Any, truncation: float) -> None:
        super().__init__()
        self.model, self.truncation = model, truncation
        self.latent_dim: int = model.config.z_dim
        self.num_classes: int = model.config.num_classes

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.model(z, functional.one_hot(labels, self.num_classes).to(z), self.truncation)
