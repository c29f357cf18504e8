"""What operators take beside tensors."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastflow.ops.backends import current_precision
from fastflow.ops.tracing import forward_mode
from fastflow.ops.types import MLP
from fastflow.profiling import profiled


class Settings(NamedTuple):
    """A network without its tensors, and who computes it how; a backward keeps the settings of its forward."""

    activation: str
    out_activation: str
    has_time: bool
    backend: str
    precision: str

    @staticmethod
    def of(mlp: MLP, backend: str) -> Settings:
        """Those of `mlp`, in the precision now in force."""
        return Settings(mlp.activation, mlp.out_activation, mlp.has_time, backend, current_precision())

    def mlp(self, tensors: Sequence[Tensor]) -> MLP:
        """The network with these tensors, in the order of `MLP.tensors`."""
        return MLP((), (), tensors[-2], tensors[-1], *self[:3]).with_tensors(tensors)

    def compute(self, operator: str, tensors: Sequence[Tensor], *arguments: Any) -> Any:
        """Call the backend's function of that name: in `fastflow.ops.native`, or in a module for GPUs.

        Modules of kernels are imported here and not before: they need packages that a machine without GPU can lack.
        """
        function = getattr(import_module(f"fastflow.ops.{self.backend}"), operator)
        options = {"precision": self.precision} if self.backend == "triton" else {}
        with profiled(operator):
            return function(self.mlp(tensors), *arguments, **options)


def empty_gradients(*tensors: Tensor | None, like: Tensor) -> list[Tensor]:
    """Contiguous tensors for gradients to be written to; an empty one for None."""
    return [like.new_empty(0 if tensor is None else tensor.shape) for tensor in tensors]


def plain(*tensors: Tensor) -> list[Tensor]:
    """Contiguous and without a graph, as backends take them."""
    return [tensor.detach().contiguous() for tensor in tensors]


def any_requires_grad(*tensors: Tensor | None) -> bool:
    """Whether a backward may follow."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def second_backward_may_follow() -> bool:
    """Whether a backward runs under create_graph, torch.func or forward mode: then it must be an autograd function too.

    A compiled graph has no second backward, and dynamo can't trace one function inside another's backward.
    """
    return (torch.is_grad_enabled() or forward_mode()) and not torch.compiler.is_compiling()
