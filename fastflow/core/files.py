"""Writing files so that each is either complete or absent: under a temporary name, synced to disk, then renamed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from fastflow.core.digests import digest_of, sealed, unsealed
from fastflow.core.errors import BusyError, InputError
from fastflow.core.leftovers import in_use, remove_leftovers, temporary_path

# What the file managers of macOS, Windows, KDE and Synology write into folders that somebody looks at.
_SYSTEM_NAMES = (
    ".ds_store", "__macosx", ".localized", ".spotlight-v100", ".trashes", ".fseventsd", "icon\r",
    "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information", ".directory", "@eadir",
)  # fmt: skip


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
