"""Schedules: factors that change over the training steps, as straight lines between knots."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from fastflow.core.errors import InputError

Knots = tuple[tuple[int, float], ...]
"""Pairs (step, factor) in the order of their steps; without any, the factor is 1."""


def factor_at(knots: Knots, step: int) -> float:
    """The factor at a step: on the straight line between the knots beside it, constant before and after all.

    >>> factor_at(((100, 0.0), (200, 1.0)), 150)
    0.5
    """
    if not knots:
        return 1.0
    if step <= knots[0][0]:
        return knots[0][1]
    for (left, start), (right, end) in pairwise(knots):
        if step <= right:
            return start + (end - start) * (step - left) / (right - left)
    return knots[-1][1]


def check_knots(name: str, knots: Sequence[Sequence[float]]) -> Knots:
    """The knots as tuples; raise InputError unless their steps rise and no factor is negative."""
    checked = tuple((int(step), float(factor)) for step, factor in knots)
    if any(left >= right for (left, _), (right, _) in pairwise(checked)):
        raise InputError(f"{name} must name its steps in rising order, got {[step for step, _ in checked]}")
    if any(step < 0 or factor < 0 for step, factor in checked):
        raise InputError(f"{name} must have steps and factors of 0 or above, got {list(checked)}")
    return checked
