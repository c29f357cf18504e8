"""The native activations' largest errors over the float32 range: `python tests/cpu/activation_error.py [stride]`.

A potential of one unit on one input, u = sigma(z), has them as its value, gradient, Laplacian and the gradient of that.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.native_engine import Engine
from support.networks import random_mlp

from fastflow.engine.activations import ACTIVATIONS, derivatives


def native_derivatives(activation: str, a: Tensor) -> list[Tensor]:
    """Value and three derivatives at a (N,)."""
    mlp = random_mlp(1, 1, (1,), 1, activation, "identity", dtype=a.dtype)
    one = torch.ones(1, 1, 1, dtype=a.dtype)
    mlp = mlp._replace(
        weights=(one,),
        bias_jets=(torch.zeros(1, 3, 1, dtype=a.dtype),),
        out_weight=one[0],
        out_bias=torch.zeros(1, dtype=a.dtype),
    )
    zeros = torch.zeros(len(a), dtype=torch.int64)
    samples = (a[:, None], zeros, zeros)
    engine = Engine(has_time=False, num_threads=torch.get_num_threads())
    jet = engine.jet(mlp, *samples)
    third, _ = engine.jet_backward(mlp, *samples, (None, None, torch.ones_like(a), None, None))
    return [jet.u, jet.grad[:, 0], jet.laplacian, third[:, 0]]


def exact_derivatives(activation: str, a: Tensor) -> list[Tensor]:
    a = a.double().requires_grad_()
    value, first, second = derivatives(activation, a)
    third = torch.autograd.grad(second.sum(), a)[0]
    return [x.detach() for x in (value, first, second, third)]


def largest_errors(activation: str, a: Tensor) -> list[float]:
    """In units of max(1, |exact|)."""
    errors = []
    for actual, exact in zip(native_derivatives(activation, a), exact_derivatives(activation, a), strict=True):
        error = (actual.double() - exact).abs() / exact.abs().clamp(min=1)
        errors.append(error[exact.isfinite()].nan_to_num(torch.inf).max().item())
    return errors


def all_floats(stride: int, block: int = 1 << 22):
    """Finite float32 numbers, every stride-th bit pattern, in blocks."""
    for start in range(0, 1 << 31, block * stride):
        bits = torch.arange(start, min(start + block * stride, 0x7F800000), stride, dtype=torch.int64).int()
        for sign in (1, -1):
            if len(bits):
                yield sign * bits.view(torch.float32)


def main() -> None:
    stride = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    for activation in ACTIVATIONS:
        worst = [0.0] * 4
        for a in all_floats(stride):
            worst = [max(w, e) for w, e in zip(worst, largest_errors(activation, a), strict=True)]
        print(activation, *(f"{w:.1e}" for w in worst))


if __name__ == "__main__":
    main()
