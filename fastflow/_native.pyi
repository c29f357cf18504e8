"""The CPU engine of fastflow: compiled for several instruction sets, one chosen at run time."""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from torch import Tensor

_Network = tuple[Sequence[Tensor], Sequence[Tensor], Tensor, Tensor]
_Jet = Sequence[Tensor | None]

class BuildInfo(TypedDict):
    version: str
    compiler: str
    build_type: str
    instruction_sets: list[str]
    nanobind: str

def build_info() -> BuildInfo: ...
def supported_instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def fma_peak(dtype: Literal["float32", "float64"] = "float32", seconds: float = 0.2) -> float: ...

# The engine's functions, whose options are described at the top of csrc/cpu/bindings/engine.cpp.
def jet(network: _Network, z: Tensor, index: Tensor, slot: Tensor, jet: _Jet, **options: Any) -> None: ...
def jet_backward(
    network: _Network,
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    jet_bar: _Jet,
    z_bar: Tensor | None,
    gradient: _Network,
    **options: Any,
) -> None: ...
def residual_loss(
    network: _Network,
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    coefficients: Tensor,
    source: Tensor | None,
    residual: Tensor,
    **options: Any,
) -> float: ...
def residual_loss_and_gradient(
    network: _Network,
    z: Tensor,
    index: Tensor,
    slot: Tensor,
    coefficients: Tensor,
    source: Tensor | None,
    residual: Tensor,
    loss_bar: float,
    z_bar: Tensor | None,
    gradient: _Network,
    coefficients_bar: Tensor,
    source_bar: Tensor | None,
    **options: Any,
) -> float: ...
def flow(
    network: _Network,
    z0: Tensor,
    index: Tensor,
    slots: Tensor,
    path: Tensor,
    error: Tensor | None,
    **options: Any,
) -> None: ...
def flow_backward(
    network: _Network,
    path: Tensor,
    index: Tensor,
    slots: Tensor,
    path_bar: Tensor,
    z0_bar: Tensor | None,
    gradient: _Network,
    **options: Any,
) -> None: ...
def rollout_loss(
    network: _Network,
    z0: Tensor,
    index: Tensor,
    slots: Tensor,
    coefficients: Tensor,
    source: Tensor | None,
    path: Tensor,
    residual: Tensor | None,
    **options: Any,
) -> float: ...
def rollout_loss_and_gradient(
    network: _Network,
    z0: Tensor | None,
    index: Tensor,
    slots: Tensor,
    coefficients: Tensor,
    source: Tensor | None,
    path: Tensor,
    residual: Tensor | None,
    loss_bar: float,
    path_bar: Tensor | None,
    z0_bar: Tensor | None,
    gradient: _Network,
    coefficients_bar: Tensor,
    source_bar: Tensor | None,
    **options: Any,
) -> float: ...
