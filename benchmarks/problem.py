"""What is computed: operators, shapes, and the networks and samples that every contender gets.

All potentials are tanh networks with a tanh at the output and time as one more input of the first layer. The samples of
a jet or a loss share one time, a float, so that whoever can evaluates its bias once; time is an input to be
differentiated all the same: a jet is asked for u_t, and training's wave residual needs u_tt.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastflow as ff
from benchmarks.cpu import floors

JET_OUTPUTS = ("u", "grad", "laplacian", "u_t")
TIME = 0.3  # of jets and training


class Case(NamedTuple):
    """An operator at a shape: batch B, dimension D, `depth` hidden layers of one width, K potentials.

    operator: "jet" gives u, grad, laplacian and u_t. "training" gives the mean squared residual of u_tt - lap, and the
    gradients of all parameters. "flow" gives the path of `steps` Euler steps of length 1, "flow_backward" also the
    gradients of its start and of all parameters, "rollout" the mean squared residual at the path's visited points with
    the gradients of all parameters.
    """

    operator: str
    batch: int
    dim: int
    width: int
    depth: int
    num_potentials: int = 1
    steps: int = 1

    @property
    def name(self) -> str:
        """Such as jet-B4096-D12-H64-L2-K1."""
        return f"{self.operator}-B{self.batch}-D{self.dim}-H{self.width}-L{self.depth}-K{self.num_potentials}"

    @staticmethod
    def parse(name: str, steps: int = 1) -> Case:
        """The case of that name; a name doesn't tell the steps.

        Raises:
            ValueError: it is none.
        """
        match = re.fullmatch(r"(\w+)-B(\d+)-D(\d+)-H(\d+)-L(\d+)-K(\d+)", name)
        if match is None or match[1] not in floors.PER_SAMPLE:
            raise ValueError(f"{name!r} names no case")
        operator, *sizes = match.groups()
        return Case(operator, *map(int, sizes), steps=steps)

    @property
    def flops(self) -> int:
        """The floor of one call."""
        return self.batch * self.steps * floors.PER_SAMPLE[self.operator](self.dim, self.width, self.depth)


SHAPES = ((4096, 12, 64, 2), (4096, 12, 128, 3), (1024, 64, 64, 2), (256, 512, 64, 2), (1280, 128, 128, 2))
CASES = (
    *(Case(operator, *shape) for shape in SHAPES for operator in ("jet", "training")),
    *(Case(operator, *shape, num_potentials=8) for shape in SHAPES for operator in ("jet", "training")),
    *(Case(operator, 256, 128, 64, 2, 8, steps=20) for operator in ("flow", "flow_backward", "rollout")),
)


class Network(NamedTuple):
    """The parameters of one network, or of K stacked along a first axis; L weights (H_l, H_{l-1}) and biases (H_l,)."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    out_weight: Tensor
    out_bias: Tensor
    time_weight: Tensor

    def leaves(self) -> list[Tensor]:
        """All parameters in the order in which a bank names them."""
        return [self.out_weight, self.out_bias, self.time_weight, *self.weights, *self.biases]


def value(network: Network, z: Tensor, t: Tensor) -> Tensor:
    """Value u (N,) at z (N, D) and t (N,) as users write it; for stacked networks (K, N), (K, N, D) and (K, N)."""
    first = network.biases[0].unsqueeze(-2) + t[..., None] * network.time_weight.unsqueeze(-2)
    h = torch.tanh(z @ network.weights[0].mT + first)
    for weight, bias in zip(network.weights[1:], network.biases[1:], strict=True):
        h = torch.tanh(h @ weight.mT + bias.unsqueeze(-2))
    return torch.tanh((h @ network.out_weight.unsqueeze(-1)).squeeze(-1) + network.out_bias.unsqueeze(-1))


class Problem(NamedTuple):
    """One case's bank and samples: z (B, D), index (B,) evenly spread in random order, path_bar a path's cotangent."""

    case: Case
    bank: ff.PotentialBank
    z: Tensor
    index: Tensor
    path_bar: Tensor

    @staticmethod
    def of(case: Case, seed: int = 0) -> Problem:
        """The float32 problem of a case, always the same for the same seed."""
        if case.batch % case.num_potentials:
            raise ValueError(f"the batch {case.batch} can't be shared evenly by {case.num_potentials} potentials")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            bank = ff.PotentialBank(case.num_potentials, case.dim, (case.width,) * case.depth, time="linear")
            z = torch.randn(case.batch, case.dim)
            index = torch.arange(case.batch)[torch.randperm(case.batch)] % case.num_potentials
            path_bar = torch.randn(case.batch, case.steps + 1, case.dim)
        return Problem(case, bank, z, index, path_bar)

    def double(self) -> Problem:
        """The same numbers in float64."""
        return self._replace(bank=copy.deepcopy(self.bank).double(), z=self.z.double(), path_bar=self.path_bar.double())

    def network(self) -> Network:
        """The bank's parameters as leaves of their own: stacked, or without the first axis where K = 1."""

        def leaf(x: Tensor) -> Tensor:
            return (x[0] if self.case.num_potentials == 1 else x).detach().clone().requires_grad_()

        bank = self.bank
        layers = tuple(map(leaf, bank.weights)), tuple(map(leaf, bank.biases))
        return Network(*layers, leaf(bank.out_weight), leaf(bank.out_bias), leaf(bank.time_weight))

    def gradients(self, gradients: list[Tensor] | tuple[Tensor, ...]) -> dict[str, Tensor]:
        """Gradients in the order of `Network.leaves`, by the bank's names and in its shapes."""
        named = dict(self.bank.named_parameters())
        return {f"d {name}": g.reshape(named[name].shape) for name, g in zip(named, gradients, strict=True)}

    def group(self, x: Tensor) -> Tensor:
        """(B, ...) to (K, N, ...), each potential's samples together; as it is where K = 1."""
        return x if self.case.num_potentials == 1 else x[self._order()].unflatten(0, (self.case.num_potentials, -1))

    def ungroup(self, x: Tensor) -> Tensor:
        """(K, N, ...) to (B, ...), undoing `group`."""
        if self.case.num_potentials == 1:
            return x
        flat = x.flatten(0, 1)
        return torch.empty_like(flat).index_copy_(0, self._order(), flat)

    def _order(self) -> Tensor:
        return torch.argsort(self.index, stable=True)


class Prepared(NamedTuple):
    """A contender ready to be timed: `call` does the work, `outputs` names what it gave, in the samples' order."""

    call: Callable[[], Any]
    outputs: Callable[[Any], dict[str, Tensor]]
