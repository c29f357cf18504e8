"""What operators take beside tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastflow.ops.types import MLP


class Settings(NamedTuple):
    """A network without its tensors."""

    activation: str
    out_activation: str
    has_time: bool

    @staticmethod
    def of(mlp: MLP) -> Settings:
        """Those of `mlp`."""
        return Settings(mlp.activation, mlp.out_activation, mlp.has_time)

    def mlp(self, tensors: Sequence[Tensor]) -> MLP:
        """The network with these tensors, in the order of `MLP.tensors`."""
        return MLP((), (), tensors[-2], tensors[-1], *self).with_tensors(tensors)


def any_requires_grad(*tensors: Tensor | None) -> bool:
    """Whether a backward may follow."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def second_backward_may_follow() -> bool:
    """Whether a backward runs under create_graph or torch.func, and so must itself be an autograd function.

    A compiled graph has no second backward, and dynamo can't trace one function inside another's backward.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()
