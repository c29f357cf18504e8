"""Stacked networks and samples for the kernels' tests, and the comparison with the reference."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from support.networks import random_mlp
from torch import Tensor

from fastflow.engine.backends import reference
from fastflow.engine.types import MLP

# Errors relative to the largest value. float64: sums of some thousand terms in another order. float32: the kernels may
# have twice the error of plain PyTorch in the same precision, or this where that happens to be exact. tf32: ten bits of
# mantissa in every product; tf32x3 gives back nearly all of float32's.
FLOORS = {torch.float64: 1e-13, torch.float32: 2e-6}
LOOSER = {"ieee": 1.0, "tf32x3": 4.0, "tf32": 2000.0}


class Case(NamedTuple):
    """One problem: K networks and B samples; the last of several networks has none."""

    networks: int
    batch: int
    dim: int
    hidden: tuple[int, ...]
    activation: str = "tanh"
    out_activation: str = "tanh"
    has_time: bool = True
    laplacian: str = "exact"
    slots: int = 5
    dtype: torch.dtype = torch.float64

    def __str__(self) -> str:
        widths = "x".join(map(str, (self.dim, *self.hidden)))
        name = f"K{self.networks} B{self.batch} {widths} {self.activation} {self.out_activation} {self.laplacian}"
        return f"{name} S{self.slots} {str(self.dtype)[6:]}" + ("" if self.has_time else " timeless")


class Problem(NamedTuple):
    """A case's tensors."""

    mlp: MLP
    z: Tensor
    index: Tensor
    slot: Tensor
    probes: Tensor | None
    coefficients: Tensor
    source: Tensor
    jet_bar: list[Tensor]

    def to(self, where: torch.dtype | str) -> "Problem":
        """The same in another dtype, or on another device."""

        def move(x):
            return x.to(where) if isinstance(where, str) or x.is_floating_point() else x

        mlp = self.mlp.with_tensors([move(x) for x in self.mlp.tensors()])
        probes = None if self.probes is None else move(self.probes)
        tensors = [move(x) for x in (self.z, self.index, self.slot)]
        return Problem(
            mlp, *tensors, probes, move(self.coefficients), move(self.source), [move(x) for x in self.jet_bar]
        )


def make(case: Case) -> Problem:
    mlp = random_mlp(case.networks, case.dim, case.hidden, case.slots, case.activation, case.out_activation)
    if not case.has_time:
        for bias_jet in mlp.bias_jets:
            bias_jet[:, 1:] = 0
        mlp = mlp._replace(has_time=False)
    rng = torch.Generator().manual_seed(1)
    used = max(1, case.networks - 1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    probes = normal(3, case.dim).sign() if case.laplacian == "hutchinson" else None
    index = torch.randint(used, (case.batch,), generator=rng)
    slot = torch.randint(case.slots, (case.batch,), generator=rng)
    scalar = [normal(case.batch) for _ in range(4)]
    jet_bar = [scalar[0], normal(case.batch, case.dim), *scalar[1:]]
    samples = normal(case.batch, case.dim), index, slot
    problem = Problem(mlp, *samples, probes, normal(case.networks, 5), normal(case.batch), jet_bar)
    # Rounded to the case's dtype, so that all precisions compute the same problem.
    return problem.to(case.dtype)


def twin_jet(problem: Problem, laplacian: str) -> tuple[list[Tensor], list[Tensor]]:
    """The reference's jet, and the gradients of latents and parameters for the problem's cotangents."""
    inputs = [x.detach().requires_grad_() for x in (problem.z, *problem.mlp.tensors())]
    mlp = problem.mlp.with_tensors(inputs[1:])
    jet = list(reference.jet(mlp, inputs[0], problem.index, problem.slot, laplacian, problem.probes))
    total = sum((x * bar).sum() for x, bar in zip(jet, problem.jet_bar, strict=True))
    return [x.detach() for x in jet], promised(problem, list(torch.autograd.grad(total, inputs)))


def twin_loss(problem: Problem) -> list[Tensor]:
    """The reference's residual loss and its gradients, in the order of `residual_loss_and_gradient`."""
    given = (problem.z, problem.coefficients, problem.source, *problem.mlp.tensors())
    inputs = [x.detach().requires_grad_() for x in given]
    z, coefficients, source, *tensors = inputs
    mlp = problem.mlp.with_tensors(tensors)
    loss = reference.residual_loss(mlp, z, problem.index, problem.slot, coefficients, source)
    return [loss.detach(), *promised(problem, list(torch.autograd.grad(loss, inputs)))]


def promised(problem: Problem, gradients: list[Tensor]) -> list[Tensor]:
    """Without time, the gradient of the bias jets' derivatives is promised to be zero."""
    depth = len(problem.mlp.weights)
    if not problem.mlp.has_time:
        for gradient in gradients[-2 - depth : -2]:
            gradient[:, 1:] = 0
    return gradients


def check(
    computed: Sequence[Tensor], plain: Sequence[Tensor], exact: Sequence[Tensor], precision: str = "ieee"
) -> None:
    """Each computed tensor against the exact one, and plain PyTorch's error in the same precision."""
    for place, (x, same, truth) in enumerate(zip(computed, plain, exact, strict=True)):
        assert x.shape == truth.shape, f"tensor {place}: {tuple(x.shape)} for {tuple(truth.shape)}"
        if not x.numel():
            continue
        x, same = x.detach().cpu().double(), same.detach().cpu().double()
        size = max(1.0, float(truth.abs().max()))
        error, of_torch = (float((y - truth).abs().max()) / size for y in (x, same))
        bound = LOOSER[precision] * max(2 * of_torch, FLOORS[computed[0].dtype])
        assert error <= bound, f"tensor {place}: error {error:.1e}, allowed {bound:.1e}"
