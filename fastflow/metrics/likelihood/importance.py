"""Importance sampling of a chain's only noise from a mixture of heavy-tailed proposals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastflow.metrics.likelihood.chains import Chain
from fastflow.metrics.likelihood.gaussians import ChainNormal
from fastflow.metrics.likelihood.models import MOST_DECODED
from fastflow.metrics.likelihood.result import Estimate, estimate

EACH = 8
"""Of so many samples, one is drawn from each proposal but the first, and the others from the first."""


def importance_estimate(
    chain: Chain, proposals: list[ChainNormal], num_samples: int, *, values: int, rng: torch.Generator
) -> Estimate:
    """The estimates of log p(evidence), (B,), from samples of a mixture, all weighted by its density.

    The parts are Student's t distributions of the proposals' shapes. Their tails are heavier than a normal
    distribution's, so that the weights are bounded where the posterior's aren't.

    Args:
        proposals: the first has the most samples.
        values: how many numbers the data have in all, by which memory is limited.
    """
    # 0 comes first: a single sample is drawn from the first proposal.
    kinds = (torch.arange(num_samples) % EACH - (EACH - len(proposals))).clamp_min(0)
    shares = [int((kinds == kind).sum()) / num_samples for kind in range(len(proposals))]
    stacked = ChainNormal(*(torch.stack(parts) for parts in zip(*proposals, strict=True)))
    count, _, width = proposals[0].centre.shape
    freedom = freedom_for(width)
    log_weights = []
    for kind in kinds.split(max(1, MOST_DECODED // values)):
        rows = torch.arange(count).repeat(len(kind))
        many = chain.rows(rows)
        drawn = ChainNormal(*(part[kind.repeat_interleave(count), rows] for part in stacked))
        # The same numbers, however many at once.
        e = torch.cat([student_draw((count, width), freedom, rng) for _ in kind]).to(proposals[0].centre)
        u, path = drawn.noises(many, e[:, None])
        log_proposal = []
        for proposal, share in zip(proposals, shares, strict=True):
            if share:
                there = proposal.rows(rows)
                log_density = student_log_density(there.independent(u), freedom) + there.log_volume
                log_proposal.append(log_density + math.log(share))
        log_weight = many.log_joint(u, path).double() - torch.stack(log_proposal).logsumexp(0)
        log_weights.append(log_weight.view(len(kind), count).cpu())
    return estimate(torch.cat(log_weights))


def freedom_for(numbers: int) -> int:
    """The degrees of freedom of a t distribution of so many numbers.

    With few of them, the radii of many numbers would be far more spread than those of a normal distribution, which
    costs samples.
    """
    return max(10, numbers)


def student_draw(shape: tuple[int, int], freedom: int, rng: torch.Generator) -> Tensor:
    """Numbers (B, D), each row of which has a t distribution."""
    normal = torch.randn(shape, generator=rng)
    squares = torch.randn((shape[0], freedom), generator=rng).square().mean(1, keepdim=True)
    return normal / squares.sqrt()


def student_log_density(e: Tensor, freedom: int) -> Tensor:
    """The log-density, (B,) float64, of numbers e (B, D)."""
    e = e.double()
    both = freedom + e.shape[1]
    constant = math.lgamma(both / 2) - math.lgamma(freedom / 2) - e.shape[1] / 2 * math.log(freedom * math.pi)
    return constant - both / 2 * torch.log1p(e.square().sum(1) / freedom)
