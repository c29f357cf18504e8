"""Checks of the numbers that callers pass: counts, seeds, finite values."""

from __future__ import annotations

from typing import Any

import torch

from fastflow.core.errors import InputError


def is_finite(value: Any, dtype: torch.dtype) -> bool:
    """Whether `value` is a number, not a bool, and finite in `dtype`. torch.compile traces this for all numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= torch.finfo(dtype).max


def check_count(value: Any, name: str) -> None:
    """Raise InputError unless `value` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_seed(value: Any) -> None:
    """Raise InputError unless `value` is a whole number from 0 to 2^63 - 1, as random number generators take."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise InputError(f"seed must be a whole number in 0..2^63 - 1, got {value!r}")
