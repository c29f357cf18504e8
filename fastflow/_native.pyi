"""The CPU engine of fastflow: compiled for several instruction sets, one chosen at run time."""

from typing import Literal, TypedDict

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
