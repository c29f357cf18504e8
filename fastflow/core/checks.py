"""Checks of numbers that callers give: counts, seeds, finite values."""

from __future__ import annotations

from typing import Any

import torch

from fastflow.core.errors import InputError


def is_finite(value: Any, dtype: torch.dtype) -> bool:
    """Whether this is a number, no flag, and finite in this dtype; torch.compile traces it for any number at once."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= torch.finfo(dtype).max


def check_count(value: Any, name: str) -> None:
    """Raise InputError unless `value` is a whole number of at least one."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_seed(value: Any) -> None:
    """Raise InputError unless `value` is a whole number that random numbers can be drawn by."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise InputError(f"seed must be a whole number in 0..2^63 - 1, got {value!r}")
