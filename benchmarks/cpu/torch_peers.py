"""Jets and training in PyTorch: nested autograd, torch.func.hessian, and the collapsed formula compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, hessian, vmap

from benchmarks.cpu import collapsed
from benchmarks.problem import JET_OUTPUTS, TIME, Network, Prepared, Problem, value

Second = Callable[[Network, Tensor, Tensor], Tensor]


def nested_jet(problem: Problem) -> Prepared:
    """D further backward passes through the gradient."""
    network, z, t = problem.network(), problem.group(problem.z), _times(problem)

    def call() -> tuple[Tensor, ...]:
        u, gradient, u_t, seconds = _nested(network, z, t, with_u_tt=False)
        return u.detach(), gradient.detach(), seconds[0], u_t.detach()

    return jet_prepared(problem, call)


def nested_training(problem: Problem) -> Prepared:
    """D + 1 further backward passes, themselves differentiated."""
    network, z, t = problem.network(), problem.group(problem.z), _times(problem)

    def call() -> tuple[Tensor, ...]:
        loss = nested_wave_residual(network, z, t).square().mean()
        return loss, *torch.autograd.grad(loss, network.leaves())

    return training_prepared(problem, call)


def nested_wave_residual(network: Network, z: Tensor, t: Tensor) -> Tensor:
    """The residual u_tt - laplacian by nested autograd, differentiable again."""
    _, _, _, (laplacian, u_tt) = _nested(network, z, t, with_u_tt=True)
    return u_tt - laplacian


def hessian_jet(problem: Problem) -> Prepared:
    """The whole Hessian in z of each sample, vmapped."""
    u = _sample_value(problem)
    network = problem.network()
    t = _times(problem)

    def each(z: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        (gradient, u_t), value_ = grad_and_value(u, argnums=(1, 2))(network, z, t)
        return value_, gradient, hessian(u, argnums=1)(network, z, t).trace(), u_t

    mapped = vmap(each)

    def call() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return mapped(problem.z, t)

    return jet_prepared(problem, call)


def hessian_training(problem: Problem) -> Prepared:
    """The same with u_tt, by backward."""
    u = _sample_value(problem)
    network, t = problem.network(), _times(problem)

    def residual(z: Tensor, t: Tensor) -> Tensor:
        u_tt = grad(grad(u, argnums=2), argnums=2)(network, z, t)
        return u_tt - hessian(u, argnums=1)(network, z, t).trace()

    mapped = vmap(residual)

    def call() -> tuple[Tensor, ...]:
        loss = mapped(problem.z, t).square().mean()
        return loss, *torch.autograd.grad(loss, network.leaves())

    return training_prepared(problem, call)


def compiled_jet(problem: Problem) -> Prepared:
    """The collapsed formula under torch.compile."""
    network, z, t = problem.network(), problem.group(problem.z), problem.z.new_tensor(TIME)
    formula = compiled(collapsed.jet)

    def call() -> tuple[Tensor, ...]:
        with torch.no_grad():
            return formula(network, z, t)

    return jet_prepared(problem, call)


def compiled_training(problem: Problem) -> Prepared:
    """The collapsed formula and its backward under torch.compile."""
    network, z, t = problem.network(), problem.group(problem.z), problem.z.new_tensor(TIME)
    loss_of = compiled(collapsed.wave_loss)

    def call() -> tuple[Tensor, ...]:
        loss = loss_of(network, z, t)
        return loss, *torch.autograd.grad(loss, network.leaves())

    return training_prepared(problem, call)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` compiled for the shapes that it first meets; those of earlier cases are forgotten."""
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)


def jet_prepared(problem: Problem, call: Callable[[], tuple[Tensor, ...]]) -> Prepared:
    """A call that gives a jet's outputs group by group."""
    return Prepared(call, lambda out: dict(zip(JET_OUTPUTS, map(problem.ungroup, out), strict=True)))


def training_prepared(problem: Problem, call: Callable[[], tuple[Tensor, ...]]) -> Prepared:
    """A call that gives a loss and the gradients of a network's leaves."""
    return Prepared(call, lambda out: {"loss": out[0].detach(), **problem.gradients(out[1:])})


def _nested(network: Network, z: Tensor, t: Tensor, with_u_tt: bool) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Value u, grad, u_t, and [laplacian] or [laplacian, u_tt], the latter differentiable again."""
    z = z if z.requires_grad else z.detach().requires_grad_()
    t = t.detach().requires_grad_()
    u = value(network, z, t)
    gradient, u_t = torch.autograd.grad(u.sum(), (z, t), create_graph=True)
    options = {"retain_graph": True, "create_graph": with_u_tt}
    laplacian = torch.zeros_like(u)
    for i in range(z.shape[-1]):
        laplacian = laplacian + torch.autograd.grad(gradient[..., i].sum(), z, **options)[0][..., i]
    if not with_u_tt:
        return u, gradient, u_t, [laplacian]
    return u, gradient, u_t, [laplacian, torch.autograd.grad(u_t.sum(), t, **options)[0]]


def _sample_value(problem: Problem) -> Second:
    """Value u () at z (D,) and t ()."""

    def u(network: Network, z: Tensor, t: Tensor) -> Tensor:
        return value(network, z, t).squeeze()

    return u


def _times(problem: Problem) -> Tensor:
    return problem.group(torch.full_like(problem.z[:, 0], TIME))
