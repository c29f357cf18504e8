"""Which implementation computes the engine's operators: chosen by device, overridden by `use_backend`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from fastflow.errors import BackendError, InputError

Precision = Literal["ieee", "tf32", "tf32x3"]

_forced: ContextVar[str | None] = ContextVar("fastflow_backend", default=None)
_precision: ContextVar[Precision] = ContextVar("fastflow_precision", default="ieee")


def backends() -> dict[str, str | None]:
    """Every backend by name, with None where it can be used and otherwise the reason why it can't."""
    return {"reference": None, "native": _native_missing(), "triton": "this version has no Triton kernels"}


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
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


@contextmanager
def precision(name: Precision) -> Iterator[None]:
    """How GPU kernels multiply float32 matrices inside the context: "ieee" (the default), "tf32" or "tf32x3".

    Raises:
        InputError: another name.
    """
    if name not in ("ieee", "tf32", "tf32x3"):
        raise InputError(f"precision must be one of ieee, tf32, tf32x3, got {name!r}")
    token = _precision.set(name)
    try:
        yield
    finally:
        _precision.reset(token)


def _native_missing() -> str | None:
    try:
        from fastflow import _native
    except ImportError as error:
        return f"the native module didn't load: {error}"
    return None if hasattr(_native, "jet_forward") else "this version's native module has no jet kernels"
