"""Schedules: factors that change over the training steps, along straight lines between given points."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from fastflow.core.errors import InputError

SchedulePoints = tuple[tuple[int, float], ...]
"""Pairs (step, factor) in the order of their steps. Without any, the factor is 1."""


def check_points(name: str, points: Sequence[Sequence[float]]) -> SchedulePoints:
    """Return the points as tuples; raise InputError unless their steps rise and no factor is negative."""
    checked = tuple((int(step), float(factor)) for step, factor in points)
    if any(left >= right for (left, _), (right, _) in pairwise(checked)):
        raise InputError(f"{name} must name its steps in rising order, got {[step for step, _ in checked]}")
    if any(step < 0 or factor < 0 for step, factor in checked):
        raise InputError(f"{name} must have steps and factors of 0 or above, got {list(checked)}")
    return checked


Schedule = Annotated[SchedulePoints, check_points]
"""The type of a setting that is a schedule."""


def factor_at(points: SchedulePoints, step: int) -> float:
    """The factor at a step: on the straight line between the two nearest points, constant outside of all points.

    >>> factor_at(((100, 0.0), (200, 1.0)), 150)
    0.5
    """
    if not points:
        return 1.0
    if step <= points[0][0]:
        return points[0][1]
    for (left, start), (right, end) in pairwise(points):
        if step <= right:
            return start + (end - start) * (step - left) / (right - left)
    return points[-1][1]
