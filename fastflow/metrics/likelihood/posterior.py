"""The normal distribution that fits the posterior of a chain's noises: around its highest point at first."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastflow.metrics.likelihood.chains import Chain, Quadratic
from fastflow.metrics.likelihood.gaussians import ChainNormal, newton_step, normal_around

FIRST_STEPS, MAX_STEPS = 2, 10
"""Gauss-Newton steps from each start, and then from the best of them."""
MAX_HALVINGS = 10
CLOSE = 1e-2
"""Nats that the last step may still have gained."""
PRIOR_DRAWS = 32
ROUNDS, PAIRS = 3, 1
"""Rounds of the fit, and pairs of points in each round."""
TRIES = 4
"""How many lengths of a step of the fit are tried, each a quarter of the one before."""
SLOWING = 0.5
"""Round r takes 1 / (1 + SLOWING r) of its step, so that the noise of its points is averaged out."""
CENTRINGS, CENTRING_PAIRS, CENTRING_SLOWING = 8, 2, 0.25
"""The same three numbers for the rounds after these, which move the centre alone."""


def fitted_normal(chain: Chain, starts: list[Tensor], rng: torch.Generator) -> ChainNormal:
    """The normal distribution that fits the posterior of each chain's noises best, or nearly.

    Gauss-Newton steps lead from the best start to a maximum of the log joint density. From there, natural gradient
    steps raise the evidence lower bound of the normal distribution. Their gradient and curvature are means over points
    drawn from the distribution, so that it suits the posterior where its mass is, which in many dimensions isn't near
    the maximum. (These are the steps of Khan et al., ICML 2018, with exact Gauss-Newton curvature.)

    Args:
        starts: noises (B, M, D), at least one. The best of some draws from the prior is another start.
        rng: the source of all draws, none of which the estimate uses.
    """
    top = climbed(chain, _best_start(chain, starts, rng))
    return _centred(chain, _fit(chain, top, rng), rng)


def climbed(chain: Chain, u: Tensor, max_steps: int = MAX_STEPS) -> Tensor:
    """Noises near a maximum of the log joint density, by Gauss-Newton steps with a line search from u (B, M, D)."""
    u, value = u.clone(), chain.log_joint(u)
    rising = torch.arange(len(u), device=u.device)
    for _ in range(max_steps):
        part = chain.rows(rising)
        quadratic = part.quadratic(u[rising])
        step = newton_step(part, normal_around(part, u[rising], quadratic), quadratic)
        slope = (step * quadratic.gradient).flatten(1).sum(1)  # twice what a whole step gains if all is quadratic
        step = step.to(u)
        went = torch.zeros_like(slope, dtype=torch.bool)
        waiting = torch.arange(len(rising), device=u.device)
        for halving in range(MAX_HALVINGS):
            length, rows = 0.5**halving, rising[waiting]
            there = u[rows] + length * step[waiting]
            found = chain.rows(rows).log_joint(there)
            better = found > value[rows] + 1e-4 * length * slope[waiting]
            u[rows[better]], value[rows[better]], went[waiting[better]] = there[better], found[better], True
            waiting = waiting[~better]
            if not len(waiting):
                break
        rising = rising[went & (slope > 2 * CLOSE)]
        if not len(rising):
            break
    return u


def _best_start(chain: Chain, starts: list[Tensor], rng: torch.Generator) -> Tensor:
    """Of the starts, and of the best of some draws from the prior, the one from which a few steps lead highest."""
    drawn = torch.zeros_like(starts[0])
    value = chain.log_joint(drawn)
    for _ in range(PRIOR_DRAWS):
        there = torch.randn(drawn.shape, generator=rng).to(drawn)
        found = chain.log_joint(there)
        better = found > value
        drawn, value = torch.where(better[:, None, None], there, drawn), torch.where(better, found, value)
    tried = torch.stack([climbed(chain, start, FIRST_STEPS) for start in (*starts, drawn)])
    values = torch.stack([chain.log_joint(u) for u in tried]).nan_to_num(-torch.inf)
    return tried[values.argmax(0), torch.arange(len(drawn), device=drawn.device)]


def _fit(chain: Chain, centre: Tensor, rng: torch.Generator) -> ChainNormal:
    """The normal distribution around a maximum, moved and turned round by round.

    A step that lowers the bound at the round's own points is shortened, and in the end not taken.
    """
    curvature = chain.quadratic(centre)
    state = _State(normal_around(chain, centre, curvature), curvature)
    trust = torch.ones(len(centre), dtype=torch.float64, device=centre.device)
    for number in range(ROUNDS):
        points = _points(state.normal, PAIRS, rng)
        around, before = _looked_around(chain, state.normal, points)
        here = state
        for _ in range(TRIES):
            there = _stepped(chain, here, around, trust / (1 + SLOWING * number))
            fell = ~(_bound(chain, there.normal, points) > before - CLOSE)
            state, trust = _chosen(fell, here, there), torch.where(fell, trust / 4, trust)
            if not bool(fell.any()):
                break
    return state.normal


def _stepped(chain: Chain, state: _State, around: Quadratic, share: Tensor) -> _State:
    """Where each item's share (B,) of a natural gradient step leads."""
    curvature = state.curvature.towards(around, share)
    centre = state.normal.centre
    step = newton_step(chain, normal_around(chain, centre, curvature), around)
    return _State(normal_around(chain, centre + (share[:, None, None] * step).to(centre), curvature), curvature)


def _centred(chain: Chain, normal: ChainNormal, rng: torch.Generator) -> ChainNormal:
    """The normal distribution with its centre where the mean gradient is zero, unless that lowers the bound.

    A gradient costs far less than a curvature, so there are more points. In the coordinates in which the distribution
    is N(0, I), the step is the mean gradient itself.
    """
    first, numbers = normal, normal.centre[0].numel()
    for number in range(CENTRINGS):
        slope = torch.zeros_like(normal.centre)
        for one in _points(normal, CENTRING_PAIRS, rng):
            slope += (normal.joint(chain, one)[1] + one) / (2 * CENTRING_PAIRS)
        size = slope.square().sum((1, 2), keepdim=True).sqrt()
        step = slope / (size / numbers**0.5).clamp_min(1) / (1 + CENTRING_SLOWING * number)
        centre, path = normal.noises(chain, step.nan_to_num(0, 0, 0))
        normal = normal._replace(centre=centre, path=path)
    points = _points(normal, CENTRING_PAIRS, rng)
    before = _bound(chain, first, points).nan_to_num(-torch.inf)
    return _chosen(~(_bound(chain, normal, points) > before), first, normal)


class _State(NamedTuple):
    """Where the fit stands."""

    normal: ChainNormal
    curvature: Quadratic
    """The parts of the normal distribution's precision."""


def _points(normal: ChainNormal, pairs: int, rng: torch.Generator) -> list[Tensor]:
    """Numbers e (B, M, D) of N(0, I), each with its opposite."""
    drawn = [torch.randn(normal.centre.shape, generator=rng).to(normal.centre) for _ in range(pairs)]
    return [side * e for e in drawn for side in (1, -1)]


def _bound(chain: Chain, normal: ChainNormal, points: list[Tensor]) -> Tensor:
    """The evidence lower bound (B,) float64 of a normal distribution by these points, but for a constant.

    Where it isn't finite, it is minus infinity or NaN.
    """
    found = [chain.log_joint(*normal.noises(chain, e)).double() for e in points]
    return torch.stack(found).mean(0) - normal.log_volume


def _looked_around(chain: Chain, normal: ChainNormal, points: list[Tensor]) -> tuple[Quadratic, Tensor]:
    """The mean expansion of the log joint density at points of a normal distribution, and the bound by them."""
    found, values = [], []
    for e in points:
        u, path = normal.noises(chain, e)
        values.append(chain.log_joint(u, path).double())
        found.append(chain.quadratic(u))
    around = Quadratic(*(torch.stack(parts).mean(0) for parts in zip(*found, strict=True)))
    return around, torch.stack(values).mean(0) - normal.log_volume


def _chosen(first: Tensor, one: Any, other: Any) -> Any:
    """Tensors of `one` in the rows where `first` (B,) holds, and of `other` elsewhere."""
    if isinstance(one, Tensor):
        return torch.where(first.view(-1, *[1] * (one.ndim - 1)), one, other)
    return type(one)(*(_chosen(first, *pair) for pair in zip(one, other, strict=True)))
