"""Flows and rollout losses in PyTorch: loops over torch.autograd.grad, torchdiffeq, and the collapsed formula."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.cpu import collapsed
from benchmarks.cpu.torch_peers import compiled, nested_wave_residual, training_prepared
from benchmarks.problem import Network, Prepared, Problem, value

try:
    from torchdiffeq import odeint
except ImportError as error:
    odeint, TORCHDIFFEQ_MISSING = None, str(error)
else:
    TORCHDIFFEQ_MISSING = None

Walk = Callable[[Network, Tensor, int, bool], Tensor]


def one_by_one(problem: Problem) -> list[tuple[Network, Tensor]]:
    """Each potential's own network (leaves) and samples (N, D)."""
    stacked, z = problem.network(), problem.group(problem.z)

    def leaf(x: Tensor, k: int) -> Tensor:
        return x[k].detach().clone().requires_grad_()

    return [
        (
            Network(
                tuple(leaf(w, k) for w in stacked.weights),
                tuple(leaf(b, k) for b in stacked.biases),
                leaf(stacked.out_weight, k),
                leaf(stacked.out_bias, k),
                leaf(stacked.time_weight, k),
            ),
            z[k],
        )
        for k in range(problem.case.num_potentials)
    ]


def walk(network: Network, z: Tensor, steps: int, create_graph: bool) -> Tensor:
    """The path (..., steps + 1, D) of z along torch.autograd.grad, at times 0, 1, .., with or without a graph."""
    path = [z]
    for step in range(steps):
        z = z + velocity(network, z, torch.full_like(z[..., 0], step), create_graph)
        path.append(z)
    return torch.stack(path, -2)


def velocity(network: Network, z: Tensor, t: Tensor, create_graph: bool) -> Tensor:
    """Grad u (..., D)."""
    z = z if z.requires_grad else z.detach().requires_grad_()
    gradient = torch.autograd.grad(value(network, z, t).sum(), z, create_graph=create_graph)[0]
    return gradient if create_graph else gradient.detach()


def torchdiffeq_walk(network: Network, z: Tensor, steps: int, create_graph: bool) -> Tensor:
    """The same path by odeint's fixed-step Euler."""

    def field(t: Tensor, z: Tensor) -> Tensor:
        return velocity(network, z, t.expand(z.shape[:-1]), create_graph)

    times = torch.arange(steps + 1, dtype=z.dtype)
    return odeint(field, z, times, method="euler").movedim(0, -2)


def loop_flow(problem: Problem) -> Prepared:
    """One network per potential, one after the other."""
    networks = one_by_one(problem)
    steps = problem.case.steps

    def call() -> Tensor:
        return torch.stack([walk(network, z, steps, False) for network, z in networks])

    return Prepared(call, lambda path: {"path": problem.ungroup(path)})


def loop_flow_backward(problem: Problem) -> Prepared:
    """The same with a graph, and its backward."""
    networks = [(network, z.clone().requires_grad_()) for network, z in one_by_one(problem)]
    steps, path_bar = problem.case.steps, problem.group(problem.path_bar)
    leaves = [x for network, z in networks for x in (z, *network.leaves())]

    def call() -> tuple[Tensor, ...]:
        path = torch.stack([walk(network, z, steps, True) for network, z in networks])
        return torch.autograd.grad(path, leaves, path_bar)

    def outputs(bars: tuple[Tensor, ...]) -> dict[str, Tensor]:
        each = len(bars) // len(networks)
        z0_bar, *rest = (torch.stack(bars[i::each]) for i in range(each))
        return {"d z0": problem.ungroup(z0_bar), **problem.gradients(rest)}

    return Prepared(call, outputs)


def batched_flow(problem: Problem, walk: Walk = walk) -> Prepared:
    """All potentials at once by batched matrix products."""
    network, z, steps = problem.network(), problem.group(problem.z), problem.case.steps
    return Prepared(lambda: walk(network, z, steps, False), lambda path: {"path": problem.ungroup(path)})


def batched_flow_backward(problem: Problem, walk: Walk = walk) -> Prepared:
    """The same with a graph, and its backward."""
    network, z, steps = problem.network(), problem.group(problem.z).clone().requires_grad_(), problem.case.steps
    path_bar, inputs = problem.group(problem.path_bar), [z, *network.leaves()]

    def call() -> tuple[Tensor, ...]:
        return torch.autograd.grad(walk(network, z, steps, True), inputs, path_bar)

    return Prepared(call, lambda bars: {"d z0": problem.ungroup(bars[0]), **problem.gradients(bars[1:])})


def torchdiffeq_flow(problem: Problem) -> Prepared:
    """All potentials at once in one odeint."""
    return batched_flow(problem, torchdiffeq_walk)


def torchdiffeq_flow_backward(problem: Problem) -> Prepared:
    """The same, and the backward through its steps."""
    return batched_flow_backward(problem, torchdiffeq_walk)


def nested_rollout(problem: Problem) -> Prepared:
    """A loop with the residual by nested autograd at every point, and its backward."""

    def visit(network: Network, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        times = t.expand(z.shape[:-1])
        return nested_wave_residual(network, z, times), velocity(network, z, times, True)

    return _rollout(problem, visit)


def collapsed_rollout(problem: Problem) -> Prepared:
    """A loop over the collapsed formula, which has the velocity among its results."""
    return _rollout(problem, collapsed.wave_residual)


def compiled_rollout(problem: Problem) -> Prepared:
    """The same under torch.compile, step by step."""
    return _rollout(problem, compiled(collapsed.wave_residual))


def _rollout(problem: Problem, visit: Callable[[Network, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Prepared:
    network, start, steps = problem.network(), problem.group(problem.z), problem.case.steps
    times = torch.arange(steps, dtype=start.dtype).unbind()

    def call() -> tuple[Tensor, ...]:
        z, loss = start.detach().requires_grad_(), start.new_zeros(())
        for t in times:
            residual, step = visit(network, z, t)
            loss = loss + residual.square().mean() / steps
            z = z + step
        return loss, *torch.autograd.grad(loss, network.leaves())

    return training_prepared(problem, call)
