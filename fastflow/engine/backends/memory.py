"""Tensors as backends take and fill them."""

from __future__ import annotations

from torch import Tensor


def empty_gradients(*tensors: Tensor | None, like: Tensor) -> list[Tensor]:
    """Contiguous tensors for gradients to be written to; an empty one for None."""
    return [like.new_empty(0 if tensor is None else tensor.shape) for tensor in tensors]


def plain(*tensors: Tensor) -> list[Tensor]:
    """Contiguous and without a graph, as backends take them."""
    return [tensor.detach().contiguous() for tensor in tensors]
