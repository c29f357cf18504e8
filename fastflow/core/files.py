"""Writing files so that each is either complete or absent, and reading JSON that somebody else may have written.

A file is written under a temporary name, synced to disk, then renamed.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shutil
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from fastflow.core.errors import BusyError, InputError

LARGEST_JSON = 1 << 26
"""The most bytes that are read of a JSON file."""

ALWAYS_READ, MOST_PER_BYTE, MOST_READ = 1 << 26, 64, 1 << 32
"""Bounds of what a file may inflate to: 64 MiB, or 64 bytes for each of its own up to 4 GiB, or as much as it has."""

_DEEPEST = 64
_TOO_DEEP = f"its lists and objects are nested more than {_DEEPEST} deep"
_LONGEST_KEY = 1000
_SURROGATES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Halves of characters, which no text can hold. The rest of their range stands for bytes of files' names."""


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
    """Read a JSON file, of at most `LARGEST_JSON` bytes.

    Raises:
        InputError: the file doesn't exist, can't be read, is too large, or `parse_json` refuses it.
    """
    try:
        content = read_up_to(file, LARGEST_JSON)
    except OSError as error:
        raise InputError(f"{str(file)!r} can't be read: {error.strerror}") from error
    return parse_json(content, repr(str(file)))


def read_up_to(file: Path, most: int) -> bytes:
    """The bytes of a file; raise InputError if there are more than `most`."""
    with file.open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise InputError(f"{str(file)!r} is larger than {most >> 20} MiB, the most that is read of such a file")
    return content


def most_inflated(compressed: int) -> int:
    """The most bytes to which a file of `compressed` bytes may inflate.

    Without a bound, a small file could fill any memory, as deflate makes up to 1,032 bytes of one.
    """
    return max(compressed, min(max(ALWAYS_READ, MOST_PER_BYTE * compressed), MOST_READ))


def check_inflated(size: int, compressed: int, what: str) -> None:
    """Raise InputError if a file of `compressed` bytes promises to inflate to more than `most_inflated`."""
    most = most_inflated(compressed)
    if size > most:
        raise InputError(
            f"{what} has {compressed} bytes and promises {size}, more than the {most} that are read of such a file"
        )


def check_zip(file: Path) -> None:
    """Check by `check_inflated` what the members of a file promise, if it is a zip archive; none is inflated.

    Raises:
        InputError: they promise too much.
        zipfile.BadZipFile: the archive is damaged.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            promised = sum(member.file_size for member in archive.infolist())
            check_inflated(promised, file.stat().st_size, repr(str(file)))


def parse_json(text: str | bytes, what: str, *, finite: bool = True) -> Any:
    """The value that a JSON text holds.

    Whoever uses the value can rely on it: lists and objects are nested 64 deep at most, an object has each key once,
    keys have at most 1,000 characters, every number fits a float, and every text can be written again.

    Args:
        what: the text's origin, for error messages.
        finite: whether to refuse NaN and infinity, which Python writes though JSON doesn't have them.

    Raises:
        InputError: the text isn't JSON, or breaks one of these rules.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(text, object_pairs_hook=_object, parse_int=_whole)
    except InputError as error:
        raise InputError(f"{what} can't be used: {error}") from error
    except RecursionError as error:
        raise InputError(f"{what} can't be used: {_TOO_DEEP}") from error
    except ValueError as error:
        raise InputError(f"{what} isn't JSON: {error}") from error
    problem = _problem(value, finite)
    if problem:
        raise InputError(f"{what} can't be used: {problem}")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; raise InputError for a key that it has twice, or that is too long."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise InputError(f"an object has the key {shortened(twice)} twice: keep one of the two")
    longest = max(map(len, found), default=0)
    if longest > _LONGEST_KEY:
        raise InputError(f"an object has a key of {longest} characters, expected at most {_LONGEST_KEY}")
    return found


def _whole(digits: str) -> int | float:
    """A whole number of JSON; infinity beyond a float's range, where Python may refuse to read the digits."""
    return int(digits) if len(digits) < 400 and abs(int(digits)) <= sys.float_info.max else float(digits)


def _problem(value: Any, finite: bool) -> str:
    """What is wrong with a value that JSON held, and where; empty if nothing is."""
    # Each entry is a value, its depth, and where it is: its key or place, and the same of what holds it.
    waiting: list[tuple[Any, int, Any]] = [(value, 1, None)]
    while waiting:
        value, depth, where = waiting.pop()
        if isinstance(value, dict | list):
            if depth > _DEEPEST:
                return _TOO_DEEP
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += [(part, depth + 1, (key, where)) for key, part in items]
            value = "".join(value) if isinstance(value, dict) else ""  # the keys are texts too
        if isinstance(value, str) and _SURROGATES.search(value):
            return f"{_place(where)} holds half of a character (a lone surrogate), expected text"
        if finite and isinstance(value, float) and not math.isfinite(value):
            found = "NaN" if math.isnan(value) else "infinity, or a number too large for a float"
            return f"{_place(where)} must be a finite number, got {found}"
    return ""


def _place(where: Any) -> str:
    """Where a value is in JSON, such as config.hidden[1]."""
    words = ""
    while where is not None:
        key, where = where
        words = (f"[{key}]" if isinstance(key, int) else f".{key}") + words
    return shortened(words.removeprefix("."), quoted=False) if words else "it"


def shortened(value: object, *, quoted: bool = True) -> str:
    """A value as errors show it: as Python writes it, or as it is, but no longer than a line or two."""
    text = repr(value) if quoted else str(value)
    return text if len(text) <= 200 else f"{text[:150]}... ({len(text)} characters)"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
