"""Second derivatives: a backward operator is differentiated through the plain PyTorch twin of its forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Twin = Callable[..., Sequence[Tensor] | Tensor]


def differentiate_backward(
    twin: Twin, inputs: Sequence[Tensor], cotangents: Sequence[Tensor | None], seconds: Sequence[Tensor | None]
) -> tuple[list[Tensor], list[Tensor | None]]:
    """The vector-Jacobian product of (inputs, cotangents) -> gradients of `twin`, itself differentiable to any order.

    Args:
        twin: the operator in plain PyTorch, a function of the inputs alone.
        cotangents: those of the twin's outputs; None is zero.
        seconds: the cotangents of the gradients with respect to the inputs; None is zero.

    Returns:
        Cotangents of the inputs, and of the cotangents, None where those were None.
    """
    given = [bar for bar in cotangents if bar is not None]

    def gradients(inputs: tuple[Tensor, ...], given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        outputs, pull = _vjp(twin, *inputs)
        if isinstance(outputs, Tensor):
            return pull(given[0])
        remaining = iter(given)
        bars = [torch.zeros_like(o) if c is None else next(remaining) for o, c in zip(outputs, cotangents, strict=True)]
        return pull(type(outputs)(*bars) if hasattr(outputs, "_fields") else tuple(bars))

    values, pull = _vjp(gradients, tuple(inputs), tuple(given))
    seconds = tuple(torch.zeros_like(v) if s is None else s for v, s in zip(values, seconds, strict=True))
    inputs_bar, given_bar = pull(seconds)
    remaining = iter(given_bar)
    return list(inputs_bar), [None if bar is None else next(remaining) for bar in cotangents]


def _vjp(function: Callable[..., Any], *primals: Any) -> tuple[Any, Callable[..., Any]]:
    """torch.func.vjp without auxiliary output, whose type alone covers both forms."""
    return torch.func.vjp(function, *primals)  # pyright: ignore[reportReturnType]
