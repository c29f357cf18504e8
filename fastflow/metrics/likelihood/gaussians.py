"""Normal distributions of a chain's noises whose precision is block-tridiagonal in the latents."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastflow.metrics.likelihood.chains import Chain, Quadratic


class ChainNormal(NamedTuple):
    """A normal distribution of a chain's noises (B, M, D), by the map from it to independent numbers e ~ N(0, I).

    The precision is I + sum_n S_n' G_n S_n, with G_n the curvature of the evidence about z_n, and S_n the Jacobian of
    z_n with respect to the noises. Given the latents before it, a noise depends on the last of them alone, so the
    precision has a factor of 2M - 1 blocks. The factor comes from a backward recursion (that of the linear-quadratic
    regulator):

        e_n = C_n' (u_n - m_n + A_n (z_{n-1} - c_{n-1})),

    where C_n is lower triangular and c is the path of the centre m. In this map, z_{n-1} is where the steps really lead
    to. So the distribution is normal if the steps are linear, and follows them if they aren't. The Jacobian of the map
    is constant.
    """

    centre: Tensor
    """m (B, M, D)"""
    path: Tensor
    """c (B, S + 1, D)"""
    gains: Tensor
    """A_1 .. A_{M-1}, (B, M - 1, D, D)"""
    factors: Tensor
    """C_0 .. C_{M-1}, (B, M, D, D)"""

    @property
    def log_volume(self) -> Tensor:
        """The logarithm of the determinant of the derivative of e with respect to u, (B,)."""
        return self.factors.diagonal(dim1=-2, dim2=-1).log().sum((1, 2))

    def rows(self, index: Tensor) -> ChainNormal:
        """The distributions of some items, which may be repeated."""
        return ChainNormal(*(part[index] for part in self))

    def noises(self, chain: Chain, e: Tensor) -> tuple[Tensor, Tensor]:
        """The noises u (B, M, D) that independent numbers e (B, M, D) mean, and their path (B, S + 1, D)."""
        dtype = chain.prior_std.dtype
        factors, gains, centre = (part.to(dtype) for part in (self.factors, self.gains, self.centre))
        free = torch.linalg.solve_triangular(factors.mT, e.to(dtype)[..., None], upper=True)[..., 0] + centre
        u, z = [free[:, 0]], [chain.prior_std * free[:, 0]]
        for step in range(chain.steps):
            after = chain.moved(z[-1], step)
            noise = chain.noise_of_step(step)
            if noise is not None:
                u.append(free[:, step + 1] - _times(gains[:, step], z[-1] - self.path[:, step].to(dtype)))
                after = after + noise * u[-1]
            z.append(after)
        return torch.stack(u, 1), torch.stack(z, 1)

    def independent(self, u: Tensor, path: Tensor) -> Tensor:
        """The inverse: numbers e (B, M, D) for noises u (B, M, D) with this path (B, S + 1, D)."""
        away = u - self.centre.to(u)
        if self.gains.shape[1]:
            before = (path - self.path.to(u))[:, :-1]
            away = torch.cat((away[:, :1], away[:, 1:] + _times(self.gains.to(u), before)), 1)
        return _times(self.factors.to(u).mT, away)


def prior_of(chain: Chain, width: int) -> ChainNormal:
    """The distribution N(0, I) of noises, each of this width."""
    shape, zero = (len(chain.places), chain.blocks, width), chain.prior_std.new_zeros(())
    one = torch.eye(width, dtype=torch.float64, device=zero.device)
    factors = one.expand(*shape[:2], width, width)
    centre = zero.expand(shape)
    return ChainNormal(centre, chain.path(centre), torch.zeros_like(factors[:, 1:]), factors)


def normal_around(chain: Chain, centre: Tensor, quadratic: Quadratic) -> ChainNormal:
    """The normal distribution with this centre (B, M, D) whose precision is a chain's curvature."""
    gains, factors = [], []
    ahead = quadratic.curvatures[:, chain.steps]  # with respect to z_n, of all that follows from it
    one = torch.eye(centre.shape[2], dtype=torch.float64, device=centre.device)
    for step in reversed(range(chain.steps)):
        jacobian, noise = quadratic.jacobians[:, step], chain.noise_of_step(step)
        if noise is not None:
            scale = noise.double()[:, :, None]
            factor = torch.linalg.cholesky(one + scale * ahead * scale.mT)
            # What the best noise u = -A (z - c) leaves of the curvature is A' A less.
            pulled = torch.linalg.solve_triangular(factor, scale * ahead, upper=False)
            gains.append(torch.linalg.solve_triangular(factor.mT, pulled, upper=True) @ jacobian)
            factors.append(factor)
            ahead = ahead - pulled.mT @ pulled
        ahead = quadratic.curvatures[:, step] + jacobian.mT @ ahead @ jacobian
    scale = chain.prior_std.double()[:, :, None]
    factors.append(torch.linalg.cholesky(one + scale * ahead * scale.mT))
    path = chain.path(centre)
    empty = centre.new_zeros(len(centre), 0, *one.shape, dtype=torch.float64)
    return ChainNormal(centre, path, torch.stack(gains[::-1], 1) if gains else empty, torch.stack(factors[::-1], 1))


def newton_step(chain: Chain, normal: ChainNormal, quadratic: Quadratic) -> Tensor:
    """The covariance of a normal distribution times the gradient (B, M, D), by two sweeps over the chain.

    The steps are taken as linear, with the Jacobians of `quadratic`, as in `normal_around`.
    """
    gradient = quadratic.gradient
    noises = [noise for step in range(chain.steps) if (noise := chain.noise_of_step(step)) is not None]
    # Backward: e = C^-1 (gradient + what u_n does through z_n).
    e, reach = [], torch.zeros_like(normal.factors[:, 0, 0])  # (B, D): with respect to z_n
    for step, noise in reversed(list(enumerate(noises))):
        total = gradient[:, step + 1] + noise * reach
        e.append(torch.linalg.solve_triangular(normal.factors[:, step + 1], total[..., None], upper=False))
        reach = _times(quadratic.jacobians[:, step].mT, reach) - _times(normal.gains[:, step].mT, total)
    total = gradient[:, 0] + chain.prior_std * reach
    e.append(torch.linalg.solve_triangular(normal.factors[:, 0], total[..., None], upper=False))
    # Forward: u = C'^-1 e - A z.
    free = torch.linalg.solve_triangular(normal.factors.mT, torch.stack(e[::-1], 1), upper=True)[..., 0]
    u, z = [free[:, 0]], chain.prior_std * free[:, 0]
    for step, noise in enumerate(noises):
        u.append(free[:, step + 1] - _times(normal.gains[:, step], z))
        z = _times(quadratic.jacobians[:, step], z) + noise * u[-1]
    return torch.stack(u, 1)


def _times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Products of matrices (..., D, D) and vectors (..., D)."""
    return (matrices @ vectors[..., None])[..., 0]
