"""What every training of potentials learns for good, and how it walks their paths."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastflow.engine.learned_fields import DivergenceFreeField, NetworkField
from fastflow.engine.paths import flow, rollout_loss
from fastflow.engine.pde import EQUATIONS, PDE, HamiltonJacobi, PorousMedium, normalized, residual_sums
from fastflow.engine.pde import residual as pde_residual
from fastflow.engine.potentials import PotentialBank
from fastflow.generators import Generator
from fastflow.training.config import FlowSettings
from fastflow.training.distributed import ALONE, Team


class Potentials(NamedTuple):
    """The bank, its equation, and the bank's companion where it has one."""

    bank: PotentialBank
    pde: PDE
    companion: DivergenceFreeField | None

    def modules(self) -> dict[str, nn.Module]:
        """Those that are there, by name."""
        return {name: module for name, module in self._asdict().items() if module is not None}

    def parameters(self) -> list[nn.Parameter]:
        """Of all of them."""
        return [parameter for module in self.modules().values() for parameter in module.parameters()]


class Walked(NamedTuple):
    """Paths, and what the equation says of them."""

    residual: Tensor
    """The equation's term of the objective, a scalar."""
    path: Tensor
    """(B, T + 1, D)"""
    laplacian: Tensor | None
    """The potentials' Laplacian at the visited points (B, T), where it was asked for."""


def build_potentials(config: FlowSettings, latent_dim: int) -> Potentials:
    """New potentials, drawn from torch's global random numbers."""
    count, hidden = config.num_potentials, config.hidden
    bank = PotentialBank(count, latent_dim, hidden, config.activation, config.out_activation, config.time)
    kind: Any = EQUATIONS[config.pde]
    if kind is PorousMedium:  # has no constants to learn
        pde = kind()
    elif config.force == "field":
        pde = kind(NetworkField(count, latent_dim, hidden, config.activation, config.time))
    elif config.force == "constant" and kind is HamiltonJacobi:
        # At 0 the gradient of f^2 is 0 too, and no force would ever be learned.
        pde = kind(0.1, num_potentials=count, learnable=config.learn_pde)
    else:
        pde = kind(num_potentials=count, learnable=config.learn_pde)
    companion = None
    if config.companion:
        companion = DivergenceFreeField(count, latent_dim, hidden, config.activation, config.time)
    return Potentials(bank, pde, companion)


def untrained_potentials(config: FlowSettings, generator: Generator) -> Potentials:
    """The potentials that a training with this configuration begins with, on the generator's device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        potentials = build_potentials(config, generator.latent_dim)
    nn.ModuleDict(potentials.modules()).to(generator.sample(1)).requires_grad_(False)
    return potentials


def walk(
    potentials: Potentials,
    config: FlowSettings,
    z0: Tensor,
    index: Tensor,
    team: Team = ALONE,
    *,
    with_laplacian: bool = False,
) -> Walked:
    """Let latents z0 (B, D) flow along their potentials (B,), and take the equation's residual at every visited point.

    Args:
        team: whose samples the normalised residual's means are over.
        with_laplacian: return the Laplacians too.
    """
    bank, pde, companion = potentials
    steps = config.path_steps
    options: dict[str, Any] = {"dt": config.dt, "method": config.method, "step_length": config.step_length}
    exact = config.laplacian == "exact"
    if config.residual == "square" and companion is None and exact and not with_laplacian:
        return Walked(*rollout_loss(bank, z0, index, steps, pde, **options), None)
    path = flow(bank, z0, index, steps, companion=companion, **options)
    visited = path[:, :-1].flatten(0, 1)  # (B * T, D), path by path
    each = index.repeat_interleave(steps)
    times = config.dt * torch.arange(steps, device=z0.device, dtype=z0.dtype)
    place = torch.arange(steps, device=z0.device).repeat(len(z0))
    jet = bank.jet(visited, (times, place), each, laplacian=config.laplacian)
    laplacian = jet.laplacian.view(-1, steps) if with_laplacian else None
    if config.residual == "square":
        return Walked(pde_residual(pde, jet, visited, times[place], each).square().mean(), path, laplacian)
    sums = residual_sums(pde, jet, visited, times[place], each, config.num_potentials)
    return Walked(normalized(team.total(sums)).mean(), path, laplacian)


def follow(average: dict[str, nn.Module], learned: dict[str, nn.Module], decay: float, step: int) -> None:
    """Let moving averages of modules follow them, faster in the first steps, when there is little to average over."""
    decay = min(decay, (1 + step) / (10 + step))
    for name, module in learned.items():
        for mean, value in zip(average[name].parameters(), module.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
