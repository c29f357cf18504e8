"""What all measurements of the likelihood share: their settings, and the estimate with a fitted proposal."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch

from fastflow.core.checks import check_count, check_seed
from fastflow.core.errors import InputError
from fastflow.metrics.likelihood.annealing import annealed_estimate
from fastflow.metrics.likelihood.chains import Chain, Codes, Images
from fastflow.metrics.likelihood.gaussians import normal_around, prior_of
from fastflow.metrics.likelihood.importance import importance_estimate
from fastflow.metrics.likelihood.models import encoded, width_of
from fastflow.metrics.likelihood.particles import particle_estimate
from fastflow.metrics.likelihood.posterior import climbed, fitted_normal
from fastflow.metrics.likelihood.result import Estimate, check_finite

Proposal = Literal["fitted", "encoder"]
"""What samples are drawn from: a distribution that is fitted to each posterior, or the encoder's."""
SamplingMethod = Literal["importance", "annealed"]
"""How samples are weighed: as they are drawn, or after they have moved to the posterior."""


def check_sampling(num_samples: Any, seed: Any, proposal: Any, method: Any) -> None:
    """Raise InputError unless these settings can be used together."""
    check_count(num_samples, "num_samples")
    check_seed(seed)
    for name, value, known in (("proposal", proposal, Proposal), ("method", method, SamplingMethod)):
        if value not in get_args(known):
            raise InputError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")
    if proposal == "encoder" and method == "annealed":
        raise InputError("proposal must be fitted with method annealed, which starts from it, got 'encoder'")


def fitted_estimate(chain: Chain, num_samples: int, method: SamplingMethod, rng: torch.Generator) -> Estimate:
    """The estimates for the images of chains, by proposals that are fitted to each.

    Where there is one noise alone, a share of the samples is drawn from the encoder's proposal, if there is an encoder,
    and another from the prior: the weights are bounded by these shares, also where the posterior has other peaks.
    """
    images = chain.evidence
    assert isinstance(images, Images)
    model, x = images.model, images.x
    if callable(getattr(model, "encode", None)):
        posteriors = [encoded(model, frame) for frame in x.unbind(1)]
        prior = prior_of(chain, posteriors[0].mean.shape[1])
        codes = chain._replace(evidence=Codes.of(posteriors, chain.prior_std.square()))
        start = climbed(codes, prior.centre)
        beside = [normal_around(codes, start, codes.quadratic(start)), prior]
    else:
        prior = prior_of(chain, width_of(model))
        start, beside = prior.centre, [prior]
    check_finite(chain.log_joint(prior.centre, prior.path))
    fitted = fitted_normal(chain, [start], rng)
    if method == "annealed":
        return annealed_estimate(chain, fitted, num_samples, values=x.numel(), rng=rng)
    if chain.blocks > 1:
        return particle_estimate(chain, fitted, num_samples, values=x.numel(), rng=rng)
    return importance_estimate(chain, [fitted, *beside], num_samples, values=x.numel(), rng=rng)
