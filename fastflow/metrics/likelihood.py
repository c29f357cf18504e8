"""Lower bounds of the likelihood of held-out data by importance weighting, which tighten with the number of samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastflow.core.checks import check_count, check_pixels, check_seed
from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining
from fastflow.core.rng import step_rng
from fastflow.engine.paths import integrate
from fastflow.generators.likelihoods import check_likelihood, log_density, normal_log_density
from fastflow.saved.run import SavedVAE

_MOST_DECODED = 2**21  # values (samples x images x pixels) decoded at once, for which some tens of MiB are needed
_IMAGES = 64  # images encoded at once; the draws depend on it, so it is the same on every machine


class LatentModel(Protocol):
    """A model whose likelihood can be measured: a posterior, a decoder and a likelihood; the prior is N(0, I)."""

    @property
    def likelihood(self) -> str:
        """The name "bernoulli", "gaussian" or "discretized-logistic"; the last two also need a `noise_std`."""
        ...

    def encode(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        """The posterior's mean and log-variance, each (B, D)."""
        ...

    def decode(self, z: Tensor, /) -> Tensor:
        """The likelihood's parameters: logits for "bernoulli", otherwise the mean."""
        ...


@dataclass(frozen=True)
class LogLikelihood:
    """A lower bound of log p(x) in nats, and the standard error of its mean over the data."""

    mean: float
    """The mean over the data, in nats per datum."""
    standard_error: float
    """The standard error of `mean`, by the spread of the data and of the samples; NaN for a single datum."""
    num_samples: int
    """The number K of latents drawn for each datum."""
    each: Tensor
    """The bound for each datum, (N,) float64 on the CPU, for paired comparisons."""


@torch.no_grad()
def log_likelihood(
    model: LatentModel, x: Tensor, num_samples: int = 100, seed: int = 0, *, prior_variance: float | Tensor = 1.0
) -> LogLikelihood:
    """The importance-weighted bound log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x) (Burda et al., ICLR 2016).

    Its expectation rises with K and tends to log p(x); with K = 1 it is the evidence lower bound. Use held-out data: on
    training data the bound is too high.

    Args:
        model: see `LatentModel`; its likelihood must be the one that it was trained with.
        x: the data (N, ...), as the model encodes them.
        num_samples: the number of samples K.
        seed: the seed of the samples, which also depend on each datum's place in x.
        prior_variance: the variance v of the prior N(0, v I): one number, or one for each datum (N,), as for a prior
            that diffuses with time.

    Raises:
        InputError: the model returns other shapes, or values that aren't finite; or x is empty.
    """
    if not isinstance(x, Tensor) or x.ndim < 2 or not len(x) or not x.is_floating_point():
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"x must be a tensor of floating-point numbers (N, ...), N at least 1, got {got}")
    check_count(num_samples, "num_samples")
    check_seed(seed)
    likelihood = getattr(model, "likelihood", None)
    check_likelihood(likelihood)
    if likelihood != "gaussian":  # which data of any range may have
        check_pixels(x, "x")
    variance = torch.as_tensor(prior_variance).to(x)
    if variance.shape not in ((), (len(x),)) or not bool((variance > 0).all() & variance.isfinite().all()):
        raise InputError(f"prior_variance must be a number above 0, or one for each of the {len(x)} data")
    bounds = []
    for place, rows in enumerate(torch.arange(len(x)).split(_IMAGES)):
        part, spread = x[rows], variance.expand(len(x))[rows]

        def log_p_given(z: Tensor, part: Tensor = part) -> Tensor:
            return _log_p_given(model, part, z)

        rng = step_rng(seed, place, stream=3)
        bounds.append(
            _bound(
                [_encode(model, part)],
                log_p_given,
                num_samples=num_samples,
                values=part.numel(),
                rng=rng,
                prior_log_variance=spread.log()[:, None],
            )
        )
    return _mean_bound(bounds, num_samples)


@torch.no_grad()
def pair_log_likelihood(
    run: SavedVAE,
    pairs: Tensor,
    potential: Tensor,
    place: Tensor,
    num_samples: int = 100,
    seed: int = 0,
    *,
    directions: Tensor | None = None,
) -> LogLikelihood:
    """The likelihood log p(x_0, x_n | k) of a start and its moved image under one latent, which potential k moves.

    The model is z_0 ~ N(0, I), x_0 ~ p(x | z_0), x_n ~ p(x | z_n), where z_n is z_0 after n steps of the flow. The
    bound is that of `log_likelihood`, with log p(x_0 | z_0) + log p(x_n | z_n) in place of log p(x | z), and with a
    proposal that depends on both images. It is a mixture in equal parts of q(z | x_0) and the product
    q(z | x_0) q(z + d | x_n) / p(z + d), where d is the displacement of the mean of q(z | x_0) by the flow. The product
    is the posterior itself if both encoders are exact and the flow is a translation. Half of the samples are drawn from
    each part, and all are weighted by the mixture's density (the balance heuristic of Veach and Guibas, SIGGRAPH 1995).

    Compare a model without flows either with its straight directions (`directions`), which also know the
    transformation, or with two independent latents, log p(x_0) + log p(x_n), which don't.

    Args:
        run: the VAE whose likelihood is measured.
        pairs: images (N, 2, C, H, W), at the start and after `place` steps.
        potential: the number of the potential that moved each image, (N,) long.
        place: the number of steps, (N,) long in 1 .. path_steps.
        num_samples: as for `log_likelihood`.
        seed: as for `log_likelihood`.
        directions: latent displacements (K, D), one for each whole transformation, in place of the run's potentials;
            see `straight_directions`.

    Raises:
        InputError: an argument can't be used, or the run has no potentials.
    """
    vae, config = run.vae, run.config
    check_count(num_samples, "num_samples")
    check_seed(seed)
    _check_pairs(run, pairs, potential, place, directions)

    def carry(z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """The latents (M, D) after n (M,) steps along k (M,)."""
        if directions is not None:
            return z + (n / config.path_steps)[:, None].to(z) * directions.to(z)[k]
        path = integrate(
            run.bank, z, k, config.path_steps, t0=0.0, integration=config.integration, companion=run.companion
        )
        return path[torch.arange(len(z), device=z.device), n]

    device = next(vae.parameters()).device
    bounds = []
    for part, rows in enumerate(torch.arange(len(pairs)).split(_IMAGES)):
        start, moved = pairs[rows].to(device).unbind(1)
        k, n = potential[rows].to(device), place[rows].to(device)

        def log_p_given(
            z: Tensor, start: Tensor = start, moved: Tensor = moved, k: Tensor = k, n: Tensor = n
        ) -> Tensor:
            carried = carry(z.flatten(0, 1), k.repeat(len(z)), n.repeat(len(z))).view_as(z)
            return _log_p_given(vae, start, z) + _log_p_given(vae, moved, carried)

        first, second = _encode(vae, start), _encode(vae, moved)
        both = _product(first, second, carry(first.mean, k, n) - first.mean)
        bounds.append(
            _bound(
                [both, first],
                log_p_given,
                num_samples=num_samples,
                values=start.numel(),
                rng=step_rng(seed, part, stream=3),
                prior_log_variance=start.new_zeros(len(k), 1),
            )
        )
    return _mean_bound(bounds, num_samples)


def _check_pairs(run: SavedVAE, pairs: Tensor, potential: Tensor, place: Tensor, directions: Tensor | None) -> None:
    """Raise InputError unless pairs, potentials, places and directions fit the run and each other."""
    shape, width = tuple(run.vae.image_shape), run.config.latent_dim
    count = run.bank.num_potentials if directions is None else len(run.transformations)
    if pairs.ndim != 5 or pairs.shape[1] != 2 or tuple(pairs.shape[2:]) != shape or not len(pairs):
        raise InputError(f"pairs must be images (N, 2, {', '.join(map(str, shape))}), got {tuple(pairs.shape)}")
    if run.vae.likelihood != "gaussian":
        check_pixels(pairs, "pairs")
    limits = (("potential", potential, 0, count - 1), ("place", place, 1, run.config.path_steps))
    for name, numbers, low, high in limits:
        if numbers.dtype != torch.long or numbers.shape != pairs.shape[:1]:
            raise InputError(f"{name} must be a long tensor of shape ({len(pairs)},), got {tuple(numbers.shape)}")
        if int(numbers.min()) < low or int(numbers.max()) > high:
            raise InputError(f"{name} must lie in {low}..{high}")
    if directions is not None and directions.shape != (count, width):
        raise InputError(f"directions must have shape ({count}, {width}), got {tuple(directions.shape)}")


class _Normal(NamedTuple):
    """A normal distribution of latents, a posterior or proposal: its mean and log-variance, each (B, D)."""

    mean: Tensor
    log_variance: Tensor


def _encode(model: LatentModel, x: Tensor) -> _Normal:
    """The posterior of data (B, ...); raise InputError if its shape is wrong."""
    with explaining("the model"):
        mean, log_variance = model.encode(x)
    if mean.ndim != 2 or len(mean) != len(x) or log_variance.shape != mean.shape:
        raise InputError(
            f"the model must encode {len(x)} data as mean and log-variance ({len(x)}, D), got {tuple(mean.shape)} and "
            f"{tuple(log_variance.shape)}"
        )
    return _Normal(mean, log_variance)


def _product(first: _Normal, second: _Normal, moved: Tensor) -> _Normal:
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
    return _Normal(mean, -precision.log())


def _mean_bound(bounds: list[Tensor], num_samples: int) -> LogLikelihood:
    """The mean of the bounds of all data, with its standard error."""
    each = torch.cat(bounds)
    error = float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else math.nan
    return LogLikelihood(float(each.mean()), error, num_samples, each)


def _bound(
    proposals: list[_Normal],
    log_p_given: Callable[[Tensor], Tensor],
    *,
    num_samples: int,
    values: int,
    rng: torch.Generator,
    prior_log_variance: Tensor,
) -> Tensor:
    """The bound for each of some data, (B,) float64, from samples of a mixture of proposals.

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
    at_once = max(1, _MOST_DECODED // values)
    log_weights = []
    for start in range(0, num_samples, at_once):
        numbers = range(start, min(start + at_once, num_samples))
        noise = [torch.randn(mean.shape[1:], generator=rng) for _ in numbers]  # the same, however many at once
        kind = torch.tensor(numbers) % kinds
        z = mean[kind] + std[kind] * torch.stack(noise).to(mean)  # (S, B, D)
        log_prior = normal_log_density(z, torch.zeros_like(mean[0]), prior_log_variance.expand_as(mean[0]).to(mean))
        log_proposal = torch.stack([normal_log_density(z, *q) + share for q, share in shares]).logsumexp(0)
        log_weights.append((log_p_given(z) + log_prior - log_proposal).double().cpu())
    bound = torch.cat(log_weights).logsumexp(0) - math.log(num_samples)
    if not bool(bound.isfinite().all()):
        raise InputError("the model's likelihood must be finite, got NaN or infinity")
    return bound


def _log_p_given(model: Any, x: Tensor, z: Tensor) -> Tensor:
    """The log-densities log p(x | z), (S, B), of data (B, ...) given latents (S, B, D)."""
    samples, count = z.shape[:2]
    with explaining("the model"):
        parameters = model.decode(z.flatten(0, 1))
    data = x.expand(samples, *x.shape).flatten(0, 1)
    if parameters.numel() != data.numel() or len(parameters) != len(data):
        raise InputError(
            f"the model must decode {len(data)} latents to parameters of the shape of the data, {tuple(data.shape)}, "
            f"got {tuple(parameters.shape)}"
        )
    noise = None if model.likelihood == "bernoulli" else model.noise_std
    return log_density(model.likelihood, parameters.view_as(data), data, noise).view(samples, count)
