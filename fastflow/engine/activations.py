"""Activations with their first and second derivatives, in plain PyTorch; autograd supplies the third."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt

import torch
from torch import Tensor

from fastflow.core.errors import InputError

ACTIVATIONS = ("tanh", "sin", "gelu", "silu", "softplus")
OUT_ACTIVATIONS = ("identity", "tanh")

Derivatives = tuple[Tensor, Tensor, Tensor]


def derivatives(name: str, a: Tensor) -> Derivatives:
    """Compute h = sigma(a), sigma'(a) and sigma''(a) for the activation `name`, each of a's shape."""
    return _TABLE[name](a)


def out_derivatives(name: str, v: Tensor) -> Derivatives:
    """Compute u = psi(v), psi'(v) and psi''(v) for the output map `name` of OUT_ACTIVATIONS, each of v's shape.

    psi' scales a potential's whole gradient, so it keeps its digits where the map saturates.
    """
    if name == "identity":
        return v, torch.ones_like(v), torch.zeros_like(v)
    u = torch.tanh(v)
    psi1 = 4 * torch.sigmoid(2 * v) * torch.sigmoid(-2 * v)  # 1 - u^2 without its cancellation
    return u, psi1, -2 * u * psi1


def check_activation(name: str, allowed: tuple[str, ...] = ACTIVATIONS, argument: str = "activation") -> None:
    """Raise InputError unless `name` is one of `allowed`."""
    if name not in allowed:
        raise InputError(f"{argument} must be one of {', '.join(allowed)}, got {name!r}")


def _tanh(a: Tensor) -> Derivatives:
    h = torch.tanh(a)
    sigma1 = 1 - h * h
    return h, sigma1, -2 * h * sigma1


def _sin(a: Tensor) -> Derivatives:
    h = torch.sin(a)
    return h, torch.cos(a), -h


def gelu_within_rounding(a: Tensor) -> Derivatives:
    """Compute GELU and two derivatives to within the rounding of 1, in a third of the time: tails have no digits left.

    For sums that would lose them too, as those of a potential's time network.
    """
    return _gelu_of(a, *_normal(a))


def _normal(a: Tensor) -> tuple[Tensor, Tensor]:
    """The normal distribution's function and density."""
    return 0.5 * (1 + torch.erf(a / sqrt(2))), torch.exp(-0.5 * a * a) / sqrt(2 * pi)


def _gelu_of(a: Tensor, cdf: Tensor, density: Tensor) -> Derivatives:
    return a * cdf, cdf + a * density, density * (2 - a * a)


def _gelu(a: Tensor) -> Derivatives:
    cdf, density = _normal(a)
    # On the left tail 1 + erf cancels. There erfcx, which is of the order of 1, scales exp(-a^2 / 2). The square is in
    # two parts, of which the first has so few digits that it is exact: rounding it would cost a^2 / 2 units.
    tail = a < -3
    x = torch.where(tail, a, -3).clamp_min(-40)  # where the exponential is zero
    short = x.detach().to(torch.float32 if a.dtype == torch.float64 else torch.bfloat16).to(a.dtype)
    decay = torch.exp(-0.5 * short * short) * torch.exp(-0.5 * (x - short) * (x + short))
    cdf = torch.where(tail, 0.5 * decay * torch.special.erfcx(-x / sqrt(2)), cdf)
    density = torch.where(tail, decay / sqrt(2 * pi), density)
    return _gelu_of(a, cdf, density)


def _silu(a: Tensor) -> Derivatives:
    s, s1 = _logistic(a)
    return a * s, s + a * s1, s1 * (2 + a * (1 - 2 * s))


def _softplus(a: Tensor) -> Derivatives:
    s, s1 = _logistic(a)
    # logaddexp(a, 0) is exact on both tails, where functional.softplus would switch to the identity above 20.
    return torch.logaddexp(a, torch.zeros_like(a)), s, s1


def _logistic(a: Tensor) -> tuple[Tensor, Tensor]:
    """1 / (1 + exp(-a)) and its derivative, whose own derivatives don't cancel where it is nearly 1 either."""
    right = a > 0
    s = torch.sigmoid(torch.where(right, -a, a))
    return torch.where(right, 1 - s, s), s * (1 - s)


_TABLE: dict[str, Callable[[Tensor], Derivatives]] = {
    "tanh": _tanh,
    "sin": _sin,
    "gelu": _gelu,
    "silu": _silu,
    "softplus": _softplus,
}
