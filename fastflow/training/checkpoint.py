"""Checkpoints: folders such as step-000123 with safetensors and JSON files. Each is either complete or absent.

A list of the files' digests is written with them. Each file is read once, its digest is compared with the list's, and
the same bytes are parsed. Checkpoints of earlier versions have no list and are read without this check.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from fastflow.core.digests import LIST, read_digests, read_whole, write_digests
from fastflow.core.errors import InputError
from fastflow.core.files import parse_json, replacing_folder, shortened, write_json, write_tensors

_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"

_Digests = dict[str, str] | None


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
    digest: str
    """The SHA-256 of weights.safetensors."""

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
        facts: what state.json holds besides the step and the name of the list of digests.
    """
    checkpoint = Checkpoint(folder / f"step-{step:06d}", step)
    remove_unfinished(folder)
    with replacing_folder(checkpoint.folder) as temporary:
        digests = {_WEIGHTS: write_tensors(temporary / _WEIGHTS, module.state_dict())}
        state = {
            f"{parameter}.{name}": torch.as_tensor(value)
            for parameter, values in optimizer.state_dict()["state"].items()
            for name, value in values.items()
        }
        digests[_OPTIMIZER] = write_tensors(temporary / _OPTIMIZER, state)
        # With the list's name, a list that was lost is told from one that an earlier version didn't write.
        digests[_STATE] = write_json(temporary / _STATE, {"step": step, **(facts or {}), "digests": LIST})
        write_digests(temporary, digests)
    return checkpoint


def remove_unfinished(folder: Path) -> None:
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
    digests = _digests(checkpoint)
    facts = _facts(checkpoint, digests)
    data, digest = _read(checkpoint, _WEIGHTS, digests)
    weights = _tensors(checkpoint, _WEIGHTS, data)
    weights = {name: value for name, value in weights.items() if not name.startswith(ignored)}
    expected = module.state_dict()
    wrong = sorted(weights.keys() ^ expected.keys()) or sorted(
        name for name, value in expected.items() if weights[name].shape != value.shape
    )
    if wrong:
        raise InputError(
            f"checkpoint {str(checkpoint.folder)!r} is of another model: {wrong[0]!r} doesn't fit the configuration"
        )
    states = {} if optimizer is None else _optimizer_states(checkpoint, optimizer, digests)
    return CheckpointContents(checkpoint.step, weights, states, facts, digest)


def read_facts(checkpoint: Checkpoint) -> dict[str, Any]:
    """The contents of a checkpoint's state.json; raise InputError if it is missing or damaged."""
    return _facts(checkpoint, _digests(checkpoint))


def weights_digest(checkpoint: Checkpoint) -> str:
    """The SHA-256 of a checkpoint's weights.safetensors, by which figures name the weights that they were measured on.

    It is read from the list of digests where there is one, and the weights aren't read.

    Raises:
        InputError: the list is damaged; or there is none, and no weights either.
    """
    digests = _digests(checkpoint)
    if digests is None:
        return _read(checkpoint, _WEIGHTS, None)[1]
    if _WEIGHTS not in digests:
        raise _damaged(checkpoint, f"its {LIST} doesn't name its {_WEIGHTS}")
    return digests[_WEIGHTS]


def _optimizer_states(
    checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, digests: _Digests
) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state of each parameter, by the parameter's number."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    data, _ = _read(checkpoint, _OPTIMIZER, digests)
    for key, value in _tensors(checkpoint, _OPTIMIZER, data).items():
        number, _, name = key.partition(".")
        known = re.fullmatch("[0-9]{1,9}", number) is not None and int(number) < len(parameters)
        if not known or value.shape not in ((), parameters[int(number)].shape):
            raise _damaged(checkpoint, f"{shortened(key)} in its optimizer.safetensors doesn't fit its weights")
        states.setdefault(int(number), {})[name] = value
    # All parameters have the same kinds of state, of which Adam needs each.
    kinds = set(optimizer.state_dict()["state"].get(0, {})) or {"step", "exp_avg", "exp_avg_sq"}
    if not states or any(not kinds <= state.keys() for state in states.values()):
        raise _damaged(checkpoint, "its optimizer.safetensors is empty, or lacks a part of a state")
    return states


def _digests(checkpoint: Checkpoint) -> _Digests:
    """The digests of the checkpoint's files; None if an earlier version wrote it."""
    try:
        return read_digests(checkpoint.folder)
    except InputError as error:
        raise _changed(checkpoint, LIST, error) from error


def _facts(checkpoint: Checkpoint, digests: _Digests) -> dict[str, Any]:
    """The contents of state.json."""
    data, _ = _read(checkpoint, _STATE, digests)
    try:
        facts = parse_json(data, f"its {_STATE}")
    except InputError as error:
        raise _damaged(checkpoint, str(error)) from error
    if not isinstance(facts, dict) or facts.get("step") != checkpoint.step:
        raise _damaged(checkpoint, f"its {_STATE} doesn't name its step")
    if digests is None and "digests" in facts:
        raise _damaged(checkpoint, f"its {LIST} is missing")
    for name, default in (("restarts", 0), ("rate_factor", 1.0)):
        if not isinstance(facts.get(name, default), (int, float)) or not 0 <= facts.get(name, default) < 2**63:
            raise _damaged(checkpoint, f"its {_STATE} has {name} {shortened(facts[name])}, expected a number")
    if "rows" in facts and not _are_rows(facts["rows"]):
        raise _damaged(checkpoint, f"its {_STATE} has rows {shortened(facts['rows'])}, expected lists of numbers")
    return facts


def _are_rows(value: Any) -> bool:
    """Whether a value is a list of lists of numbers, all of one length."""
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        return False
    return len({len(row) for row in value}) == 1 and all(type(x) in (int, float) for row in value for x in row)


def _read(checkpoint: Checkpoint, name: str, digests: _Digests) -> tuple[bytes, str]:
    """The bytes of one of the checkpoint's files, which are those that were written, and their digest."""
    try:
        return read_whole(checkpoint.folder / name, digests)
    except FileNotFoundError as error:
        raise _damaged(checkpoint, f"its {name} is missing") from error
    except OSError as error:
        raise _damaged(checkpoint, f"its {name} can't be read: {error.strerror}") from error
    except InputError as error:
        raise _changed(checkpoint, name, error) from error


def _tensors(checkpoint: Checkpoint, name: str, data: bytes) -> dict[str, Tensor]:
    """The tensors in the bytes of one of the checkpoint's files, all of them finite."""
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise _damaged(checkpoint, f"its {name} can't be read: {error}") from error
    for key, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise _damaged(checkpoint, f"{key!r} in its {name} holds NaN or infinity")
    return tensors


def _changed(checkpoint: Checkpoint, name: str, error: InputError) -> InputError:
    """The error for a file that is refused by an error with its whole path."""
    return _damaged(checkpoint, str(error).replace(repr(str(checkpoint.folder / name)), f"its {name}"))


def _damaged(checkpoint: Checkpoint, what: str) -> InputError:
    return InputError(
        f"checkpoint {str(checkpoint.folder)!r} is damaged: {what}; remove its folder to go back to the one before"
    )
