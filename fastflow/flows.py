"""Paths of latents along a potential's gradient, and the residual of its equation on the way."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastflow.arguments import check_latents
from fastflow.errors import ConvergenceError, InputError
from fastflow.ops import reference
from fastflow.ops.types import Direction, Jet, Method
from fastflow.pde import PDE, LinearQuadratic, Wave, residual
from fastflow.potentials import Networks, PotentialBank


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
) -> Tensor:
    """The path (B, steps + 1, D) of latents z0 (B, D) flowing along their potentials: z' = grad u_k(z, t).

    Args:
        index: the potential, one for all or one per sample (B,) long.
        t0, dt: the path's first time and its step.
        method: "euler" (order 1, the paper's), "heun" (order 2) or "rk4" (the classical order 4); Hairer, Norsett and
            Wanner, Solving Ordinary Differential Equations I, II.1.
        direction: "forward"; "descent" along -grad u; "reverse" starts at the end of a forward path, takes that path's
            t0, dt and steps, and gives the path back, last point first.
        step_length: rescale every whole step to this length.

    Raises:
        InputError: an argument that doesn't fit, by its name.
        ConvergenceError: the reverse flow's fixed-point iteration didn't converge, so the path can't be undone.
    """
    if direction not in ("forward", "descent", "reverse"):
        raise InputError(f"direction must be one of forward, descent, reverse, got {direction!r}")
    networks, _ = _path_networks(bank, z0, index, steps, t0, dt, method, step_length)
    path, error = reference.flow(networks.mlp, z0, networks.network, networks.slot, dt, method, direction, step_length)
    if direction == "reverse":
        _check_reversed(error)
    return path


def rollout_loss(
    bank: PotentialBank,
    z0: Tensor,
    index: int | Tensor,
    steps: int = 10,
    pde: PDE | Callable[[Jet], Tensor] | None = None,
    *,
    t0: float = 0.0,
    dt: float = 1.0,
    method: Method = "euler",
    step_length: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Squared residual averaged over a path's visited points z_0 .. z_{steps-1}, each at its own time, and the path.

    The loss is differentiated through the path too. Arguments are those of `flow` and `pde_loss`.
    """
    pde = Wave() if pde is None else pde
    networks, times = _path_networks(bank, z0, index, steps, t0, dt, method, step_length)
    mlp, slots = networks.mlp, networks.slot
    if isinstance(pde, LinearQuadratic) and not pde.has_source:
        return reference.rollout_loss(
            mlp, z0, networks.network, slots, dt, method, networks.coefficients(pde), step_length
        )
    path, _ = reference.flow(mlp, z0, networks.network, slots, dt, method, "forward", step_length)
    visits = reference.visits(path, networks.network, slots, method)
    jet = reference.jet(mlp, *visits)
    times = times.repeat_interleave(z0.shape[0])
    return residual(pde, jet, visits.z, times, networks.potential.repeat(steps)).square().mean(), path


def _path_networks(
    bank: PotentialBank,
    z0: Tensor,
    index: int | Tensor,
    steps: int,
    t0: float,
    dt: float,
    method: Method,
    step_length: float | None,
) -> tuple[Networks, Tensor]:
    """The networks with slots (T, B) for a path's stage times, and the times (steps,) of its visited points."""
    check_latents(z0, bank.dim, bank.out_bias)
    if not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps must be a whole number of at least 1, got {steps!r}")
    if method not in ("euler", "heun", "rk4"):
        raise InputError(f"method must be one of euler, heun, rk4, got {method!r}")
    for name, value in (("t0", t0), ("dt", dt)):
        if not math.isfinite(value):
            raise InputError(f"{name} must be finite, got {value}")
    if step_length is not None and not (math.isfinite(step_length) and step_length > 0):
        raise InputError(f"step_length must be a positive number or None, got {step_length!r}")
    offsets = torch.tensor(reference.stage_offsets(steps, method), dtype=z0.dtype, device=z0.device)
    places = torch.arange(len(offsets), device=z0.device)[:, None]
    networks = bank.networks((t0 + dt * offsets, places), index, z0)
    return networks, t0 + dt * torch.arange(steps, dtype=z0.dtype, device=z0.device)


def _check_reversed(error: Tensor) -> None:
    if torch.compiler.is_compiling() or not len(error):
        return
    worst = float(error.max())
    if not worst <= math.sqrt(torch.finfo(error.dtype).eps):
        raise ConvergenceError(
            f"the reverse flow didn't converge (relative error {worst:.1e}): the potential bends too sharply for "
            "steps this long; use a smaller dt, or a shorter step_length"
        )
