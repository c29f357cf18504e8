"""The engine in plain PyTorch: it computes what every kernel computes, and kernels are tested against it.

Autograd can differentiate it to any order. Jets are computed in the reverse-collapsed form: tangents run forward, and
the ordinary gradient pass weighs their squares, so no second derivative is ever carried through a layer. The names are
those of the table at the head of docs/derivation.md, with delta_l = du/dh_l, so signal and curvature are those of u.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fastflow.engine.activations import derivatives, out_derivatives
from fastflow.engine.grouping import group
from fastflow.engine.types import MLP, Direction, Jet, Laplacian, Method

NO_SECOND_DERIVATIVE = "the reverse flow has no second derivative: differentiate it once, without create_graph"

Increment = Callable[[Tensor, int], Tensor]


def jet(
    mlp: MLP,
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    laplacian: Laplacian = "exact",
    probes: Tensor | None = None,
    with_u_tt: bool = True,
    rotate: bool = False,
) -> Jet:
    """Compute value, gradient, Laplacian and time derivatives of each sample's potential.

    Args:
        mlp: K stacked networks.
        z: latents (B, D). index: each sample's potential (B,). slot: its row of the bias jets (B,).
        laplacian: "exact", the trace of the Hessian; "hutchinson", the mean of p^T Hess p over the probes p, which is
            an unbiased estimate; "none", zeros; "row_sum", the Hessian's row sums (B, D), which the first public code
            of the method used as the Laplacian.
        probes: (M, D), for "hutchinson".
        with_u_tt: False leaves u_tt zero.
        rotate: start with r = min(D, H_1) tangents, which span the rows of the first weight, instead of D. Value and
            first derivatives are the same; the second derivative with respect to the first weight is incomplete.
    """
    grouping = group(index, mlp.out_bias.shape[0])
    seeds, scale = _seeds(mlp.weights[0], laplacian, probes, rotate)

    # Forward. Tangents are stored one per row, (K, N, r, H_l), so that all samples' share one product with the weights.
    h = grouping.pack(z)  # (K, N, D)
    layers: list[_Layer] = []
    for weight, bias_jet in zip(mlp.weights, mlp.bias_jets, strict=True):
        bias, bias_t, bias_tt = grouping.pack(bias_jet.index_select(0, slot)).unbind(2)  # each (K, N, H_l)
        if not layers:
            time_tangent, tangents = bias_t, seeds.mT[:, None]  # (K, N, H_1), (K, 1, r, H_1)
        else:
            below = layers[-1]
            time_tangent = (below.sigma1 * below.time_tangent) @ weight.mT + bias_t
            scaled = below.sigma1[:, :, None] * below.tangents  # (K, N, r, H_{l-1})
            tangents = (scaled.flatten(1, 2) @ weight.mT).unflatten(1, scaled.shape[1:3])
        h, sigma1, sigma2 = derivatives(mlp.activation, h @ weight.mT + bias)
        norms = (tangents**2).sum(2)
        layers.append(_Layer(weight, bias_tt, sigma1, sigma2, tangents, norms, time_tangent))

    # Output unit.
    out_weight, last = mlp.out_weight[:, None], layers[-1]  # (K, 1, H_L)
    v = (h * out_weight).sum(2) + mlp.out_bias[:, None]  # (K, N)
    u, psi1, psi2 = out_derivatives(mlp.out_activation, v)
    out_signal = last.sigma1 * out_weight  # dv/da_L, (K, N, H_L)
    v_t = (out_signal * last.time_tangent).sum(2)
    out_tangents = (out_signal[:, :, None] * last.tangents).sum(3)  # (K, N, r)
    u_t = psi1 * v_t
    u_tt = psi2 * v_t**2
    trace = psi2 * (out_tangents**2).sum(2)

    # Reverse: the gradient pass, weighing the squared tangents on its way.
    delta = psi1[..., None] * out_weight  # (K, N, H_L)
    row_sum = (psi2 * out_tangents.sum(2))[..., None] * out_weight if laplacian == "row_sum" else None
    for layer in reversed(layers):
        curvature = delta * layer.sigma2
        signal = delta * layer.sigma1
        trace = trace + (curvature * layer.norms).sum(2)
        u_tt = u_tt + (curvature * layer.time_tangent**2 + signal * layer.bias_tt).sum(2)
        if row_sum is not None:
            row_sum = (row_sum * layer.sigma1 + curvature * layer.tangents.squeeze(2)) @ layer.weight
        delta = signal @ layer.weight

    u_tt = u_tt if with_u_tt else torch.zeros_like(u_tt)
    return Jet(*map(grouping.unpack, (u, delta, trace * scale if row_sum is None else row_sum, u_t, u_tt)))


def residual(jet: Jet, coefficients: Tensor, source: Tensor | None = None) -> Tensor:
    """Compute c0 u + c1 u_t + c2 u_tt + c3 lap u + c4 |grad u|^2 + source, (B,), for coefficients (B, 5)."""
    terms = torch.stack((jet.u, jet.u_t, jet.u_tt, jet.laplacian, (jet.grad**2).sum(1)), 1)
    total = (coefficients * terms).sum(1)
    return total if source is None else total + source


def residual_loss(
    mlp: MLP, z: Tensor, index: Tensor, slot: Tensor, coefficients: Tensor, source: Tensor | None = None
) -> Tensor:
    """Compute the mean of the samples' squared residuals; coefficients (K, 5), source (B,)."""
    return residual(jet(mlp, z, index, slot), coefficients.index_select(0, index), source).square().mean()


def flow(
    mlp: MLP,
    z0: Tensor,
    index: Tensor,
    slots: Tensor,
    dt: float,
    method: Method = "euler",
    direction: Direction = "forward",
    step_length: float | None = None,
    jet: Callable[..., Jet] = jet,
) -> tuple[Tensor, Tensor]:
    """Integrate dz/dt = grad u (forward) or -grad u (descent), or undo a forward path (reverse).

    Args:
        z0: (B, D), the path's start, or for the reverse flow the forward path's end.
        slots: (T, K), each potential's slot at each of the path's times, which `num_times` counts.
        jet: the function that computes the gradient; by default this module's.

    Returns:
        path (B, steps + 1, D), and for each sample (B,) the largest error left in the reverse flow's equation, relative
        to 1 + |z|; zero in the other directions.
    """
    sign = -1.0 if direction == "descent" else 1.0

    def field(z: Tensor, time: int) -> Tensor:
        return sign * jet(mlp, z, index, slots[time][index], "none").grad

    def increment(z: Tensor, step: int) -> Tensor:
        move = dt * _slope(field, z, step, dt, method)
        if step_length is None:
            return move
        length = move.norm(dim=1, keepdim=True)
        return move / torch.where(length > 0, length, 1) * step_length  # a step of length zero stays zero

    steps = num_steps(slots.shape[0], method)
    path, error = [z0], torch.zeros_like(z0[:, 0])
    for step in range(steps):
        if direction == "reverse":
            z, step_error = _undo(increment, path[-1], steps - 1 - step)
            error = torch.maximum(error, step_error)
        else:
            z = path[-1] + increment(path[-1], step)
        path.append(z)
    return torch.stack(path, 1), error


def rollout_loss(
    mlp: MLP,
    z0: Tensor,
    index: Tensor,
    slots: Tensor,
    coefficients: Tensor,
    dt: float,
    method: Method = "euler",
    step_length: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute the squared residual's mean over the points z_0 .. z_{steps-1}, each at its own time, and the path."""
    path, _ = flow(mlp, z0, index, slots, dt=dt, method=method, step_length=step_length)
    return residual_loss(mlp, *visits(path, index, slots, method), coefficients), path


class Visits(NamedTuple):
    """The points z_0 .. z_{steps-1} of a path as steps * B samples, step by step."""

    z: Tensor
    network: Tensor
    slot: Tensor


def visits(path: Tensor, index: Tensor, slots: Tensor, method: Method) -> Visits:
    """Return the points of a path (B, steps + 1, D) from which a step was made, with their potentials and slots."""
    steps = path.shape[1] - 1
    points = path[:, :-1].transpose(0, 1).flatten(0, 1)
    return Visits(points, index.repeat(steps), at_visits(slots, steps, method)[:, index].flatten())


def at_visits(stages: Tensor, steps: int, method: Method) -> Tensor:
    """Select from values at a path's stage times (T, ...) those at the times at which a step begins."""
    stride = 2 if method == "rk4" else 1
    return stages[: steps * stride : stride]


def num_times(steps: int, method: Method) -> int:
    """Return at how many evenly spaced times a method evaluates the field: half a step apart for rk4, else a step."""
    return {"euler": steps, "heun": steps + 1, "rk4": 2 * steps + 1}[method]


def num_steps(times: int, method: str) -> int:
    """Return how many steps a method takes with this many stage times."""
    return {"euler": times, "heun": times - 1, "rk4": (times - 1) // 2}[method]


class _Layer(NamedTuple):
    """What the gradient pass needs of one layer."""

    weight: Tensor
    bias_tt: Tensor
    sigma1: Tensor
    sigma2: Tensor
    tangents: Tensor
    norms: Tensor
    time_tangent: Tensor


def _seeds(weight: Tensor, laplacian: Laplacian, probes: Tensor | None, rotate: bool) -> tuple[Tensor, float]:
    """Return X_1 (K, H_1, r) from the first layer's weight (K, H_1, D), and the factor of sums over directions."""
    if laplacian == "exact":
        if rotate and weight.shape[2] > weight.shape[1]:
            return weight @ torch.linalg.qr(weight.detach().mT).Q, 1.0
        return weight, 1.0
    if laplacian == "hutchinson":
        assert probes is not None
        return weight @ probes.mT.to(weight.dtype), 1 / probes.shape[0]
    if laplacian == "row_sum":
        return weight.sum(2, keepdim=True), 1.0
    return weight[:, :, :0], 1.0


def _slope(field: Callable[[Tensor, int], Tensor], z: Tensor, step: int, dt: float, method: Method) -> Tensor:
    if method == "euler":
        return field(z, step)
    if method == "heun":
        k1 = field(z, step)
        return (k1 + field(z + dt * k1, step + 1)) / 2
    k1 = field(z, 2 * step)
    k2 = field(z + dt / 2 * k1, 2 * step + 1)
    k3 = field(z + dt / 2 * k2, 2 * step + 1)
    k4 = field(z + dt * k3, 2 * step + 2)
    return (k1 + 2 * k2 + 2 * k3 + k4) / 6


def _undo(increment: Increment, end: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Solve z + increment(z) = end for z, with the implicit function theorem's gradient."""
    with torch.no_grad():
        z, error = _fixed_point(lambda z: end - increment(z, step), end)
    attached = end - increment(z, step)
    if not attached.requires_grad:
        return z, error
    # `attached` carries the graph to `end` and the parameters, but its gradient doesn't know that z is a solution: the
    # cotangent g must become the solution of g' = g - J^T g', where J is the increment's Jacobian at z.
    point = z.detach().requires_grad_()
    with torch.enable_grad():
        moved = increment(point, step)

    def solve_adjoint(g: Tensor | None) -> Tensor | None:
        if g is None:  # how autograd passes a zero cotangent
            return None
        if torch.is_grad_enabled():
            raise RuntimeError(NO_SECOND_DERIVATIVE)
        return _fixed_point(lambda adjoint: g - torch.autograd.grad(moved, point, adjoint, retain_graph=True)[0], g)[0]

    attached.register_hook(solve_adjoint)
    return attached, error


def _fixed_point(function: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 200) -> tuple[Tensor, Tensor]:
    """Solve z = function(z) by iteration, and estimate each row's relative distance from the solution.

    The estimate comes from the last movements: where they shrink by a factor q, those still to come add up to
    q / (1 - q) times the last one.
    """
    tolerance = 8 * torch.finfo(start.dtype).eps
    z, movement = start, torch.ones_like(start[:, 0])
    error = movement
    for _ in range(iterations):
        proposal = function(z)
        moved = (proposal - z).norm(dim=1) / (1 + proposal.norm(dim=1))
        rate = moved / movement
        left = torch.where(rate < 1, moved * (rate / (1 - rate)).clamp(min=1), 1)
        error = torch.where(moved <= tolerance, moved, left)
        z, movement = proposal, moved
        if bool((moved <= tolerance).all()):
            break
    return z, error
