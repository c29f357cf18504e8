"""Generators: anything that maps latents to images. `load` one by name or file, or wrap a callable of your own."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from torch import nn

from fastflow.errors import InputError
from fastflow.generators.base import Decode, Generator, first_line, from_callable
from fastflow.generators.digits import DigitsVAE

__all__ = ["DigitsVAE", "Generator", "from_callable", "load"]

BUNDLED = {"digits-vae": DigitsVAE}


def load(spec: str, latent_dim: int | None = None) -> Generator:
    """The generator that `spec` names.

    Args:
        spec: a bundled generator's name, or FILE.py:FUNCTION. The function either takes no arguments and returns a
            generator, or maps latents (B, latent_dim) to images (B, C, H, W) itself, as an nn.Module may too. FILE.py
            can import what lies beside it.
        latent_dim: needed by a function of the second kind.

    Raises:
        InputError: there is no such generator, file or function, or it can't be used.
    """
    if not isinstance(spec, str):
        raise InputError(f"a generator's name must be a text, {', '.join(BUNDLED)} or FILE.py:FUNCTION, got {spec!r}")
    generator = BUNDLED[spec]() if spec in BUNDLED else _from_file(spec, latent_dim)
    if latent_dim not in (None, generator.latent_dim):
        raise InputError(f"generator {spec} has latents of width {generator.latent_dim}, not {latent_dim}")
    return generator


def _from_file(spec: str, latent_dim: int | None) -> Generator:
    file, separator, function = spec.rpartition(":")
    if not separator or not file.endswith(".py"):
        raise InputError(f"unknown generator {spec!r}: expected {', '.join(BUNDLED)} or FILE.py:FUNCTION")
    made: Any = getattr(_import(Path(file)), function, None)
    if not callable(made):
        raise InputError(f"{file} has no function {function!r}")
    if isinstance(made, Generator):
        generator = made
    elif not isinstance(made, nn.Module) and _takes_no_arguments(made):
        with _explaining(spec):
            generator = made()
        if not isinstance(generator, Generator):
            raise InputError(
                f"{spec} returned {type(generator).__name__}, expected a generator: "
                "wrap it in ff.generators.from_callable"
            )
    elif latent_dim is None:
        raise InputError(f"{spec} maps latents to images, so their width must be given: --latent-dim N")
    else:
        generator = from_callable(cast(Decode, made), latent_dim)
    generator.name = f"{Path(file).resolve()}:{function}"
    return generator


def _import(file: Path) -> ModuleType:
    if not file.is_file():
        raise InputError(f"generator file {str(file)!r} doesn't exist")
    module_spec = importlib.util.spec_from_file_location(f"fastflow_generator_{file.stem}", file)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module.__name__] = module  # dataclasses and pickles look their module up by its name
    if (folder := str(file.resolve().parent)) not in sys.path:
        sys.path.append(folder)
    with _explaining(f"file {str(file)!r}"):
        module_spec.loader.exec_module(module)
    return module


@contextmanager
def _explaining(what: str) -> Iterator[None]:
    """Turn whatever a user's code raises into an InputError."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"generator {what} failed: {type(error).__name__}: {first_line(error)}") from error


def _takes_no_arguments(function: object) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False
    return all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in parameters)
