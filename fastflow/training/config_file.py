"""Configurations: frozen dataclasses that check their settings and are saved in a run's config.json."""

from __future__ import annotations

import dataclasses
import sys
import typing
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Gt, Lt

from fastflow.core.errors import InputError
from fastflow.core.files import shortened

C = TypeVar("C")


def from_dict(cls: type[C], values: dict[str, Any], where: str) -> C:
    """Make a configuration from a JSON object; `where` names its origin in errors.

    Raises:
        InputError: the configuration doesn't have such a key, or refuses its value.
    """
    names = [field.name for field in dataclasses.fields(cls)]  # pyright: ignore[reportArgumentType]
    for name in values:
        if name not in names:
            raise InputError(f"{where} has an unknown key {shortened(name)}; expected some of {', '.join(names)}")
    for name, value in values.items():
        # A terminal would follow it where settings are shown, as in the help of a command with --config.
        if any(isinstance(text, str) and "\x1b" in text for text in (value if isinstance(value, list) else [value])):
            raise InputError(f"{where}: {name} must be a text without escape characters, got {shortened(value)}")
    try:
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def check_settings(configuration: object) -> None:
    """Raise InputError unless every setting has the type and keeps the constraints that its field declares.

    Constraints stand in `Annotated`: bounds of annotated-types, such as `Annotated[int, Gt(0)]`, and functions of a
    setting's name and value that return the value or raise InputError. Numbers must be finite. Lists become tuples.
    """
    hints = typing.get_type_hints(type(configuration), include_extras=True)
    settings = {field.name: hints[field.name] for field in dataclasses.fields(configuration)}  # pyright: ignore[reportArgumentType]
    for name, hint in settings.items():
        value = getattr(configuration, name)
        if not _fits(value, hint):
            raise InputError(f"{name} must be {_words(hint)}, got {shortened(value)}")
    for name, hint in settings.items():
        object.__setattr__(configuration, name, _constrained(name, getattr(configuration, name), hint))


def _constrained(name: str, value: Any, hint: Any) -> Any:
    """The value of a setting that has the declared type; raise InputError unless it keeps the constraints."""
    value = tuple(value) if isinstance(value, list) else value
    if any(isinstance(number, int) and abs(number) >= 2**63 for number in _each(value)):
        raise InputError(f"{name} must be below 2^63, got {shortened(value)}")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, UnionType):
        return _constrained(name, value, next(argument for argument in arguments if _fits(value, argument)))
    if origin is not Annotated:
        return value
    for constraint in arguments[1:]:
        if isinstance(constraint, Gt) and not value > constraint.gt:
            raise InputError(f"{name} must be above {constraint.gt}, got {value!r}")
        if isinstance(constraint, Ge) and not value >= constraint.ge:
            raise InputError(f"{name} must be {constraint.ge} or above, got {value!r}")
        if isinstance(constraint, Lt) and not value < constraint.lt:
            raise InputError(f"{name} must be below {_power_of_two(constraint.lt)}, got {value!r}")
        if callable(constraint):
            value = constraint(name, value)
    return value


def _each(value: Any) -> tuple[Any, ...]:
    """The values of a setting, of which a list has several."""
    return value if isinstance(value, tuple) else (value,)


def _power_of_two(bound: Any) -> str:
    """A bound as one writes it: a large power of two as 2^63, not with all of its digits."""
    exponent = bound.bit_length() - 1 if isinstance(bound, int) else 0
    return f"2^{exponent}" if exponent >= 16 and bound == 2**exponent else str(bound)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value has a declared type; its constraints aside."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _fits(value, arguments[0])
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
    """A declared type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _words(arguments[0])
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
