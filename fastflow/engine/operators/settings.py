"""What operators take beside tensors."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

from torch import Tensor

from fastflow.core.nvtx import profiled
from fastflow.engine.backends.selection import current_precision
from fastflow.engine.types import MLP


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
        """Call the backend's function of that name: in `fastflow.engine.backends.native`, or in a module for GPUs.

        Modules of kernels are imported here and not before: they need packages that a machine without GPU can lack.
        """
        function = getattr(import_module(f"fastflow.engine.backends.{self.backend}"), operator)
        options = {"precision": self.precision} if self.backend == "triton" else {}
        with profiled(operator):
            return function(self.mlp(tensors), *arguments, **options)
