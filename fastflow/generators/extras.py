"""Packages that only some generators need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fastflow.errors import InputError
from fastflow.importing import first_line


def imported(module: str, extra: str, generator: str) -> Any:
    """The module; raise InputError, naming the extra that brings it, where it isn't there or can't be imported."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"generator {generator} needs the package {error.name}: pip install 'fastflow[{extra}]'"
        ) from error
    except Exception as error:
        raise InputError(
            f"generator {generator} needs {module}, whose import failed: {type(error).__name__}: {first_line(error)}"
        ) from error
