"""The names of a run's potentials, in its names.json."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fastflow.core.errors import InputError
from fastflow.core.files import read_json, shortened, write_json
from fastflow.training.run_folder import begin_writing

_LONGEST = 60


def read_names(folder: Path, count: int) -> dict[int, str]:
    """The names of a run's potentials, by number. Entries for numbers that the run doesn't have are left out.

    Raises:
        InputError: the run's names.json is damaged, or holds a name that `write_name` would refuse.
    """
    file = folder / "names.json"
    if not file.exists():
        return {}
    return {k: name for k, name in names_in(read_json(file), repr(str(file))).items() if k < count}


def find_name(folder: Path, names: dict[int, str], name: str) -> int:
    """The number of the potential with this name, of a run in a folder with these names.

    Raises:
        InputError: no potential has this name.
    """
    for potential, known in names.items():
        if known == name:
            return potential
    raise InputError(
        f"no potential of {str(folder)!r} is called {name!r}; {', '.join(names.values()) or 'none'} "
        f"{'is' if len(names) < 2 else 'are'} named"
    )


def names_in(found: object, where: str) -> dict[int, str]:
    """The names in the value of a names.json, by number.

    Args:
        where: the value's origin, for error messages.

    Raises:
        InputError: a key isn't a potential's number, or a name is one that `write_name` would refuse.
    """
    if not isinstance(found, dict) or not all(is_number(key) for key in found):
        raise InputError(f'{where} must hold names by potential, such as {{"3": "rotation"}}')
    for key, name in found.items():
        try:
            if _checked_name(name) != name:
                raise InputError(f"it must not begin or end with a space, got {name!r}")
        except InputError as error:
            raise InputError(f"{where}: the name of potential {key} can't be used: {error}") from error
    if len(set(found.values())) < len(found):
        raise InputError(f"{where} gives two potentials the same name: change one of them")
    return {int(key): found[key] for key in sorted(found, key=int)}


def is_number(key: str) -> bool:
    """Whether a key is a potential's number as `write_name` writes it."""
    return re.fullmatch("0|[1-9][0-9]{0,8}", key) is not None


def write_name(folder: Path, count: int, potential: int, name: str | None) -> None:
    """Name a potential, or remove its name with None.

    Raises:
        InputError: there is no such potential; or the name is empty, is a number, is longer than 60 characters, has
            several lines, or belongs to another potential.
    """
    if not isinstance(potential, int) or isinstance(potential, bool) or not 0 <= potential < count:
        raise InputError(f"potential must lie in 0..{count - 1}, got {potential!r}")
    name = None if name is None else _checked_name(name)
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


def _checked_name(name: object) -> str:
    """A potential's name without spaces around it.

    Raises:
        InputError: the name is empty, is a number, is longer than 60 characters, or has several lines.
    """
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or len(name) > _LONGEST:
        raise InputError(f"a potential's name must be one line of 1 to {_LONGEST} characters, got {shortened(name)}")
    name = name.strip()
    if name.isdecimal():
        raise InputError(f"a potential's name must be more than a number, got {name!r}")
    return name


@contextmanager
def _one_writer(folder: Path) -> Iterator[None]:
    """Wait for other processes that name this run's potentials, so that no name is lost between reading and writing.

    The lock is on config.json: a training holds a lock on the folder, and names may be given during a training.
    """
    with (folder / "config.json").open("rb") as held:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
