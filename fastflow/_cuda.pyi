"""The CUDA flow integrator of fastflow: whole paths, and their adjoint, in one launch."""

from collections.abc import Sequence
from typing import Any, Literal

def build_info() -> dict[str, str]: ...

class FlowPlan:
    def __init__(
        self,
        *,
        widths: Sequence[int],
        potentials: int,
        slots: int,
        batch: int,
        times: int,
        activation: str,
        out_activation: str,
        dt: float,
        method: str,
        direction: str,
        step_length: float,
        dtype: Literal["float32", "float64"],
        backward: bool,
        multiprocessors: int,
        shared_bytes: int,
    ) -> None: ...
    @property
    def workspace_bytes(self) -> int: ...
    @property
    def tile(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def threads(self) -> int: ...
    @property
    def shared_bytes(self) -> int: ...
    @property
    def resident(self) -> bool: ...
    @property
    def state_in_shared(self) -> bool: ...

# Addresses on the device, by the names of csrc/cuda/bindings.cpp.
def flow(*, plan: FlowPlan, **addresses: Any) -> None: ...
def flow_backward(*, plan: FlowPlan, **addresses: Any) -> None: ...
