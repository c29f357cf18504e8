"""The errors raised on purpose; each says in one line what was wrong, what was expected and how to mend it."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: an argument, a file or a configuration that can't be used as it is."""


class BusyError(InputError):
    """A folder can't be used yet: another process holds it."""


class BackendError(RuntimeError):
    """A backend was asked for that this installation or machine doesn't have."""


class TrainingError(RuntimeError):
    """Training can't go on, for example because the loss is no longer finite."""


class ConvergenceError(RuntimeError):
    """An iteration didn't reach its tolerance, for example the reverse flow's."""
