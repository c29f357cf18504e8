"""How a path is integrated: the step in time, the method, the direction, the length of a step."""

from __future__ import annotations

from typing import NamedTuple

from fastflow.engine.types import Direction, Method


class Integration(NamedTuple):
    """How a path is integrated; `ff.flow` says what the fields mean. What time it begins at, its bias rows know."""

    dt: float = 1.0
    method: Method = "euler"
    direction: Direction = "forward"
    step_length: float | None = None
