"""The CUDA integrator with its kernels emulated on the host, and the cases that it is tested on."""

from contextlib import nullcontext
from typing import Any

import torch
from support import tolerances
from support.native_engine import attach, check_all, rebuild
from support.networks import random_mlp
from torch import Tensor

from fastflow.engine.backends import cuda, reference
from fastflow.engine.types import MLP

H100 = 227 * 1024  # bytes of shared memory that a block may ask for
A100 = 163 * 1024
SMALL = 99 * 1024


def machine(module: Any, order: int = 0, multiprocessors: int = 4, shared_bytes: int = H100) -> cuda.Machine:
    """A pretended device, whose threads run in one of the emulator's orders."""
    return cuda.Machine(module, nullcontext(), order, multiprocessors, shared_bytes)


def case(
    method: str = "euler",
    dim: int = 5,
    hidden: tuple[int, ...] = (7, 6),
    batch: int = 18,
    networks: int = 3,
    steps: int = 3,
    dtype: torch.dtype = torch.float64,
    **kwargs: Any,
) -> tuple[MLP, Tensor, Tensor, Tensor]:
    """A network whose increments are contractions, and samples with bias rows for each potential and time."""
    slots = 6  # fewer than times and potentials together, so that several share a row
    mlp = random_mlp(networks, dim, hidden, slots, dtype=dtype, **kwargs)
    mlp = mlp._replace(out_weight=mlp.out_weight * 0.3)
    rng = torch.Generator().manual_seed(2)
    times = reference.num_times(steps, method) if steps else 0
    z0 = torch.randn(batch, dim, generator=rng, dtype=torch.float64).to(dtype)
    index = torch.randint(networks, (batch,), generator=rng)
    return mlp, z0, index, torch.randint(slots, (times, networks), generator=rng)


def options(method: str = "euler", direction: str = "forward", step_length: float | None = None, dt: float = 0.1):
    return {"dt": dt, "method": method, "direction": direction, "step_length": step_length}


def run(mlp: MLP, z0: Tensor, index: Tensor, slots: Tensor, path: dict[str, Any]) -> list[Tensor]:
    """Path, error, then the gradients for a cotangent that is always the same."""
    points, error = cuda.flow(mlp, z0, index, slots, **path)
    gradients = cuda.flow_backward(mlp, points, index, slots, cotangent(points), **path)
    return [points, error, *gradients]


def check(result: list[Tensor], mlp: MLP, z0: Tensor, index: Tensor, slots: Tensor, path: dict[str, Any]) -> None:
    """Against the reference in float64."""
    limit = tolerances.REVERSE_FLOW if path["direction"] == "reverse" else tolerances.INTEGRATOR[z0.dtype]
    inputs = attach([x.double().cpu() for x in (z0, *mlp.tensors())])
    exact, _ = reference.flow(rebuild(mlp, inputs[1:]), inputs[0], index.cpu(), slots.cpu(), **path)
    gradients = torch.autograd.grad(exact, inputs, cotangent(exact).double(), materialize_grads=True)
    points, error, *rest = (x.double().cpu() for x in result)
    check_all([points, *rest], [exact, *gradients], limit)
    assert (error <= (1e-14 if z0.dtype == torch.float64 else 1e-6)).all()


def cotangent(points: Tensor) -> Tensor:
    rng = torch.Generator().manual_seed(3)
    return torch.randn(points.shape, generator=rng, dtype=torch.float32).to(points)
