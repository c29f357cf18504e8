"""Writing files so that each is either complete or absent: under a temporary name, synced to disk, then renamed."""

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

# What the file managers of macOS, Windows, KDE and Synology write into folders that somebody looks at.
_SYSTEM_NAMES = (
    ".ds_store", "__macosx", ".localized", ".spotlight-v100", ".trashes", ".fseventsd", "icon\r",
    "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information", ".directory", "@eadir",
)  # fmt: skip


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Give a temporary path beside `file` to write to; it replaces `file` when the context ends without an error."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with naming(file, temporary):
            yield temporary
            _sync(temporary)
            temporary.replace(file)
            _sync(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


def left_by_system(path: Path) -> bool:
    """Whether an operating system left a file or a folder there, such as .DS_Store, ._photo.png, desktop.ini."""
    name = path.name.lower()
    return name in _SYSTEM_NAMES or name.startswith("._")


def is_leftover(path: Path) -> bool:
    """Whether `path` is a temporary file of `replacing`, left behind by a process that was killed while it wrote."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None and path.is_file()


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to write to; it replaces `folder` when the context ends without an error.

    Its files are synced to disk first. An older folder of the same name is removed last.
    """
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
    """Remove a folder in one step: it is renamed to a hidden name first, so a killed process leaves no half of it."""
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    _sync(folder.parent)
    shutil.rmtree(hidden)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Lock `folder` against other processes; make it if it doesn't exist, and remove it again if it stays empty.

    The operating system holds the lock on the folder itself. It ends with the process, in whatever way that ends, and
    leaves no file behind.

    Raises:
        BusyError: another process has locked the folder.
        InputError: `folder` is a file.
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
                f"the file system can't lock {str(folder)!r} ({error.strerror}): make sure that no other process "
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
    """Name `path` in an OSError that names no file, as a full disk's does, or the temporary file."""
    try:
        yield
    except OSError as error:
        if error.filename is None or (temporary is not None and str(error.filename).startswith(str(temporary))):
            error.filename = str(path)
        raise


def write_json(file: Path, value: Any) -> None:
    """Write a value as indented JSON; NaN and infinity, which JSON doesn't have, are an error."""
    text = json.dumps(value, indent=2, allow_nan=False)
    with replacing(file) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors, from any device, to a safetensors file."""
    # The tensors of a module with two names appear twice, and safetensors refuses tensors that share memory.
    apart = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    # On a full disk, safetensors' own writer raises its own error; Python's raises OSError, as for every other file.
    file.write_bytes(save(apart))


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file doesn't exist, can't be read or isn't JSON.
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
