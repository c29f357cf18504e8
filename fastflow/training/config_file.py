"""Configurations: frozen dataclasses that check themselves and live in a run's config.json."""

from __future__ import annotations

import dataclasses
import sys
import typing
from types import NoneType, UnionType
from typing import Any, TypeVar

from fastflow.core.errors import InputError

C = TypeVar("C")


def from_dict(cls: type[C], values: dict[str, Any], where: str) -> C:
    """A configuration from a JSON object; `where` names its origin in errors.

    Raises:
        InputError: a key that the configuration doesn't have, or a value that it refuses.
    """
    names = [field.name for field in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
    for name in values:
        if name not in names:
            raise InputError(f"{where} has an unknown key {name!r}; expected some of {', '.join(names)}")
    try:
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def check_types(configuration: object) -> None:
    """Raise InputError unless every setting has the type that it is declared with; numbers must be finite."""
    hints = typing.get_type_hints(type(configuration))
    for field in dataclasses.fields(configuration):  # pyright: ignore[reportArgumentType]
        value, hint = getattr(configuration, field.name), hints[field.name]
        if not _fits(value, hint):
            raise InputError(f"{field.name} must be {_words(hint)}, got {value!r}")


def check_positive(configuration: object, *names: str) -> None:
    """Raise InputError unless these settings are above zero."""
    for name in names:
        value = getattr(configuration, name)
        if not value > 0:
            raise InputError(f"{name} must be above 0, got {value!r}")


def check_not_negative(configuration: object, *names: str) -> None:
    """Raise InputError unless these settings are zero or above."""
    for name in names:
        value = getattr(configuration, name)
        if not value >= 0:
            raise InputError(f"{name} must be 0 or above, got {value!r}")


def _fits(value: object, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        hints = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        return len(value) == len(hints) and all(map(_fits, value, hints))
    if hint is float:
        # A whole number beyond any float's range, which JSON may hold, isn't finite either.
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return value is None if hint is NoneType else isinstance(value, hint)


def _words(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return " or ".join(map(_words, arguments))
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        if arguments[-1] is not ...:
            return " and ".join(map(_words, arguments))
        return f"a list, each {_words(arguments[0])}"
    words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text", NoneType: "none"}
    return words[hint]
