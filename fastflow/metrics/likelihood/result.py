"""What a measurement of the likelihood returns, and the warning where too few of its samples count."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fastflow.core.errors import InputError

FEWEST = 5
"""The least effective sample size that is believed; with fewer than 20 samples, a quarter of these."""


@dataclass(frozen=True)
class LogLikelihood:
    """An estimate of log p(x) in nats, whose expectation is a lower bound, and how far it can be believed."""

    mean: float
    """The mean over the data, in nats per datum."""
    standard_error: float
    """The standard error of `mean`, by the spread of the data and of the samples; NaN for a single datum."""
    num_samples: int
    """The number of latents drawn for each datum, or of chains in annealed importance sampling."""
    each: Tensor
    """The estimate for each datum, (N,) float64 on the CPU, for paired comparisons."""
    effective_sample_size: Tensor
    """How many of each datum's samples count, (N,) float64: (sum w)^2 / sum w^2 of their weights w. Of particles,
    the first latents are counted, by all that follows from each. With K unknown transformations, it is of K times as
    many samples. Where it is small, the estimate is probably too low."""
    each_standard_error: Tensor
    """The standard error of each datum's estimate by the spread of its samples, (N,) float64; NaN for one sample."""

    @property
    def gap(self) -> float:
        """How far `mean` is expected to lie below log p, in nats, by the spread of the samples; NaN for one sample.

        It is the mean of half the squared standard errors: the bias, to second order, of a logarithm of a mean. Where
        the effective sample size is small it is more.
        """
        return float(self.each_standard_error.square().mean()) / 2


class Estimate(NamedTuple):
    """The estimates for some data, each (B,) float64 on the CPU."""

    log_mean: Tensor
    effective: Tensor
    """The effective sample size."""
    error: Tensor
    """The standard error of the logarithm."""


def check_finite(log_likelihood: Tensor) -> None:
    """Raise InputError unless all of these are finite."""
    if not bool(log_likelihood.isfinite().all()):
        raise InputError("the model's likelihood must be finite, got NaN or infinity")


def estimate(log_weights: Tensor) -> Estimate:
    """The logarithm of the mean of weights (S, B), given by their logarithms, and how many of them count."""
    log_weights = log_weights.double().cpu()
    total = log_weights.logsumexp(0)
    effective = (2 * total - (2 * log_weights).logsumexp(0)).exp()
    num_samples = len(log_weights)
    return estimate_of(total - math.log(num_samples), effective, num_samples)


def estimate_of(log_mean: Tensor, effective: Tensor, num_samples: int) -> Estimate:
    """The estimate with its standard error, from how many samples count. A single sample has no error."""
    check_finite(log_mean)
    variance = (1 / effective - 1 / num_samples).clamp_min(0)  # relative to the mean of the weights, squared
    return Estimate(log_mean, effective, variance.sqrt() if num_samples > 1 else effective * math.nan)


def joined(estimates: list[Estimate]) -> Estimate:
    """The estimates for parts of the data, one after the other."""
    return Estimate(*(torch.cat(parts) for parts in zip(*estimates, strict=True)))


def mixture(kinds: list[Estimate]) -> Estimate:
    """The estimate for data of an unknown kind, from those given each kind, which are equally probable."""
    each, effective, error = (torch.stack(parts) for parts in zip(*kinds, strict=True))  # (K, B)
    # The kinds' relative variances add up, each by the square of its share.
    squares = each.softmax(0).square()
    return Estimate(
        each.logsumexp(0) - math.log(len(kinds)),
        1 / (squares / effective).sum(0),
        (squares * error.square()).sum(0).sqrt(),
    )


def summary(found: Estimate, num_samples: int) -> LogLikelihood:
    """The estimates for all data as a result; warn where an effective sample size is too small."""
    each = found.log_mean
    _warn_of_few(found.effective, num_samples)
    return LogLikelihood(
        mean=float(each.mean()),
        standard_error=float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else math.nan,
        num_samples=num_samples,
        each=each,
        effective_sample_size=found.effective,
        each_standard_error=found.error,
    )


def _warn_of_few(effective: Tensor, num_samples: int) -> None:
    few = int((effective < min(FEWEST, num_samples / 4)).sum())
    if few:
        warnings.warn(
            f"for {few} of {len(effective)} data the effective sample size is too small to believe their likelihood "
            f"(the least is {float(effective.min()):.1f} of {num_samples} samples): it is probably too low; raise "
            "num_samples, or pass method='annealed'",
            stacklevel=4,
        )
