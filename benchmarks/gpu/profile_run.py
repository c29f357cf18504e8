"""Some calls of the engine for a profiler to watch: `python -m benchmarks.gpu.profile_run CASE PRECISION`."""

from __future__ import annotations

import sys

import torch

import fastflow as ff
from benchmarks.cpu import engine
from benchmarks.gpu.part import on_device
from benchmarks.problem import Case, Problem

CALLS = 3


def main(name: str, precision: str) -> None:
    """Run the case's calls; the first one compiles."""
    case = Case.parse(name, steps=20 if name.startswith("flow") else 1)
    problem = on_device(Problem.of(case))
    prepare = engine.flow if case.operator == "flow" else engine.bank_training
    with ff.precision(precision):  # pyright: ignore[reportArgumentType]
        call = prepare(problem).call
        for _ in range(CALLS):
            call()
    torch.cuda.synchronize()


if __name__ == "__main__":
    main(*sys.argv[1:])
