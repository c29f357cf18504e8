"""Which implementation computes the engine's operators: chosen by device, overridden by `use_backend`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Literal

from torch import Tensor

from fastflow.errors import BackendError, InputError

native_module: Any = None
_native_missing: str | None = None
try:
    native_module = import_module("fastflow._native")
except ImportError as error:
    _native_missing = f"the native module didn't load: {error}"

Precision = Literal["ieee", "tf32", "tf32x3"]

# Plain globals, in force for the whole process: torch.compile can guard on them, which it can't on context variables.
_forced: str | None = None
_precision: Precision = "ieee"


def backends() -> dict[str, str | None]:
    """Every backend by name, with None where it can be used and otherwise the reason why it can't."""
    return {"reference": None, "native": _native_missing, "triton": "this version has no Triton kernels"}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with the backend `name` inside the context: "reference", "native" or "triton".

    Raises:
        InputError: there is no backend of that name.
        BackendError: it is missing here; the message has the reason.
    """
    known = backends()
    if name not in known:
        raise InputError(f"backend must be one of {', '.join(known)}, got {name!r}")
    if known[name] is not None:
        raise BackendError(f"backend {name!r} can't be used: {known[name]}")
    global _forced
    previous, _forced = _forced, name
    try:
        yield
    finally:
        _forced = previous


@contextmanager
def precision(name: Precision) -> Iterator[None]:
    """How GPU kernels multiply float32 matrices inside the context: "ieee" (the default), "tf32" or "tf32x3".

    Raises:
        InputError: another name.
    """
    if name not in ("ieee", "tf32", "tf32x3"):
        raise InputError(f"precision must be one of ieee, tf32, tf32x3, got {name!r}")
    global _precision
    previous, _precision = _precision, name
    try:
        yield
    finally:
        _precision = previous


def backend_for(tensor: Tensor) -> str:
    """The backend that computes on this tensor: the one in force, or the tensor's device's own."""
    if _forced is not None:
        if _forced == "native" and tensor.device.type != "cpu":
            raise BackendError(f"backend 'native' computes on the CPU, the latents are on {tensor.device}")
        return _forced
    return "native" if tensor.device.type == "cpu" and _native_missing is None else "reference"
