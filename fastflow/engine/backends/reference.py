"""The engine in plain PyTorch: what every kernel computes, differentiable to any order by autograd, and their oracle.

Jets are computed in the reverse-collapsed form: tangents run forward, and the ordinary gradient pass weighs their
squares, so that no second derivative is ever propagated. Layers are numbered 1..L; a_l is a layer's input,
h_l = sigma(a_l) its output, delta_l = du/dh_l, X_l = da_l/dz (its columns the tangents) and p_l = da_l/dt.
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
    """Value, gradient, Laplacian and time derivatives of each sample's potential.

    Args:
        mlp: K stacked networks.
        z: latents (B, D). index: each sample's potential (B,). slot: its row of the bias jets (B,).
        laplacian: "exact" trace; "hutchinson", the unbiased mean of v^T Hess v over the probes; "none", zeros;
            "row_sum", the Hessian's row sums (B, D), which the method's first public code took for the Laplacian.
        probes: (M, D), for "hutchinson".
        with_u_tt: False leaves u_tt zero.
        rotate: seed r = min(D, H_1) tangents spanning the first weight's rows in place of D. Same value and first
            derivatives; the second derivative with respect to the first weight is then incomplete.
    """
    grouping = group(index, mlp.out_bias.shape[0])
    first = mlp.weights[0]
    scale = 1.0
    if laplacian == "exact":
        seeds = first @ torch.linalg.qr(first.detach().mT).Q if rotate and first.shape[2] > first.shape[1] else first
    elif laplacian == "hutchinson":
        assert probes is not None
        seeds = first @ probes.mT.to(first.dtype)
        scale = 1 / probes.shape[0]
    elif laplacian == "row_sum":
        seeds = first.sum(2, keepdim=True)
    else:
        seeds = first[:, :, :0]

    # Forward. Tangents are stored one per row, (K, N, r, H_l), so that all samples' share one product with the weights.
    h = grouping.pack(z)  # (K, N, D)
    tangents = seeds.mT[:, None]  # (K, 1, r, H_1)
    p = torch.zeros_like(h[..., :0])
    slopes, curvatures, squares, ps, accelerations, all_tangents = [], [], [], [], [], []
    for layer, (weight, bias_jet) in enumerate(zip(mlp.weights, mlp.bias_jets, strict=True)):
        bias, velocity, acceleration = grouping.pack(bias_jet.index_select(0, slot)).unbind(2)  # each (K, N, H)
        if layer == 0:
            p = velocity
        else:
            p = (slopes[-1] * p) @ weight.mT + velocity
            scaled = slopes[-1][:, :, None] * tangents  # (K, N, r, H)
            tangents = (scaled.flatten(1, 2) @ weight.mT).unflatten(1, scaled.shape[1:3])
        h, slope, curvature = derivatives(mlp.activation, h @ weight.mT + bias)
        slopes.append(slope)
        curvatures.append(curvature)
        squares.append((tangents**2).sum(2))
        all_tangents.append(tangents)
        ps.append(p)
        accelerations.append(acceleration)

    # Output unit.
    out_weight = mlp.out_weight[:, None]  # (K, 1, H_L)
    a_out = (h * out_weight).sum(2) + mlp.out_bias[:, None]  # (K, N)
    u, out_slope, out_curvature = out_derivatives(mlp.out_activation, a_out)
    into_output = slopes[-1] * out_weight  # (K, N, H_L)
    p_out = (into_output * p).sum(2)
    x_out = (into_output[:, :, None] * tangents).sum(3)  # (K, N, r)
    u_t = out_slope * p_out
    u_tt = out_curvature * p_out**2
    trace = out_curvature * (x_out**2).sum(2)

    # Reverse: the gradient pass, weighing the squared tangents on its way.
    delta = out_slope[..., None] * out_weight  # (K, N, H_L)
    row_sum = (out_curvature * x_out.sum(2))[..., None] * out_weight if laplacian == "row_sum" else None
    for layer in reversed(range(len(mlp.weights))):
        bend = delta * curvatures[layer]
        into_layer = delta * slopes[layer]
        trace = trace + (bend * squares[layer]).sum(2)
        u_tt = u_tt + (bend * ps[layer] ** 2 + into_layer * accelerations[layer]).sum(2)
        if row_sum is not None:
            row_sum = (row_sum * slopes[layer] + bend * all_tangents[layer].squeeze(2)) @ mlp.weights[layer]
        delta = into_layer @ mlp.weights[layer]

    u_tt = u_tt if with_u_tt else torch.zeros_like(u_tt)
    return Jet(*map(grouping.unpack, (u, delta, trace * scale if row_sum is None else row_sum, u_t, u_tt)))


def residual(jet: Jet, coefficients: Tensor, source: Tensor | None = None) -> Tensor:
    """c0 u + c1 u_t + c2 u_tt + c3 lap + c4 |grad|^2 + source, (B,), for coefficients (B, 5)."""
    terms = torch.stack((jet.u, jet.u_t, jet.u_tt, jet.laplacian, (jet.grad**2).sum(1)), 1)
    r = (coefficients * terms).sum(1)
    return r if source is None else r + source


def residual_loss(
    mlp: MLP, z: Tensor, index: Tensor, slot: Tensor, coefficients: Tensor, source: Tensor | None = None
) -> Tensor:
    """Mean over the samples of the squared residual; coefficients (K, 5), source (B,)."""
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
    """Integrate dz/dt = grad u (forward), -grad u (descent), or undo a forward path (reverse).

    Args:
        z0: (B, D), the path's start, or for the reverse flow the forward path's end.
        slots: (T, K), each potential's bias rows at the path's times in the order of `num_times`.
        jet: what computes the gradient, with this module's `jet` for its twin.

    Returns:
        path (B, steps + 1, D), and the worst remaining error of the reverse flow's equation for each sample (B,),
        relative to 1 + |z|; zero for the explicit directions.
    """
    sign = -1.0 if direction == "descent" else 1.0

    def field(z: Tensor, time: int) -> Tensor:
        return sign * jet(mlp, z, index, slots[time][index], "none").grad

    def increment(z: Tensor, step: int) -> Tensor:
        move = dt * _slope(field, z, step, dt, method)
        if step_length is None:
            return move
        length = move.norm(dim=1, keepdim=True)
        return move / torch.where(length > 0, length, 1) * step_length  # a step of no length has no direction and stays

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
    """Squared residual averaged over the visited points z_0 .. z_{steps-1}, each at its own time, and the path."""
    path, _ = flow(mlp, z0, index, slots, dt, method, "forward", step_length)
    return residual_loss(mlp, *visits(path, index, slots, method), coefficients), path


class Visits(NamedTuple):
    """A path's points z_0 .. z_{steps-1} as steps * B samples, step by step."""

    z: Tensor
    network: Tensor
    slot: Tensor


def visits(path: Tensor, index: Tensor, slots: Tensor, method: Method) -> Visits:
    """The points at which a path (B, steps + 1, D) was continued, with their potentials and bias rows."""
    steps = path.shape[1] - 1
    points = path[:, :-1].transpose(0, 1).flatten(0, 1)
    return Visits(points, index.repeat(steps), at_visits(slots, steps, method)[:, index].flatten())


def at_visits(stages: Tensor, steps: int, method: Method) -> Tensor:
    """Of what is given for each of a path's stage times (T, ...), that of the points at which it was continued."""
    stride = 2 if method == "rk4" else 1
    return stages[: steps * stride : stride]


def num_times(steps: int, method: Method) -> int:
    """At how many times a method evaluates the field: evenly spaced ones, half steps apart for rk4, else whole ones."""
    return {"euler": steps, "heun": steps + 1, "rk4": 2 * steps + 1}[method]


def num_steps(times: int, method: str) -> int:
    """How many steps a method takes with this many stage times."""
    return {"euler": times, "heun": times - 1, "rk4": (times - 1) // 2}[method]


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
    """Solve z + increment(z) = end, with the implicit function theorem's gradient."""
    with torch.no_grad():
        z, error = _fixed_point(lambda z: end - increment(z, step), end)
    attached = end - increment(z, step)
    if not attached.requires_grad:
        return z, error
    # That application carries the graph to `end` and the parameters, but its gradient misses that z is a solution:
    # the cotangent g must become the solution of g' = g - J^T g', J the increment's Jacobian there.
    point = z.detach().requires_grad_()
    with torch.enable_grad():
        moved = increment(point, step)

    def solve_adjoint(g: Tensor | None) -> Tensor | None:
        if g is None:  # autograd's word for a zero cotangent
            return None
        if torch.is_grad_enabled():
            raise RuntimeError(NO_SECOND_DERIVATIVE)
        return _fixed_point(lambda adjoint: g - torch.autograd.grad(moved, point, adjoint, retain_graph=True)[0], g)[0]

    attached.register_hook(solve_adjoint)
    return attached, error


def _fixed_point(function: Callable[[Tensor], Tensor], start: Tensor, iterations: int = 200) -> tuple[Tensor, Tensor]:
    """Solve z = function(z) by iteration; with each row's relative distance from the solution, judged by its movements.

    Movements that shrink by a factor q add up to q / (1 - q) times the last one.
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
