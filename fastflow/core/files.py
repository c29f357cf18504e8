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
import struct
import sys
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from fastflow.core.digests import check_regular, digest_of, sealed, unsealed
from fastflow.core.errors import BusyError, InputError
from fastflow.core.leftovers import in_use, links_in, remove_leftovers, temporary_path

# What the file managers of macOS, Windows, KDE and Synology write into folders that somebody looks at.
_SYSTEM_NAMES = (
    ".ds_store", "__macosx", ".localized", ".spotlight-v100", ".trashes", ".fseventsd", "icon\r",
    "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information", ".directory", "@eadir",
)  # fmt: skip

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
    """Give a temporary path beside `file` to write to; it replaces `file` when the context ends without an error.

    What killed processes left of the same file is removed.
    """
    temporary = temporary_path(file)
    try:
        with naming(file, temporary):
            remove_leftovers(file.parent, file.name)
            with in_use(temporary):
                yield temporary
                _sync(temporary)
                temporary.replace(file)
                _sync(file.parent)
    finally:
        with suppress(OSError):  # it isn't there, and a read-only file system says something else
            temporary.unlink()


def as_argument(path: str) -> str:
    """A path as one gives it to a command, which would take one that begins with a dash for an option."""
    return f"./{path}" if path.startswith("-") else path


def left_by_system(path: Path) -> bool:
    """Whether an operating system left a file or a folder there, such as .DS_Store, ._photo.png, desktop.ini."""
    name = path.name.lower()
    return name in _SYSTEM_NAMES or name.startswith("._")


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to write to; it replaces `folder` when the context ends without an error.

    Its files are synced to disk first. An older folder of the same name is removed last, and what killed processes left
    of either is removed too.
    """
    named, folder = folder, folder.resolve()
    temporary, older = temporary_path(folder), temporary_path(folder, "old")
    try:
        with naming(named, temporary):
            remove_leftovers(folder.parent, folder.name)
            temporary.mkdir(parents=True)
            with in_use(temporary):
                yield temporary
                for path in (*temporary.iterdir(), temporary):
                    _sync(path)
                if folder.exists():
                    folder.rename(older)
                temporary.rename(folder)
                _sync(folder.parent)
    finally:
        with suppress(OSError):
            if older.exists() and not folder.exists():
                older.rename(folder)
        for leftover in (temporary, older):
            shutil.rmtree(leftover, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder in one step: it is renamed to a hidden name first, so a killed process leaves no half of it."""
    hidden = temporary_path(folder)
    with naming(folder, hidden):
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
        _sync(folder.parent)
        shutil.rmtree(hidden)


def remove_named(folder: Path, names: Iterable[str]) -> None:
    """Remove those files and folders in `folder` that have these names, in their order.

    Raises:
        InputError: one of them can't be removed, as a link to another folder. Nothing is removed then.
    """
    paths = [path for name in names if os.path.lexists(path := folder / name)]
    for path in filter(Path.is_dir, paths):
        if path.is_symlink():
            raise InputError(
                f"{str(path)!r} is a link to the folder {os.readlink(path)!r}, whose files aren't removed: remove the "
                "link, or choose another folder"
            )
        for place, _, _ in os.walk(path):
            if not os.access(place, os.W_OK | os.X_OK):
                raise InputError(f"the files in {place!r} can't be removed: make it writable, or choose another folder")
    for path in paths:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def check_no_links(folder: Path, names: Iterable[str]) -> None:
    """Raise InputError if a file or folder in `folder` of these names is a link, or has one inside.

    Somebody else may have made the folder: a link could lead whoever reads or writes there to any file of the user.
    """
    for link in (link for name in names for link in links_in(folder / name)):
        raise InputError(
            f"{str(link)!r} is a link, to {os.readlink(link)!r}, where a file or folder of {str(folder)!r} itself "
            "must be: remove the link, or put there what it leads to"
        )


def check_place(path: Path, name: Path | None = None) -> None:
    """Raise InputError unless a file or folder can be written at `path`; for a check before the work of making it.

    Folders above it that are missing will be made.

    Args:
        path: where the file or folder goes.
        name: what the message names; `path` itself if None.
    """
    said = repr(str(path if name is None else name))
    for link in (path, *path.parents):
        if link.is_symlink() and not link.exists():
            raise InputError(
                f"{said} can't be written: {str(link)!r} is a link to {os.readlink(link)!r}, which doesn't exist; make "
                "that folder, or choose another one"
            )
    path = path.resolve() if path.is_dir() else path  # a folder is replaced where it lies, and a link to it stays
    place = next((folder for folder in path.parents if folder.exists()), Path())
    if not place.is_dir():
        raise InputError(f"{said} can't be written: {str(place)!r} is a file, expected a folder; choose another one")
    if not os.access(place, os.W_OK | os.X_OK):
        read_only = os.statvfs(place).f_flag & os.ST_RDONLY
        why = "lies on a read-only file system" if read_only else "may not be written to: permission denied"
        raise InputError(
            f"{said} can't be written: the folder {str(place)!r} {why}; make it writable, or choose another"
        )


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Lock `folder` against other processes; make it if it doesn't exist, and remove it again if it stays empty.

    The operating system holds the lock on the folder itself. It ends with the process, in whatever way that ends, and
    leaves no file behind.

    Raises:
        BusyError: another process has locked the folder.
        InputError: `folder` is a file, or nothing can be written there.
    """
    new = not folder.exists()
    if not new and not folder.is_dir():
        raise InputError(f"{str(folder)!r} is a file, expected a folder for the run")
    check_place(folder / "config.json", folder)
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
    """Name `path` in an OSError that names no file, as a full disk's does, and in any error that names `temporary`."""
    try:
        yield
    except OSError as error:
        names = [name for name in (error.filename, error.filename2) if name is not None]
        if not names or (temporary is not None and any(str(name).startswith(str(temporary)) for name in names)):
            error.filename = str(path)
            del error.filename2
        raise
    except Exception as error:
        if temporary is not None:
            error.args = tuple(
                text.replace(str(temporary), str(path)) if isinstance(text, str) else text for text in error.args
            )
        raise


def write_json(file: Path, value: Any) -> str:
    """Write a value as indented JSON, and return the digest of the file.

    NaN and infinity, which JSON doesn't have, are an error.
    """
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return digest_of(text.encode())


def write_sealed(file: Path, record: dict[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
    """Write a JSON record with its digest as its last entry, and return it so.

    Args:
        file: the file.
        record: the record.
        without: the entries that the digest doesn't cover.
    """
    record = sealed(record, without)
    write_json(file, record)
    return record


def read_sealed(file: Path, without: Collection[str] = ()) -> dict[str, Any]:
    """Read a JSON record without its digest; the arguments are those of `write_sealed`.

    Raises:
        InputError: the file can't be read, isn't a JSON object, or has changed since it was written.
    """
    record = read_json(file)
    if not isinstance(record, dict):
        raise InputError(f"{str(file)!r} must hold a JSON object, got a {type(record).__name__}")
    return unsealed(record, file, without)


def write_tensors(file: Path, tensors: dict[str, Tensor]) -> str:
    """Write tensors, from any device, to a safetensors file, and return the digest of the file."""
    # The tensors of a module with two names appear twice, and safetensors refuses tensors that share memory.
    apart = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    # On a full disk, safetensors' own writer raises its own error; Python's raises OSError, as for every other file.
    data = save(apart)
    file.write_bytes(data)
    return digest_of(data)


def read_json(file: Path, *, typed: bool = False) -> Any:
    """Read a JSON file, of at most `LARGEST_JSON` bytes.

    Args:
        file: the file.
        typed: whether somebody named this very file, which may then be a pipe.

    Raises:
        InputError: the file doesn't exist, can't be read, is too large, or `parse_json` refuses it.
    """
    try:
        content = read_up_to(file, LARGEST_JSON, typed=typed)
    except OSError as error:
        raise InputError(f"{str(file)!r} can't be read: {error.strerror}") from error
    return parse_json(content, repr(str(file)))


def read_up_to(file: Path, most: int, *, typed: bool = False) -> bytes:
    """The bytes of a file; raise InputError if there are more than `most`. For `typed` see `read_json`."""
    if not typed:
        check_regular(file)
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


_ZIP_BEGINS, _ZIP_TAIL = b"PK\3\4", 56 + 20 + 22
"""How zip archives begin, and the bytes of their end: of large ones a long record and its place, then a short one."""

DAMAGED_ZIP = (zipfile.BadZipFile, NotImplementedError, OSError, ValueError)
"""What zipfile raises for damaged archives; the second where a member names a compression that it doesn't know."""


def check_zip(file: Path) -> None:
    """Check by `check_inflated` what the members of a file promise, if it is a zip archive; none is inflated.

    Raises:
        InputError: they promise too much.
        zipfile.BadZipFile: the archive is damaged.
    """
    with file.open("rb") as stream:
        begins = stream.read(len(_ZIP_BEGINS))
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _ZIP_TAIL))
        tail = stream.read()
    if begins == _ZIP_BEGINS or zipfile.is_zipfile(file):
        # Readers search for an archive's end and its directory. Where there may be two, each may find another one.
        if not _ends_as_written(tail, size):
            raise zipfile.BadZipFile("it ends with a comment, or its directory isn't at its end")
        with zipfile.ZipFile(file) as archive:
            promised = sum(member.file_size for member in archive.infolist())
            check_inflated(promised, file.stat().st_size, repr(str(file)))


def _ends_as_written(tail: bytes, size: int) -> bool:
    """Whether the end of an archive of `size` bytes follows its directory at once, and is followed by nothing."""
    end, short = size - 22, tail[-22:]
    if len(short) < 22 or not short.startswith(b"PK\5\6") or short[-2:] != b"\0\0":
        return False
    length, start = struct.unpack("<II", short[12:20])
    long, place = tail[-_ZIP_TAIL:-42], tail[-42:-22]
    if len(long) == 56 and place.startswith(b"PK\6\7"):
        end = size - _ZIP_TAIL
        if not long.startswith(b"PK\6\6") or struct.unpack("<Q", place[8:16])[0] != end:
            return False
        length, start = struct.unpack("<QQ", long[40:56])
    return start + length == end


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
        words = (f"[{key}]" if isinstance(key, int) else f".{printable(key)}") + words
    return shortened(words.removeprefix("."), quoted=False) if words else "it"


def shortened(value: object, *, quoted: bool = True) -> str:
    """A value as errors show it: as Python writes it, or as it is, but no longer than a line or two."""
    text = repr(value) if quoted else str(value)
    return text if len(text) <= 200 else f"{text[:150]}... ({len(text)} characters)"


def in_one_line(text: str) -> str:
    """A text in one line, as a terminal may show it, whoever wrote it."""
    return printable(" ".join(text.split()))


def printable(text: str) -> str:
    """A text with escapes for what can't be printed, such as a terminal's commands and line breaks."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
