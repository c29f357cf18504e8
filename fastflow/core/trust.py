"""Which programs a run may start: those that its owner ran in training it, as the owner's own state remembers.

Nothing in a run's folder is believed. For each run that was trained here, a file in the user's state folder holds the
programs that it used, such as its generator's FILE.py, each with a digest of the file and its neighbours.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fastflow.core.errors import InputError
from fastflow.core.files import read_json, write_json
from fastflow.core.plugins import names_function
from fastflow.core.programs import fingerprint


class NamedProgram(NamedTuple):
    """A program that a run or a configuration names."""

    role: str
    """What it is for: generator or classifier."""
    path: str
    """The Python file or the archive that is run, as it was named."""
    function: str
    """The function in the file; empty for an archive."""

    @property
    def file(self) -> Path:
        """The file, found from any working directory."""
        return Path(os.path.realpath(self.path))

    def __str__(self) -> str:
        return f"{self.role} {self.file}" + (f":{self.function}" if self.function else "")


class FromFile(str):
    """A FILE.py:FUNCTION that a configuration read from a file names; nobody has typed it.

    Attributes:
        where: the file that it was read from.
        run: the `identity` of the run whose config.json that is.
    """

    where: str
    run: str

    def __new__(cls, text: str, where: str = "", run: str = "") -> FromFile:
        """The text, with where it is from."""
        self = super().__new__(cls, text)
        self.where, self.run = where, run
        return self


def marked(values: dict[str, Any], where: str, record: object) -> dict[str, Any]:
    """The settings that a file holds, with each FILE.py:FUNCTION among them as a `FromFile`.

    Args:
        values: the settings.
        where: the file.
        record: all that the file holds, which may be a run's config.json.
    """
    run = identity(record) if isinstance(record, dict) else ""
    return {
        key: FromFile(value, where, run) if isinstance(value, str) and names_function(value) else value
        for key, value in values.items()
    }


def identity(record: dict[str, Any]) -> str:
    """A digest of what a run's config.json says of the run: its kind, generator and configuration."""
    said = json.dumps({key: record.get(key) for key in ("kind", "generator", "config")}, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def remember(record: dict[str, Any], programs: Sequence[NamedProgram]) -> None:
    """Remember that the run of this config.json may start these programs, as they are now.

    If that can't be written, a warning says so: opening the run will ask for trust.
    """
    if not programs:
        return
    try:
        folder = _folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(folder):
            raise PermissionError(errno.EPERM, f"others may write to {folder}")
        write_json(
            folder / f"{identity(record)}.json", {str(program): fingerprint(program.file) for program in programs}
        )
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        warnings.warn(
            f"it can't be remembered that this run may start {programs[0].file} ({reason}): opening the run will need "
            "--trust, or trust=True in Python",
            stacklevel=2,
        )


def check(run: str, program: NamedProgram, where: str) -> None:
    """Raise InputError unless the run of this identity was trained here with this program as it is now.

    Args:
        run: the run's `identity`.
        program: the program that would be run.
        where: what names the program, for the error.
    """
    if "\0" in program.path or not os.path.isfile(program.file):
        raise InputError(f"{program.role} file {program.path!r} doesn't exist")
    known = _remembered(run).get(str(program))
    if known is not None and known == fingerprint(program.file):
        return
    named = f"the program {str(program.file)!r}" + (f", function {program.function!r}" if program.function else "")
    reason = (
        "which, or what it imports from its folder, has changed since the run was trained"
        if known is not None
        else "which you haven't trained it with on this machine"
    )
    raise InputError(
        f"{where} would run {named}, {reason}: look into the file, and if you trust it, say so by --trust, or "
        f"trust=True in Python, or name a {program.role} of your own by --{program.role}, or {program.role}= in Python"
    )


def _remembered(run: str) -> dict[str, Any]:
    """The programs of a run with their digests; none unless the user alone can have written them."""
    try:
        folder = _folder()
        if not _is_private(folder):
            return {}
        found = read_json(folder / f"{run}.json")
    except (OSError, RuntimeError, InputError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_private(folder: Path) -> bool:
    """Whether the user owns a folder and nobody else may write to it."""
    state = folder.stat()
    return state.st_uid == os.geteuid() and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _folder() -> Path:
    """The folder of the user's state; raise RuntimeError if the user has no home."""
    given = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".local" / "state") / "fastflow" / "runs"
