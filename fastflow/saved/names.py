"""The names of a run's potentials, in its names.json."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastflow.core.errors import InputError
from fastflow.core.files import read_json, write_json
from fastflow.training.run_folder import begin_writing

_LONGEST = 60


def read_names(folder: Path, count: int) -> dict[int, str]:
    """The names of a run's potentials, by number. Entries for numbers that the run doesn't have are left out.

    Raises:
        InputError: the run's names.json is damaged.
    """
    file = folder / "names.json"
    if not file.exists():
        return {}
    found = read_json(file)
    if not isinstance(found, dict) or not all(key.isdecimal() and isinstance(name, str) for key, name in found.items()):
        raise InputError(f'{str(file)!r} must hold names by potential, such as {{"3": "rotation"}}')
    return {int(key): found[key] for key in sorted(found, key=int) if int(key) < count}


def write_name(folder: Path, count: int, potential: int, name: str | None) -> None:
    """Name a potential, or remove its name with None.

    Raises:
        InputError: there is no such potential; or the name is empty, is a number, is longer than 60 characters, has
            several lines, or belongs to another potential.
    """
    if not isinstance(potential, int) or isinstance(potential, bool) or not 0 <= potential < count:
        raise InputError(f"potential must lie in 0..{count - 1}, got {potential!r}")
    if name is not None:
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > _LONGEST:
            raise InputError(f"a potential's name must be one line of 1 to {_LONGEST} characters, got {name!r}")
        name = name.strip()
        if name.isdecimal():
            raise InputError(f"a potential's name must be more than a number, got {name!r}")
    begin_writing(folder / "names.json")
    with _one_writer(folder):
        names = read_names(folder, count)
        names.pop(potential, None)
        other = next((k for k, known in names.items() if known == name), None)
        if other is not None:
            raise InputError(f"potential {other} is called {name!r} already: choose another name")
        if name is not None:
            names[potential] = name
        write_json(folder / "names.json", {str(k): names[k] for k in sorted(names)})


@contextmanager
def _one_writer(folder: Path) -> Iterator[None]:
    """Wait for other processes that name this run's potentials, so that no name is lost between reading and writing.

    The lock is on config.json: a training holds a lock on the folder, and names may be given during a training.
    """
    with (folder / "config.json").open("rb") as held:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
