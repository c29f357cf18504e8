"""The errors raised on purpose; each says in one line what was wrong, what was expected and how to mend it."""

from __future__ import annotations


class InputError(ValueError):
    """An argument, a file or a configuration can't be used as it is."""


class BusyError(InputError):
    """A folder can't be used yet, because another process has locked it."""


class BackendError(RuntimeError):
    """This installation or machine doesn't have the backend that was asked for."""


class TrainingError(RuntimeError):
    """Training can't continue, for example because the loss is no longer finite."""


class ConvergenceError(RuntimeError):
    """An iteration, such as the reverse flow's, didn't reach its tolerance."""
