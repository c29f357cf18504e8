"""The modules that learned baselines train: K paths, each a direction or a field of directions of length 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastflow.baselines.directions import unit


class Columns(nn.Module):
    """K directions of length 1."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, dim))

    def all(self) -> Tensor:
        """All directions, (K, D)."""
        return unit(self.weight)

    def forward(self, z: Tensor, index: Tensor) -> Tensor:
        """The directions (B, D) of paths (B,)."""
        return self.all()[index]


class OrthogonalRows(Columns):
    """K directions of length 1, orthogonal to each other."""

    def all(self) -> Tensor:
        """All directions, (K, D)."""
        q, r = torch.linalg.qr(self.weight.T)
        return (q * r.diagonal().sign()).T  # the signs make directions change continuously with the weights


class Warps(nn.Module):
    """Gradients of K sums of radial functions, scaled to length 1."""

    def __init__(self, count: int, dim: int, supports: int) -> None:
        super().__init__()
        centre = torch.randn(count, supports, 1, dim)  # distributed as latents are
        offset = torch.randn(count, supports, 1, dim)
        self.support = nn.Parameter(torch.cat((centre + offset, centre - offset), 2).flatten(1, 2))  # (K, S, D)
        self.log_weight = nn.Parameter(torch.zeros(count, supports))
        # The radial function falls to 1 / e at the typical distance between two latents.
        self.log_rate = nn.Parameter(torch.full((count, 2 * supports), -math.log(2 * dim)))

    def forward(self, z: Tensor, index: Tensor) -> Tensor:
        """The velocities (B, D) of paths (B,) at latents z (B, D)."""
        weight = self.log_weight.exp()
        signed = torch.stack((weight, -weight), 2).flatten(1)[index]  # (B, S)
        rate = self.log_rate.exp()[index]
        away = z[:, None] - self.support[index]  # (B, S, D)
        radial = torch.exp(-rate * away.square().sum(2))
        gradient = -2 * torch.einsum("bs,bsd->bd", signed * rate * radial, away)
        return functional.normalize(gradient, dim=1, eps=1e-20)


class Heads(nn.Module):
    """K networks with one hidden layer, their outputs scaled to length 1."""

    def __init__(self, count: int, dim: int) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.randn(count, dim, dim) / math.sqrt(dim))
        self.outer = nn.Parameter(torch.randn(count, dim, dim) / math.sqrt(dim))
        self.bias = nn.Parameter(torch.randn(count, dim))

    def forward(self, z: Tensor, index: Tensor) -> Tensor:
        """The velocities (B, D) of paths (B,) at latents z (B, D)."""
        hidden = functional.relu(torch.einsum("bd,bhd->bh", z, self.inner[index]))
        return unit(torch.einsum("bh,bdh->bd", hidden, self.outer[index]) + self.bias[index])
