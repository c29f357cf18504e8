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


def _gelu(a: Tensor) -> Derivatives:
    cdf = 0.5 * (1 + torch.erf(a / sqrt(2)))
    density = torch.exp(-0.5 * a * a) / sqrt(2 * pi)
    return a * cdf, cdf + a * density, density * (2 - a * a)


def _silu(a: Tensor) -> Derivatives:
    s = torch.sigmoid(a)
    s1 = s * (1 - s)  # its derivative
    return a * s, s + a * s1, s1 * (2 + a * (1 - 2 * s))


def _softplus(a: Tensor) -> Derivatives:
    s = torch.sigmoid(a)
    # logaddexp(a, 0) is exact on both tails, where functional.softplus would switch to the identity above 20.
    return torch.logaddexp(a, torch.zeros_like(a)), s, s * (1 - s)


_TABLE: dict[str, Callable[[Tensor], Derivatives]] = {
    "tanh": _tanh,
    "sin": _sin,
    "gelu": _gelu,
    "silu": _silu,
    "softplus": _softplus,
}
