"""Normal distributions of a chain's noises whose precision is block-tridiagonal in the latents."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fastflow.metrics.likelihood.chains import Chain, Quadratic


class ChainNormal(NamedTuple):
    """A normal distribution of a chain's noises (B, M, D), by the map to them from independent numbers e ~ N(0, I).

    The precision is I + sum_n S_n' G_n S_n, with G_n the curvature of the evidence about z_n, and S_n the Jacobian of
    z_n with respect to the noises. It has a factor of one block for each noise, which a backward recursion gives (that
    of the linear-quadratic regulator). Forward, z_{n-1} leads to N(f, s^2) with f = mean(z_{n-1}), and

        u_n = m_n - y + C_n'^-1 (C_n^-1 y + e_n),    y = (f - f at the centre) / s,

    where C_n is lower triangular. f is where the step really leads to, so the distribution is normal if the steps are
    linear, and follows them if they aren't. The Jacobian of the map is constant.
    """

    centre: Tensor
    """m (B, M, D)"""
    path: Tensor
    """The path (B, S + 1, D) of the centre."""
    factors: Tensor
    """C_0 .. C_{M-1}, (B, M, D, D), float64."""

    @property
    def log_volume(self) -> Tensor:
        """The logarithm of the determinant of the derivative of e with respect to u, (B,)."""
        return self.log_volumes.sum(1)

    @property
    def log_volumes(self) -> Tensor:
        """The same of each noise, (B, M)."""
        return self.factors.diagonal(dim1=-2, dim2=-1).log().sum(2)

    def rows(self, index: Tensor) -> ChainNormal:
        """The distributions of some items, which may be repeated."""
        return ChainNormal(*(part[index] for part in self))

    def noises(self, chain: Chain, e: Tensor) -> tuple[Tensor, Tensor]:
        """The noises u (B, M, D) that independent numbers e (B, M, D) mean, and their path (B, S + 1, D)."""
        u = [self.noise(chain, 0, None, e[:, 0])]
        z = [chain.prior_std * u[0]]
        for number in range(1, chain.steps + 1):
            after, scale = chain.moved(z[-1], number - 1), chain.noise_of_step(number - 1)
            if scale is not None:
                u.append(self.noise(chain, number, after, e[:, number]))
                after = after + scale * u[-1]
            z.append(after)
        return torch.stack(u, 1), torch.stack(z, 1)

    def noise(self, chain: Chain, number: int, mean: Tensor | None, e: Tensor) -> Tensor:
        """The noise u_n (B, D) that numbers e (B, D) mean after a step to this mean (B, D), None for the first."""
        factor, centre = self.factors[:, number].to(e), self.centre[:, number]
        if mean is None:
            return centre + _solved(factor.mT, e, upper=True)
        y = self._away(chain, number, mean)
        return centre - y + _solved(factor.mT, _solved(factor, y, upper=False) + e, upper=True)

    def joint(self, chain: Chain, e: Tensor) -> tuple[Tensor, Tensor]:
        """The log joint density (B,) float64 of numbers e (B, M, D), and its gradient."""
        with torch.enable_grad():
            e = e.detach().requires_grad_()
            value = chain.log_joint(*self.noises(chain, e))
            (gradient,) = torch.autograd.grad(value.sum(), e)
        return value.detach().double() - self.log_volume, gradient

    def independent(self, u: Tensor) -> Tensor:
        """The numbers e (B, D) of noises u (B, 1, D), of a chain that has no others."""
        return (self.factors[:, 0].mT.to(u) @ (u - self.centre)[:, 0, :, None])[:, :, 0]

    def forecast(self, chain: Chain, number: int, mean: Tensor) -> Tensor:
        """What the evidence about z_n and later latents says about the mean of z_n, but for a constant: (B,) float64.

        It is the logarithm of what is left when u_n and all later noises are integrated over.
        """
        y = self._away(chain, number, mean).double()
        slope = (self.centre[:, number].double() * y).sum(1)
        return slope + 0.5 * (_solved(self.factors[:, number], y, upper=False).square() - y.square()).sum(1)

    def _away(self, chain: Chain, number: int, mean: Tensor) -> Tensor:
        """How far a mean (B, D) of z_n is from that at the centre, in standard deviations of the noise."""
        scale = chain.noise_of_step(number - 1)
        assert scale is not None
        return (mean - self.path[:, number]) / scale + self.centre[:, number]


def prior_of(chain: Chain, width: int) -> ChainNormal:
    """The distribution N(0, I) of noises, each of this width."""
    shape, zero = (len(chain.places), chain.blocks, width), chain.prior_std.new_zeros(())
    centre = zero.expand(shape)
    factors = torch.eye(width, dtype=torch.float64, device=zero.device).expand(*shape[:2], width, width)
    return ChainNormal(centre, chain.path(centre), factors)


def normal_around(chain: Chain, centre: Tensor, quadratic: Quadratic) -> ChainNormal:
    """The normal distribution with this centre (B, M, D) whose precision is a chain's curvature."""
    factors = []
    ahead = quadratic.curvatures[:, chain.steps]  # with respect to z_n, of all that follows from it
    one = torch.eye(centre.shape[2], dtype=torch.float64, device=centre.device)
    for step in reversed(range(chain.steps)):
        jacobian, noise = quadratic.jacobians[:, step], chain.noise_of_step(step)
        if noise is not None:
            scale = noise.double()[:, :, None]
            factors.append(_factor(one + scale * ahead * scale.mT))
            # The best noise takes away a part of the curvature.
            taken = torch.linalg.solve_triangular(factors[-1], scale * ahead, upper=False)
            ahead = ahead - taken.mT @ taken
        ahead = quadratic.curvatures[:, step] + jacobian.mT @ ahead @ jacobian
        # Without this, roundings that aren't symmetric grow from step to step where the steps' Jacobians are large.
        ahead = (ahead + ahead.mT) / 2
    scale = chain.prior_std.double()[:, :, None]
    factors.append(_factor(one + scale * ahead * scale.mT))
    return ChainNormal(centre, chain.path(centre), torch.stack(factors[::-1], 1))


def newton_step(chain: Chain, normal: ChainNormal, quadratic: Quadratic) -> Tensor:
    """The covariance of a normal distribution times the gradient (B, M, D), by two sweeps over the chain.

    The steps are taken as linear, with the Jacobians of `quadratic`, as in `normal_around`.
    """
    gradient, factors = quadratic.gradient, normal.factors
    noises = [noise for step in range(chain.steps) if (noise := chain.noise_of_step(step)) is not None]
    # Backward: e = C^-1 (gradient + what u_n does through z_n).
    e, reach = [], torch.zeros_like(gradient[:, 0])  # with respect to z_n
    for number, noise in reversed(list(enumerate(noises, 1))):
        own = gradient[:, number]
        e.append(_solved(factors[:, number], own + noise * reach, upper=False))
        through = (_solved(factors[:, number].mT, e[-1], upper=True) - own) / noise
        reach = (quadratic.jacobians[:, number - 1].mT @ through[:, :, None])[:, :, 0]
    e.append(_solved(factors[:, 0], gradient[:, 0] + chain.prior_std * reach, upper=False))
    # Forward, as `noises` goes.
    u = [_solved(factors[:, 0].mT, e[-1], upper=True)]
    z = chain.prior_std * u[0]
    for number, noise in enumerate(noises, 1):
        y = (quadratic.jacobians[:, number - 1] @ z[:, :, None])[:, :, 0] / noise
        before = _solved(factors[:, number], y, upper=False) + e[-1 - number]
        u.append(_solved(factors[:, number].mT, before, upper=True) - y)
        z = noise * (y + u[-1])
    return torch.stack(u, 1)


def _factor(precision: Tensor) -> Tensor:
    """The Cholesky factors (B, D, D) of precisions; NaN where one isn't positive, or isn't finite.

    A single such item would end the measurement of all. As NaN it is never taken as a step of a fit.
    """
    factors, info = torch.linalg.cholesky_ex(precision)
    return torch.where((info == 0)[:, None, None], factors, torch.nan)


def _solved(factors: Tensor, vectors: Tensor, *, upper: bool) -> Tensor:
    """Solutions (B, D) of triangular systems (B, D, D)."""
    return torch.linalg.solve_triangular(factors, vectors[:, :, None], upper=upper)[:, :, 0]
