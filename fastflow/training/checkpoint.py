"""Checkpoints: folders step-000123 of safetensors and JSON that are either whole or absent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastflow.errors import InputError
from fastflow.files import read_json, replacing_folder, write_json


class Checkpoint(NamedTuple):
    """The folder of a checkpoint and the number of training steps behind it."""

    folder: Path
    step: int


def save_checkpoint(folder: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
    """Write `step-NNNNNN` under `folder`: the module's state, the optimizer's, and the step."""
    checkpoint = Checkpoint(folder / f"step-{step:06d}", step)
    with replacing_folder(checkpoint.folder) as temporary:
        save_file(_on_cpu(module.state_dict()), temporary / "weights.safetensors")
        state = {
            f"{parameter}.{name}": torch.as_tensor(value)
            for parameter, values in optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }
        save_file(_on_cpu(state), temporary / "optimizer.safetensors")
        write_json(temporary / "state.json", {"step": step})
    return checkpoint


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint with the most steps under `folder`, or None."""
    steps = [int(m[1]) for path in folder.glob("step-*") if (m := re.fullmatch(r"step-(\d{6,})", path.name))]
    return Checkpoint(folder / f"step-{max(steps):06d}", max(steps)) if steps else None


def load_checkpoint(checkpoint: Checkpoint, module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Load a checkpoint's weights, and the optimizer's state where one is given.

    Raises:
        InputError: a file is missing, damaged, or of another model.
    """
    state = read_json(checkpoint.folder / "state.json")
    if not isinstance(state, dict) or state.get("step") != checkpoint.step:
        raise InputError(f"checkpoint {str(checkpoint.folder)!r} is damaged: its state.json doesn't name its step")
    weights = _load(checkpoint.folder / "weights.safetensors")
    expected = module.state_dict()
    wrong = sorted(weights.keys() ^ expected.keys()) or sorted(
        name for name, value in expected.items() if weights[name].shape != value.shape
    )
    if wrong:
        raise InputError(
            f"checkpoint {str(checkpoint.folder)!r} belongs to another model: {wrong[0]!r} doesn't fit this configuration"
        )
    for name, value in weights.items():
        if not bool(value.isfinite().all()):
            raise InputError(f"checkpoint {str(checkpoint.folder)!r} holds NaN or infinity in {name!r}")
    module.load_state_dict(weights)
    if optimizer is not None:
        whole = optimizer.state_dict()
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in _load(checkpoint.folder / "optimizer.safetensors").items():
            parameter, name = key.split(".", 1)
            states.setdefault(int(parameter), {})[name] = value
        optimizer.load_state_dict({**whole, "state": states})


def _load(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except FileNotFoundError as error:
        raise InputError(f"checkpoint file {str(file)!r} is missing") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint file {str(file)!r} can't be read: {error}") from error


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
