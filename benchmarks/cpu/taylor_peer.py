"""Collapsed Taylor mode by jet-for-pytorch (Dangel et al., NeurIPS 2025); it needs Python 3.12 and scipy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jet import jet as taylor
from torch import Tensor
from torch.func import vmap

from benchmarks.cpu.torch_peers import jet_prepared, training_prepared
from benchmarks.problem import TIME, Network, Prepared, Problem, value


def taylor_jet(problem: Problem) -> Prepared:
    """One collapsed expansion along all D axes, and one of first order along t."""
    network, t = problem.network(), torch.full_like(problem.z[:, 0], TIME)
    along_z = _along_z(network, problem.z)
    along_t = taylor(lambda s: value(network, problem.z, s), (t,))
    one = torch.ones_like(t)

    def call() -> tuple[Tensor, ...]:
        with torch.no_grad():
            u, gradient, laplacian = along_z(problem.z)
            _, u_t = along_t((t, one))
            return u[:, 0], gradient[..., 0], laplacian[:, 0], u_t

    return jet_prepared(problem, call)


def taylor_training(problem: Problem) -> Prepared:
    """The same to second order along t, by backward."""
    network, t = problem.network(), torch.full_like(problem.z[:, 0], TIME)
    along_z = _along_z(network, problem.z)
    along_t = taylor(lambda s: value(network, problem.z, s), (t,))
    one, zero = torch.ones_like(t), torch.zeros_like(t)

    def call() -> tuple[Tensor, ...]:
        _, _, laplacian = along_z(problem.z)
        _, _, u_tt = along_t((t, one, zero))
        loss = (u_tt - laplacian[:, 0]).square().mean()
        return loss, *torch.autograd.grad(loss, network.leaves())

    return training_prepared(problem, call)


def _along_z(network: Network, z: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Value (B, 1), gradient (B, D, 1) and Laplacian (B, 1). Under vmap the axes are the same for all samples."""
    t, axes = z.new_tensor(TIME), torch.eye(z.shape[1], dtype=z.dtype)
    expansion = taylor(lambda x: value(network, x, t), (z[0],), collapsed=True)
    return vmap(lambda x: expansion((x, axes, torch.zeros_like(x))))
