"""Temporary files and folders: their names, their locks, and the removal of those that killed processes left behind.

A temporary file of the process 123 for `names.json` is `.names.json.123.tmp`. A folder that is being replaced is
`.traversals.123.old` for a moment. Their process holds a lock on them, which ends with the process.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

_NAME = re.compile(r"\.(?P<name>.+)\.(?P<process>\d+)\.(?P<kind>tmp|old)", re.DOTALL)


def temporary_path(path: Path, kind: Literal["tmp", "old"] = "tmp") -> Path:
    """The hidden path beside `path` that this process writes to, or moves an older `path` to."""
    return path.with_name(f".{path.name}.{os.getpid()}.{kind}")


@contextmanager
def in_use(temporary: Path) -> Iterator[None]:
    """Hold a lock on a temporary folder, or on a temporary file, which is made, so that no process takes it away.

    The file is a new one: somebody else's folder may hold a link of this name, which leads to a file of the user.
    """
    if temporary.is_dir() and not temporary.is_symlink():
        descriptor = os.open(temporary, os.O_RDONLY)
    else:
        if os.path.lexists(temporary):
            temporary.unlink()
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def is_leftover(path: Path) -> bool:
    """Whether `path` is a temporary file or folder whose process is gone."""
    found = _NAME.fullmatch(path.name)
    if found is None or path.is_symlink() or not (path.is_file() or path.is_dir()):
        return False
    process = int(found["process"])
    # A process of another machine or container has a number that says nothing here, but holds its lock.
    return not (process != os.getpid() and _is_alive(process)) and not _is_locked(path)


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left in a folder: all of it, or what was to become the file or folder `name`.

    A folder that was moved away, and whose place is still empty, is moved back.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        found = _NAME.fullmatch(path.name)
        if found is None or name not in (None, found["name"]) or not is_leftover(path):
            continue
        place = folder / found["name"]
        with suppress(OSError):  # what can't be removed is in nobody's way
            if found["kind"] == "old" and not os.path.lexists(place):
                if not any(links_in(path)):  # somebody else's would be where nobody expects them
                    path.rename(place)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def links_in(path: Path) -> Iterator[Path]:
    """The symbolic links in a file or folder, itself included; none is followed."""
    waiting = [path]  # folders may lie deeper in each other than calls can
    while waiting:
        path = waiting.pop()
        if path.is_symlink():
            yield path
        elif path.is_dir():
            waiting += path.iterdir()


def _is_alive(process: int) -> bool:
    """Whether a process of this machine has this number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it belongs to somebody else
        return True
    return True


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock of a temporary file or folder, or may do so."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks here
        return False
    finally:
        os.close(descriptor)
    return False
