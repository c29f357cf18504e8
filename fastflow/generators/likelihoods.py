"""Likelihoods of images given a decoder's output: Bernoulli, Gaussian, and logistic in 256 levels."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from fastflow.core.errors import InputError

Likelihood = Literal["bernoulli", "gaussian", "discretized-logistic"]
LIKELIHOODS: tuple[Likelihood, ...] = ("bernoulli", "gaussian", "discretized-logistic")

LEVELS = 256
"""Grey levels of an 8-bit image, 0 and 1 among them."""
_WIDTH = 1 / (LEVELS - 1)


def check_likelihood(likelihood: object) -> None:
    """Raise InputError unless the argument is the name of a likelihood."""
    if likelihood not in LIKELIHOODS:
        raise InputError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")


def log_density(
    likelihood: Likelihood, parameters: Tensor, x: Tensor, noise_std: float | Tensor | None = None
) -> Tensor:
    """Log-density log p(x | parameters) in nats, summed over everything but the first axis, (B,).

    "bernoulli" is x log s(l) + (1 - x) log(1 - s(l)) for logits l. It is a likelihood of binary pixels; for grey ones
    it is the cross-entropy that VAEs are commonly trained with, and not a density. "gaussian" is the normal density
    around the mean. "discretized-logistic" is the probability of the pixel's bin among 256 levels under a logistic
    distribution around the mean, after Salimans et al. (PixelCNN++, ICLR 2017); the outermost bins are open. Pixels in
    [0, 1] are rounded to the levels first.

    Args:
        parameters: logits or mean, of the shape of x (B, ...) or one that broadcasts to it.
        noise_std: a pixel's standard deviation, for "gaussian" and "discretized-logistic": a number, or a tensor that
            broadcasts.
    """
    check_likelihood(likelihood)
    if likelihood == "bernoulli":
        logits, target = torch.broadcast_tensors(parameters, x)
        # The negative logarithm is softplus(l) - x l, which doesn't overflow for any logit.
        return (target * logits - functional.softplus(logits)).flatten(1).sum(1)
    if noise_std is None:
        raise InputError(
            f"the likelihood {likelihood} needs a noise_std, got None: give the pixels' standard deviation"
        )
    std = torch.as_tensor(noise_std, dtype=x.dtype, device=x.device)
    if likelihood == "gaussian":
        scaled = (x - parameters) / std
        return (-0.5 * scaled.square() - std.log() - 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)
    scale, level, below, above = _bin(parameters, x, std)
    # s(a) - s(b) = s(a) s(-b) (1 - e^(b - a)): no digits are lost if both are near 0 or near 1.
    inside = functional.logsigmoid(above) + functional.logsigmoid(-below) + torch.log(-torch.expm1(-_WIDTH / scale))
    darkest, brightest = functional.logsigmoid(above), functional.logsigmoid(-below)
    return torch.where(level <= 0, darkest, torch.where(level >= 1, brightest, inside)).flatten(1).sum(1)


def log_density_derivatives(
    likelihood: Likelihood, parameters: Tensor, x: Tensor, noise_std: float | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The first derivative of `log_density` with respect to each parameter, and minus the second, both like `x`.

    All three likelihoods are log-concave in their parameters, so that the second is never negative. For "bernoulli"
    and "gaussian" it is the Fisher information. The arguments are those of `log_density`.
    """
    check_likelihood(likelihood)
    if likelihood == "bernoulli":
        chance = torch.sigmoid(parameters)
        return x - chance, chance * (1 - chance)
    if noise_std is None:
        raise InputError(
            f"the likelihood {likelihood} needs a noise_std, got None: give the pixels' standard deviation"
        )
    std = torch.as_tensor(noise_std, dtype=x.dtype, device=x.device)
    if likelihood == "gaussian":
        return (x - parameters) / std.square(), std.square().reciprocal().expand_as(x)
    scale, level, below, above = _bin(parameters, x, std)
    below, above = torch.sigmoid(below), torch.sigmoid(above)
    # The outermost bins are open, so that one of their sides isn't there.
    below, above = torch.where(level <= 0, 0.0, below), torch.where(level >= 1, 1.0, above)
    return (below + above - 1) / scale, (below * (1 - below) + above * (1 - above)) / scale.square()


def normal_log_density(z: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log-density of N(mean, diag exp(log_variance)) at z, summed over the last axis."""
    scaled = (z - mean).square() * torch.exp(-log_variance)
    return -0.5 * (scaled + log_variance + math.log(2 * math.pi)).sum(-1)


def normal_divergence(mean: Tensor, log_variance: Tensor, prior_log_variance: Tensor | float = 0.0) -> Tensor:
    """KL(N(mean, diag exp(log_variance)) || N(0, exp(prior_log_variance) I)) in nats, (B,).

    Args:
        prior_log_variance: one number, or one for each datum (B, 1).
    """
    spread = torch.as_tensor(prior_log_variance, dtype=mean.dtype, device=mean.device)
    relative = log_variance - spread
    return 0.5 * (mean.square() * torch.exp(-spread) + relative.exp() - 1 - relative).sum(-1)


def _bin(parameters: Tensor, x: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The logistic distribution's scale, the pixels' levels, and their bins' lower and upper sides in scales."""
    scale = std * (math.sqrt(3) / math.pi)  # a logistic variable's variance is (pi scale)^2 / 3
    level = (x * (LEVELS - 1)).round() * _WIDTH
    below, above = ((level + side * _WIDTH / 2 - parameters) / scale for side in (-1, 1))
    return scale, level, below, above
