"""Generators: anything that maps latents to images. `load` one by name or file, or wrap a callable of your own."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

from fastflow.errors import InputError
from fastflow.generators.base import Generator, from_callable
from fastflow.generators.digits import DigitsVAE

__all__ = ["DigitsVAE", "Generator", "from_callable", "load"]

BUNDLED = {"digits-vae": DigitsVAE}


def load(spec: str, latent_dim: int | None = None) -> Generator:
    """The generator that `spec` names.

    Args:
        spec: a bundled generator's name, or FILE.py:FUNCTION. The function either takes no arguments and returns a
            generator, or maps latents (B, latent_dim) to images (B, C, H, W) itself.
        latent_dim: needed by a function of the second kind.

    Raises:
        InputError: there is no such generator, file or function, or it can't be used.
    """
    if spec in BUNDLED:
        return BUNDLED[spec]()
    file, separator, function = spec.rpartition(":")
    if not separator or not file.endswith(".py"):
        raise InputError(f"unknown generator {spec!r}: expected {', '.join(BUNDLED)} or FILE.py:FUNCTION")
    made = getattr(_import(Path(file)), function, None)
    if not callable(made):
        raise InputError(f"{file} has no function {function!r}")
    if isinstance(made, Generator):
        generator = made
    elif _takes_no_arguments(made):
        generator = made()
        if not isinstance(generator, Generator):
            raise InputError(
                f"{spec} returned {type(generator).__name__}, expected a generator: wrap it in ff.generators.from_callable"
            )
    elif latent_dim is None:
        raise InputError(f"{spec} maps latents to images, so their width must be given: --latent-dim N")
    else:
        generator = from_callable(made, latent_dim)
    generator.name = f"{Path(file).resolve()}:{function}"
    return generator


def _import(file: Path) -> ModuleType:
    if not file.is_file():
        raise InputError(f"generator file {str(file)!r} doesn't exist")
    module_spec = importlib.util.spec_from_file_location(file.stem, file)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise InputError(f"generator file {str(file)!r} failed: {type(error).__name__}: {error}") from error
    return module


def _takes_no_arguments(function: object) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        return False
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
