"""Models whose likelihood can be measured: what they encode and decode, checked."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fastflow.core.errors import InputError
from fastflow.core.plugins import explaining
from fastflow.generators.likelihoods import log_density

MOST_DECODED = 2**21
"""Values (latents x pixels) that are decoded at once, for which some tens of MiB are needed."""
ITEMS = 64
"""Items that are measured at once. The draws depend on it, so it is the same on every machine."""


class LatentModel(Protocol):
    """A model whose likelihood can be measured: a decoder and a likelihood; the prior is N(0, I).

    An encoder makes the measurement faster. A model without `encode` has a `latent_dim` D instead.
    """

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


class Normal(NamedTuple):
    """A normal distribution of latents, a posterior or proposal: its mean and log-variance, each (B, D)."""

    mean: Tensor
    log_variance: Tensor


def encoded(model: Any, x: Tensor) -> Normal:
    """The posterior of data (B, ...); raise InputError if its shape is wrong."""
    with explaining("the model"):
        mean, log_variance = model.encode(x)
    if mean.ndim != 2 or len(mean) != len(x) or log_variance.shape != mean.shape:
        raise InputError(
            f"the model must encode {len(x)} data as mean and log-variance ({len(x)}, D), got {tuple(mean.shape)} and "
            f"{tuple(log_variance.shape)}"
        )
    return Normal(mean, log_variance)


def width_of(model: Any) -> int:
    """The latents' width D of a model without an encoder; raise InputError if it doesn't say."""
    width = getattr(model, "latent_dim", None)
    if not isinstance(width, int) or width < 1:
        raise InputError(f"the model must have encode, or a latent_dim of at least 1, got {width!r}: give it one")
    return width


def noise_of(model: Any) -> float | Tensor | None:
    """The pixels' standard deviation; None for a Bernoulli likelihood."""
    return None if model.likelihood == "bernoulli" else model.noise_std


def decoded(model: Any, z: Tensor, x: Tensor) -> Tensor:
    """The likelihood's parameters of latents (B, D), in the shape of the data x (B, ...)."""
    with explaining("the model"):
        parameters = model.decode(z)
    if parameters.numel() != x.numel() or len(parameters) != len(x):
        raise InputError(
            f"the model must decode {len(x)} latents to parameters of the shape of the data, {tuple(x.shape)}, "
            f"got {tuple(parameters.shape)}"
        )
    return parameters.view_as(x)


def log_p_given(model: Any, x: Tensor, z: Tensor) -> Tensor:
    """The log-densities log p(x | z), (S, B), of data (B, ...) given latents (S, B, D)."""
    data = x.expand(len(z), *x.shape).flatten(0, 1)
    parameters = decoded(model, z.flatten(0, 1), data)
    return log_density(model.likelihood, parameters, data, noise_of(model)).view(z.shape[:2])


def jacobian(function: Any, z: Tensor) -> Tensor:
    """The derivatives of a function of latents (B, D) to (B, ...), with respect to each coordinate, (D, B, ...).

    They are exact where torch's forward mode and vmap follow the function, and central differences elsewhere. A
    proposal needs no more: what it lacks, the weights of its samples make up for.
    """
    units = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    try:
        return torch.func.vmap(lambda unit: torch.func.jvp(function, (z,), (unit.expand_as(z),))[1])(units)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever an operator without forward mode or vmap raises
        step = torch.finfo(z.dtype).eps ** (1 / 3) * float(z.abs().max().clamp_min(1))
        return torch.stack([(function(z + step * unit) - function(z - step * unit)) / (2 * step) for unit in units])
