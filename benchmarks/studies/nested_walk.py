"""A VAE's training step with nested autograd in place of the engine: the same objective, the same exact Laplacian.

Written as one would without the engine, with all potentials batched: every time step's velocity is one backward pass
with a graph; the Laplacian at all visited points together is D more through their gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from fastflow.engine.learned_fields import DivergenceFreeField
from fastflow.engine.pde import normalized, residual_sums
from fastflow.engine.potentials import PotentialBank, sinusoidal_embedding
from fastflow.engine.types import Jet
from fastflow.training.flow_config import FlowConfig
from fastflow.training.potentials import IntegratedPaths, Potentials


def value(bank: PotentialBank, z: Tensor, t: Tensor) -> Tensor:
    """Potentials u (K, N) at z (K, N, D) and t (K, N): two hidden layers of tanh, sinusoidal time, psi at the end."""
    embedding = sinusoidal_embedding(t, bank.dim)[0]
    tau = functional.gelu(_layer(embedding, bank.time_weight_in, bank.time_bias_in))
    tau = _layer(tau, bank.time_weight_out, bank.time_bias_out)
    h = torch.tanh(_layer(z, bank.weights[0], bank.biases[0]))
    h = torch.tanh(_layer(h + tau, bank.weights[1], bank.biases[1]))
    u = (h * bank.out_weight[:, None]).sum(-1) + bank.out_bias[:, None]
    return torch.tanh(u) if bank.out_activation == "tanh" else u


def integrate_paths(
    potentials: Potentials, config: FlowConfig, z0: Tensor, index: Tensor, *_: Any, **__: Any
) -> IntegratedPaths:
    """`fastflow.training.potentials.integrate_paths` for the default settings: the same number of samples for each."""
    bank, pde, companion = potentials
    steps, count = config.path_steps, config.num_potentials
    order = torch.argsort(index, stable=True)
    z = z0[order].unflatten(0, (count, -1))  # (K, N, D)
    path = [z]
    for step in range(steps):
        z = z + config.dt * velocity(bank, companion, z, torch.full_like(z[..., 0], config.dt * step))
        path.append(z)
    visited = torch.stack(path[:-1], 2).flatten(1, 2)  # (K, N * T, D)
    times = (config.dt * torch.arange(steps).to(visited)).repeat(z.shape[1]).expand(count, -1)
    jet = nested_jet(bank, visited, times)
    each = torch.arange(count).repeat_interleave(times.shape[1])
    sums = residual_sums(pde, jet, visited.flatten(0, 1), times.flatten(), each, count)
    back = torch.argsort(order)
    return IntegratedPaths(normalized(sums).mean(), torch.stack(path, 2).flatten(0, 1)[back], None)


def initial_loss(
    bank: PotentialBank, z0: Tensor, index: Tensor, *, companion: DivergenceFreeField | None = None
) -> Tensor:
    """What `fastflow.latents.losses.initial_loss` gives."""
    z = z0[torch.argsort(index, stable=True)].unflatten(0, (bank.num_potentials, -1))
    return velocity(bank, companion, z, torch.zeros_like(z[..., 0])).square().sum(-1).mean()


def velocity(bank: PotentialBank, companion: DivergenceFreeField | None, z: Tensor, t: Tensor) -> Tensor:
    """Where the latents go (K, N, D), which can be differentiated again."""
    (own,) = torch.autograd.grad(value(bank, z, t).sum(), z, create_graph=True)
    if companion is None:
        return own
    (other,) = torch.autograd.grad(value(companion.bank, z, t).sum(), z, create_graph=True)
    left, right = companion.left, companion.right  # (K, D, rank)
    return own + other @ right @ left.mT - other @ left @ right.mT


def nested_jet(bank: PotentialBank, z: Tensor, t: Tensor) -> Jet:
    """The jets of all samples (K * N,), which can be differentiated again."""
    t = t.clone().requires_grad_()
    u = value(bank, z, t)
    gradient, u_t = torch.autograd.grad(u.sum(), (z, t), create_graph=True)
    seconds = [torch.autograd.grad(gradient[..., i].sum(), z, create_graph=True)[0][..., i] for i in range(bank.dim)]
    u_tt = torch.autograd.grad(u_t.sum(), t, create_graph=True)[0]
    return Jet(*(x.flatten(0, 1) for x in (u, gradient, torch.stack(seconds).sum(0), u_t, u_tt)))


@contextmanager
def in_place_of_the_engine() -> Iterator[None]:
    """As long as this lasts, a VAE's training integrates paths and differentiates by nested autograd."""
    with (
        patch("fastflow.training.vae.integrate_paths", integrate_paths),
        patch("fastflow.training.vae.initial_loss", initial_loss),
    ):
        yield


def _layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """K layers at once: x (K, N, I), weight (K, O, I), bias (K, O)."""
    return torch.baddbmm(bias[:, None], x, weight.mT)
