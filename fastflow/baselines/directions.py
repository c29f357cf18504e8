"""Straight directions in latent space, random or computed without training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastflow.baselines.base import Baseline
from fastflow.core.checks import check_count, check_seed
from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining
from fastflow.generators import Generator

CHUNK = 256
"""How many latents are decoded at once."""


class Straight(Baseline):
    """Straight paths along unit directions.

    Attributes:
        directions: (K, D), each of length 1.
    """

    directions: Tensor

    def path(self, z0: Tensor, index: Tensor, steps: int) -> Tensor:
        """Latents (B, steps + 1, D) from z0 (B, D); see `Baseline.path`."""
        step = self.step_length * self.directions[index]
        return z0[:, None] + step[:, None] * torch.arange(steps + 1, device=z0.device, dtype=z0.dtype)[:, None]


class Random(Straight):
    """Random unit directions, the baseline that any learned directions have to beat.

    Args:
        generator: the generator whose latent space is traversed.
        num_directions: K, the number of directions.
        step_length: the length of one step in latent space.
        seed: random seed of the directions. Normal latents sampled with the same seed are parallel to them: sample
            starts with another seed.
    """

    def __init__(self, generator: Generator, num_directions: int, step_length: float = 0.1, seed: int = 0) -> None:
        super().__init__(generator, num_directions, step_length)
        check_seed(seed)
        rng = torch.Generator().manual_seed(seed)
        directions = torch.randn(num_directions, generator.latent_dim, generator=rng)
        self.directions = unit(directions).to(generator.like)


class PCA(Straight):
    """Principal directions of a generator's features, mapped back to latents (GANSpace, Haerkoenen et al., 2020).

    The features y of `samples` latents z are centred, and their first K principal coordinates x computed. Direction k
    is the least-squares solution of z = u_k x_k over the samples, sum x_k z / sum x_k^2, scaled to length 1. (GANSpace
    does this for BigGAN. If the latents themselves are the features, as in StyleGAN's W, these are the principal axes.)

    Args:
        generator, num_directions, step_length: as for `Random`.
        seed: random seed of the samples.
        features: a function from latents (B, D) to features (B, ...); if None, the images, pooled to 32 x 32 at most.
        samples: the number of latents.
    """

    def __init__(
        self,
        generator: Generator,
        num_directions: int,
        step_length: float = 0.1,
        seed: int = 0,
        *,
        features: Callable[[Tensor], Tensor] | None = None,
        samples: int = 4096,
    ) -> None:
        super().__init__(generator, num_directions, step_length)
        check_count(samples, "samples")
        z = generator.sample(samples, seed)
        most = min(samples - 1, generator.latent_dim)
        if num_directions > most:
            raise InputError(
                f"num_directions must be at most {most}, the smaller of the latents' width and samples - 1, got "
                f"{num_directions}"
            )
        y = _features(generator, z) if features is None else _given_features(features, z)
        y = y - y.mean(0)
        spread, vectors = torch.linalg.eigh(y.T @ y if y.shape[1] <= samples else y @ y.T)
        rank = int((spread > 1e-12 * spread.max().clamp_min(1e-300)).sum())
        if num_directions > rank:
            raise InputError(
                f"num_directions must be at most {rank}, the number of directions in which the features vary, got "
                f"{num_directions}"
            )
        first = vectors.flip(1)[:, :num_directions]
        x = y @ first if y.shape[1] <= samples else first  # [samples, K]; scale doesn't matter
        self.directions = unit(_signed((z - z.mean(0)).double().T @ x).T).to(z)


class SeFa(Straight):
    """The directions that a generator's first layer stretches most (SeFa, Shen and Zhou, CVPR 2021), in closed form.

    Direction k is the eigenvector with the k-th largest eigenvalue of A^T A, where A is the layer's weight
    (outputs, D).

    Args:
        generator, num_directions, step_length: as for `Random`.
        layer: the layer whose weight is used, an nn.Linear or a convolution of 1 x 1 latents; if None, the generator's
            first layer that takes latents of its width.
    """

    def __init__(
        self, generator: Generator, num_directions: int, step_length: float = 0.1, *, layer: nn.Module | None = None
    ) -> None:
        super().__init__(generator, num_directions, step_length)
        if num_directions > generator.latent_dim:
            raise InputError(f"num_directions must be at most {generator.latent_dim}, the latents' width")
        matrix = _matrix(layer, generator.latent_dim) if layer is not None else _first_matrix(generator)
        if matrix is None:
            raise InputError(
                f"SeFa needs a layer that takes latents of width {generator.latent_dim}, an nn.Linear or a "
                "convolution: pass the layer as layer="
            )
        _, vectors = torch.linalg.eigh((matrix.T @ matrix).double())
        self.directions = _signed(vectors.flip(1)[:, :num_directions]).T.contiguous().to(generator.like)


def unit(directions: Tensor) -> Tensor:
    """Vectors (..., D) scaled to length 1."""
    return directions / directions.norm(dim=-1, keepdim=True)


def _signed(columns: Tensor) -> Tensor:
    """Columns (D, K) with signs that make their largest entries positive: the sign of an eigenvector is arbitrary."""
    largest = columns.gather(0, columns.abs().argmax(0, keepdim=True))
    return columns * largest.sign()


def pooled(images: Tensor, largest: int) -> Tensor:
    """Images (B, C, H, W), averaged down to sides of at most `largest`."""
    height, width = images.shape[-2:]
    return nn.functional.adaptive_avg_pool2d(images, (min(largest, height), min(largest, width)))


@torch.no_grad()
def _features(generator: Generator, z: Tensor) -> Tensor:
    """The pooled images in [0, 1] of latents (N, D), as features (N, F) in float64."""
    images = (generator.scaled(generator.decode(chunk)) for chunk in z.split(CHUNK))
    return torch.cat([pooled(part, 32).flatten(1).double() for part in images])


@torch.no_grad()
def _given_features(features: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """The user's features of latents (N, D), (N, F) in float64."""
    with explaining("features"):
        y = torch.cat([features(chunk).flatten(1).double() for chunk in z.split(CHUNK)])
    if len(y) != len(z) or not bool(y.isfinite().all()):
        raise InputError(f"features must give finite values for each of {len(z)} latents, got {tuple(y.shape)}")
    return y


def _first_matrix(generator: Generator) -> Tensor | None:
    """The weight (outputs, D) of the generator's first linear layer on latents; None if there is no such layer."""
    matrices = (_matrix(module, generator.latent_dim) for module in generator.modules())
    return next((matrix for matrix in matrices if matrix is not None), None)


def _matrix(layer: nn.Module, width: int) -> Tensor | None:
    """A layer's weight as a matrix (outputs, D); None if it isn't a linear map of D inputs."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    if isinstance(layer, nn.Linear) and layer.in_features == width:
        return weight.detach()
    if isinstance(layer, nn.ConvTranspose2d) and layer.in_channels == width and layer.groups == 1:
        return weight.detach().flatten(1).T
    if (
        isinstance(layer, nn.Conv2d)
        and layer.in_channels == width
        and layer.kernel_size == (1, 1)
        and layer.groups == 1
    ):
        return weight.detach().flatten(1)
    return None
