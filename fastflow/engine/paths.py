"""Paths of latents along a potential's gradient, and the residual of its equation on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from fastflow.core.checks import check_count, is_finite
from fastflow.core.errors import InputError
from fastflow.engine.backends import reference
from fastflow.engine.inputs import Index, check_index, check_integration, check_latents, check_not_empty
from fastflow.engine.integration import Integration
from fastflow.engine.learned_fields import DivergenceFreeField, check_companion
from fastflow.engine.operators.flow import flow as ops_flow
from fastflow.engine.operators.flow import stepped
from fastflow.engine.operators.jet import jet as ops_jet
from fastflow.engine.operators.residual_loss import residual_loss
from fastflow.engine.operators.rollout_loss import rollout_loss as ops_rollout_loss
from fastflow.engine.pde import PDE, WAVE, LinearQuadratic, residual, source_at
from fastflow.engine.potentials import PotentialBank, check_bank
from fastflow.engine.types import MLP, Direction, Jet, Laplacian, Method


def flow(
    bank: PotentialBank,
    z0: Tensor,
    index: int | Tensor,
    steps: int = 10,
    t0: float = 0.0,
    dt: float = 1.0,
    method: Method = "euler",
    direction: Direction = "forward",
    step_length: float | None = None,
    companion: DivergenceFreeField | None = None,
) -> Tensor:
    """The path (B, steps + 1, D) of latents z0 (B, D) flowing along their potentials: z' = grad u_k(z, t).

    Args:
        index: the potential, one for all or one per sample (B,) long.
        t0, dt: the path's first time and its step.
        method: "euler" (order 1, the paper's), "heun" (order 2) or "rk4" (the classical order 4); Hairer, Norsett and
            Wanner, Solving Ordinary Differential Equations I, II.1.
        direction: "forward"; "descent" along -grad u; "reverse" starts at the end of a forward path, takes that path's
            t0, dt and steps, and gives the path back, last point first. It finds a point from which each step leads on;
            where steps are so long that several do (a step map that folds space), it may be another than the path's.
        step_length: rescale every whole step to this length.
        companion: a divergence-free velocity w to go along as well: z' = grad u_k(z, t) + w_k(z, t). Such a path is
            stepped in Python, one jet of each after another.

    Raises:
        InputError: an argument that doesn't fit, by its name.
        ConvergenceError: the reverse flow's fixed-point iteration didn't converge, so the path can't be undone.
    """
    return integrate(
        bank, z0, index, steps, t0=t0, integration=Integration(dt, method, direction, step_length), companion=companion
    )


def integrate(
    bank: PotentialBank,
    z0: Tensor,
    index: int | Tensor,
    steps: int,
    t0: float,
    integration: Integration,
    *,
    companion: DivergenceFreeField | None = None,
    bent: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """What `flow` gives, for an integration that is kept as one.

    Args:
        bent: makes another velocity (B, D) from latents (B, D) and the velocity there. Such a path is stepped in Python
            as well.
    """
    z0, times = _checked_start(bank, z0, steps, t0, integration, companion=companion)
    chosen = check_index(index, bank.num_potentials, z0)
    networks = bank.networks_along(times, chosen)
    if companion is None and bent is None:
        return ops_flow(networks.mlp, z0, networks.network, networks.slot, integration)
    jet = _path_jet
    if companion is not None:
        jet = _joined(companion, companion.bank.networks_along(times, chosen).mlp, chosen.each)
    if bent is not None:
        jet = _bent(jet, bent)
    return stepped(networks.mlp, z0, networks.network, networks.slot, integration, jet)


def integrate_from(
    bank: PotentialBank,
    z: Tensor,
    index: int | Tensor,
    place: Tensor,
    steps: int,
    *,
    last: int,
    integration: Integration,
    companion: DivergenceFreeField | None = None,
) -> Tensor:
    """The paths (B, steps + 1, D) of latents z (B, D), each of which begins at a time of its own, place * dt.

    Args:
        place: the number of the step that begins at z, (B,) long, from 0 to `last`.

    The others are those of `integrate`, and so are the errors; only paths in the direction "forward" or "descent" can
    begin so. The paths are stepped in Python, one jet of all samples after another.
    """
    check_bank(bank)
    z, times = _checked_start(bank, z, last + steps, 0.0, integration, companion=companion)
    chosen = check_index(index, bank.num_potentials, z)
    return StageNetworks.of(bank, times, integration, companion).paths(z, chosen.each, place, steps)


class StageNetworks(NamedTuple):
    """The networks of a bank, and of its companion, with their biases at all times at which paths have stages.

    What is evaluated once serves any number of paths. Nothing is checked: `integrate_from` does.
    """

    mlp: MLP
    slots: Tensor
    """Each network's bias row at each time, (T, K)."""
    beside: tuple[DivergenceFreeField, MLP] | None
    """The companion and its networks."""
    integration: Integration

    @classmethod
    def of(
        cls, bank: PotentialBank, times: Tensor, integration: Integration, companion: DivergenceFreeField | None
    ) -> StageNetworks:
        """Those for paths whose stages are at these times (T,)."""
        every = Index(torch.empty(0, dtype=torch.long, device=times.device), None)  # all networks, for no samples yet
        mlp, _, slots = bank.networks_along(times, every)
        beside = None if companion is None else (companion, companion.bank.networks_along(times, every).mlp)
        return cls(mlp, slots, beside, integration)

    def paths(self, z: Tensor, each: Tensor, place: Tensor, steps: int) -> Tensor:
        """The paths (B, steps + 1, D) of latents z (B, D) along potentials (B,), from the steps numbered place (B,)."""
        jet = _path_jet if self.beside is None else _joined(*self.beside, each)
        offset = place * (2 if self.integration.method == "rk4" else 1)

        def later(mlp: MLP, z: Tensor, network: Tensor, slot: Tensor, laplacian: Laplacian) -> Jet:
            return jet(mlp, z, network, slot + offset, laplacian)  # a potential's bias rows lie in the order of times

        slots = self.slots[: reference.num_times(steps, self.integration.method)]
        return stepped(self.mlp, z, each, slots, self.integration, later)


def mixed_flow(
    bank: PotentialBank,
    z0: Tensor,
    mix: Mapping[int, float],
    steps: int = 10,
    t0: float = 0.0,
    dt: float = 1.0,
    method: Method = "euler",
    direction: Direction = "forward",
    step_length: float | None = None,
    companion: DivergenceFreeField | None = None,
) -> Tensor:
    """The path (B, steps + 1, D) of latents z0 (B, D) along several potentials at once: z' = sum_k w_k grad u_k(z, t).

    Args:
        mix: the weights w_k, of either sign, by potential. Where `step_length` fixes the steps' length, only their
            ratios matter.
        companion: its velocities are weighed as the gradients are.

    The others are those of `flow`, and so are the errors. The path of a true mix is stepped in Python, one jet of all
    its potentials after another.
    """
    integration = Integration(dt, method, direction, step_length)
    return integrate_mix(bank, z0, mix, steps, t0=t0, integration=integration, companion=companion)


def integrate_mix(
    bank: PotentialBank,
    z0: Tensor,
    mix: Mapping[int, float],
    steps: int,
    t0: float,
    integration: Integration,
    *,
    companion: DivergenceFreeField | None = None,
) -> Tensor:
    """What `mixed_flow` gives, for an integration that is kept as one."""
    check_bank(bank)
    check_mix(mix, bank.num_potentials)
    if list(mix.values()) == [1.0]:  # by the engine, an order of magnitude faster
        (index,) = mix
        return integrate(bank, z0, index, steps, t0=t0, integration=integration, companion=companion)
    z0, times = _checked_start(bank, z0, steps, t0, integration, companion=companion)
    potentials = torch.tensor(list(mix), device=z0.device)
    index = Index(torch.zeros_like(z0[:, 0], dtype=torch.long), None)  # none for all, so that all networks are bound
    networks = bank.networks_along(times, index)
    jet = _path_jet
    if companion is not None:
        beside = companion.bank.networks_along(times, index)
        jet = _joined(companion, beside.mlp, potentials.repeat_interleave(len(z0)))
    mixed = _mixed(jet, potentials, z0.new_tensor(list(mix.values())), len(times))
    return stepped(networks.mlp, z0, index=index.each, slots=networks.slot, integration=integration, jet=mixed)


def check_mix(mix: Mapping[int, float], num_potentials: int) -> None:
    """Raise InputError unless it has weights for potentials of the bank, one of them other than zero."""
    if not isinstance(mix, Mapping) or not mix:
        raise InputError(f"mix must hold weights by potential, such as {{0: 1.0, 3: -0.5}}, got {mix!r}")
    for potential, weight in mix.items():
        if not isinstance(potential, int) or isinstance(potential, bool) or not 0 <= potential < num_potentials:
            raise InputError(f"mix must name potentials in 0..{num_potentials - 1}, got {potential!r}")
        if not is_finite(weight, torch.float32):
            raise InputError(f"a weight must be a finite number, got {weight!r} for potential {potential}")
    if not any(mix.values()):
        raise InputError("mix must have a weight other than 0: nothing would move")


def rollout_loss(
    bank: PotentialBank,
    z0: Tensor,
    index: int | Tensor,
    steps: int = 10,
    pde: PDE | Callable[[Jet], Tensor] = WAVE,
    *,
    t0: float = 0.0,
    dt: float = 1.0,
    method: Method = "euler",
    step_length: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Squared residual averaged over a path's visited points z_0 .. z_{steps-1}, each at its own time, and the path.

    The loss is differentiated through the path too. Arguments are those of `flow` and `pde_loss`.
    """
    integration = Integration(dt, method, "forward", step_length)
    z0, times = _checked_start(bank, z0, steps, t0, integration)
    check_not_empty(z0)
    chosen = check_index(index, bank.num_potentials, z0)
    mlp, network, slots = bank.networks_along(times, chosen)
    if isinstance(pde, LinearQuadratic) and not pde.has_source:
        return ops_rollout_loss(
            mlp, z0, network, slots, coefficients=bank.coefficients(pde, chosen), integration=integration
        )
    path = ops_flow(mlp, z0, network, slots, integration)
    visits = reference.visits(path, network, slots, method)
    times = reference.at_visits(times, steps, method).repeat_interleave(z0.shape[0])
    potential = chosen.each.repeat(steps)
    if isinstance(pde, LinearQuadratic):
        source = source_at(pde, visits.z[:, 0], visits.z, times, potential)
        return residual_loss(mlp, *visits, bank.coefficients(pde, chosen), source), path
    return residual(pde, ops_jet(mlp, *visits), visits.z, times, potential).square().mean(), path


def _path_jet(mlp: MLP, z: Tensor, network: Tensor, slot: Tensor, laplacian: Laplacian) -> Jet:
    """What a path needs of a jet."""
    return ops_jet(mlp, z, network, slot, laplacian=laplacian, with_u_tt=False)


def _joined(companion: DivergenceFreeField, beside: MLP, potential: Tensor) -> Callable[..., Jet]:
    """The jet of a potential, its gradient joined by the companion's velocity.

    A path gives both banks the same slots, so what names a potential's bias row names its companion's.

    Args:
        beside: the companion's networks. potential: each sample's (B,).
    """

    def jet(mlp: MLP, z: Tensor, network: Tensor, slot: Tensor, laplacian: Laplacian) -> Jet:
        own, other = (_path_jet(net, z, network, slot, laplacian) for net in (mlp, beside))
        return own._replace(grad=own.grad + companion.velocity(other.grad, z, potential))

    return jet


def _bent(jet: Callable[..., Jet], bent: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Jet]:
    """The jet with another velocity in the place of its gradient."""

    def bent_jet(mlp: MLP, z: Tensor, network: Tensor, slot: Tensor, laplacian: Laplacian) -> Jet:
        found = jet(mlp, z, network, slot, laplacian)
        return found._replace(grad=bent(z, found.grad))

    return bent_jet


def _mixed(jet: Callable[..., Jet], potentials: Tensor, weights: Tensor, num_times: int) -> Callable[..., Jet]:
    """A jet whose gradient is the weighted sum of those of `potentials` (M,), with `weights` (M,)."""

    def mixed(mlp: MLP, z: Tensor, network: Tensor, slot: Tensor, laplacian: Laplacian) -> Jet:
        # A bank lays its bias rows out potential by potential, so the others' of the same time are whole strides away.
        slots = slot + (potentials[:, None] - network) * num_times  # (M, B)
        every = jet(mlp, z.repeat(len(potentials), 1), potentials.repeat_interleave(len(z)), slots.flatten(), laplacian)
        return every._replace(grad=torch.einsum("m,mbd->bd", weights, every.grad.unflatten(0, slots.shape)))

    return mixed


class _Start(NamedTuple):
    """The latents that a path starts from, and the times (T,) at which its stages stand."""

    z0: Tensor
    times: Tensor


def _checked_start(
    bank: PotentialBank,
    z0: Tensor,
    steps: int,
    t0: float,
    integration: Integration,
    *,
    companion: DivergenceFreeField | None = None,
) -> _Start:
    """Where a path begins; raise InputError unless everything given fits the bank."""
    check_bank(bank)
    if companion is not None:
        check_companion(companion, bank)
    z0 = check_latents(z0, bank.dim, bank.out_bias)
    check_count(steps, "steps")
    check_integration(integration, t0, z0.dtype)
    return _Start(z0, stage_times(steps, t0, integration, z0))


def stage_times(steps: int, t0: float, integration: Integration, like: Tensor) -> Tensor:
    """The times (T,) of a path's stages."""
    # Counted on the device: a copy of numbers would make the host wait.
    offsets = torch.arange(reference.num_times(steps, integration.method), dtype=like.dtype, device=like.device)
    if integration.method == "rk4":
        offsets = 0.5 * offsets
    return t0 + integration.dt * offsets
