"""Checkpoints: folders such as step-000123 with safetensors and JSON files. Each is either complete or absent."""

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
from fastflow.core.files import read_json, replacing_folder, shortened, write_json, write_tensors


class Checkpoint(NamedTuple):
    """The folder of a checkpoint, and the training steps done before it was written."""

    folder: Path
    step: int


class CheckpointContents(NamedTuple):
    """The contents of a checkpoint, read and checked. They are plain data, which can be sent to another process."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    """The optimizer's state of each parameter, by the parameter's number; empty if it wasn't read."""
    facts: dict[str, Any]
    """The contents of state.json."""

    def load(self, module: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Load the weights into the module, and the state into the optimizer."""
        module.load_state_dict(self.weights)
        if optimizer is not None:
            optimizer.load_state_dict({**optimizer.state_dict(), "state": self.optimizer})


def save_checkpoint(
    folder: Path, step: int, module: nn.Module, optimizer: torch.optim.Optimizer, facts: dict[str, Any] | None = None
) -> Checkpoint:
    """Write the checkpoint `step-NNNNNN` under `folder`.

    Args:
        facts: what state.json holds besides the step.
    """
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
    """Remove the unfinished checkpoints of a process that was killed while it wrote or removed one."""
    for leftover in folder.glob(".step-*"):  # no other process is writing: a run has one writer
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
) -> CheckpointContents:
    """Read a checkpoint of this module, and of its optimizer if given. Nothing is loaded into them yet.

    Args:
        ignored: prefixes of weights' names that are left out.

    Raises:
        InputError: a file is missing, damaged, or belongs to another model.
    """
    try:
        facts = read_json(checkpoint.folder / "state.json")
    except InputError as error:
        raise _damaged(checkpoint, str(error)) from error
    if not isinstance(facts, dict) or facts.get("step") != checkpoint.step:
        raise _damaged(checkpoint, "its state.json doesn't name its step")
    for name, default in (("restarts", 0), ("rate_factor", 1.0)):
        if not isinstance(facts.get(name, default), (int, float)) or not 0 <= facts.get(name, default) < 2**63:
            raise _damaged(checkpoint, f"its state.json has {name} {shortened(facts[name])}, expected a number")
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
    return CheckpointContents(checkpoint.step, weights, states, facts)


def _optimizer_states(checkpoint: Checkpoint, optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state of each parameter, by the parameter's number."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in _load(checkpoint, "optimizer.safetensors").items():
        number, _, name = key.partition(".")
        known = re.fullmatch("[0-9]{1,9}", number) is not None and int(number) < len(parameters)
        if not known or value.shape not in ((), parameters[int(number)].shape):
            raise _damaged(checkpoint, f"{shortened(key)} in its optimizer.safetensors doesn't fit its weights")
        states.setdefault(int(number), {})[name] = value
    if not states:
        raise _damaged(checkpoint, "its optimizer.safetensors is empty")
    return states


def _load(checkpoint: Checkpoint, name: str) -> dict[str, Tensor]:
    """The tensors of one of the checkpoint's files, all of them finite."""
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
