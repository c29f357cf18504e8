"""What torch is doing with the code that runs: tracing it, mapping it over slices, differentiating it forward."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode


def values_of(x: Tensor) -> Tensor | None:
    """The values behind x, under vmap those of all slices; None while there are none, because x is being traced."""
    if torch.compiler.is_compiling() or get_proxy_mode() is not None:
        return None
    values = torch.func.debug_unwrap(x, recurse=True)
    return None if isinstance(values, FakeTensor) else values


def has_one_value(x: Tensor) -> bool:
    """Whether sizes may depend on x's values: they are there, and not one for each slice of a vmap."""
    values = values_of(x)
    return values is not None and values.ndim == x.ndim


def forward_mode() -> bool:
    """Whether tensors may carry tangents, of torch.func.jvp or torch.autograd.forward_ad."""
    return forward_ad._current_level >= 0


def func_transforms() -> bool:
    """Whether a transform of torch.func is at work."""
    return torch._C._are_functorch_transforms_active()


def any_requires_grad(*tensors: Tensor | None) -> bool:
    """Whether a backward may follow, that of a transform of torch.func around a vmap too."""
    if not torch.is_grad_enabled():
        return False
    given = [x for x in tensors if x is not None]
    if any(x.requires_grad for x in given):
        return True
    if torch.compiler.is_compiling() or not func_transforms():
        return False
    return any(map(_wraps_what_requires_grad, given))


def _wraps_what_requires_grad(x: Tensor) -> bool:
    """Whether this requires a gradient at any level of torch.func's transforms: vmap's own level never says so."""
    inner = torch.func.debug_unwrap(x, recurse=False)
    return inner is not x and (inner.requires_grad or _wraps_what_requires_grad(inner))


def second_backward_may_follow() -> bool:
    """Whether a backward runs under create_graph, torch.func or forward mode: then it must be an autograd function too.

    A compiled graph has no second backward, and dynamo can't trace one function inside another's backward.
    """
    return (torch.is_grad_enabled() or forward_mode()) and not torch.compiler.is_compiling()
