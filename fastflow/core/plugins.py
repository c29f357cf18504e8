"""Importing code from outside this package: a user's functions, named FILE.py:FUNCTION, and optional packages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from fastflow.core.errors import InputError
from fastflow.core.programs import Program, searched


def names_function(spec: str) -> bool:
    """Whether `spec` has the form FILE.py:FUNCTION."""
    return spec.rpartition(":")[0].endswith(".py")


def import_function(spec: str, what: str) -> Callable[..., Any]:
    """The function that FILE.py:FUNCTION names; FILE.py can import the files beside it. Errors say `what` it is for.

    It is run afresh each time, with neighbours of its own: see `fastflow.core.programs.Program`.

    Raises:
        InputError: there is no such file or function, or the file can't be run.
    """
    if not names_function(spec):
        raise InputError(f"{what} must be FILE.py:FUNCTION, got {spec!r}")
    file, _, name = spec.rpartition(":")
    return function_in(file, name, what)


def function_in(file: str, name: str, what: str) -> Callable[..., Any]:
    """The function of this name in a Python file; see `import_function`."""
    function = getattr(_import(Path(file), what), name, None)
    if not callable(function):
        raise InputError(f"{file} has no function {name!r}: define it there, or name another")
    return function


@contextmanager
def running(file: str, name: str, what: str) -> Iterator[None]:
    """Turn any error of a function in a Python file into an InputError, and let it find the file's neighbours by name.

    The file is one from which `function_in` has the function.
    """
    with explaining(f"{what} {file}:{name}"), searched(Path(file), what):
        yield


def name_of(function: Callable[..., Any]) -> str | None:
    """MODULE:NAME of a function or an object's class; None for a lambda, as all lambdas have the same name."""
    named = function if hasattr(function, "__qualname__") else type(function)
    # The digits by which programs of one name are told apart say nothing to people.
    module = re.sub(r"^(fastflow_\w+)_[0-9a-f]{8}\.\w+$", r"\1", str(named.__module__))
    name = f"{module}:{named.__qualname__}"
    return None if "<lambda>" in name else name


def imported(module: str, extra: str, what: str) -> Any:
    """Import a module of an optional package, which only `what` needs.

    Raises:
        InputError: the package isn't installed, and the error names the extra that installs it; or its import fails.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(f"{what} needs the package {error.name}: pip install 'fastflow[{extra}]'") from error
    except Exception as error:
        raise InputError(
            f"{what} needs {module}, whose import failed: {type(error).__name__}: {first_line(error)}"
        ) from error


@contextmanager
def explaining(what: str) -> Iterator[None]:
    """Turn any error of a user's code into an InputError that says that `what` failed."""
    try:
        yield
    except (InputError, torch.OutOfMemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{what} failed: {type(error).__name__}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _import(file: Path, what: str) -> ModuleType:
    if not file.is_file():
        raise InputError(f"{what} file {str(file)!r} doesn't exist")
    with explaining(f"{what} file {str(file)!r}"):
        return Program(file, what).run()
