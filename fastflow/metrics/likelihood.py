"""The likelihood of held-out data: a bound by importance weighting, which tightens with the number of samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastflow.core.checks import check_count
from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining
from fastflow.core.rng import step_rng
from fastflow.engine.paths import flow
from fastflow.generators.likelihoods import check_likelihood, log_density, normal_log_density
from fastflow.saved.run import SavedVAE

# Values (samples x images x pixels) that are decoded at once: some tens of MiB with all that is made of them.
_DECODED = 2**21
# Images that are encoded at once; the draws depend on it, so it is the same on every machine.
_IMAGES = 64


class LatentModel(Protocol):
    """What is measured: a posterior, a decoder and a likelihood; the prior is N(0, I)."""

    @property
    def likelihood(self) -> str:
        """One of bernoulli, gaussian, discretized-logistic; the last two have a `noise_std` beside it."""
        ...

    def encode(self, x: Tensor, /) -> tuple[Tensor, Tensor]:
        """The posterior's mean and log-variance, each (B, D)."""
        ...

    def decode(self, z: Tensor, /) -> Tensor:
        """The likelihood's parameters: logits for bernoulli, otherwise the mean."""
        ...


@dataclass(frozen=True)
class LogLikelihood:
    """A lower bound of log p(x), in nats, and how far its mean over the data is to be trusted."""

    mean: float
    """Over the data, in nats for each."""
    standard_error: float
    """Of the mean, for the data's own spread and that of the samples; NaN for a single datum."""
    num_samples: int
    """K, latents drawn for each datum."""
    each: Tensor
    """The bound for each datum, (N,) float64 on the CPU, for paired comparisons."""


@torch.no_grad()
def log_likelihood(
    model: LatentModel, x: Tensor, num_samples: int = 100, seed: int = 0, *, prior_variance: float | Tensor = 1.0
) -> LogLikelihood:
    """The importance-weighted bound log 1/K sum_k p(x | z_k) p(z_k) / q(z_k | x) (Burda et al., ICLR 2016).

    Its expectation rises with K and tends to log p(x); K = 1 is the evidence lower bound. It is as good as the data are
    held out: training data flatter it.

    Args:
        model: see `LatentModel`; its likelihood is that of its training.
        x: (N, ...), what the model encodes.
        num_samples: K.
        seed: of the samples, which also depend on each datum's place in x.
        prior_variance: of each coordinate of the prior N(0, v I): one number, or one for each datum (N,), as where it
            diffuses with time.

    Raises:
        InputError: the model answers with other shapes, or with values that aren't finite; or x is empty.
    """
    if not isinstance(x, Tensor) or x.ndim < 2 or not len(x) or not x.is_floating_point():
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"x must be a tensor of floating-point numbers (N, ...), N at least 1, got {got}")
    _check_sampling(num_samples, seed)
    likelihood = getattr(model, "likelihood", None)
    check_likelihood(likelihood)
    variance = torch.as_tensor(prior_variance).to(x)
    if variance.shape not in ((), (len(x),)) or not bool((variance > 0).all() & variance.isfinite().all()):
        raise InputError(f"prior_variance must be a number above 0, or one for each of the {len(x)} data")
    bounds = []
    for place, rows in enumerate(torch.arange(len(x)).split(_IMAGES)):
        part, spread = x[rows], variance.expand(len(x))[rows]

        def given(z: Tensor, part: Tensor = part) -> Tensor:
            return _given(model, part, z)

        rng = step_rng(seed, place, stream=3)
        bounds.append(_bound([_encoded(model, part)], num_samples, part.numel(), rng, spread.log()[:, None], given))
    return _measured(bounds, num_samples)


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
    """The likelihood log p(x_0, x_n | k) of a start and its moved image under one latent, which potential k carries.

    The model is z_0 ~ N(0, I), x_0 ~ p(x | z_0), x_n ~ p(x | z_n), z_n being where the flow has brought z_0 after n
    steps. The bound is that of `log_likelihood` with log p(x_0 | z_0) + log p(x_n | z_n) in the place of log p(x | z),
    and with a proposal that has seen both images: a mixture, equal parts, of q(z | x_0) and of the product
    q(z | x_0) q(z + d | x_n) / p(z + d), where d is how far the flow carries the mean of q(z | x_0). The product is the
    posterior itself where both encoders are exact and the flow is a translation. Samples are shared out evenly between
    the two and weighed by the mixture's density (the balance heuristic of Veach and Guibas, SIGGRAPH 1995).

    A model without flows has its straight directions (`directions`), which make it as well informed; or, told nothing,
    two latents: log p(x_0) + log p(x_n).

    Args:
        pairs: images (N, 2, C, H, W), at the start and after `place` steps.
        potential: which one moved each, (N,) long. place: (N,) long in 1 .. path_steps.
        num_samples, seed: as for `log_likelihood`.
        directions: latent displacements (K, D), one for each whole transformation, in place of the run's potentials;
            see `straight_directions`.

    Raises:
        InputError: an argument that doesn't fit, or the run has no potentials.
    """
    vae, config = run.vae, run.config
    steps, count = config.path_steps, len(run.transformations) if directions is not None else run.bank.num_potentials
    _check_sampling(num_samples, seed)
    shape = tuple(vae.image_shape)
    if pairs.ndim != 5 or pairs.shape[1] != 2 or tuple(pairs.shape[2:]) != shape or not len(pairs):
        raise InputError(f"pairs must be images (N, 2, {', '.join(map(str, shape))}), got {tuple(pairs.shape)}")
    for name, numbers, low, high in (("potential", potential, 0, count - 1), ("place", place, 1, steps)):
        if numbers.dtype != torch.long or numbers.shape != pairs.shape[:1]:
            raise InputError(f"{name} must be a long tensor of shape ({len(pairs)},), got {tuple(numbers.shape)}")
        if int(numbers.min()) < low or int(numbers.max()) > high:
            raise InputError(f"{name} must lie in {low}..{high}")
    if directions is not None and directions.shape != (count, config.latent_dim):
        raise InputError(f"directions must have shape ({count}, {config.latent_dim}), got {tuple(directions.shape)}")

    def carry(z: Tensor, k: Tensor, n: Tensor) -> Tensor:
        """Latents (M, D) after n (M,) steps."""
        if directions is not None:
            return z + (n / steps)[:, None].to(z) * directions.to(z)[k]
        path = flow(
            run.bank, z, k, steps, dt=config.dt, method=config.method, step_length=config.step_length,
            companion=run.companion,
        )  # fmt: skip
        return path[torch.arange(len(z), device=z.device), n]

    device = next(vae.parameters()).device
    bounds = []
    for part, rows in enumerate(torch.arange(len(pairs)).split(_IMAGES)):
        start, moved = pairs[rows].to(device).unbind(1)
        k, n = potential[rows].to(device), place[rows].to(device)

        def given(z: Tensor, start: Tensor = start, moved: Tensor = moved, k: Tensor = k, n: Tensor = n) -> Tensor:
            carried = carry(z.flatten(0, 1), k.repeat(len(z)), n.repeat(len(z))).view_as(z)
            return _given(vae, start, z) + _given(vae, moved, carried)

        first, second = _encoded(vae, start), _encoded(vae, moved)
        both = _product(first, second, carry(first.mean, k, n) - first.mean)
        rng, standard = step_rng(seed, part, stream=3), start.new_zeros(len(k), 1)
        bounds.append(_bound([both, first], num_samples, start.numel(), rng, standard, given))
    return _measured(bounds, num_samples)


class _Normal(NamedTuple):
    """A posterior or proposal: mean and log-variance, each (B, D)."""

    mean: Tensor
    log_variance: Tensor


def _encoded(model: LatentModel, x: Tensor) -> _Normal:
    """The posterior of data (B, ...)."""
    with explaining("the model"):
        mean, log_variance = model.encode(x)
    if mean.ndim != 2 or len(mean) != len(x) or log_variance.shape != mean.shape:
        raise InputError(
            f"the model must encode {len(x)} data as mean and log-variance ({len(x)}, D), got {tuple(mean.shape)} and "
            f"{tuple(log_variance.shape)}"
        )
    return _Normal(mean, log_variance)


def _product(first: _Normal, second: _Normal, moved: Tensor) -> _Normal:
    """The posterior of a latent given two data, of those given each of them alone under the prior N(0, I).

    Args:
        second: of the latent plus `moved` (B, D).
    """
    # A posterior wider than the prior has learned nothing.
    one, two = ((-q.log_variance).exp().clamp_min(1) for q in (first, second))
    precision = one + two - 1
    mean = (one * first.mean + two * (second.mean - moved) + moved) / precision
    return _Normal(mean, -precision.log())


def _check_sampling(num_samples: int, seed: int) -> None:
    check_count(num_samples, "num_samples")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise InputError(f"seed must be a whole number in 0..2^63 - 1, got {seed!r}")


def _measured(bounds: list[Tensor], num_samples: int) -> LogLikelihood:
    each = torch.cat(bounds)
    error = float(each.std()) / math.sqrt(len(each)) if len(each) > 1 else math.nan
    return LogLikelihood(float(each.mean()), error, num_samples, each)


def _bound(
    proposals: list[_Normal],
    num_samples: int,
    values: int,
    rng: torch.Generator,
    prior_log_variance: Tensor,
    given: Callable[[Tensor], Tensor],
) -> Tensor:
    """The bound for each of some data (B,) float64, by samples of a mixture of proposals.

    Args:
        values: of the data, which is what memory goes by. prior_log_variance: (B, 1).
        given: the log-density of the data given latents (S, B, D), (S, B).
    """
    kinds = len(proposals)
    # Sample i is drawn from proposal i modulo their number; with fewer samples the last ones have no part.
    parts = [len(range(kind, num_samples, kinds)) for kind in range(kinds)]
    drawn = [(q, math.log(part / num_samples)) for q, part in zip(proposals, parts, strict=True) if part]
    mean = torch.stack([q.mean for q in proposals])  # (M, B, D)
    std = torch.stack([(0.5 * q.log_variance).exp() for q in proposals])
    at_once = max(1, _DECODED // values)
    log_weights = []
    for start in range(0, num_samples, at_once):
        numbers = range(start, min(start + at_once, num_samples))
        noise = [torch.randn(mean.shape[1:], generator=rng) for _ in numbers]  # the same draws however many at once
        kind = torch.tensor(numbers) % kinds
        z = mean[kind] + std[kind] * torch.stack(noise).to(mean)  # (S, B, D)
        log_prior = normal_log_density(z, torch.zeros_like(mean[0]), prior_log_variance.expand_as(mean[0]).to(mean))
        log_proposal = torch.stack([normal_log_density(z, *q) + part for q, part in drawn]).logsumexp(0)
        log_weights.append((given(z) + log_prior - log_proposal).double().cpu())
    bound = torch.cat(log_weights).logsumexp(0) - math.log(num_samples)
    if not bool(bound.isfinite().all()):
        raise InputError("the model's likelihood must be finite, got NaN or infinity")
    return bound


def _given(model: Any, x: Tensor, z: Tensor) -> Tensor:
    """Log-densities log p(x | z) for latents (S, B, D) of data (B, ...), (S, B)."""
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
