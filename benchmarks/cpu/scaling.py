"""What a second thread brings: wall time of jet and training on one thread and on two, beside a matrix product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.cpu import engine
from benchmarks.problem import Case, Problem
from benchmarks.timing import measure

SHAPES = ((4096, 12, 64, 2), (1280, 128, 128, 2))


def speed_ups(budget: float) -> dict[str, float]:
    """For each call, its shortest wall time on one thread over that on two, measured in turn."""
    a, b = torch.randn(2, 1536, 1536).unbind()
    calls: dict[str, Callable[[], Any]] = {"matmul-1536": lambda: a @ b}
    for shape in SHAPES:
        for operator, prepare in (("jet", engine.operator_jet), ("training", engine.operator_training)):
            case = Case(operator, *shape)
            calls[case.name] = prepare(Problem.of(case)).call
    timings = measure({f"{name} {n}": _on(n, call) for name, call in calls.items() for n in (1, 2)}, budget)
    torch.set_num_threads(1)
    return {name: min(timings[f"{name} 1"].wall) / min(timings[f"{name} 2"].wall) for name in calls}


def _on(threads: int, call: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        torch.set_num_threads(threads)
        return call()

    return run
