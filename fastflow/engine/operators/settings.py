"""What operators take beside tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

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
        """The settings of calls on `mlp`, in the precision now in force."""
        return Settings(mlp.activation, mlp.out_activation, mlp.has_time, backend, current_precision())

    def mlp(self, tensors: Sequence[Tensor]) -> MLP:
        """The network with these tensors, in the order of `MLP.tensors`."""
        return MLP((), (), tensors[-2], tensors[-1], *self[:3]).with_tensors(tensors)
