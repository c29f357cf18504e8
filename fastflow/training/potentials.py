"""What every training of potentials shares: building them, integrating their paths, averaging their weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastflow.engine.learned_fields import DivergenceFreeField, NetworkField
from fastflow.engine.paths import integrate, rollout_loss
from fastflow.engine.pde import EQUATIONS, PDE, HamiltonJacobi, PorousMedium, normalized, residual_sums
from fastflow.engine.pde import residual as pde_residual
from fastflow.engine.potentials import PotentialBank
from fastflow.engine.types import Jet
from fastflow.generators import Generator
from fastflow.training.distributed import SINGLE_PROCESS, ProcessGroup
from fastflow.training.flow_config import FlowConfig


class Potentials(NamedTuple):
    """The bank of potentials, its equation, and its companion if it has one."""

    bank: PotentialBank
    pde: PDE
    companion: DivergenceFreeField | None

    def modules(self) -> dict[str, nn.Module]:
        """The modules by name, without a companion that is None."""
        return {name: module for name, module in self._asdict().items() if module is not None}

    def parameters(self) -> list[nn.Parameter]:
        """The parameters of all modules."""
        return [parameter for module in self.modules().values() for parameter in module.parameters()]


class IntegratedPaths(NamedTuple):
    """Paths of latents along their potentials, and the equation's residual on them."""

    residual: Tensor
    """The equation's term of the objective, a scalar: the normalized residual, or its mean square."""
    path: Tensor
    """(B, T + 1, D)"""
    laplacian: Tensor | None
    """The potentials' Laplacian at the visited points, (B, T), if asked for."""


def build_potentials(config: FlowConfig, latent_dim: int) -> Potentials:
    """New potentials, initialized with torch's global random numbers."""
    count, hidden = config.num_potentials, config.hidden
    bank = PotentialBank(
        count,
        latent_dim,
        hidden,
        activation=config.activation,
        out_activation=config.out_activation,
        time=config.time,
    )
    kind: Any = EQUATIONS[config.pde]
    if kind is PorousMedium:  # it has no constants to learn
        pde = kind()
    elif config.force == "field":
        pde = kind(NetworkField(count, latent_dim, hidden, config.activation, config.time))
    elif config.force == "constant" and kind is HamiltonJacobi:
        # A force of 0 would stay 0: the gradient of f^2 vanishes there.
        pde = kind(0.1, num_potentials=count, learnable=config.learn_pde)
    else:
        pde = kind(num_potentials=count, learnable=config.learn_pde)
    companion = None
    if config.companion:
        affine = config.companion_affine
        companion = DivergenceFreeField(count, latent_dim, hidden, config.activation, config.time, affine=affine)
    return Potentials(bank, pde, companion)


def untrained_potentials(config: FlowConfig, generator: Generator) -> Potentials:
    """The potentials before the first training step, on the generator's device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        potentials = build_potentials(config, generator.latent_dim)
    nn.ModuleDict(potentials.modules()).to(generator.like).requires_grad_(False)
    return potentials


def integrate_paths(
    potentials: Potentials,
    config: FlowConfig,
    z0: Tensor,
    index: Tensor,
    group: ProcessGroup = SINGLE_PROCESS,
    *,
    with_laplacian: bool = False,
) -> IntegratedPaths:
    """Let latents z0 (B, D) flow along their potentials (B,), and compute the equation's residual on their paths.

    Args:
        group: the processes over whose samples the normalized residual takes its means.
        with_laplacian: whether to return the Laplacians too.
    """
    bank, pde, companion = potentials
    steps = config.path_steps
    exact = config.laplacian == "exact"
    if config.residual == "square" and companion is None and exact and not with_laplacian:
        dt, method, _, step_length = config.integration
        rolled = rollout_loss(bank, z0, index, steps, pde, dt=dt, method=method, step_length=step_length)
        return IntegratedPaths(*rolled, None)
    path = integrate(bank, z0, index, steps, t0=0.0, integration=config.integration, companion=companion)
    visited = path[:, :-1].flatten(0, 1)  # (B * T, D), path by path
    each = index.repeat_interleave(steps)
    times = config.dt * torch.arange(steps, device=z0.device, dtype=z0.dtype)
    place = torch.arange(steps, device=z0.device).repeat(len(z0))
    jet = bank.jet(visited, (times, place), each, laplacian=config.laplacian)
    laplacian = jet.laplacian.view(-1, steps) if with_laplacian else None
    return IntegratedPaths(residual_term(pde, config, jet, visited, times[place], each, group), path, laplacian)


def residual_term(
    pde: PDE, config: FlowConfig, jet: Jet, z: Tensor, t: Tensor, index: Tensor, group: ProcessGroup
) -> Tensor:
    """The equation's term of the objective at latents z (N, D), times t (N,) and potentials index (N,).

    Args:
        jet: the potentials' jets there.
        group: as for `integrate_paths`.
    """
    if config.residual == "square":
        return pde_residual(pde, jet, z, t, index).square().mean()
    sums = residual_sums(pde, jet, z, t, index, num_potentials=config.num_potentials)
    return normalized(group.total(sums)).mean()


def update_ema(average: dict[str, nn.Module], learned: dict[str, nn.Module], decay: float, step: int) -> None:
    """Update the exponential moving averages of modules' parameters; the decay is lower in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, module in learned.items():
        for mean, value in zip(average[name].parameters(), module.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
