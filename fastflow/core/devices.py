"""Finding a device by its name, and moving tensors there."""

from __future__ import annotations

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
