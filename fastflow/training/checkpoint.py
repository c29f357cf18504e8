"""Checkpoints: folders step-000123 of safetensors and JSON that are either whole or absent."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fastflow.core.errors import InputError
from fastflow.core.files import read_json, replacing_folder, write_json, write_tensors


class Checkpoint(NamedTuple):
    """The folder of a checkpoint and the number of training steps behind it."""

    folder: Path
    step: int


class Saved(NamedTuple):
    """What a checkpoint holds, read and checked: plain data, which another process can be sent."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    """What the optimizer knows of each parameter, by the parameter's number; empty where it wasn't read."""
    facts: dict[str, Any]

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Give the module its weights, and the optimizer its state."""
        module.load_state_dict(self.weights)
        if optimizer is not None:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self.optimizer})


def save_checkpoint(
    folder: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, facts: dict[str, Any] | None = None
) -> Checkpoint:
    """Write `step-NNNNNN` under `folder`: the module's state, the optimizer's, the step, and further facts of it."""
    checkpoint = Checkpoint(folder / f"step-{step:06d}", step)
    remove_leftovers(folder)
    with replacing_folder(checkpoint.folder) as temporary:
        write_tensors(temporary / "weights.safetensors", module.state_dict())
        state = {
            f"{parameter}.{name}": torch.as_tensor(value)
            for parameter, values in optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }
        write_tensors(temporary / "optimizer.safetensors", state)
        write_json(temporary / "state.json", {"step": step, **(facts or {})})
    return checkpoint


def remove_leftovers(folder: Path) -> None:
    """Remove what a process left that was killed while it wrote or removed a checkpoint; a run has one writer."""
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover)


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint with the most steps under `folder`, or None."""
    steps = [int(m[1]) for path in folder.glob("step-*") if (m := re.fullmatch(r"step-(\d{6,})", path.name))]
    return Checkpoint(folder / f"step-{max(steps):06d}", max(steps)) if steps else None


def read_checkpoint(
    checkpoint: Checkpoint,
    module: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    ignored: tuple[str, ...] = (),
) -> Saved:
    """Read a checkpoint of this module, and the optimizer's state where one is given; nothing is loaded yet.

    Args:
        ignored: beginnings of the names of weights that the checkpoint may hold and the module needn't have.

    Raises:
        InputError: a file is missing, damaged, or of another model.
    """
    try:
        facts = read_json(checkpoint.folder / "state.json")
    except InputError as error:
        raise _damaged(checkpoint, str(error)) from error
    if not isinstance(facts, dict) or facts.get("step") != checkpoint.step:
        raise _damaged(checkpoint, "its state.json doesn't name its step")
    weights = _load(checkpoint, "weights.safetensors")
    weights = {name: value for name, value in weights.items() if not name.startswith(ignored)}
    expected = module.state_dict()
    wrong = sorted(weights.keys() ^ expected.keys()) or sorted(
        name for name, value in expected.items() if weights[name].shape != value.shape
    )
    if wrong:
        raise InputError(
            f"checkpoint {str(checkpoint.folder)!r} is of another model: {wrong[0]!r} doesn't fit the configuration"
        )
    states = {} if optimizer is None else _optimizer_states(checkpoint, optimizer)
    return Saved(checkpoint.step, weights, states, facts)


def _optimizer_states(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """What the optimizer knows of each parameter, by the parameter's number."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in _load(checkpoint, "optimizer.safetensors").items():
        number, _, name = key.partition(".")
        known = number.isdecimal() and int(number) < len(parameters)
        if not known or value.shape not in ((), parameters[int(number)].shape):
            raise _damaged(checkpoint, f"{key!r} in its optimizer.safetensors doesn't fit its weights")
        states.setdefault(int(number), {})[name] = value
    if not states:
        raise _damaged(checkpoint, "its optimizer.safetensors is empty")
    return states


def _load(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    try:
        tensors = load_file(checkpoint.folder / name)
    except FileNotFoundError as error:
        raise _damaged(checkpoint, f"its {name} is missing") from error
    except (SafetensorError, OSError) as error:
        raise _damaged(checkpoint, f"its {name} can't be read: {error}") from error
    for key, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise _damaged(checkpoint, f"{key!r} in its {name} holds NaN or infinity")
    return tensors


def _damaged(checkpoint: Checkpoint, what: str) -> InputError:
    return InputError(
        f"checkpoint {str(checkpoint.folder)!r} is damaged: {what}; remove its folder to go back to the one before"
    )
