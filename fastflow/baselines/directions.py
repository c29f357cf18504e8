"""Straight directions in latent space: drawn, or found without training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastflow.baselines.stepped import Stepped
from fastflow.core.checks import check_count, check_seed
from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining
from fastflow.generators import Generator

_CHUNK = 256
"""Latents that are decoded at once."""


class Straight(Stepped):
    """Unit directions, each walked in steps of equal length.

    Attributes:
        directions: (K, D), each of length 1.
    """

    directions: Tensor

    def walk(self, z0: Tensor, index: Tensor, steps: int) -> Tensor:
        """See `Stepped`."""
        step = self.step_length * self.directions[index]
        return z0[:, None] + step[:, None] * torch.arange(steps + 1, device=z0.device, dtype=z0.dtype)[:, None]


class Random(Straight):
    """Random unit directions: what any learned direction has to beat.

    Args:
        generator: whose latent space is traversed.
        num_directions: K.
        step_length: the latent distance of one step.
        seed: of the directions. Normal latents sampled by the same seed lie along them: draw starts by another.
    """

    def __init__(self, generator: Generator, num_directions: int, step_length: float = 0.1, seed: int = 0) -> None:
        super().__init__(generator, num_directions, step_length)
        check_seed(seed)
        rng = torch.Generator().manual_seed(seed)
        directions = torch.randn(num_directions, generator.latent_dim, generator=rng)
        self.directions = unit(directions).to(generator.sample(1))


class PCA(Straight):
    """Principal directions of a generator's features, carried back to the latents (GANSpace, Haerkoenen et al., 2020).

    The features y of `samples` latents z are centred, and their K first principal coordinates x found; direction k is
    the least-squares solution of z = u_k x_k over the samples, sum x_k z / sum x_k^2, scaled to length 1. (GANSpace
    does so for BigGAN; where latents are themselves the features, as in StyleGAN's W, these are the principal axes.)

    Args:
        generator, num_directions, step_length: as for `Random`.
        seed: of the samples.
        features: of latents (B, D), any shape (B, ...); where None, the images, pooled to 32 x 32 at most.
        samples: how many latents.
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
            raise InputError(f"num_directions must be at most {most}, the latents' width or samples - 1")
        y = _features(generator, z) if features is None else _given_features(features, z)
        y = y - y.mean(0)
        spread, vectors = torch.linalg.eigh(y.T @ y if y.shape[1] <= samples else y @ y.T)
        ways = int((spread > 1e-12 * spread.max().clamp_min(1e-300)).sum())
        if num_directions > ways:
            raise InputError(f"num_directions must be at most {ways}, in as many directions do the features vary")
        first = vectors.flip(1)[:, :num_directions]
        x = y @ first if y.shape[1] <= samples else first  # [samples, K]; scale doesn't matter
        self.directions = unit(_signed((z - z.mean(0)).double().T @ x).T).to(z)


class SeFa(Straight):
    """The directions that a generator's first layer stretches most (SeFa, Shen and Zhou, CVPR 2021), in closed form.

    Direction k is the eigenvector with the k-th largest eigenvalue of A^T A, A being the layer's weight (outputs, D).

    Args:
        generator, num_directions, step_length: as for `Random`.
        layer: the layer whose weight is meant, an nn.Linear or a convolution of 1 x 1 latents; where None, the first in
            the generator that takes latents of its width.
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
                "convolution; name it as layer="
            )
        _, vectors = torch.linalg.eigh((matrix.T @ matrix).double())
        self.directions = _signed(vectors.flip(1)[:, :num_directions]).T.contiguous().to(generator.sample(1))


def unit(directions: Tensor) -> Tensor:
    """Vectors (..., D) scaled to length 1."""
    return directions / directions.norm(dim=-1, keepdim=True)


def _signed(columns: Tensor) -> Tensor:
    """Columns (D, K) whose largest entries are positive: eigenvectors have no sign of their own."""
    largest = columns.gather(0, columns.abs().argmax(0, keepdim=True))
    return columns * largest.sign()


def pooled(images: Tensor, largest: int) -> Tensor:
    """Images (B, C, H, W) whose sides are at most `largest`, by averages."""
    height, width = images.shape[-2:]
    return nn.functional.adaptive_avg_pool2d(images, (min(largest, height), min(largest, width)))


@torch.no_grad()
def _features(generator: Generator, z: Tensor) -> Tensor:
    """Images in [0, 1] of latents (N, D), pooled, (N, F) float64."""
    images = (generator.scaled(generator.decode(chunk)) for chunk in z.split(_CHUNK))
    return torch.cat([pooled(part, 32).flatten(1).double() for part in images])


@torch.no_grad()
def _given_features(features: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    with explaining("features"):
        y = torch.cat([features(chunk).flatten(1).double() for chunk in z.split(_CHUNK)])
    if len(y) != len(z) or not bool(y.isfinite().all()):
        raise InputError(f"features must give finite values for each of {len(z)} latents, got {tuple(y.shape)}")
    return y


def _first_matrix(generator: Generator) -> Tensor | None:
    matrices = (_matrix(module, generator.latent_dim) for module in generator.modules())
    return next((matrix for matrix in matrices if matrix is not None), None)


def _matrix(layer: nn.Module, width: int) -> Tensor | None:
    """A layer's weight as a matrix (outputs, D); None where it isn't a linear map of D inputs."""
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
