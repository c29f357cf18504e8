"""Sequential importance sampling with resampling (particle filter) of the noises of a chain that has many."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastflow.metrics.likelihood.chains import Chain
from fastflow.metrics.likelihood.gaussians import ChainNormal
from fastflow.metrics.likelihood.importance import freedom_for, student_draw, student_log_density
from fastflow.metrics.likelihood.models import MOST_DECODED
from fastflow.metrics.likelihood.result import Estimate, check_finite, estimate_of


def particle_estimate(
    chain: Chain, proposal: ChainNormal, num_samples: int, *, values: int, rng: torch.Generator
) -> Estimate:
    """The estimates of log p(evidence), (B,), by particles that go along the chain and are resampled at each latent.

    The variance of a whole chain's weight grows exponentially with its length, that of this estimate linearly. A weight
    of latent z_n has what is known about z_n and, as a forecast of what is known about later latents, the quadratic
    expansion that the proposal was made of. (Such filters are called twisted or controlled: Guarniero, Johansen and
    Lee, JASA 2017; Heng et al., Annals of Statistics 2020.) The forecasts cancel in the end, so the estimate's
    expectation is exact whatever they are.

    Args:
        proposal: a distribution of noises, of which each latent has its own.
        num_samples: the number of particles of each datum.
        values: how many numbers the data have in all, by which memory is limited.
    """
    items, width = len(proposal.centre), proposal.centre.shape[2]
    # All items of the first particle, all of the second, and so on.
    rows = torch.arange(items).repeat(num_samples)
    many, there = chain.rows(rows), proposal.rows(rows)
    at_once = max(1, MOST_DECODED * items * chain.places.shape[1] // values)
    shape, freedom = (len(rows), width), freedom_for(width)
    mean, forecast = None, torch.zeros((), dtype=torch.float64)
    total, shares = torch.zeros(items, dtype=torch.float64), torch.zeros(num_samples, items, dtype=torch.float64)
    first = torch.arange(num_samples)[:, None].expand(-1, items)  # which first particle each comes from
    for number in range(chain.steps + 1):
        e = student_draw(shape, freedom, rng).to(proposal.centre)
        u = there.noise(many, number, mean, e)
        z = many.latent(number, mean, u)
        log_prior = -0.5 * (u.double().square() + math.log(2 * math.pi)).sum(1)
        log_proposal = student_log_density(e, freedom) + there.log_volumes[:, number]
        log_weights = many.known_about(number, z, at_once) + log_prior - log_proposal - forecast.to(u.device)
        if number < chain.steps:
            mean = many.moved(z, number)
            forecast = there.forecast(many, number + 1, mean)
            log_weights = log_weights + forecast
        by_particle = log_weights.view(num_samples, items).cpu()
        total = total + by_particle.logsumexp(0) - math.log(num_samples)
        shares = by_particle.softmax(0)
        if mean is not None and number < chain.steps:
            kept = _resampled(shares, rng)  # (S, B)
            first = first.gather(0, kept)
            rows = (kept * items + torch.arange(items)).flatten().to(u.device)
            mean, forecast = mean[rows], forecast[rows]
    check_finite(total)
    # Chains with the same first latent aren't independent, so these families are counted (after Chan and Lai, Annals of
    # Statistics 2013). This is cautious: chains part after their first latent.
    families = torch.zeros_like(shares).scatter_add(0, first, shares)
    return estimate_of(total, families.square().sum(0).reciprocal(), num_samples)


def _resampled(shares: Tensor, rng: torch.Generator) -> Tensor:
    """Which particles go on: as many as there are, each as often as its share (S, B) says, or once more or less.

    This is systematic resampling: one random number for each item.
    """
    count, items = shares.shape
    points = (torch.arange(count)[:, None] + torch.rand(items, generator=rng)) / count
    edges = shares.double().cumsum(0)
    found = torch.searchsorted(edges.T.contiguous(), points.double().T.contiguous(), right=True).T
    return found.clamp_max(count - 1)
