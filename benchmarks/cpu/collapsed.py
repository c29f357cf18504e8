"""The reverse-collapsed formula in plain PyTorch: the strongest that a user would write in an hour, for torch.compile.

Tangents run forward, and the ordinary gradient pass weighs their squares. Where D exceeds the first layer's width,
a constant rotation leaves as many tangents as that layer has units. For K stacked networks every tensor has a first
axis K.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.problem import Network


class Forward(NamedTuple):
    """For each layer sigma', sigma'' and its squared tangents' weighed sum, all (N, H); v (N,), the output's input."""

    slopes: list[Tensor]
    curvatures: list[Tensor]
    squares: list[Tensor]
    v: Tensor


def jet(network: Network, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Value u (N,), grad (N, D), laplacian (N,) and u_t (N,) at z (N, D) and a time t ()."""
    forward = _forward(network, z, t, _rotated(network), with_time=False)
    gradient, bend, v_t = _reverse(network, forward)
    u = torch.tanh(forward.v)
    slope = 1 - u * u
    laplacian = slope * bend - 2 * u * slope * (gradient * gradient).sum(-1)
    return u, slope[..., None] * gradient, laplacian, slope * v_t


def wave_residual(network: Network, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The residual u_tt - laplacian (N,), and grad (N, D); the time tangent is one more, and counts the other way."""
    forward = _forward(network, z, t, _rotated(network), with_time=True)
    gradient, bend, v_t = _reverse(network, forward)
    u = torch.tanh(forward.v)
    slope = 1 - u * u
    residual = slope * bend - 2 * u * slope * (v_t * v_t - (gradient * gradient).sum(-1))
    return residual, slope[..., None] * gradient


def wave_loss(network: Network, z: Tensor, t: Tensor) -> Tensor:
    """Mean squared `wave_residual`."""
    return wave_residual(network, z, t)[0].square().mean()


def _rotated(network: Network) -> Tensor:
    """The first layer's tangents as rows, (r, H)."""
    first = network.weights[0]
    if first.shape[-1] > first.shape[-2]:
        first = first @ torch.linalg.qr(first.detach().mT).Q
    return first.mT


def _forward(network: Network, z: Tensor, t: Tensor, seeds: Tensor, with_time: bool) -> Forward:
    rows = torch.cat((seeds, network.time_weight.unsqueeze(-2)), -2) if with_time else seeds
    tangents = rows.unsqueeze(-3)  # (1, r, H)
    h, slopes, curvatures, squares = z, [], [], []
    for layer, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        if layer == 0:
            bias = bias + t * network.time_weight
        else:
            scaled = slopes[-1].unsqueeze(-2) * tangents  # (N, r, H)
            tangents = (scaled.flatten(-3, -2) @ weight.mT).unflatten(-2, scaled.shape[-3:-1])
        h = torch.tanh(h @ weight.mT + bias.unsqueeze(-2))
        slopes.append(1 - h * h)
        curvatures.append(-2 * h * slopes[-1])
        square = tangents * tangents
        squares.append(square[..., -1, :] - square[..., :-1, :].sum(-2) if with_time else square.sum(-2))
    v = (h @ network.out_weight.unsqueeze(-1)).squeeze(-1) + network.out_bias.unsqueeze(-1)
    return Forward(slopes, curvatures, squares, v)


def _reverse(network: Network, forward: Forward) -> tuple[Tensor, Tensor, Tensor]:
    """Of v: the gradient (N, D), the weighed second derivatives (N,), and v_t (N,)."""
    delta = network.out_weight.unsqueeze(-2)  # (1, H)
    bend = torch.zeros_like(forward.v)
    into = delta
    for layer in reversed(range(len(network.weights))):
        bend = bend + (delta * forward.curvatures[layer] * forward.squares[layer]).sum(-1)
        into = delta * forward.slopes[layer]
        delta = into @ network.weights[layer]
    v_t = (into @ network.time_weight.unsqueeze(-1)).squeeze(-1)
    return delta, bend, v_t
