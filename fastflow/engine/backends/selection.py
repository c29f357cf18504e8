"""Which implementation computes the engine's operators: chosen by device, overridden by `use_backend`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from os import environ
from typing import Any, Literal
from warnings import warn

import torch
from torch import Tensor

from fastflow.core.errors import BackendError, InputError
from fastflow.engine.tracing import forward_mode
from fastflow.engine.types import MLP

native_module: Any = None
_native_missing: str | None = None
try:
    native_module = import_module("fastflow._native")
    native_module.instruction_set()
except ImportError as error:
    _native_missing = f"the native module didn't load: {error}"
except ValueError as error:  # of FASTFLOW_ISA
    _native_missing = str(error)

cuda_module: Any = None  # the flow integrator, which takes the place of stepping beside the Triton kernels
_cuda_missing: str | None = None
try:
    cuda_module = import_module("fastflow._cuda")
except ModuleNotFoundError:
    _cuda_missing = (
        "it wasn't built, because no CUDA compiler was found when fastflow was installed; install it again with nvcc "
        "on PATH"
    )
except ImportError as error:
    _cuda_missing = f"it didn't load: {error}"

Precision = Literal["ieee", "tf32", "tf32x3"]


class _Choice:
    """A context's choice of a backend or a precision, equal to no other context's."""

    def __init__(self, name: str) -> None:
        self.name = name


# The choices in force, the innermost last. They are in force for the whole process, for autograd's threads as well, and
# in plain lists, on which torch.compile can guard, as it can't on context variables. Threads may leave in any order.
_backends: list[_Choice] = []
_precisions: list[_Choice] = []


def backends() -> dict[str, str | None]:
    """Every backend by name, with None where it can be used and otherwise the reason why it can't."""
    return {"reference": None, "native": _native_missing, "triton": _triton_missing()}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Compute with the backend `name` inside the context: "reference", "native" or "triton".

    It is in force for every thread of the process; of several contexts, the one entered last counts.

    Raises:
        InputError: there is no backend of that name.
        BackendError: it is missing here; the message has the reason.
    """
    known = backends()
    if name not in known:
        raise InputError(f"backend must be one of {', '.join(known)}, got {name!r}")
    if known[name] is not None:
        raise BackendError(f"backend {name!r} can't be used: {known[name]}")
    with _entered(_backends, name):
        yield


@contextmanager
def precision(name: Precision) -> Iterator[None]:
    """How GPU kernels multiply float32 matrices inside the context: "ieee" (the default), "tf32" or "tf32x3".

    It is in force for every thread of the process, like `use_backend`.

    Raises:
        InputError: another name.
    """
    if name not in ("ieee", "tf32", "tf32x3"):
        raise InputError(f"precision must be one of ieee, tf32, tf32x3, got {name!r}")
    with _entered(_precisions, name):
        yield


def current_precision() -> Precision:
    """The precision in force."""
    return _innermost(_precisions) or "ieee"


def backend_for(tensor: Tensor, mlp: MLP) -> str:
    """The backend that computes `mlp` on this tensor: the one in force, or the tensor's device's own.

    A network that the Triton kernels can't take is an error where they were asked for, and otherwise goes to the
    reference with a warning that says why. Under forward-mode differentiation it is the reference, since kernels have
    no tangents: value and derivative by the plain formulas cost less than the value twice.
    """
    if forward_mode():
        return "reference"
    kind, forced = tensor.device.type, _innermost(_backends)
    if forced == "native" and kind != "cpu":
        raise BackendError(f"backend 'native' computes on the CPU, the latents are on {tensor.device}")
    if forced == "triton":
        reason = _unfit(tensor, mlp)
        if reason is not None:
            raise BackendError(f"backend 'triton' can't compute this: {reason}; use ff.use_backend('reference')")
    if forced is not None:
        return forced
    if kind == "cpu":
        if native_module is not None and _native_missing is not None:
            raise BackendError(f"backend 'native' can't be used: {_native_missing}")
        return "reference" if native_module is None else "native"
    if kind != "cuda":
        if tensor.device != mlp.out_bias.device:  # a meta tensor beside others has no values
            raise InputError(f"the latents are on {tensor.device}, the network is on {mlp.out_bias.device}: move one")
        return "reference"
    reason = _unfit(tensor, mlp)
    if reason is None:
        return "triton"
    warn(f"computing on {tensor.device} in plain PyTorch, which is slower: {reason}", stacklevel=4)
    return "reference"


def integrator_for(tensor: Tensor, backend: str) -> str | None:
    """What computes whole paths beside this backend, or None: then they are stepped in Python."""
    if backend == "triton" and tensor.device.type == "cuda" and _cuda_missing is None:
        return "cuda"
    return backend if backend == "native" else None


def cuda_missing() -> str | None:
    """None where the CUDA flow integrator can be used, otherwise the reason why it can't."""
    return _cuda_missing


# What the kernels of fastflow.kernels take.
MAX_WIDTH = 512
MAX_DEPTH = 8
OLDEST_CAPABILITY = (8, 0)
TRITON_INSTALLED = find_spec("triton") is not None


@contextmanager
def _entered(choices: list[_Choice], name: str) -> Iterator[None]:
    choice = _Choice(name)
    choices.append(choice)
    try:
        yield
    finally:
        choices.remove(choice)


def _innermost(choices: list[_Choice]) -> Any:
    for choice in choices[-1:]:  # one look at the list, which other threads change
        return choice.name
    return None


def _triton_missing() -> str | None:
    if not TRITON_INSTALLED:
        return "the package triton isn't installed"
    if _interpreting():
        return None
    if not torch.cuda.is_available():
        return (
            "torch finds no CUDA device; to interpret the kernels on the CPU, set TRITON_INTERPRET=1 before the start"
        )
    reasons = [_too_old(torch.device("cuda", i)) for i in range(torch.cuda.device_count())]
    return None if None in reasons else reasons[0]


def _interpreting() -> bool:
    return environ.get("TRITON_INTERPRET", "0") in ("1", "true", "on", "yes", "y")


def _too_old(device: torch.device) -> str | None:
    properties = torch.cuda.get_device_properties(device)  # which torch.compile knows for a constant
    if (properties.major, properties.minor) >= OLDEST_CAPABILITY:
        return None
    return f"the Triton kernels need compute capability 8.0, {device} has {properties.major}.{properties.minor}"


def _unfit(tensor: Tensor, mlp: MLP) -> str | None:
    """Why the Triton kernels can't take this network on this tensor's device, or None."""
    depth, widest = len(mlp.weights), max(max(weight.shape[1:]) for weight in mlp.weights)
    if depth > MAX_DEPTH:
        return f"the Triton kernels take up to {MAX_DEPTH} hidden layers, got {depth}"
    if widest > MAX_WIDTH:
        return f"the Triton kernels take widths and dimensions up to {MAX_WIDTH}, got {widest}"
    if tensor.device.type == "cpu":
        return None if _interpreting() else "the latents are on the CPU, where the kernels run under TRITON_INTERPRET=1"
    if tensor.device.type != "cuda":
        return f"the Triton kernels run on CUDA devices, the latents are on {tensor.device}"
    return _too_old(tensor.device) if TRITON_INSTALLED else "the package triton isn't installed"
