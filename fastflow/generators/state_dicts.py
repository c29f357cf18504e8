"""Reading weights from files, without running code in them, and loading them into modules key by key."""

from __future__ import annotations

import mmap
import pickle
import re
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor, nn

from fastflow.core.digests import read_digests, read_whole
from fastflow.core.errors import InputError
from fastflow.core.file_kinds import what_it_is
from fastflow.core.files import DAMAGED_ZIP, check_inflated, check_zip, shortened

StateDict = Mapping[str, Tensor]

# The keys under which training scripts save a generator's weights; averaged weights, which are better, come first.
_CONTAINERS = ("g_ema", "G_ema", "generator_smooth", "netG_state_dict", "generator", "netG", "state_dict", "model")

_DTYPES = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool, torch.uint8, torch.int8, torch.int16,
    torch.int32, torch.int64,
}  # fmt: skip
"""The dtypes that weights, and what is saved beside them, may have."""

_DEEPEST = 3
"""How many dicts deep in each other a state dict may lie."""

_EXPORTED = ("archive_format", "serialized_exported_program.json")  # files in archives of torch.export, new and old


def read_state_dict(file: str | Path) -> StateDict:
    """The weights in a file by name; the file is a .safetensors, or from torch.save, read with weights_only=True.

    If the file is a checkpoint that holds several things, these are its generator's weights, averaged ones if possible.

    Raises:
        InputError: the file is missing, can't be read, holds other things than weights, or is a program.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"weights file {str(file)!r} " + ("is a folder" if file.is_dir() else "doesn't exist"))
    if file.suffix == ".safetensors":
        try:
            return _checked(_read_safetensors(file), file)
        except (SafetensorError, OSError, RuntimeError, TypeError) as error:  # the last two for impossible shapes
            what = what_it_is(file) or f"{error}; download or save it again"
            raise InputError(f"weights file {str(file)!r} can't be read: {what}") from error
    try:
        check_zip(file)
        is_program = is_torchscript(file)
        _check_pickle(file)
        found = None if is_program else torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except OSError as error:  # torch's own reader raises it for an archive that is cut off
        what = what_it_is(file) or error.strerror or error
        raise InputError(f"weights file {str(file)!r} can't be read: {what}") from error
    except Exception as error:  # the errors of torch's reader have no common type
        what = what_it_is(file)
        # torch raises the same type of error for a file that is no pickle, but names no global or class then.
        refused = isinstance(error, pickle.UnpicklingError) and re.search("(global|class) ", str(error), re.IGNORECASE)
        if what is None and refused:
            raise InputError(
                f"weights file {str(file)!r} holds more than weights, which could run code and isn't loaded: save the "
                "module's state_dict() alone"
            ) from error
        raise InputError(
            f"weights file {str(file)!r} can't be read as a file that torch.save wrote: "
            + (what or "it is another kind of file, or is cut off or damaged; download or save it again")
        ) from error
    if is_program:
        raise InputError(
            f"weights file {str(file)!r} is a TorchScript program, not a state dict: name it alone, without an "
            "architecture before it"
        )
    state = _inner(found)
    if state is None:
        keys = ", ".join(map(repr, list(found)[:4])) if isinstance(found, Mapping) and found else type(found).__name__
        raise InputError(f"weights file {str(file)!r} holds no state dict, a dict from names to tensors; got {keys}")
    return _checked(state, file)


def _check_pickle(file: Path) -> None:
    """Raise InputError if a file of torch.save asks for an array of bytes, which weights never do, of any size."""
    names = [name for name in _members(file) if name.endswith("data.pkl")]
    if names:
        with zipfile.ZipFile(file) as archive:
            found = any(b"bytearray" in archive.read(name) for name in names)
    elif file.stat().st_size:
        with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = content.find(b"bytearray") >= 0
    else:
        found = False
    if found:
        raise InputError(f"weights file {str(file)!r} holds more than weights: save the module's state_dict() alone")


def make_for(make: Callable[[], nn.Module], state: StateDict, where: str) -> nn.Module:
    """The module that a configuration describes; raise InputError if it is far larger than the weights for it.

    Args:
        make: the function that makes it.
        state: the weights.
        where: the configuration's file.
    """
    with torch.device("meta"):
        numbers = sum(value.numel() for value in make().state_dict().values())
    held = sum(value.numel() for value in state.values())
    if numbers > 2 * held:
        raise InputError(f"{where} describes a network of {numbers} numbers, and its weights are {held}")
    return make()


def _checked(state: StateDict, file: Path) -> StateDict:
    """The weights in a file; raise InputError unless each is a dense tensor of numbers that we compute with."""
    what, size = f"weights file {str(file)!r}", file.stat().st_size
    for key, value in state.items():
        dense = value.layout == torch.strided and not value.is_nested and value.device.type == "cpu"
        if not dense or value.dtype not in _DTYPES:
            kind = "a nested tensor" if value.is_nested else f"{value.dtype}, {value.layout}, on {value.device}"
            raise InputError(
                f"{what} holds {shortened(key)} as {kind}: expected a dense tensor of real numbers; convert it and "
                "save the weights again"
            )
        # Its strides may repeat a few stored numbers without end.
        check_inflated(value.numel() * value.element_size(), size, f"{what} with {shortened(key)}")
    return state


def _read_safetensors(file: Path) -> StateDict:
    """The tensors in a safetensors file. One in a run's checkpoint must be as it was written."""
    digests = read_digests(file.parent) if file.parent.match("step-*") else None
    return load_file(file) if digests is None else load(read_whole(file, digests)[0])


def load_weights(module: nn.Module, state: StateDict, where: str, *, prefix: str | None = None) -> None:
    """Load weights into a module, all of them or, in case of an error, none.

    Args:
        where: the weights' origin, for error messages.
        prefix: the prefix of the module's keys in the state dict. If None, it is searched for, so that a generator
            inside a wrapper is found. Keys without the prefix belong to other networks and are left out.

    Raises:
        InputError: a key is missing or unexpected, or a tensor has another shape; the message names the first.
    """
    expected = module.state_dict()
    prefix = find_prefix(state, expected) if prefix is None else prefix
    own = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
    for key, value in own.items():
        if key in expected and value.shape != expected[key].shape:
            raise InputError(
                f"{where}: {prefix + key!r} has shape {tuple(value.shape)}, expected {tuple(expected[key].shape)}"
            )
    before = {key: value.clone() for key, value in expected.items()}
    # Hooks add some keys, such as a vector of spectral normalization that older files lack: these aren't missing.
    missing, unexpected = module.load_state_dict(own, strict=False)
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]  # only training reads it
    if missing or unexpected:
        module.load_state_dict(before)
        what = f"lacks {prefix + missing[0]!r}" if missing else f"has an unexpected key {prefix + unexpected[0]!r}"
        more = len(missing or unexpected) - 1
        raise InputError(
            f"{where} {what}{f' and {more} more' if more else ''}: it is the state dict of another network than "
            f"{type(module).__name__}"
        )
    wrong = next((key for key, value in own.items() if not bool(value.isfinite().all())), None)
    if wrong is not None:
        module.load_state_dict(before)
        raise InputError(f"{where}: {prefix + wrong!r} holds NaN or infinity")


def find_prefix(state: StateDict, expected: Iterable[str]) -> str:
    """The prefix of the expected keys in a state dict: the one with which most of them are found."""
    expected = list(expected)
    candidates = {""} | {
        key[: -len(wanted)] for wanted in expected[:2] for key in state if key.endswith(f".{wanted}")
    }  # fmt: skip
    return max(sorted(candidates, key=len), key=lambda prefix: sum(prefix + key in state for key in expected))


def is_torchscript(file: Path) -> bool:
    """Whether a file is a TorchScript archive, a zip file with code."""
    return any(name.split("/")[1:2] == ["code"] for name in _members(file))


def is_exported(file: Path) -> bool:
    """Whether a file is an archive of torch.export."""
    return any(name.rpartition("/")[2] in _EXPORTED for name in _members(file))


def _members(file: Path) -> list[str]:
    """The names in a zip file; none if it isn't one."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except DAMAGED_ZIP:
        return []


def _inner(found: Any, depth: int = _DEEPEST) -> StateDict | None:
    """The state dict in a file's contents: the contents themselves, or under one of the known keys; None otherwise."""
    if not isinstance(found, Mapping):
        return None
    if found and all(isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()):
        return found
    if not depth:
        return None
    inside = (_inner(found.get(name), depth - 1) for name in _CONTAINERS)
    return next((inner for inner in inside if inner is not None), None)
