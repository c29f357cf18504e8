"""Finding a device by its name, moving tensors there, and what callers have set for the whole of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from fastflow.core.errors import BackendError, InputError


def find_device(name: str | torch.device) -> torch.device:
    """The device of that name.

    Raises:
        InputError: the name isn't that of a CPU or CUDA device.
        BackendError: torch doesn't find the device.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device must be cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device must be cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BackendError("device cuda can't be used: torch finds no CUDA device; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise BackendError(f"device {name} can't be used: torch finds {torch.cuda.device_count()} CUDA devices")
    return device


def send(x: Tensor, like: Tensor) -> Tensor:
    """Copy a tensor to the device of `like`, from the host to a GPU without waiting for the GPU's current work."""
    if x.device.type == "cpu" and like.is_cuda:
        x = x.pin_memory()
    return x.to(like.device, non_blocking=True)


@contextmanager
def torch_as_usual() -> Iterator[None]:
    """Let torch record gradients, and make float32 tensors on the CPU, unless told otherwise.

    What the caller has set for all of torch has no effect: torch.inference_mode, torch.no_grad,
    torch.set_default_device, torch.set_default_dtype. As a decorator it is for a whole function.
    """
    with ExitStack() as contexts:
        if torch.is_inference_mode_enabled():
            contexts.enter_context(torch.inference_mode(False))
        contexts.enter_context(torch.enable_grad())
        if torch.get_default_device().type != "cpu":
            contexts.enter_context(torch.device("cpu"))
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            contexts.callback(torch.set_default_dtype, dtype)
        yield
