"""Files that are either whole or absent: written under a temporary name, synced, then renamed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastflow.errors import InputError


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary path beside `file` to write to; it takes `file`'s place when the context ends without an error."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(file)
        _sync(file.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """The same for a folder, whose files are synced first; an older folder of that name is removed."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(file: Path, value: Any) -> None:
    """Write a value as JSON, indented; a float that JSON can't hold is an error."""
    text = json.dumps(value, indent=2, allow_nan=False)
    with replacing(file) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


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
