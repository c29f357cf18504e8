"""Annealed importance sampling of a chain's noises (Neal, Statistics and Computing 2001), the expensive check."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastflow.metrics.likelihood.chains import Chain
from fastflow.metrics.likelihood.gaussians import ChainNormal
from fastflow.metrics.likelihood.models import MOST_DECODED
from fastflow.metrics.likelihood.result import Estimate, estimate

TEMPERATURES = 40
LEAPFROGS = 5
PILOTS = 4
"""Chains that find the step sizes; they have no part in the estimate."""
WANTED = 0.8
"""The share of accepted moves that the step sizes aim at."""


def annealed_estimate(
    chain: Chain, start: ChainNormal, num_samples: int, *, values: int, rng: torch.Generator
) -> Estimate:
    """The estimates of log p(evidence), (B,), from chains that go from a normal distribution to the posterior.

    The densities on the way are proportional to q^(1-b) p^b with b from 0 to 1. Each is followed by a move of
    Hamiltonian Monte Carlo in the coordinates in which q is N(0, I). The sizes of its steps are found by pilots, and
    are fixed for the chains that count, so that the expectation of the weights is p.

    Args:
        start: q.
        num_samples: the number of chains for each datum.
        values: how many numbers the data have in all, by which memory is limited.
    """
    _, sizes = _annealed(chain, start, PILOTS, rng, None)
    # A gradient keeps several times what a decoder returns.
    at_once = max(1, MOST_DECODED // (4 * values))
    counts = [min(at_once, num_samples - first) for first in range(0, num_samples, at_once)]
    return estimate(torch.cat([_annealed(chain, start, count, rng, sizes)[0] for count in counts]))


def _annealed(
    chain: Chain, start: ChainNormal, count: int, rng: torch.Generator, sizes: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The log-weights (count, B) float64 of some chains, and the sizes (TEMPERATURES, B) of their steps.

    Args:
        sizes: the sizes to take; None to adapt them on the way, which makes the weights worthless.
    """
    items = len(start.centre)
    rows = torch.arange(items).repeat(count)
    chain, start = chain.rows(rows), start.rows(rows)
    shape = start.centre.shape
    numbers = shape[1] * shape[2]
    e = torch.randn(shape, generator=rng).to(start.centre)
    size = e.new_full((items,), numbers**-0.25)
    value, gradient = start.joint(chain, e)
    log_weights = torch.zeros_like(value)
    taken = []
    for number in range(1, TEMPERATURES + 1):
        normal = -0.5 * (e.double().square() + math.log(2 * math.pi)).flatten(1).sum(1)
        log_weights += (value - normal) / TEMPERATURES
        b = number / TEMPERATURES
        size = size if sizes is None else sizes[number - 1]
        taken.append(size)
        step = size.repeat(count)[:, None, None]

        # Hamiltonian Monte Carlo: `force` is the gradient of the density on the way.
        momentum = torch.randn(shape, generator=rng).to(e)
        there, there_value, there_gradient, moving = e, value, gradient, momentum
        force = b * gradient - (1 - b) * e
        for _ in range(LEAPFROGS):
            moving = moving + 0.5 * step * force
            there = there + step * moving
            there_value, there_gradient = start.joint(chain, there)
            force = b * there_gradient - (1 - b) * there
            moving = moving + 0.5 * step * force
        gained = _energy(b, value, e, momentum) - _energy(b, there_value, there, moving)
        gained = gained.nan_to_num(-math.inf)  # a path that left all numbers behind
        accepted = torch.rand(gained.shape, generator=rng).to(gained).log() < gained
        e = torch.where(accepted[:, None, None], there, e)
        gradient = torch.where(accepted[:, None, None], there_gradient, gradient)
        value = torch.where(accepted, there_value, value)
        if sizes is None:
            share = gained.clamp(max=0).exp().view(count, items).mean(0)
            size = size * torch.exp(0.5 * (share - WANTED)).to(size)
    return log_weights.view(count, items).cpu(), torch.stack(taken)


def _energy(b: float, value: Tensor, e: Tensor, momentum: Tensor) -> Tensor:
    """The energy (B,) float64: minus the logarithm of the density on the way, and of that of the momentum."""
    squares = ((1 - b) * e.double().square() + momentum.double().square()).flatten(1).sum(1)
    return 0.5 * squares - b * value
