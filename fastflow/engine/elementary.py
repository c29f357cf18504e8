"""Operations whose higher derivatives torch gets wrong or lacks, computed from elementary ones, which have them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from typing_extensions import override


class Elementary(TorchFunctionMode):
    """Inside this context torch's normalisations, gated linear units and hard sigmoids are sums, products and roots.

    The values are the same up to rounding, and derivatives of every order are right. Torch 2.13's third derivatives of
    layer and instance normalisation are wrong, without an error (pytorch issues 175754, 196699 and 196700), and those
    of the gated linear unit under forward mode and of the hard sigmoid are missing. Fused attention isn't used inside.
    """

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _ELEMENTARY.get(func, func)(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
    **__: Any,
) -> Tensor:
    dims = tuple(range(-len(normalized_shape), 0))
    return _scaled(_normalised(input, dims, eps), weight, bias)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
    **__: Any,
) -> Tensor:
    grouped = input.unflatten(1, (num_groups, -1))  # (B, G, C / G, ...)
    dims = tuple(range(2, grouped.ndim))
    return _scaled(_normalised(grouped, dims, eps).flatten(1, 2), *_by_channel(input, weight, bias))


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return _batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    dims = tuple(range(2, input.ndim))
    return _scaled(_normalised(input, dims, eps), *_by_channel(input, weight, bias))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        if input.shape[0] * input[0, 0].numel() == 1:
            raise ValueError("batch normalisation with the batch's statistics needs more than one value a channel")
        x = _normalised(input, (0, *range(2, input.ndim)), eps)
    else:
        mean, variance = _by_channel(input, running_mean, running_var)
        assert mean is not None
        assert variance is not None
        x = (input - mean) * (variance + eps).rsqrt()
    return _scaled(x, *_by_channel(input, weight, bias))


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    value, gate = input.chunk(2, dim)
    return value * gate.sigmoid()


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    return (input / 6 + 0.5).clamp(0, 1)


def _normalised(x: Tensor, dims: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(dims, keepdim=True)
    return centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _by_channel(like: Tensor, *vectors: Tensor | None) -> list[Tensor | None]:
    """Vectors (C,) as they multiply tensors (B, C, ...)."""
    shape = (1, -1) + (1,) * (like.ndim - 2)
    return [None if vector is None else vector.view(shape) for vector in vectors]


def _torch_order(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A normalisation with the arguments of torch's own function, where weight and bias come before the statistics."""

    def reordered(input: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, *rest: Any) -> Tensor:
        return norm(input, mean, variance, weight, bias, *rest[:3])

    return reordered


# As modules call them, as torch has them underneath, and as exported programs have them.
_aten = torch.ops.aten
_ELEMENTARY: dict[Callable[..., Any], Callable[..., Any]] = {
    **dict.fromkeys((functional.layer_norm, torch.layer_norm, _aten.layer_norm.default), _layer_norm),
    **dict.fromkeys((functional.group_norm, torch.group_norm, _aten.group_norm.default), _group_norm),
    **dict.fromkeys((torch.instance_norm, _aten.instance_norm.default), _torch_order(_instance_norm)),
    **dict.fromkeys((torch.batch_norm, _aten.batch_norm.default), _torch_order(_batch_norm)),
    **dict.fromkeys((functional.glu, _aten.glu.default), _glu),
    **dict.fromkeys((functional.hardsigmoid, _aten.hardsigmoid.default), _hardsigmoid),
    functional.instance_norm: _instance_norm,
    functional.batch_norm: _batch_norm,
}
