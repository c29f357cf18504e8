"""Files that are either whole or absent: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from fastflow.core.errors import BusyError, InputError


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary path beside `file` to write to; it takes `file`'s place when the context ends without an error."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with naming(file, temporary):
            yield temporary
            _sync(temporary)
            temporary.replace(file)
            _sync(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Whether `path` is such a temporary file, left by a process that was killed while it wrote."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None and path.is_file()


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """The same for a folder, whose files are synced first; an older folder of that name is removed in the end."""
    folder = folder.resolve()
    temporary, older = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with naming(folder, temporary):
            temporary.mkdir(parents=True)
            yield temporary
            for file in temporary.iterdir():
                _sync(file)
            if folder.exists():
                folder.rename(older)
            temporary.rename(folder)
            _sync(folder.parent)
    finally:
        if older.exists() and not folder.exists():
            older.rename(folder)
        for leftover in (temporary, older):
            shutil.rmtree(leftover, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder that is whole until it is gone: what a killed process leaves of it is under a hidden name."""
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    _sync(folder.parent)
    shutil.rmtree(hidden)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if need be, against other processes that would; made for nothing, it is removed again.

    The lock is the operating system's, on the folder itself: it ends with its process, however that ends, and leaves no
    file behind.

    Raises:
        BusyError: another process holds it.
        InputError: it is a file.
    """
    new = not folder.exists()
    if not new and not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file, expected a folder for the run")
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"another process is training in {str(folder)!r}: wait until it is done, or choose another folder"
            ) from error
        except OSError as error:  # some network file systems
            warnings.warn(
                f"the file system can't lock {str(folder)!r} ({error.strerror}): see to it that no other process "
                "trains there",
                stacklevel=3,
            )
        yield
    finally:
        os.close(descriptor)
        if new and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Name `path` in an operating system's error that names nothing, as a full disk's does, or something temporary."""
    try:
        yield
    except OSError as error:
        if error.filename is None or (temporary is not None and str(error.filename).startswith(str(temporary))):
            error.filename = str(path)
        raise


def write_json(file: Path, value: Any) -> None:
    """Write a value as JSON, indented; a float that JSON can't hold is an error."""
    text = json.dumps(value, indent=2, allow_nan=False)
    with replacing(file) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors, on any device, to a safetensors file."""
    # A module that has two names has its tensors twice; safetensors takes none that share their memory.
    apart = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    # safetensors' own writer has an error of its own for a full disk; Python's raises OSError, as for every other file.
    file.write_bytes(save(apart))


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it isn't there, can't be read or isn't JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{str(file)!r} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{str(file)!r} isn't JSON: {error}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
