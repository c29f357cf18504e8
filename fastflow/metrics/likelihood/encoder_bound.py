"""The importance-weighted bound of Burda et al. with the encoder as its proposal, which is as tight as that is good."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastflow.generators.likelihoods import normal_log_density
from fastflow.metrics.likelihood.models import MOST_DECODED, Normal
from fastflow.metrics.likelihood.result import Estimate, estimate


def encoder_bound(
    proposals: list[Normal],
    log_p_given: Callable[[Tensor], Tensor],
    *,
    num_samples: int,
    values: int,
    rng: torch.Generator,
    prior_log_variance: Tensor,
) -> Estimate:
    """The bound for each of some data, from samples of a mixture of proposals.

    Args:
        proposals: the parts of the mixture.
        log_p_given: the function from latents (S, B, D) to the log-densities (S, B) of the data given these.
        num_samples: how many samples to draw for each datum.
        values: how many numbers the data have in all, by which memory is limited.
        rng: the source of the samples.
        prior_log_variance: the logarithm of the prior's variance, (B, 1).
    """
    kinds = len(proposals)
    # Sample i is drawn from proposal i modulo their number. With fewer samples than proposals, the last have no share.
    parts = [len(range(kind, num_samples, kinds)) for kind in range(kinds)]
    shares = [(q, math.log(part / num_samples)) for q, part in zip(proposals, parts, strict=True) if part]
    mean = torch.stack([q.mean for q in proposals])  # (M, B, D)
    std = torch.stack([(0.5 * q.log_variance).exp() for q in proposals])
    at_once = max(1, MOST_DECODED // values)
    log_weights = []
    for start in range(0, num_samples, at_once):
        numbers = range(start, min(start + at_once, num_samples))
        noise = [torch.randn(mean.shape[1:], generator=rng) for _ in numbers]  # the same, however many at once
        kind = torch.tensor(numbers) % kinds
        z = mean[kind] + std[kind] * torch.stack(noise).to(mean)  # (S, B, D)
        log_prior = normal_log_density(z, torch.zeros_like(mean[0]), prior_log_variance.expand_as(mean[0]).to(mean))
        log_proposal = torch.stack([normal_log_density(z, *q) + share for q, share in shares]).logsumexp(0)
        log_weights.append((log_p_given(z) + log_prior - log_proposal).double().cpu())
    return estimate(torch.cat(log_weights))


def product(first: Normal, second: Normal, moved: Tensor) -> Normal:
    """The posterior of a latent given two data, from the posteriors given each of them, under the prior N(0, I).

    Args:
        first: the posterior of the latent given the first datum.
        second: the posterior of the latent plus `moved` given the second datum.
        moved: (B, D).
    """
    # Where a posterior is wider than the prior, the prior's width is taken.
    one, two = ((-q.log_variance).exp().clamp_min(1) for q in (first, second))
    precision = one + two - 1
    mean = (one * first.mean + two * (second.mean - moved) + moved) / precision
    return Normal(mean, -precision.log())
